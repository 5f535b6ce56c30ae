"""A language field in a few bytes per Gaussian: unit vectors that many share, and who has which.

A prompt is then answered on some hundred vectors instead of a million, and what remains per Gaussian is a look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from lang_splat_ns.language.features import CHUNK, Features
from lang_splat_ns.language.relevancy import TEMPERATURE, relevancy
from lang_splat_ns.splatting.sparse_rows import are_strongest, keep_entries, rows_of_entries, strongest_first

MAX_ENTRIES = 2**15
"""An index has 16 bits, and -1 means none."""

_SAMPLE = 16_384
"""Gaussians that the clustering looks at. All are assigned afterwards."""

_STEPS = 255
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
        index, others = self.index[which].long(), self.weights[which].float() / _STEPS
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


def from_shares(entries: Tensor, shares: sparse.csr_array, places: int) -> Codebook:
    """A codebook in which each Gaussian mixes the entries that have the largest shares in it.

    Args:
        entries: as in `Codebook`. [K, D]
        shares: how much of each entry a Gaussian has, not negative, in any unit. [N, K]
        places: most entries per Gaussian (T).
    """
    best = strongest_first(keep_entries(shares, are_strongest(shares, places)))
    rows = rows_of_entries(best)
    ranks = np.arange(best.nnz) - best.indptr[rows]
    index = np.full((len(best.indptr) - 1, places), -1, dtype=np.int16)
    weights = np.zeros(index.shape, dtype=np.uint8)
    index[rows, ranks] = best.indices
    weights[rows, ranks] = np.round(_STEPS * best.data / best.sum(axis=1)[rows])
    stored = torch.from_numpy(index), torch.from_numpy(weights[:, 1:].copy())
    return Codebook(entries, *(tensor.to(entries.device) for tensor in stored))


def compress(
    features: Features, size: int = 256, places: int = 2, importance: np.ndarray | None = None, seed: int = 0
) -> Codebook:
    """Approximate any features by a codebook: spherical k-means, then for each Gaussian the best one or two entries.

    Args:
        features: of N Gaussians.
        size: most entries.
        places: 1 or 2 entries per Gaussian. With two, the pair and its weights are those that point closest to the
            feature, so that what lies between two entries is reached too.
        importance: weight of each Gaussian in the clustering, for example how much of it is visible. [N]
        seed: of the clustering.

    Raises:
        ValueError: `size` or `places` is out of range.
    """
    if not 1 <= size <= MAX_ENTRIES or places not in (1, 2):
        raise ValueError(f"size must be 1 to {MAX_ENTRIES} and places 1 or 2, got {size} and {places}")
    entries = _cluster(features, size, importance, seed)
    index, second = [entries.new_zeros(0, 2, dtype=torch.int16)], [entries.new_zeros(0, 1, dtype=torch.uint8)]
    for start in range(0, len(features), CHUNK):
        pair, weight = _nearest_pair(features.rows(slice(start, start + CHUNK)), entries)
        index.append(pair.to(torch.int16))
        second.append(torch.round(weight * _STEPS).to(torch.uint8))
    return Codebook(entries, torch.cat(index)[:, :places].contiguous(), torch.cat(second)[:, : places - 1].contiguous())


def _cluster(features: Features, size: int, importance: np.ndarray | None, seed: int) -> Tensor:
    """Unit centres [K, D] of a sample of the features, K <= size."""
    from sklearn.cluster import MiniBatchKMeans

    sample = np.unique(np.linspace(0, max(len(features) - 1, 0), _SAMPLE).astype(np.int64))[: len(features)]
    rows = features.rows(sample)
    known = (rows.norm(dim=-1) > 0).cpu().numpy()
    points = rows.cpu().numpy()[known]
    if len(points) > size:
        # On unit vectors the nearest centre by distance is the nearest by angle, up to the centres' lengths.
        weights = None if importance is None else importance[sample][known]
        # scikit-learn's inferred type of n_init is that of its default, "auto".
        options: dict[str, Any] = {"batch_size": 4096, "n_init": 1, "random_state": seed}
        means = MiniBatchKMeans(size, **options).fit(points, sample_weight=weights)
        points = means.cluster_centers_
    if len(points) == 0:
        points = np.zeros((1, features.dim), np.float32)
    return F.normalize(torch.from_numpy(points).to(rows), dim=-1)


def _nearest_pair(rows: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """The two entries whose mixture points closest to each row, the nearest entry being one of them.

    For cosines c1 and c2 of the row with two unit vectors that have the cosine g, the closest direction in their
    plane is a e1 + b e2 with a = c1 - g c2 and b = c2 - g c1, and the square of the row's cosine with it is
    (c1^2 + c2^2 - 2 g c1 c2) / (1 - g^2).

    Returns:
        Index [n, 2] with -1 for unused places, and the second one's weight b / (a + b) [n, 1].
    """
    cosines = rows @ entries.T  # [n, K]
    c1, first = cosines.max(-1, keepdim=True)  # [n, 1]
    g = (entries @ entries.T)[first[:, 0]]  # [n, K]
    a, b = c1 - g * cosines, cosines - g * c1
    # Directions that would need a negative weight lie outside the pair, and those close to the first gain nothing.
    between = (a > 0) & (b > 0) & (g < 1 - 1e-6)
    closeness = (c1 * c1 + cosines * cosines - 2 * g * c1 * cosines) / (1 - g * g).clamp_min(1e-6)
    best, second = torch.where(between, closeness, -1.0).max(-1, keepdim=True)  # [n, 1]
    weight = torch.where(best > 0, (b / (a + b)).gather(1, second), 0.0)
    known = rows.norm(dim=-1, keepdim=True) > 0
    pair = torch.cat([torch.where(known, first, -1), torch.where(known & (best > 0), second, -1)], dim=1)
    return pair, weight
