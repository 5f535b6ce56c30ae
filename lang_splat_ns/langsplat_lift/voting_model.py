"""What models share whose Gaussians are voted for by masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lang_splat_ns.plugin.language_model import LanguageSplatModel, LanguageSplatModelConfig


@dataclass
class VotingModelConfig(LanguageSplatModelConfig):
    """How votes are counted."""

    votes_per_gaussian: int = 64
    """Masks per Gaussian and level that are remembered while views are counted; bounds memory by 8 bytes each."""
    lift_engine: Literal["local", "ray"] = "local"
    """Where votes are counted: in this process, or on the Ray cluster of RAY_ADDRESS, whose machines share the photos'
    and the cache's folders."""
    lift_workers: int | None = None
    """Workers of the Ray cluster; by default one for each GPU, or without any one for each core."""


class VotingModel(LanguageSplatModel):
    """A language method on Gaussians that reads which mask owns which of them; `lift.get_votes` counts."""

    config: VotingModelConfig
