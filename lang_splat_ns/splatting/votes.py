"""Votes over many views: which mask of which photo owns which Gaussian. Streamed, merged, saved and loaded.

A column belongs to one mask of one view, so the entries of different views never meet: votes of several views are
their matrices side by side. Keeping only the strongest entries of a row is therefore exact while streaming, and
parts computed by several workers merge into what one worker would have got.
"""

# scipy's sparse matrices come without types, and what the checker infers from their source is not so.
# pyright: reportOptionalSubscript=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false, reportCallIssue=false

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from scipy import sparse

from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_atomically
from lang_splat_ns.splatting.sparse_rows import are_strongest, csr, keep_entries
from lang_splat_ns.splatting.view_votes import ViewVotes

FORMAT = "lang-splat-votes 1"

_BATCH_ENTRIES = 4_000_000
"""Entries of new views that are collected before they are joined to the others, 32 MB."""


@dataclass(frozen=True, eq=False)
class Votes:
    """Sums of the blending weights of N Gaussians over the masks of V views, at L levels.

    Each level has a matrix V with `V[i, m]` = sum over the pixels p of mask m of alpha_i(p) T_i(p). Its columns are
    all masks of the first view, then all masks of the second, and so on; views ascend.

    Attributes:
        levels: L matrices, CSR float32 [N, M_l], columns sorted.
        views: the caller's number of each view, ascending. int64 [V]
        counts: number of masks of each view and level. int64 [V, L]
        visible: sum of alpha T over all pixels of all views, in a mask or not. float64 [N]
        dropped: weight that is missing from each level because of `top_k`. float64 [L]
        top_k: most entries kept per Gaussian and level; None keeps all.
    """

    levels: tuple[sparse.csr_array, ...]
    views: np.ndarray
    counts: np.ndarray
    visible: np.ndarray
    dropped: np.ndarray
    top_k: int | None = None

    def __len__(self) -> int:
        """Number of Gaussians."""
        return len(self.visible)

    @cached_property
    def columns(self) -> tuple[np.ndarray, ...]:
        """For each level, the view and the mask of every column: int64 [M_l, 2]."""
        tables = []
        for counts in self.counts.T:
            views = np.repeat(self.views, counts)
            masks = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            tables.append(np.stack([views, masks], axis=1))
        return tuple(tables)

    @property
    def dropped_share(self) -> np.ndarray:
        """Share of each level's weight that `top_k` has cost. float64 [L]"""
        kept = np.array([matrix.sum(dtype=np.float64) for matrix in self.levels])
        return self.dropped / np.maximum(kept + self.dropped, np.finfo(np.float64).tiny)

    @property
    def entries(self) -> int:
        """Number of stored entries of all levels; each takes 8 bytes."""
        return sum(matrix.nnz for matrix in self.levels)

    def save(self, path: Path, about: Mapping[str, Any] | None = None) -> None:
        """Write a safetensors file: plain arrays, nothing pickled, whole or not there.

        Args:
            path: for example beside the run's configuration, but not in `nerfstudio_models`.
            about: JSON values that say what the votes belong to (names of the views, segmenter, training step);
                `load` gives them back.
        """
        tensors = {
            name: np.ascontiguousarray(getattr(self, name)) for name in ("views", "counts", "visible", "dropped")
        }
        for level, matrix in enumerate(self.levels):
            tensors |= {f"starts_{level}": matrix.indptr.astype(np.int64), f"weights_{level}": matrix.data}
            tensors |= {f"masks_{level}": matrix.indices.astype(np.int32)}
        header = {"format": FORMAT, "top_k": json.dumps(self.top_k), "about": json.dumps(dict(about or {}))}
        content = safetensors.numpy.save(tensors, header)
        write_atomically(path, lambda file: file.write(content))


def load(path: Path) -> tuple[Votes, dict[str, Any]]:
    """Read what `Votes.save` wrote: the votes and what they belong to.

    Raises:
        UserError: there is no such file, or it is damaged or something else.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise UserError(f"{path} is no file of votes that this version reads; lift the scene again.")
            return _read(file, json.loads(header["top_k"])), json.loads(header["about"])
    except FileNotFoundError as error:
        raise UserError(f"There are no votes at {path}; lift the scene first.") from error
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"The votes in {path} are damaged ({error}); delete the file and lift again.") from error


def read_about(path: Path) -> dict[str, Any] | None:
    """What the votes in a file belong to, without reading them; None where there is no such file of this format."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            return json.loads(header["about"]) if header.get("format") == FORMAT else None
    except (safetensors.SafetensorError, OSError, KeyError, ValueError):
        return None


def _read(file: Any, top_k: int | None) -> Votes:
    views, counts, visible, dropped = (file.get_tensor(name) for name in ("views", "counts", "visible", "dropped"))
    matrices = []
    for level, count in enumerate(counts.sum(0)):
        arrays = [file.get_tensor(f"{name}_{level}") for name in ("weights", "masks", "starts")]
        # The constructor checks that the parts fit together.
        matrices.append(csr(*arrays, (len(visible), int(count))))
    return Votes(tuple(matrices), views, counts, visible, dropped, top_k)


