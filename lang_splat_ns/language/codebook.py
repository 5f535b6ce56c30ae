"""A language field in a few bytes per Gaussian: unit vectors that many share, and who has which.

A prompt is then answered on some hundred vectors instead of a million, and what remains per Gaussian is a look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lang_splat_ns.language.features import Features
from lang_splat_ns.language.relevancy import TEMPERATURE, relevancy

MAX_ENTRIES = 2**15
"""An index has 16 bits, and -1 means none."""

STEPS = 255
"""Weights are stored in steps of 1/255."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """Features of N Gaussians at one level, each a mixture of at most T of K shared unit vectors.

    A Gaussian's weights add up to 1, so the first one is what the others leave, and it is not stored: 2 bytes per
    Gaussian with T = 1, 5 with T = 2, and so 6 and 15 with three levels.

    Attributes:
        entries: float32 [K, D], K >= 1, unit rows; a zero row is something of which nothing is known.
        index: int16 [N, T], -1 where a place is unused. Nothing is known of a Gaussian whose first place is.
        weights: uint8 [N, T - 1], weights of the second and further places in 1/255.
    """

    entries: Tensor
    index: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        count, places = self.index.shape
        if not 1 <= len(self.entries) <= MAX_ENTRIES or self.weights.shape != (count, places - 1):
            raise ValueError(
                f"a codebook has 1 to {MAX_ENTRIES} entries [K, D], index [N, T] and weights [N, T - 1], got "
                f"{list(self.entries.shape)}, {list(self.index.shape)} and {list(self.weights.shape)}"
            )

    def __len__(self) -> int:
        """Number of Gaussians."""
        return len(self.index)

    @property
    def dim(self) -> int:
        """Length of the features."""
        return self.entries.shape[1]

    @property
    def bytes_per_gaussian(self) -> int:
        """What the level costs per Gaussian, without the shared entries."""
        places = self.index.shape[1]
        return places * self.index.element_size() + (places - 1) * self.weights.element_size()

    def mixture(self, which: slice | np.ndarray = slice(None)) -> tuple[Tensor, Tensor]:
        """Index int64 [n, T] and weights float32 [n, T] of some Gaussians; unused places have index and weight 0."""
        index, others = self.index[which].long(), self.weights[which].float() / STEPS
        weights = torch.cat([1.0 - others.sum(1, keepdim=True), others], dim=1)
        return index.clamp_min(0), torch.where(index >= 0, weights, 0.0)

    def rows(self, which: slice | np.ndarray) -> Tensor:
        """Unit features of some Gaussians: float32 [n, D], zero where nothing is known."""
        index, weights = self.mixture(which)
        return F.normalize(F.embedding_bag(index, self.entries, per_sample_weights=weights, mode="sum"), dim=-1)

    def spread(self, values: Tensor) -> Tensor:
        """Give each Gaussian the mean of its entries' values: [Q, K] -> [Q, N], 0 where nothing is known."""
        index, weights = self.mixture()
        result = values.new_zeros(len(values), len(self))
        for place in range(index.shape[1]):
            result += values[:, index[:, place]] * weights[:, place]
        return result

    def to(self, device: torch.device | str) -> Codebook:
        """The same codebook on another device."""
        return Codebook(self.entries.to(device), self.index.to(device), self.weights.to(device))


def gaussian_scores(
    codebooks: Sequence[Codebook],
    positives: Tensor,  # [Q, D]
    negatives: Tensor,  # [Nn, D]
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Raw relevancy of every Gaussian at every level, computed on the codebooks' entries: float32 [Q, L, N] in 0..1.

    The scalar way to answer a query: splat these numbers as channels. It is not the same as blending features and
    comparing then, since relevancy is not linear.

    Args:
        codebooks: one per level, of the same Gaussians.
        positives, negatives, temperature: as in `relevancy.relevancy`.
    """
    levels = [book.spread(relevancy(book.entries, positives, negatives, temperature)) for book in codebooks]
    return torch.stack(levels, dim=1)


def decision_flips(
    features: Features, codebook: Codebook, positives: Tensor, negatives: Tensor, which: slice | np.ndarray
) -> tuple[float, float]:
    """What a codebook costs: shares of answers "this Gaussian is it" that differ from those of the exact features.

    An answer is yes where the prompt beats every negative. Cosines between a feature and its approximation say little
    about that, because the margins between prompts are far smaller than the cosines.

    Args:
        features: the exact ones.
        codebook: their approximation.
        positives, negatives: prompts [Q, D] and what they must beat [Nn, D], unit rows.
        which: the Gaussians to try.

    Returns:
        Share of flipped answers over prompts and Gaussians, first for features out of the codebook, then for the
        scalar scores of `gaussian_scores`.
    """
    answers = relevancy(features.rows(which), positives, negatives) > 0.5  # [Q, n]
    by_feature = relevancy(codebook.rows(which), positives, negatives) > 0.5
    by_score = gaussian_scores([codebook], positives, negatives)[:, 0, which] > 0.5
    flips = [float((answers != other).float().mean()) for other in (by_feature, by_score)]
    return flips[0], flips[1]
