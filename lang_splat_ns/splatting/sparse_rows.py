"""Choosing entries of sparse matrices row by row."""

# scipy's sparse matrices come without types, and what the checker infers from their source is not so.
# pyright: reportOptionalSubscript=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false, reportCallIssue=false

from __future__ import annotations

import numpy as np
from scipy import sparse


def csr(values: np.ndarray, columns: np.ndarray, starts: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """A matrix of the given arrays, with 32-bit indices unless it has more than 2**31 entries."""
    kind = np.int32 if max(int(starts[-1]), *shape) < 2**31 else np.int64
    return sparse.csr_array((values, columns.astype(kind, copy=False), starts.astype(kind, copy=False)), shape=shape)


def keep_entries(matrix: sparse.csr_array, keep: np.ndarray) -> sparse.csr_array:
    """The matrix without the entries for which `keep` (bool [E], in storage order) is False."""
    starts = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr]
    return csr(matrix.data[keep], matrix.indices[keep], starts, matrix.shape)


def rows_of_entries(matrix: sparse.csr_array) -> np.ndarray:
    """The row of each stored entry: int64 [E]."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def strongest_first(matrix: sparse.csr_array) -> sparse.csr_array:
    """The same matrix with each row's entries stored by falling value, of equal ones the earlier columns first."""
    order = np.lexsort((-matrix.data, rows_of_entries(matrix)))
    # Rows are whole before and after, so that only the entries move and their starts stay.
    return csr(matrix.data[order], matrix.indices[order], matrix.indptr, matrix.shape)


def are_strongest(matrix: sparse.csr_array, count: int) -> np.ndarray:
    """Whether each entry is among the `count` largest of its row, ties in favour of earlier columns: bool [E]."""
    sizes = np.diff(matrix.indptr)
    too_long = sizes > count
    # Only rows that are too long are sorted; where most of a matrix has been cut before, these are few.
    entries = np.flatnonzero(np.repeat(too_long, sizes))
    sizes = sizes[too_long]
    order = np.lexsort((-matrix.data[entries], np.repeat(np.arange(len(sizes)), sizes)))
    ranks = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keep = np.ones(matrix.nnz, dtype=bool)
    keep[entries[order[ranks >= count]]] = False
    return keep
