"""The plane that an object stands or hangs on, and its cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_EVEN = 0.01
"""Share of its depth by which a place may be off a plane and still be on it,"""
_FINE = 0.03
"""but no more than this share of the object's size."""
FACING = 0.8
"""Cosine of the angle to a plane's normal up to which a surface faces as the plane does."""
_TOUCH = 0.15
"""Share of the object's size that it may be off a plane, to either side, and still stand on it."""
_NEAR = 0.7
"""Share of the object's size within which a place counts as around it."""
_LEAST = 0.09
"""Share of what is around an object that must be on the plane."""
_PLACES = 4000
"""Places around an object that planes are fitted to, at most."""
_TRIES = 1000
"""Planes through three of them that are tried."""
_MARGIN = 0.75
"""Share of the object's size by which a chart is larger than the object."""
_MOST_CELLS = 400
"""Cells along each side of a chart, at most."""


def size_of(thing: NDArray[np.float64]) -> float:
    """How large an object of these places [M, 3] is, without floaters."""
    return float(np.linalg.norm(np.percentile(thing, 98, axis=0) - np.percentile(thing, 2, axis=0)))


def support_of(
    thing: NDArray[np.float64], around: NDArray[np.float64], eyes: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """The plane that an object stands or hangs on: `plane[:3] @ x + plane[3]` is how far x is before it. [4], or None.

    It is the plane that most of what is seen around the object lies on (RANSAC, Fischler and Bolles 1981), among those
    that touch the object and do not cut it; so neither a wall behind it nor the things beside it.

    Args:
        thing: places of the object. [M, 3]
        around: places that are seen beside it, the normals there, and the depths in their views. [A, 7]
        eyes: places of the cameras. [V, 3]
    """
    from scipy.spatial import KDTree

    if len(thing) == 0 or len(around) == 0:
        return None
    size = size_of(thing)
    near = around[KDTree(thing).query(around[:, :3], distance_upper_bound=_NEAR * size)[0] < np.inf]
    if len(near) < 3:
        return None
    random = np.random.default_rng(0)
    near = near[random.choice(len(near), min(_PLACES, len(near)), replace=False)]
    even = np.minimum(_EVEN * near[:, 6], _FINE * size)
    best = np.zeros(len(near), bool)
    for three in random.integers(0, len(near), (_TRIES, 3)):
        plane = _fitted(near[three, :3], eyes)
        on = (np.abs(near[:, :3] @ plane[:3] + plane[3]) < even) & (near[:, 3:6] @ plane[:3] > FACING)
        if on.sum() > best.sum() and abs(np.percentile(thing @ plane[:3] + plane[3], 3)) < _TOUCH * size:
            best = on
    return _fitted(near[best, :3], eyes) if best.mean() >= _LEAST else None


def _fitted(places: NDArray[np.float64], eyes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The plane nearest to places [M, 3], with most of the cameras [V, 3] before it: [4]."""
    middle = places.mean(axis=0)
    normal = np.linalg.svd(places - middle, full_matrices=False)[2][2]
    plane = np.append(normal, -normal @ middle)
    return plane if np.median(eyes @ normal + plane[3]) > 0 else -plane


@dataclass(frozen=True)
class Chart:
    """Square cells of a plane around an object, as an image of it from straight above.

    Attributes:
        corner: the middle of the first cell. [3]
        axes: rows are the directions of columns and rows, and the plane's front. [3, 3]
        cell: width of a cell.
        shape: rows and columns.
    """

    corner: NDArray[np.float64]
    axes: NDArray[np.float64]
    cell: float
    shape: tuple[int, int]

    @classmethod
    def around(cls, thing: NDArray[np.float64], plane: NDArray[np.float64], cell: float) -> Chart:
        """The chart around an object of these places [M, 3], with cells of at least this width."""
        normal = plane[:3]
        first = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
        first /= np.linalg.norm(first)
        axes = np.stack([first, np.cross(normal, first), normal])
        foot = thing @ axes[:2].T
        margin = _MARGIN * size_of(thing)
        low, high = np.percentile(foot, 1, axis=0) - margin, np.percentile(foot, 99, axis=0) + margin
        cell = max(cell, float((high - low).max()) / _MOST_CELLS)
        columns, rows = np.ceil((high - low) / cell).astype(int) + 1
        return cls(low @ axes[:2] - plane[3] * normal, axes, cell, (int(rows), int(columns)))

    def places(self) -> NDArray[np.float64]:
        """The middles of the cells: [H, W, 3]."""
        rows, columns = np.mgrid[: self.shape[0], : self.shape[1]]
        return self.corner + self.cell * (columns[..., None] * self.axes[0] + rows[..., None] * self.axes[1])
