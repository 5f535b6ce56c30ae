"""Objects that views agree on: masks of different views that own the same Gaussians are one object.

Segmenters are fickle: one view's mask is the mug, the next one's is the mug and half of the table. No single view
knows better, but most of them together do. Two masks are taken for one object if most views that have each of them in
one piece have both in the same piece (the view consensus rate of Yan et al. 2024, MaskClustering, here on votes of
Gaussians instead of points). Nothing but votes is needed, no images and no embeddings.
"""

# scipy's sparse matrices come without types, and what the checker infers from their source is not so.
# pyright: reportOptionalSubscript=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false, reportCallIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from lang_splat_ns.language.codebook import Codebook
from lang_splat_ns.language.compression import from_shares
from lang_splat_ns.language.features import mix
from lang_splat_ns.splatting.sparse_rows import csr, keep_entries, rows_of_entries

_MEDIAN_STEPS = 10
_NEAREST = 0.05
"""Distance below which a vector does not gain weight in a median any more."""


@dataclass(frozen=True)
class ConsensusSettings:
    """When masks of different views are one object. All thresholds are shares, so no size or resolution matters."""

    agreement: float = 0.7
    """Share of the views that have each of two masks in one piece which must have them in the same piece."""
    contained: float = 0.8
    """Share of what a view sees of a mask that must lie in one of its own masks to be in one piece."""
    visible: float = 0.3
    """Share of a mask that a view must see to have a say about it."""
    consistent: float = 0.5
    """A mask that less than this share of what other views see of it is in one piece covers several objects, and is
    ignored."""
    glimpse: float = 0.1
    """A view that sees less of a Gaussian than this share of what its best view sees does not count for it."""
    places: int = 2
    """Objects that one Gaussian may be part of."""
    sharpness: float = 2.0
    """Power of a Gaussian's votes in its shares. Above 1 its main object prevails, so that borders stay crisp."""
    silence: float = 0.5
    """What a Gaussian's pixels that lie in no mask count as votes for no object at all, compared with a mask's pixels.
    0 ignores them, and then whatever a single view has drawn too large keeps what it took from where others drew
    nothing."""
    prior: float = 1.0
    """Views that the level's mean feature counts as in each object's feature: an object of few views is known badly
    and moves towards what is common, so that it does not win by chance. 0 believes a single view like many."""
    sample: int = 50_000
    """Gaussians by which masks are compared; evenly spaced if there are more."""


class _Ownership(NamedTuple):
    """Which mask has which Gaussian, for the Gaussians by which masks are compared."""

    owners: sparse.csr_array
    """1 where the Gaussian lies mostly in the mask, as far as the mask's view is concerned. [n, M]"""
    sights: sparse.csr_array
    """1 where the view has a clear sight of the Gaussian. [n, V]"""
    sizes: np.ndarray
    """What a view sees of the Gaussian on average, in pixels. [n]"""
    views: np.ndarray
    """Number of each mask's view, from 0. [M]"""


class _Evidence(NamedTuple):
    """What the views say about sets of Gaussians."""

    sizes: np.ndarray
    """Sum of the Gaussians' sizes. [k]"""
    seen: np.ndarray
    """Share of each set that each view sees, 0 where that is too little for a say. [k, V]"""
    inside: sparse.csr_array
    """1 where what the mask's view sees of the set lies in the mask; at most one per view. [k, M]"""


class Objects(NamedTuple):
    """What the views agree on."""

    of_mask: np.ndarray
    """The object of each mask, numbered from 0; -1 for masks that other views contradict or that own nothing. [M]"""
    shown: np.ndarray
    """Share of its object that the mask owns, 0 without an object. float64 [M]"""


