"""Matching by SAM 2's video model: each mask is followed from photo to photo."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from fastlgs_ns.views import Views
from fastlgs_ns.walk import camera_distances, walk
from lang_splat_ns.console import track
from lang_splat_ns.perception.video_links import Frame, Tracker, link_masks


def match_by_video(views: Views, make_tracker: Callable[[], Tracker]) -> list[list[NDArray[np.int64]]]:
    """The object of each mask, per level and view.

    The photos are shown in the order of a walk from neighbour to neighbour, so that they need not be a video.

    Args:
        views: photos and their masks.
        make_tracker: gives a fresh tracker for each level.
    """
    order = walk(camera_distances(views.poses))
    found: list[list[NDArray[np.int64]]] = []
    for level in range(views.level_count):
        linked = link_masks(make_tracker(), _frames(views, order, level))
        objects: dict[int, NDArray[np.int64]] = {}
        for view, links in track(zip(order, linked, strict=True), "Following masks", len(order), unit="photos"):
            objects[view] = _padded(links.objects, len(views(view).embeddings[level]))
        found.append([objects[view] for view in range(len(views))])
    return found


def _frames(views: Views, order: list[int], level: int) -> Iterator[Frame]:
    for view in order:
        shown = views(view)
        yield shown.image, shown.labels[level]


def _padded(objects: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """A mask that has lost all its pixels to others is nobody's; the tracker does not know of it."""
    return np.concatenate([objects, np.full(count - len(objects), -1, np.int64)])
