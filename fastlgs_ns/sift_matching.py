"""FastLGS's own matching: keypoints say which masks to compare, colours and embeddings whether they are one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlgs_ns.keypoints import Keypoints, find_keypoints, match_keypoints
from fastlgs_ns.views import Views
from fastlgs_ns.walk import camera_distances, neighbours_before, walk
from lang_splat_ns.console import track

_BINS = 8
"""Bins per colour channel."""


@dataclass(frozen=True)
class SiftSettings:
    """How photos are compared."""

    neighbours: int = 4
    """Photos passed before that each photo is compared with, the nearest ones by camera."""
    keypoints: int = 2048
    """Keypoints per photo."""
    ratio: float = 0.8
    """Lowe's ratio."""


@dataclass(frozen=True)
class _Look:
    """What is kept of a photo.

    Attributes:
        marks: the mask that each keypoint lies in, at every level, -1 for none. int32 [L, K]
        colours: per level the square roots of each mask's colour histogram, so that products are Bhattacharyya's
            coefficients. float32 [count, bins]
        embeddings: per level float32 [count, D].
        before: neighbours that were passed before, and the pairs of keypoints in common with each [P, 2].
    """

    marks: NDArray[np.int32]
    colours: list[NDArray[np.float32]]
    embeddings: Sequence[NDArray[np.float32]]
    before: list[tuple[int, NDArray[np.int64]]]


@dataclass(frozen=True)
class Looks:
    """All photos as they are compared, which does not depend on alpha and theta.

    Attributes:
        order: photos in the order of the walk.
        of_view: what is kept of each.
    """

    order: list[int]
    of_view: dict[int, _Look]


def look_at(views: Views, settings: SiftSettings | None = None) -> Looks:
    """Find keypoints and their matches, and the colours of masks; photos are gone through from neighbour to neighbour.

    Args:
        views: photos, their masks and their cameras.
        settings: how photos are compared.
    """
    settings = settings or SiftSettings()
    distances = camera_distances(views.poses)
    order = walk(distances)
    before = neighbours_before(order, distances, settings.neighbours)
    looks: dict[int, _Look] = {}
    keypoints: dict[int, Keypoints] = {}
    for view in track(order, "Comparing photos", unit="photos"):
        shown = views(view)
        keypoints[view] = here = find_keypoints(shown.image, settings.keypoints)
        common = [(other, match_keypoints(here, keypoints[other], settings.ratio)) for other in before[view]]
        colours = [
            _root_histograms(shown.image, labels, len(rows))
            for labels, rows in zip(shown.labels, shown.embeddings, strict=True)
        ]
        looks[view] = _Look(shown.labels[:, here.rows, here.columns], colours, shown.embeddings, common)
    return Looks(order, looks)


def link(looks: Looks, alpha: float, theta: float) -> list[list[NDArray[np.int64]]]:
    """The object of each mask, per level and view; a mask that resembles none of the neighbours' begins a new one.

    A mask's candidates are those of the neighbouring photos, in the order of the keypoint matches that they share with
    it; the first whose similarity `alpha * colour + (1 - alpha) * embedding` is at least theta is the same object.
    Candidates without a shared keypoint come last, the most similar first, since plain things have no keypoints at
    all. Two masks of one photo and level are never the same object.

    Args:
        looks: the photos.
        alpha: weight of colour.
        theta: least similarity.
    """
    levels = len(looks.of_view[looks.order[0]].colours) if looks.order else 0
    found: list[list[NDArray[np.int64]]] = []
    for level in range(levels):
        objects: dict[int, NDArray[np.int64]] = {}
        count = 0
        for view in looks.order:
            objects[view] = _continued(looks, view, level, objects, alpha, theta)
            new = np.flatnonzero(objects[view] < 0)
            objects[view][new] = count + np.arange(len(new))
            count += len(new)
        found.append([objects[view] for view in range(len(looks.order))])
    return found


def _continued(
    looks: Looks, view: int, level: int, objects: dict[int, NDArray[np.int64]], alpha: float, theta: float
) -> NDArray[np.int64]:
    """Objects of one photo's masks that continue those of its neighbours, -1 for the others."""
    here = looks.of_view[view]
    found = np.full(len(here.colours[level]), -1, np.int64)
    pairs = [np.zeros((4, 0))]
    for other, common in here.before:
        there = looks.of_view[other]
        shared = _shared_keypoints(here, there, common, level)
        similar = _similarity(here, there, level, alpha)
        mask, candidate = np.nonzero(similar >= theta)
        rows = mask, objects[other][candidate], shared[mask, candidate], similar[mask, candidate]
        pairs.append(np.stack(rows).astype(np.float64))
    masks, candidates, shared, similar = np.concatenate(pairs, axis=1)
    taken: set[int] = set()
    for pair in np.lexsort((-similar, -shared)):
        mask, thing = int(masks[pair]), int(candidates[pair])
        if found[mask] < 0 and thing not in taken:
            found[mask] = thing
            taken.add(thing)
    return found


def _root_histograms(image: NDArray[np.uint8], labels: NDArray[np.int32], count: int) -> NDArray[np.float32]:
    bins = (image.astype(np.int64) * _BINS) >> 8
    flat = (bins[..., 0] * _BINS + bins[..., 1]) * _BINS + bins[..., 2]
    inside = labels >= 0
    size = _BINS**3
    sums = np.bincount(labels[inside] * size + flat[inside], minlength=count * size).reshape(count, size)
    return np.sqrt(sums / np.maximum(sums.sum(1, keepdims=True), 1)).astype(np.float32)


def _shared_keypoints(here: _Look, there: _Look, common: NDArray[np.int64], level: int) -> NDArray[np.float64]:
    """Keypoints that lie in a mask here and, matched, in a mask there: [count here, count there]."""
    ones, others = here.marks[level][common[:, 0]], there.marks[level][common[:, 1]]
    inside = (ones >= 0) & (others >= 0)
    sums = np.zeros((len(here.colours[level]), len(there.colours[level])))
    np.add.at(sums, (ones[inside], others[inside]), 1.0)
    return sums


def _similarity(here: _Look, there: _Look, level: int, alpha: float) -> NDArray[np.float32]:
    """Similarity of all masks of two photos; by colour alone where a mask has no embedding."""
    colour = here.colours[level] @ there.colours[level].T
    meaning = here.embeddings[level] @ there.embeddings[level].T
    return np.where(np.isfinite(meaning), alpha * colour + (1 - alpha) * meaning, colour)