def find_objects(matrix: sparse.csr_array, views: np.ndarray, settings: ConsensusSettings | None = None) -> Objects:
    """Find out which masks are the same object.

    Args:
        matrix: votes of one level, columns in the order of their views. [N, M]
        views: the view of each column, ascending. [M]
        settings: thresholds.
    """
    settings = settings or ConsensusSettings()
    found = Objects(np.full(matrix.shape[1], -1, dtype=np.int64), np.zeros(matrix.shape[1]))
    if matrix.nnz == 0:
        return found
    owned = _ownership(matrix, np.unique(views, return_inverse=True)[1], settings)
    masks = _evidence(owned.owners, owned, settings)
    reliable = _is_reliable(masks, owned.views, settings)
    if reliable.any():
        objects = _cluster(masks.inside[reliable][:, reliable], owned.views[reliable], settings)
        members = _clip(
            owned.owners[:, reliable] @ _ones(np.arange(len(objects)), objects, (len(objects), objects.max() + 1))
        )
        found.of_mask[reliable] = objects
        found.shown[reliable] = masks.sizes[reliable] / (members.T @ owned.sizes)[objects]
    return found


def lift_objects(
    matrix: sparse.csr_array,
    views: np.ndarray,
    embeddings: Tensor,
    visible: np.ndarray,
    settings: ConsensusSettings | None = None,
) -> Codebook:
    """One feature per object, and for each Gaussian the objects that it is part of.

    An object's feature is the median direction of its masks' embeddings, in which a mask counts the more, the more of
    the object it shows and the larger it is in its image; see also `ConsensusSettings.prior`. A Gaussian's weights are
    its votes for the objects; those that only one view has seen come into play where there are no others.

    Args:
        matrix, views, settings: as in `find_objects`.
        embeddings: of the columns, float32 [M, D], unit rows; zero rows are no evidence.
        visible: what the views see of each Gaussian, in a mask or not, in the unit of the matrix. [N]

    Returns:
        Entries are the objects, those with the most votes first, and at the end a zero row for no object. An object
        without any evidence has a zero row too.
    """
    settings = settings or ConsensusSettings()
    found = find_objects(matrix, views, settings)
    masks = np.flatnonzero(found.of_mask >= 0)
    belongs = _ones(masks, found.of_mask[masks], (len(found.of_mask), int(found.of_mask.max(initial=0)) + 1))
    votes = sparse.csr_array(matrix @ belongs)  # [N, K]
    order = np.argsort(-votes.sum(axis=0), kind="stable")
    votes, belongs = votes[:, order], belongs[:, order]
    weights = found.shown * np.sqrt(matrix.sum(axis=0)) * (embeddings.norm(dim=-1) > 0).cpu().numpy()
    entries = median_directions(sparse.csr_array(belongs.multiply(weights[:, None])).T.tocsr(), embeddings)
    counts = _view_counts(belongs, views)
    silent = settings.silence * np.maximum(visible - matrix.sum(axis=1), 0.0)
    shares = _sharpen(_with_silence(_prefer_confirmed(votes, counts), silent), settings.sharpness)
    entries = towards_common(entries, counts, settings.prior)
    return from_shares(torch.cat([entries, entries.new_zeros(1, entries.shape[1])]), shares, settings.places)


def towards_common(entries: Tensor, counts: np.ndarray, prior: float) -> Tensor:
    """Mix the mean of all known entries into each, as if so many views more had seen that. [K, D] -> [K, D]"""
    known = entries.norm(dim=-1, keepdim=True) > 0
    common = entries.sum(0) / known.sum().clamp_min(1)
    views = torch.from_numpy(counts).to(entries)[:, None]
    # An entry that was known from no view at all would be 0 / 0 without a prior.
    mixed = (views * entries + prior * common) / (views + prior).clamp_min(1.0)
    return torch.where(known, F.normalize(mixed, dim=-1), entries)


def _with_silence(votes: sparse.csr_array, silent: np.ndarray) -> sparse.csr_array:
    """Votes with one column more, for no object, of the Gaussians that have votes. [N, K] -> [N, K + 1]"""
    column = np.where(np.diff(votes.indptr) > 0, silent, 0.0).astype(votes.dtype)
    return sparse.csr_array(sparse.hstack([votes, sparse.csr_array(column[:, None])], format="csr"))


