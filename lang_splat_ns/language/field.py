"""What the viewer, the evaluator, the command line and the exporters know of a method: this, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from lang_splat_ns.perception.encoders import Encoder
from lang_splat_ns.splatting.neighbours import Neighbours

Level = str
"""A level's name, for example "whole", or "auto"."""


QueryMode = Literal["scalar", "feature"]
"""scalar: relevancy of every Gaussian, then blended. feature: features are blended, then compared with the prompt."""


@dataclass(frozen=True)
class Query:
    """Prompts and how to read them.

    Attributes:
        positives: the prompts, at least one.
        negatives: phrases that a prompt must beat; empty means the encoder's own canonical ones.
        level: name of one of the field's levels, or "auto": per prompt the level with the highest raw peak.
        threshold: "auto" (see `relevancy.auto_threshold`) or a number in 0..1, taken as it is.
    """

    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    level: Level = "auto"
    threshold: float | Literal["auto"] = "auto"


@dataclass(frozen=True)
class RelevancyMaps:
    """Raw relevancy of one view.

    Attributes:
        values: float [Q, L, H, W] in 0..1; above 0.5 the prompt beats every negative at that pixel.
        chosen: for each prompt the index of the level that answers it.
        levels: the L level names. A scale-continuous field has L = 1 and reports the chosen scale in `scales`.
        scales: for each prompt the chosen scale, or None for methods with discrete levels.
    """

    values: Tensor
    chosen: tuple[int, ...]
    levels: tuple[str, ...]
    scales: tuple[float, ...] | None = None

    def best(self) -> Tensor:
        """The chosen level's map of every prompt: float [Q, H, W]."""
        index = torch.tensor(self.chosen, device=self.values.device)
        return self.values[torch.arange(len(self.chosen), device=self.values.device), index]


@dataclass(frozen=True)
class Selection:
    """Gaussians that answer a query.

    Attributes:
        scores: float [Q, N], relevancy of each Gaussian by itself.
        mask: bool [Q, N], Gaussians that belong to the prompt.
        chosen: for each prompt the index of the level that answers it.
        peaks: for each prompt the highest relevancy that its threshold was derived from.
        thresholds: for each prompt the relevancy that a place must exceed.
        smoothed: float [Q, N], relevancy that was compared with the threshold; as `scores` where nothing is smoothed.
    """

    scores: Tensor
    mask: Tensor
    chosen: tuple[int, ...]
    peaks: tuple[float, ...]
    thresholds: tuple[float, ...]
    smoothed: Tensor


class LanguageField(Protocol):
    """A scene that answers text. `camera` is whatever the method renders from (a nerfstudio `Cameras` of one)."""

    @property
    def encoder(self) -> Encoder: ...

    @property
    def levels(self) -> tuple[str, ...]: ...

    def relevancy(self, camera: Any, query: Query) -> RelevancyMaps:
        """Relevancy maps of one view. Raises `KeyError` for a prompt that the encoder cannot represent."""
        ...

    def select(self, query: Query) -> Selection:
        """Gaussians that answer the query. Raises `NotSplatError` for a method without Gaussians."""
        ...

    def silhouettes(self, camera: Any, masks: Tensor) -> Tensor:
        """Alpha of each selection of Gaussians [Q, N], drawn alone: float [Q, H, W]. Raises as `select` does."""
        ...


@runtime_checkable
class ScoresGaussians(Protocol):
    """A field that also says how each Gaussian by itself answers, as all fields on Gaussians do."""

    def scores(self, query: Query) -> Tensor:
        """Raw relevancy of every Gaussian: float [Q, L, N] in 0..1."""
        ...

    def neighbours(self) -> Neighbours | None:
        """What lies around each Gaussian, if somebody has looked."""
        ...


@runtime_checkable
class ReadsFeatures(Protocol):
    """A field that also says what a place looks like to its encoder, so that a place can be asked for by a click."""

    def embeddings(self, camera: Any) -> Tensor:
        """The mean feature of what a camera of a few pixels sees: float [L, D], unit rows, zero where nothing is."""
        ...

    def average(self, level: int) -> Tensor:
        """The mean feature of the whole scene at one level, which is what a place must beat to be told from the rest.

        Embeddings of images are closer to each other than to any text, so that texts are no match for them.

        Returns:
            float [D], a unit row.
        """
        ...
