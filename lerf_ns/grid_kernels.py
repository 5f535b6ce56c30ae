"""Hash grids on a CPU: compiled loops over places and levels. `hash_grid.HashGrid.corners` is their slow twin."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from lang_splat_ns.splatting.cpu_threads import ONLY_PRANGE

# `read` and `spread` both write the loop over a cell's corners out. A function of the corner's number that both call
# takes a tenth longer, since the products of the first two axes are then made for every corner.

_PLACES = 2048
_Y, _Z = np.uint32(2_654_435_761), np.uint32(805_459_861)


@nb.njit(inline="always")
def _row(x, y, z, side, size, dense):
    """Row of a vertex within its level's table."""
    if dense:
        # Beyond the last vertex lies the last one, whose weight is 0 there.
        return min(x, side - 1) + min(y, side - 1) * side + min(z, side - 1) * side * side
    return np.int64((np.uint32(x) ^ (np.uint32(y) * _Y) ^ (np.uint32(z) * _Z)) & np.uint32(size - 1))


@nb.njit(inline="always")
def _below(coordinate, scale):
    """The vertex below a coordinate, and the share of the way to the next one."""
    scaled = coordinate * scale + np.float32(0.5)
    low = math.floor(scaled)
    return max(int(low), 0), np.float32(scaled - low)


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE, fastmath={"contract", "reassoc", "nsz"})
def read(positions, table, first_rows, sizes, sides, scales, dense):
    """Values of all levels at places [N, 3] of the unit cube: [N, levels * features].

    A task is some places at one level, so that its part of the table stays in the cache.
    """
    features, levels = table.shape[1], len(sizes)
    out = np.zeros((len(positions), levels * features), np.float32)
    parts = (len(positions) + _PLACES - 1) // _PLACES
    for task in nb.prange(levels * parts):
        level, part = task // parts, task % parts
        first, size, side, scale, flat = first_rows[level], sizes[level], sides[level], scales[level], dense[level]
        start = level * features
        for place in range(part * _PLACES, min((part + 1) * _PLACES, len(positions))):
            x, right = _below(positions[place, 0], scale)
            y, down = _below(positions[place, 1], scale)
            z, back = _below(positions[place, 2], scale)
            for i in range(2):
                along = right if i else np.float32(1.0) - right
                for j in range(2):
                    across = along * (down if j else np.float32(1.0) - down)
                    for k in range(2):
                        weight = across * (back if k else np.float32(1.0) - back)
                        row = first + _row(x + i, y + j, z + k, side, size, flat)
                        for feature in range(features):
                            out[place, start + feature] += weight * table[row, feature]
    return out


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE, fastmath={"contract", "reassoc", "nsz"})
def spread(positions, gradient, rows, features, first_rows, sizes, sides, scales, dense):
    """Gradient of the table [rows, features], given that of the values [N, levels * features].

    Levels have rows of their own, so each is one task, and every row's sum has one order whatever the threads do.
    """
    out = np.zeros((rows, features), np.float32)
    for level in nb.prange(len(sizes)):
        first, size, side, scale, flat = first_rows[level], sizes[level], sides[level], scales[level], dense[level]
        start = level * features
        for place in range(len(positions)):
            x, right = _below(positions[place, 0], scale)
            y, down = _below(positions[place, 1], scale)
            z, back = _below(positions[place, 2], scale)
            for i in range(2):
                along = right if i else np.float32(1.0) - right
                for j in range(2):
                    across = along * (down if j else np.float32(1.0) - down)
                    for k in range(2):
                        weight = across * (back if k else np.float32(1.0) - back)
                        row = first + _row(x + i, y + j, z + k, side, size, flat)
                        for feature in range(features):
                            out[row, feature] += weight * gradient[place, start + feature]
    return out