def _sharpen(votes: sparse.csr_array, power: float) -> sparse.csr_array:
    """Raise votes to a power, after dividing each row by its largest so that nothing overflows."""
    rows = rows_of_entries(votes)
    largest = np.zeros(votes.shape[0])
    np.maximum.at(largest, rows, votes.data)
    # 32 bits would turn the smallest shares into zeros, which then were entries without weight.
    shares = (votes.data.astype(np.float64) / largest[rows]) ** power
    return csr(shares, votes.indices, votes.indptr, votes.shape)


def _ownership(matrix: sparse.csr_array, views: np.ndarray, settings: ConsensusSettings) -> _Ownership:
    used = np.flatnonzero(np.diff(matrix.indptr))
    matrix = matrix[used[np.unique(np.linspace(0, len(used) - 1, settings.sample).astype(np.int64))]]
    count, n_views = matrix.shape[0], int(views.max()) + 1
    rows, masks = rows_of_entries(matrix), matrix.indices
    # Entries of a Gaussian in one view are neighbours, since columns are in the order of their views.
    pairs = rows * n_views + views[masks]
    is_first = np.diff(pairs, prepend=-1) > 0
    pair = np.cumsum(is_first) - 1
    pair_rows, pair_views = rows[is_first], views[masks][is_first]
    sums = np.bincount(pair, matrix.data)
    best = np.zeros(count)
    np.maximum.at(best, pair_rows, sums)
    clear = sums >= settings.glimpse * best[pair_rows]
    # More than half, so that a Gaussian has at most one owner per view.
    owner = (matrix.data > 0.5 * sums[pair]) & clear[pair]
    sizes = np.bincount(pair_rows[clear], sums[clear], count) / np.bincount(pair_rows[clear], minlength=count)
    return _Ownership(
        _ones(rows[owner], masks[owner], matrix.shape),
        _ones(pair_rows[clear], pair_views[clear], (count, n_views)),
        sizes,
        views,
    )


def _evidence(members: sparse.csr_array, owned: _Ownership, settings: ConsensusSettings) -> _Evidence:
    """What the views say about sets of Gaussians, given as columns of ones. [n, k]"""
    weighted = sparse.csr_array(members.multiply(owned.sizes[:, None])).T.tocsr()  # [k, n]
    sizes = weighted.sum(axis=1)
    seen = (weighted @ owned.sights).toarray()  # [k, V]
    seen[seen < settings.visible * sizes[:, None]] = 0.0
    shared = (weighted @ owned.owners).tocoo()  # [k, M]
    sets, masks = shared.coords
    seen_there = seen[sets, owned.views[masks]]
    inside = (seen_there > 0) & (shared.data >= settings.contained * seen_there)
    shares = seen / np.maximum(sizes, np.finfo(np.float64).tiny)[:, None]
    return _Evidence(sizes, shares, _ones(sets[inside], masks[inside], shared.shape))


def _is_reliable(masks: _Evidence, views: np.ndarray, settings: ConsensusSettings) -> np.ndarray:
    """Which masks own something and are kept in one piece by enough of the other views that see them: bool [M].

    A view has the more to say, the more of the mask it sees: half of two objects is easily in one piece.
    """
    sets, containers = masks.inside.tocoo().coords
    agreeing = np.bincount(sets, masks.seen[sets, views[containers]], len(views))
    # A mask's own view sees all of it, and in one piece.
    return (masks.sizes > 0) & (agreeing - 1.0 >= settings.consistent * (masks.seen.sum(1) - 1.0) - 1e-6)


