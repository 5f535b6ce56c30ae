"""Codes of objects: points on a sphere that are as far apart as its dimension allows, the same in every run.

The sphere, and not the cube that colours fill: where two objects share a pixel, their codes are averaged, and the
average lies inside the sphere, away from every code. In a cube it may well lie on a third object's code, and a rim of
things that are not there would surround everything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CANDIDATES = 40
"""Points of the fine pattern for each code that is chosen from it."""
_STEPS = 100
"""Steps in which codes push each other away."""


def spread_codes(count: int, dim: int) -> NDArray[np.float32]:
    """Unit vectors with large distances between the nearest ones; the same for the same arguments.

    Built in three steps: a fine even pattern on the sphere (a Kronecker sequence of the roots of x^(d + 1) = x + 1,
    brought to the sphere through the normal distribution), from which the point that is farthest from all chosen ones
    is chosen again and again, and then small steps by which each code moves away from those that are nearest.

    Args:
        count: number of codes.
        dim: their length, at least 2.

    Returns:
        float32 [count, dim]. Any first few of them are far apart too, so that the largest objects should come first.

    Raises:
        ValueError: `dim` is less than 2.
    """
    if dim < 2:
        raise ValueError(f"codes need at least 2 dimensions, not {dim}")
    if count == 0:
        return np.zeros((0, dim), np.float32)
    pattern = _even_pattern(max(_CANDIDATES * count, 1000), dim)
    return _repelled(_farthest_points(pattern, count)).astype(np.float32)


def least_distance(codes: NDArray[np.floating]) -> float:
    """Distance of the two nearest unit codes [K, C]; 2, the sphere's width, where there is no pair."""
    if len(codes) < 2:
        return 2.0
    return float(np.sqrt(_squared_distances(codes.astype(np.float64)).min()))


def _squared_distances(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of unit vectors [K, C] from each other: [K, K], infinite from themselves."""
    squares = np.maximum(2.0 - 2.0 * codes @ codes.T, 1e-12)
    np.fill_diagonal(squares, np.inf)
    return squares


def _even_pattern(count: int, dim: int) -> NDArray[np.float64]:
    from scipy.special import ndtri

    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (dim + 1))
    steps = root ** -np.arange(1, dim + 1)
    places = (0.5 + np.arange(1, count + 1)[:, None] * steps) % 1.0
    return _unit(ndtri(places.clip(1e-9, 1 - 1e-9)))


def _farthest_points(pattern: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    chosen = [0]
    distance = np.linalg.norm(pattern - pattern[0], axis=1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        np.minimum(distance, np.linalg.norm(pattern - pattern[chosen[-1]], axis=1), out=distance)
    return pattern[chosen]


def _repelled(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Steps along a force that falls so steeply with distance that only the nearest codes matter; best state kept."""
    best, best_square = codes, 0.0
    for step in range(_STEPS + 1 if len(codes) > 1 else 0):
        squares = _squared_distances(codes)
        nearest = squares.min(1, keepdims=True)
        if nearest.min() > best_square:
            best, best_square = codes, float(nearest.min())
        cubes = nearest / squares
        cubes *= cubes * cubes
        strengths = cubes * cubes
        forces = strengths.sum(1, keepdims=True) * codes - strengths @ codes
        codes = _unit(codes + 0.2 * np.sqrt(best_square) * (1 - step / _STEPS) * _unit(forces))
    return best


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