def accumulate(stream: Iterable[tuple[int, ViewVotes]], top_k: int | None = None) -> Votes:
    """Collect the votes of views as they come.

        votes = accumulate((view, view_votes(*gaussians, *camera(view), labels(view), counts(view))) for view in views)

    Args:
        stream: pairs of a view's number, each only once and in any order, and its votes.
        top_k: most masks kept per Gaussian and level, the strongest; what that costs stands in `dropped`. Bounds the
            memory by 8 bytes times N times L times top_k, plus one batch of views.

    Raises:
        ValueError: there is no view, a view comes twice, or views differ in their Gaussians or levels.
    """
    return join(_of_one_view(view, votes, top_k) for view, votes in stream)


def join(parts: Iterable[Votes]) -> Votes:
    """Merge parts as they come, with little more memory than the result takes.

    The same parts in the same order give the same result bit for bit. Other parts of the same views give the same
    matrices, but sums over views, `visible` and `dropped`, may differ in their last bits.

    Raises:
        ValueError: as `merge`.
    """
    joined: list[Votes] = []
    batch: list[Votes] = []
    for part in parts:
        batch.append(part)
        # A batch as large as what is already there keeps the copying proportional to the total, without top_k too.
        most = max(_BATCH_ENTRIES, sum(votes.entries for votes in joined) if part.top_k is None else 0)
        if sum(votes.entries for votes in batch) > most:
            joined, batch = [merge(*joined, *batch)], []
    return merge(*joined, *batch)


def merge(*parts: Votes) -> Votes:
    """Votes of all views of several parts, equal to those of one pass over all of them.

    Raises:
        ValueError: there is no part, two parts share a view, or they differ in Gaussians, levels or top_k.
    """
    if not parts:
        raise ValueError("there are no votes to merge: give at least one view")
    kinds = {(len(part), len(part.levels), part.top_k) for part in parts}
    if len(kinds) > 1:
        raise ValueError(f"votes differ in (Gaussians, levels, top_k): {sorted(kinds, key=str)}")
    views, counts = np.concatenate([part.views for part in parts]), np.concatenate([part.counts for part in parts])
    order = np.argsort(views, kind="stable")
    twice = views[order][1:][np.diff(views[order]) == 0]
    if twice.size:
        raise ValueError(f"view {twice[0]} is in the votes more than once")
    merged = Votes(
        levels=tuple(
            _side_by_side([part.levels[level] for part in parts], counts[:, level], order)
            for level in range(counts.shape[1])
        ),
        views=views[order],
        counts=counts[order],
        visible=reduce(np.add, (part.visible for part in parts)),
        dropped=reduce(np.add, (part.dropped for part in parts)),
        top_k=parts[0].top_k,
    )
    return _strongest(merged)


def _of_one_view(view: int, votes: ViewVotes, top_k: int | None) -> Votes:
    counts = np.array([[matrix.shape[1] for matrix in votes.levels]], dtype=np.int64)
    levels = tuple(matrix.astype(np.float32) for matrix in votes.levels)
    dropped = np.zeros(len(levels))
    return _strongest(Votes(levels, np.array([view], dtype=np.int64), counts, votes.visible, dropped, top_k))


def _side_by_side(matrices: Sequence[sparse.csr_array], counts: np.ndarray, order: np.ndarray) -> sparse.csr_array:
    """Join matrices to one with their views' columns in another order.

    Args:
        matrices: one per part, with the columns of the part's views.
        counts: number of columns of each view, part after part. [V]
        order: the views as they shall stand. [V]
    """
    joined = sparse.hstack(matrices, format="csr") if len(matrices) > 1 else matrices[0]
    if (np.diff(order) > 0).all():
        return joined
    starts = np.empty_like(counts)
    starts[order] = np.cumsum(counts[order]) - counts[order]
    moved = np.repeat(starts - (np.cumsum(counts) - counts), counts)  # [M]
    indices = (joined.indices + moved[joined.indices]).astype(joined.indices.dtype)
    result = csr(joined.data, indices, joined.indptr, joined.shape)
    result.sort_indices()
    return result


def _strongest(votes: Votes) -> Votes:
    """Keep the `top_k` largest entries per Gaussian and level, of equal ones those of earlier columns."""
    if votes.top_k is None:
        return votes
    levels, dropped = [], votes.dropped.copy()
    for level, matrix in enumerate(votes.levels):
        keep = are_strongest(matrix, votes.top_k)
        dropped[level] += matrix.data[~keep].sum(dtype=np.float64)
        levels.append(keep_entries(matrix, keep))
    return replace(votes, levels=tuple(levels), dropped=dropped)
