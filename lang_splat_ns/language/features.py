"""Features of many Gaussians, made when they are asked for: all of a million at once would take gigabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    # A bare GPU machine has no scipy, and asks codebooks all the same.
    from scipy import sparse

CHUNK = 4096
"""Gaussians whose features are held at a time while something goes through all of them."""


class Features(Protocol):
    """One unit vector per Gaussian of one level, or none."""

    def __len__(self) -> int:
        """Number of Gaussians."""
        ...

    @property
    def dim(self) -> int:
        """Length of the features."""
        ...

    def rows(self, which: slice | np.ndarray) -> Tensor:
        """Features of some Gaussians, by slice or by index: float32 [n, D], unit rows, zero where nothing is known."""
        ...


def dense(features: Features) -> Tensor:
    """All features as one tensor: float32 [N, D]."""
    return torch.cat([features.rows(slice(start, start + CHUNK)) for start in range(0, max(len(features), 1), CHUNK)])


def mix(matrix: sparse.csr_array, vectors: Tensor) -> Tensor:
    """The product of a sparse matrix and a dense one, on the device of the latter: [n, M] x [M, D] -> [n, D]."""
    arrays = matrix.indices.astype(np.int64), matrix.indptr[:-1].astype(np.int64), matrix.data.astype(np.float32)
    index, starts, weights = (torch.from_numpy(array).to(vectors.device) for array in arrays)
    return F.embedding_bag(index, vectors, starts, mode="sum", per_sample_weights=weights)
