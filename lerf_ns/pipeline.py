"""LERF's pipeline: the suite's, and a language part that takes its shape from its targets."""

from __future__ import annotations

from dataclasses import dataclass, field

from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.models.base_model import ModelConfig

from lang_splat_ns.plugin.pipeline import LanguagePipeline, LanguagePipelineConfig
from lerf_ns.datamanager import LerfDataManagerConfig
from lerf_ns.model import LerfModelConfig


@dataclass
class LerfPipelineConfig(LanguagePipelineConfig):
    """Pipeline of LERF's methods."""

    _target: type = field(default_factory=lambda: LerfPipeline)
    datamanager: DataManagerConfig = field(default_factory=LerfDataManagerConfig)
    model: ModelConfig = field(default_factory=LerfModelConfig)


class LerfPipeline(LanguagePipeline):
    """Computes the targets, then makes the language field, whose sizes depend on them."""

    def prepare_training(self) -> None:
        """What must be there before the first step."""
        super().prepare_training()
        self.model.prepare_language(self.datamanager.features)
