"""How votes are counted: the part of a configuration that all methods with votes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class VoteOptions:
    """Mixed into a model's configuration."""

    votes_per_gaussian: int = 64
    """Masks per Gaussian and level that are remembered while views are counted; bounds memory by 8 bytes each."""
    lift_engine: Literal["local", "ray"] = "local"
    """Where votes are counted: in this process, or on the Ray cluster of RAY_ADDRESS, whose machines share the photos'
    and the cache's folders."""
    lift_workers: int | None = None
    """Workers of the Ray cluster; by default one for each GPU, or without any one for each core."""
