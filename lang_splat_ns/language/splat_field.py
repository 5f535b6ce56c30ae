"""What all fields on Gaussians have in common: choosing levels, selecting Gaussians, drawing a selection alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from lang_splat_ns.language.field import Level, Query, RelevancyMaps, Selection
from lang_splat_ns.language.relevancy import choose_level, resolve_threshold
from lang_splat_ns.language.text import TextCache
from lang_splat_ns.perception.encoders import Encoder
from lang_splat_ns.splatting.neighbours import Neighbours

if TYPE_CHECKING:
    # Imports scipy, which a bare GPU machine does not have.
    from lang_splat_ns.language.codebook import Codebook


class Splatter(Protocol):
    """What a field needs of the model whose Gaussians it describes."""

    def texts(self) -> TextCache:
        """The text side of the encoder that made the features."""
        ...

    def blend(self, camera: Any, values: Tensor, only: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Composite values of the Gaussians [N, E] as one camera sees them, in front of nothing.

        Args:
            camera: whatever the model renders from.
            values: what is blended. [N, E]
            only: bool, Gaussians that are drawn; None draws all. [N]

        Returns:
            Image [H, W, E], not divided by alpha, and alpha [H, W, 1].
        """
        ...

    def neighbours(self) -> Neighbours | None:
        """What lies around each Gaussian; None if nobody looked, and each Gaussian then speaks for itself."""
        ...

    def contributions(self, camera: Any) -> Tensor:
        """How much of each Gaussian one camera sees, the sum of its blending weights over all pixels: float [N]."""
        ...


MOST_OWNERS = 64
"""Gaussians that speak for what a small view sees; the rest contributes next to nothing."""

SAMPLE = 4096
"""Gaussians whose features are averaged for the scene's average."""


class SplatField(ABC):
    """A `LanguageField` on Gaussians. A method says what is blended and how an answer is read off it.

    Args:
        model: whose Gaussians they are.
    """

    def __init__(self, model: Splatter) -> None:
        self._model = model

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the features and embeds the prompts."""
        return self._model.texts().encoder

    @property
    @abstractmethod
    def levels(self) -> tuple[str, ...]:
        """Names of the levels, coarse to fine."""

    @abstractmethod
    def channels(self, query: Query | None) -> Tensor:
        """What must be blended to answer a query, and to draw `colors`: [N, E]."""

    @abstractmethod
    def answer(self, camera: Any, blended: Tensor, query: Query) -> RelevancyMaps:
        """The answer, given the query's `channels` as the camera sees them [H, W, E]."""

    @abstractmethod
    def colors(self, blended: Tensor) -> Tensor:
        """A picture of the features, the same colours for the same thing in every view: [H, W, E] -> [H, W, 3]."""

    @abstractmethod
    def scores(self, query: Query) -> Tensor:
        """Raw relevancy of every Gaussian by itself: float [Q, L, N] in 0..1."""

    def neighbours(self) -> Neighbours | None:
        """What lies around each Gaussian, if somebody has looked."""
        return self._model.neighbours()

    @abstractmethod
    def known(self) -> Tensor:
        """Which Gaussians have a feature, at each level: bool [L, N]."""

    @abstractmethod
    def codebooks(self) -> tuple[Codebook, ...]:
        """The features of all Gaussians as one codebook per level, coarse to fine, for whoever writes them down."""

    def objects(self, level: Level) -> Tensor | None:
        """The object that each Gaussian belongs to at a level, int64 [N], -1 for none.

        None where the method does not know objects, only features.
        """
        del level
        return None

    @abstractmethod
    def features(self, which: Tensor, level: int) -> Tensor:
        """Features of some Gaussians, given by their indices [M]: float [M, D], unit rows, zero where none is known."""

    def owners(self, camera: Any) -> tuple[Tensor, Tensor]:
        """The Gaussians that a small view mostly shows, strongest first: indices [M] and contributions [M], M <= 64."""
        seen = self._model.contributions(camera)
        weights, which = seen.topk(min(MOST_OWNERS, len(seen)))
        return which[weights > 0], weights[weights > 0]

    def embeddings(self, camera: Any) -> Tensor:
        """What a small view shows, at every level; see `field.ReadsFeatures`."""
        which, weights = self.owners(camera)
        if not len(which):
            return torch.zeros(len(self.levels), self.encoder.dim, device=which.device)
        rows = torch.stack([weights @ self.features(which, level) for level in range(len(self.levels))])
        return torch.nn.functional.normalize(rows, dim=-1)

    def average(self, level: int) -> Tensor:
        """The scene's mean feature; see `field.ReadsFeatures`."""
        count = len(self.channels(None))
        sample = torch.linspace(0, count - 1, min(count, SAMPLE)).long()
        return torch.nn.functional.normalize(self.features(sample, level).mean(0), dim=-1)

    def relevancy(self, camera: Any, query: Query) -> RelevancyMaps:
        """Relevancy maps of one view; see `LanguageField.relevancy`."""
        blended, _ = self._model.blend(camera, self.channels(query))
        return self.answer(camera, blended, query)

    def select(self, query: Query) -> Selection:
        """Gaussians that answer the query together with their surroundings, at the level that suits it best.

        A Gaussian by itself is a poor witness: features of single ones stray, and what no photo has seen (the inside
        of an object, faint ones) has none. Levels, peaks and thresholds are therefore read off the mean over the
        nearest Gaussians that have a feature (VALA smooths over ten neighbours too), as masks are read off smoothed
        maps. `benchmarks/exported_objects.py` measures what that gives.
        """
        scores = self.scores(query)
        smoothed = self._smoothed(scores)
        chosen = choose_level(smoothed, query.level, self.levels)
        prompts = torch.arange(len(chosen)), torch.tensor(chosen)
        best = smoothed[prompts]
        peaks = tuple(best.amax(-1).tolist()) if best.shape[-1] else (0.0,) * len(best)
        limits = tuple(resolve_threshold(peak, query.threshold) for peak in peaks)
        mask = best > best.new_tensor(limits)[:, None]
        return Selection(scores[prompts], mask, chosen, peaks, limits, best)

    def _smoothed(self, scores: Tensor) -> Tensor:
        around = self._model.neighbours()
        return scores if around is None else around.mean(scores, self.known())

    def silhouettes(self, camera: Any, masks: Tensor) -> Tensor:
        """Alpha of each selection [Q, N], drawn alone, with nothing in front of it: float [Q, H, W]."""
        ones = masks.new_ones(masks.shape[1], 1, dtype=torch.float32)
        return torch.stack([self._model.blend(camera, ones, mask)[1][..., 0] for mask in masks])
