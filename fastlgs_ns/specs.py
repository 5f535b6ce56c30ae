"""What nerfstudio finds: FastLGS's method specification. Imports nothing heavy."""

from __future__ import annotations

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.plugins.types import MethodSpecification

from fastlgs_ns.model import FastLGSModelConfig
from lang_splat_ns import compat
from lang_splat_ns.plugin.datamanager import LanguageDataManagerConfig
from lang_splat_ns.plugin.pipeline import LanguagePipelineConfig
from lang_splat_ns.plugin.trainer import SafeTrainerConfig
from lang_splat_ns.specs import GEOMETRY_STEPS, geometry_optimizers, trainer_options

compat.apply()

LANGUAGE_STEPS = 10_000

fastlgs = MethodSpecification(
    config=SafeTrainerConfig(
        method_name="fastlgs",
        max_num_iterations=GEOMETRY_STEPS + LANGUAGE_STEPS,
        pipeline=LanguagePipelineConfig(
            datamanager=LanguageDataManagerConfig(dataparser=NerfstudioDataParserConfig(load_3D_points=True)),
            model=FastLGSModelConfig(geometry_steps=GEOMETRY_STEPS),
        ),
        optimizers=geometry_optimizers()
        | {"object_codes": {"optimizer": AdamOptimizerConfig(lr=0.0025, eps=1e-15), "scheduler": None}},
        **trainer_options(),
    ),
    description="FastLGS (Ji et al. 2025): objects matched across views, codes on Gaussians, a grid that answers text.",
)
