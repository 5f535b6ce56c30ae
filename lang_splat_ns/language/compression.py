"""Making codebooks: of shares in known entries, or of any features.

Apart from `codebook`, since this takes scipy and scikit-learn, and whoever only asks a codebook needs neither.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from lang_splat_ns.language.codebook import MAX_ENTRIES, STEPS, Codebook
from lang_splat_ns.language.features import CHUNK, Features
from lang_splat_ns.splatting.sparse_rows import are_strongest, keep_entries, rows_of_entries, strongest_first

_SAMPLE = 16_384
"""Gaussians that the clustering looks at. All are assigned afterwards."""


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
    weights[rows, ranks] = np.round(STEPS * best.data / best.sum(axis=1)[rows])
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
        second.append(torch.round(weight * STEPS).to(torch.uint8))
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
