"""From votes and mask embeddings to features of Gaussians, in closed form: nothing is trained.

Three ways, all per level, since levels that are averaged as features lose what tells them apart:

- `mean`: the average of the embeddings of all masks that see a Gaussian, weighted by how much they see of it (Cheng et
  al. 2024, Occam's LGS; the same operator as in Dr. Splat and LUDVIG).
- `gated-median`: weak glimpses lose their vote, and a cosine median takes the mean's place, so that a mask that has
  caught a Gaussian by mistake does not pull its feature away (after VALA, 2025).
- `consensus`: masks of different views that own the same Gaussians are one object; see `consensus`.
"""

# scipy's sparse matrices come without types, and what the checker infers from their source is not so.
# pyright: reportOptionalSubscript=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from lang_splat_ns.language.consensus import ConsensusSettings, lift_objects
from lang_splat_ns.language.features import Features, mix
from lang_splat_ns.splatting.sparse_rows import keep_entries, rows_of_entries, strongest_first
from lang_splat_ns.splatting.votes import Votes

LiftMethod = Literal["consensus", "gated-median", "mean"]

_MEDIAN_ROWS = {"cpu": 1024, "cuda": 65536}
"""Gaussians whose median is computed at a time: what fits a core's cache, or what fills a GPU."""


@dataclass(frozen=True)
class LiftSettings:
    """How features are lifted."""

    method: LiftMethod = "consensus"
    """consensus: objects that views agree on. gated-median: robust average per Gaussian. mean: plain average."""
    mass: float = 0.75
    """gated-median: share of a Gaussian's votes that count, beginning with the strongest; 1 keeps all."""
    faint: float = 0.01
    """gated-median and consensus: Gaussians of which less is visible than this share of the median get no feature."""
    consensus: ConsensusSettings = field(default_factory=ConsensusSettings)
    """When masks of different views are one object."""


def lift(votes: Votes, embeddings: Sequence[Tensor], settings: LiftSettings | None = None) -> tuple[Features, ...]:
    """Features of all Gaussians, one `Features` per level; a `Codebook` with the method `consensus`.

    Args:
        votes: which mask sees how much of which Gaussian.
        embeddings: per level the embeddings of the votes' columns, on the device that shall compute; a row with NaN
            has no evidence. float32 [M_l, D]
        settings: the method and its thresholds.

    Raises:
        ValueError: a level's embeddings do not go with its votes.
    """
    settings = settings or LiftSettings()
    if [matrix.shape[1] for matrix in votes.levels] != [len(rows) for rows in embeddings]:
        raise ValueError(
            f"embeddings must have a row for each of the {[matrix.shape[1] for matrix in votes.levels]} masks per "
            f"level, got {[len(rows) for rows in embeddings]}"
        )
    return tuple(_lift_level(votes, level, rows, settings) for level, rows in enumerate(embeddings))