def _cluster(inside: sparse.csr_array, views: np.ndarray, settings: ConsensusSettings) -> np.ndarray:
    """Merge masks into objects: the object of each mask, int64 [k].

    In every round, those pairs merge of which each is the other's best match; then evidence is collected anew. So a
    mask that resembles two objects joins one of them, and does not tie both together.

    Args:
        inside: 1 where a mask contains another, for reliable masks. [k, k]
        views: the view of each mask. [k]
    """
    objects = np.arange(len(views))
    in_view = _ones(np.arange(len(views)), views, (len(views), int(views.max()) + 1))
    ties = np.random.default_rng(0)
    while True:
        one, other, same, both = _common_views(inside, _clip(inside @ in_view))
        agreeing = np.flatnonzero(same >= settings.agreement * both)
        if len(agreeing) == 0:
            return objects
        # The more views have seen two things together, the better the match. Ties are broken at random, or else all
        # would want to merge with the first.
        order = agreeing[np.lexsort((ties.random(len(agreeing)), -both[agreeing]))]
        merged, count = _merge_best(one[order], other[order], inside.shape[0])
        objects = merged[objects]
        # A cluster lies in each mask in which one of its masks lies.
        inside = _clip(_ones(merged, np.arange(len(merged)), (count, len(merged))) @ inside)


def _merge_best(one: np.ndarray, other: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """Merge pairs, given best first, of which each is the other's best: the new number of each thing, and how many."""
    ranks = np.arange(len(one))
    best = np.full(count, len(one))
    np.minimum.at(best, one, ranks)
    np.minimum.at(best, other, ranks)
    mutual = (best[one] == ranks) & (best[other] == ranks)
    first = np.arange(count)
    first[other[mutual]] = one[mutual]
    kept, merged = np.unique(first, return_inverse=True)
    return merged, len(kept)


def _common_views(inside: sparse.csr_array, pieces: sparse.csr_array) -> tuple[np.ndarray, ...]:
    """Pairs of sets that some view has in one mask.

    Args:
        inside: 1 where a mask contains a set. [k, M]
        pieces: 1 where a view has a set in one piece. [k, V]

    Returns:
        The two sets of each pair; in how many masks both lie; and how many views have each of them in one piece.
    """
    together = sparse.triu(inside @ inside.T, k=1).tocoo()
    one, other = together.coords
    whole = pieces.toarray() > 0
    both = np.empty(len(one))
    for start in range(0, len(one), 1 << 16):
        part = slice(start, start + (1 << 16))
        both[part] = (whole[one[part]] & whole[other[part]]).sum(1)
    return one, other, together.data, both


def _prefer_confirmed(votes: sparse.csr_array, view_counts: np.ndarray) -> sparse.csr_array:
    """Drop votes for objects of a single view from Gaussians that have others. [N, K]"""
    confirmed = view_counts[votes.indices] > 1
    rows = rows_of_entries(votes)
    has_confirmed = np.bincount(rows[confirmed], minlength=votes.shape[0]) > 0
    return keep_entries(votes, confirmed | ~has_confirmed[rows])


def _view_counts(belongs: sparse.csr_array, views: np.ndarray) -> np.ndarray:
    """How many views each object has been seen in: int64 [K]."""
    masks, objects = belongs.tocoo().coords
    pairs = np.unique(np.stack([objects, views[masks]]), axis=1)
    return np.bincount(pairs[0], minlength=belongs.shape[1])


def _clip(matrix: sparse.csr_array) -> sparse.csr_array:
    """Ones where the matrix has entries."""
    return csr(np.ones(matrix.nnz), matrix.indices, matrix.indptr, matrix.shape)


def _ones(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """A matrix with ones at some places, each given once, and zeros elsewhere."""
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def median_directions(groups: sparse.csr_array, embeddings: Tensor) -> Tensor:
    """Weighted medians of unit vectors, by Weiszfeld's iteration on the sphere: unit rows [K, D].

    Args:
        groups: weight of each vector in each group. [K, M]
        embeddings: float32 [M, D].
    """
    rows = torch.from_numpy(rows_of_entries(groups)).to(embeddings.device)
    members = torch.from_numpy(groups.indices.astype(np.int64)).to(embeddings.device)
    medians = F.normalize(mix(groups, embeddings), dim=-1)
    for _ in range(_MEDIAN_STEPS):
        distances = (embeddings[members] - medians[rows]).norm(dim=-1).clamp_min(_NEAREST).cpu().numpy()
        closer = sparse.csr_array((groups.data / distances, groups.indices, groups.indptr), shape=groups.shape)
        medians = F.normalize(mix(closer, embeddings), dim=-1)
    return medians
