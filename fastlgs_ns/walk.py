"""In which order photos are gone through, and which of those before are a photo's neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def camera_distances(poses: Array) -> Array:
    """How differently cameras see the scene: distance of their places in units of the median one, plus the angle
    between their optical axes in radians.

    Args:
        poses: camera-to-world, OpenGL. [V, 3, 4]

    Returns:
        [V, V], zeros on the diagonal.
    """
    places, axes = poses[:, :3, 3], poses[:, :3, 2]
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    usual = np.median(apart[apart > 0]) if (apart > 0).any() else 1.0
    angles = np.arccos(np.clip(axes @ axes.T, -1.0, 1.0))
    np.fill_diagonal(angles, 0.0)
    return apart / usual + angles


def walk(distances: Array) -> list[int]:
    """A way through all photos that always goes on to the nearest one left, beginning with the first photo.

    A data set need not be a video; where it is one, this is nearly its own order.
    """
    left = set(range(1, len(distances)))
    order = [0] if len(distances) else []
    while left:
        order.append(min(left, key=lambda view: (distances[order[-1], view], view)))
        left.remove(order[-1])
    return order


def neighbours_before(order: list[int], distances: Array, count: int) -> dict[int, list[int]]:
    """For each photo the `count` nearest of those that the walk has passed before it, nearest first."""
    found: dict[int, list[int]] = {}
    for place, view in enumerate(order):
        found[view] = sorted(order[:place], key=lambda other: (distances[view, other], other))[:count]
    return found
