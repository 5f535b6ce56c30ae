"""The demo scene's sparse points: samples of what the training photos see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.scenes.gallery_render import Picture, View
from lang_splat_ns.scenes.gallery_scene import things
from lang_splat_ns.scenes.solids import FloatArray

# The share of points that is dealt out evenly over the things in view, so that small ones get some; the rest
# falls on the photo evenly.
EVEN_SHARE = 0.35


class PointSampler:
    """Collects points from one training photo after the other.

    Args:
        count: number of points in the end.
        photos: number of training photos that will be added.
        seed: seed of the choice of pixels.
    """

    def __init__(self, count: int, photos: int, seed: int) -> None:
        self._quota = np.diff(np.linspace(0, count, photos + 1).round().astype(int))
        self._random = np.random.default_rng(seed)
        self._points: list[FloatArray] = []
        self._colours: list[NDArray[np.uint8]] = []

    def add(self, view: View, picture: Picture) -> None:
        """Take this photo's share of the points, at centres of pixels that its things are seen through."""
        count = int(self._quota[len(self._points)])
        ids = picture.instance.reshape(-1)
        present = np.bincount(ids, minlength=len(things()))
        chance = (1 - EVEN_SHARE) / ids.size + EVEN_SHARE / (np.count_nonzero(present) * present[ids])
        # Tiny photos may have fewer pixels than points are asked for.
        chosen = self._random.choice(ids.size, count, replace=count > ids.size, p=chance / chance.sum())
        rows, columns = np.divmod(chosen, view.width)
        depth = picture.depth[rows, columns].astype(np.float64)
        x = (columns + 0.5 - 0.5 * view.width) / view.focal
        y = -(rows + 0.5 - 0.5 * view.height) / view.focal
        local = np.stack([x, y, -np.ones_like(x)], axis=1) * depth[:, None]
        self._points.append((local @ view.pose[:3, :3].T + view.pose[:3, 3]).astype(np.float32))
        self._colours.append(picture.colour[rows, columns])

    def points(self) -> tuple[FloatArray, NDArray[np.uint8]]:
        """[count, 3] points in the room frame, metres, and their [count, 3] sRGB colours."""
        return np.concatenate(self._points), np.concatenate(self._colours)