def stack_embeddings(votes: Votes, of_view: Callable[[int], Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Embeddings of the votes' columns: per level float32 [M_l, D].

    Args:
        votes: whose columns are wanted.
        of_view: gives the embeddings [count, D] of each level of a view, by the view's number.

    Raises:
        ValueError: a view has another number of masks than when the votes were counted.
    """
    per_view = [of_view(int(view)) for view in votes.views]
    for view, counts, levels in zip(votes.views, votes.counts, per_view, strict=True):
        if [len(rows) for rows in levels] != counts.tolist():
            raise ValueError(
                f"view {view} has {[len(rows) for rows in levels]} masks per level, but the votes were counted with "
                f"{counts.tolist()}: they belong to other label maps"
            )
    return tuple(torch.cat([levels[level] for levels in per_view]) for level in range(votes.counts.shape[1]))


def _lift_level(votes: Votes, level: int, embeddings: Tensor, settings: LiftSettings) -> Features:
    evident = torch.isfinite(embeddings).all(-1)
    embeddings = F.normalize(torch.where(evident[:, None], embeddings, 0.0), dim=-1)
    matrix = votes.levels[level]
    if settings.method == "consensus":
        # Masks without an embedding still tell what an object is.
        seen = _without_faint(matrix, votes, settings)
        return lift_objects(seen, votes.columns[level][:, 0], embeddings, votes.visible, settings.consensus)
    matrix = keep_entries(matrix, evident.cpu().numpy()[matrix.indices])
    if settings.method == "mean":
        return WeightedMean(matrix, embeddings)
    if settings.method == "gated-median":
        return CosineMedian(gate(_without_faint(matrix, votes, settings), settings.mass), embeddings)
    raise ValueError(f"the lift method is consensus, gated-median or mean, not {settings.method!r}")


def _without_faint(matrix: sparse.csr_array, votes: Votes, settings: LiftSettings) -> sparse.csr_array:
    """Drop the votes of Gaussians that are all but invisible, compared with the others that are seen at all."""
    seen = votes.visible[votes.visible > 0]
    if seen.size == 0:
        return matrix
    faint = votes.visible < settings.faint * np.median(seen)
    return keep_entries(matrix, ~faint[rows_of_entries(matrix)])


def gate(matrix: sparse.csr_array, mass: float) -> sparse.csr_array:
    """Keep each Gaussian's strongest votes until they make up the share `mass` of its votes; at least one.

    VALA's gate compares the Gaussians of one view with each other and so loses small and far ones. This one compares
    the views of one Gaussian, and only with each other: nothing depends on its size or on the image's.

    Returns:
        The votes that are left, each row's strongest first.
    """
    ordered = strongest_first(matrix)
    rows = rows_of_entries(ordered)
    sums = np.concatenate([[0.0], np.cumsum(ordered.data, dtype=np.float64)])
    starts, ends = sums[ordered.indptr[:-1]], sums[ordered.indptr[1:]]
    return keep_entries(ordered, sums[:-1] - starts[rows] < mass * (ends - starts)[rows])


class _Voted:
    """Features that follow from votes and embeddings.

    Args:
        matrix: weight of each mask in each Gaussian. [N, M]
        embeddings: float32 [M, D], unit rows where the matrix has entries.
    """

    def __init__(self, matrix: sparse.csr_array, embeddings: Tensor) -> None:
        self._matrix, self._embeddings = matrix, embeddings

    def __len__(self) -> int:
        """Number of Gaussians."""
        return self._matrix.shape[0]

    @property
    def dim(self) -> int:
        """Length of the features."""
        return self._embeddings.shape[1]


class WeightedMean(_Voted):
    """Weighted averages of mask embeddings, brought to unit length; see `Features`."""

    def rows(self, which: slice | np.ndarray) -> Tensor:
        """Features of some Gaussians: float32 [n, D]."""
        return F.normalize(mix(self._matrix[which], self._embeddings), dim=-1)


class CosineMedian(_Voted):
    """Weighted cosine medians of mask embeddings, by VALA's streaming update; see `Features`.

    The first vote sets z. Each further embedding f of weight w turns z by at most the share that w has in all weight
    W so far: `z <- norm(z + w / W (f - (f.z) z))`. Votes count in the matrix's order, so the strongest should come
    first. Only ratios of one Gaussian's weights matter.
    """

    def rows(self, which: slice | np.ndarray) -> Tensor:
        """Features of some Gaussians: float32 [n, D]."""
        block = self._matrix[which]
        step = _MEDIAN_ROWS["cuda" if self._embeddings.is_cuda else "cpu"]
        parts = [self._medians(block[start : start + step]) for start in range(0, max(block.shape[0], 1), step)]
        return torch.cat(parts)

    def _medians(self, block: sparse.csr_array) -> Tensor:
        device = self._embeddings.device
        sizes = np.diff(block.indptr)
        # With the longest rows in front, those that still have a vote to count are always the first ones.
        order = np.argsort(-sizes, kind="stable")
        lengths = -sizes[order]
        masks, weights = (torch.from_numpy(array).to(device) for array in (block.indices, block.data))
        starts = torch.from_numpy(block.indptr[order]).to(device)
        result = self._embeddings.new_zeros(len(sizes), self.dim)
        totals = self._embeddings.new_zeros(len(sizes), 1)
        for rank in range(int(sizes.max(initial=0))):
            left = int(np.searchsorted(lengths, -rank))
            f = self._embeddings.index_select(0, masks[starts[:left] + rank])  # [left, D]
            w, z, total = weights[starts[:left] + rank][:, None], result[:left], totals[:left]
            total += w
            z += w / total * (f - (f * z).sum(1, keepdim=True) * z)
            z.copy_(F.normalize(z, dim=-1))
        back = torch.empty_like(result)
        back[torch.from_numpy(order).to(device)] = result
        return back
