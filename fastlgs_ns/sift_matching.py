"""FastLGS's own matching: keypoints say which masks to compare, colours and embeddings whether they are one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlgs_ns.keypoints import Keypoints, find_keypoints, match_keypoints
from fastlgs_ns.walk import camera_distances, neighbours_before, walk
from fastlgs_ns.views import MaskedView, Views
from lang_splat_ns.console import track

_BINS = 8
"""Bins per colour channel."""


@dataclass(frozen=True)
class SiftSettings:
    """How masks of neighbouring photos are compared; see `FastLGSModelConfig`, which says what was measured."""

    alpha: float
    theta: float
    neighbours: int
    keypoints: int
    ratio: float


@dataclass
class _Seen:
    """What is kept of a photo that was passed."""

    keypoints: Keypoints
    labels: NDArray[np.int32]
    colours: list[NDArray[np.float32]]
    """Square roots of each mask's colour histogram, per level [count, bins], so that products are Bhattacharyya's."""
    embeddings: Sequence[NDArray[np.float32]]
    objects: list[NDArray[np.int64]]


def match_by_keypoints(views: Views, settings: SiftSettings) -> list[list[NDArray[np.int64]]]:
    """The object of each mask, per level and view; a mask that resembles none of the neighbours' begins a new one.

    Photos are gone through from neighbour to neighbour. A mask's candidates are those of the nearest photos passed,
    in the order of the keypoint matches that they share with it; the first whose similarity
    `alpha * colour + (1 - alpha) * embedding` exceeds theta is the same object. Candidates without a shared keypoint
    come last, the most similar first, since plain things have no keypoints at all. Two masks of one photo and level
    are never the same object.
    """
    distances = camera_distances(views.poses)
    order = walk(distances)
    before = neighbours_before(order, distances, settings.neighbours)
    seen: dict[int, _Seen] = {}
    counts = [0] * views.level_count
    for view in track(order, "Matching masks", unit="photos"):
        here = _look(views(view), settings)
        matches = [(seen[other], match_keypoints(here.keypoints, seen[other].keypoints, settings.ratio)) for other in before[view]]
        for level in range(views.level_count):
            objects = _objects_of(here, matches, level, settings)
            for mask in np.flatnonzero(objects < 0):
                objects[mask] = counts[level]
                counts[level] += 1
            here.objects.append(objects)
        seen[view] = here
    return [[seen[view].objects[level] for view in range(len(order))] for level in range(views.level_count)]


def _look(view: MaskedView, settings: SiftSettings) -> _Seen:
    colours = [
        _root_histograms(view.image, labels, len(rows))
        for labels, rows in zip(view.labels, view.embeddings, strict=True)
    ]
    return _Seen(find_keypoints(view.image, settings.keypoints), view.labels, colours, view.embeddings, [])


def _root_histograms(image: NDArray[np.uint8], labels: NDArray[np.int32], count: int) -> NDArray[np.float32]:
    bins = (image.astype(np.int64) * _BINS) >> 8
    flat = (bins[..., 0] * _BINS + bins[..., 1]) * _BINS + bins[..., 2]
    inside = labels >= 0
    size = _BINS**3
    sums = np.bincount(labels[inside] * size + flat[inside], minlength=count * size).reshape(count, size)
    return np.sqrt(sums / np.maximum(sums.sum(1, keepdims=True), 1)).astype(np.float32)


def _objects_of(
    here: _Seen, matches: list[tuple[_Seen, NDArray[np.int64]]], level: int, settings: SiftSettings
) -> NDArray[np.int64]:
    """Objects of one photo's masks, -1 for those that resemble nothing."""
    count = len(here.colours[level])
    found = np.full(count, -1, np.int64)
    # mask here, object there, keypoints in common, similarity
    pairs: list[NDArray[np.float64]] = []
    for there, common in matches:
        shared = _shared_keypoints(here, there, common, level)
        similar = _similarity(here, there, level, settings.alpha)
        mask, other = np.nonzero(similar >= settings.theta)
        pairs.append(np.stack([mask, there.objects[level][other], shared[mask, other], similar[mask, other]]))
    if not pairs or not count:
        return found
    masks, objects, shared, similar = np.concatenate(pairs, axis=1)
    taken: set[int] = set()
    for pair in np.lexsort((-similar, -shared)):
        mask, thing = int(masks[pair]), int(objects[pair])
        if found[mask] < 0 and thing not in taken:
            found[mask] = thing
            taken.add(thing)
    return found


def _shared_keypoints(here: _Seen, there: _Seen, common: NDArray[np.int64], level: int) -> NDArray[np.float64]:
    """Keypoints that lie in a mask here and, matched, in a mask there: [count here, count there]."""
    ones = here.labels[level][here.keypoints.rows[common[:, 0]], here.keypoints.columns[common[:, 0]]]
    others = there.labels[level][there.keypoints.rows[common[:, 1]], there.keypoints.columns[common[:, 1]]]
    inside = (ones >= 0) & (others >= 0)
    sums = np.zeros((len(here.colours[level]), len(there.colours[level])))
    np.add.at(sums, (ones[inside], others[inside]), 1.0)
    return sums


def _similarity(here: _Seen, there: _Seen, level: int, alpha: float) -> NDArray[np.float32]:
    """Similarity of all masks of two photos; by colour alone where a mask has no embedding."""
    colour = here.colours[level] @ there.colours[level].T
    meaning = here.embeddings[level] @ there.embeddings[level].T
    return np.where(np.isfinite(meaning), alpha * colour + (1 - alpha) * meaning, colour)
