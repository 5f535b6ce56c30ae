"""Which splats touch which tile, nearest first: the sorting stage of the CPU rasterizer, compiled with numba."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

TILE = 16
"""Edge of a tile in pixels, as in gsplat."""

ALPHA_MIN = 1.0 / 255.0
"""A splat adds nothing to a pixel where its alpha is below this (Kerbl et al. 2023, appendix C)."""

_RADIX_BITS = 11
_RADIX_PASSES = 3


class TileLists(NamedTuple):
    """The splats of every tile, nearest first."""

    ids: np.ndarray
    """Gaussian index of every entry. int32 [M]"""
    rows: np.ndarray
    """First row + 16 * last row of the tile in which the entry can reach `ALPHA_MIN`. uint8 [M]"""
    offsets: np.ndarray
    """Entries of tile t, in raster order, are `offsets[t]:offsets[t + 1]`. int64 [tiles + 1]"""


def build_tile_lists(
    means2d: np.ndarray,  # [N, 2]
    conics: np.ndarray,  # [N, 3]
    opacities: np.ndarray,  # [N]
    radii: np.ndarray,  # [N] int32
    depths: np.ndarray,  # [N]
    width: int,
    height: int,
) -> TileLists:
    """Sort the splats by depth and hand each to the tiles that it can reach.

    A tile is in reach when it lies in gsplat's box of three standard deviations *and* some pixel of it can have
    alpha >= `ALPHA_MIN`. gsplat lists the first condition only and finds out about the second at each pixel, so the
    images are the same and the lists shorter. Ties in depth keep the Gaussians' order, as gsplat's stable sort does.
    The result does not depend on the number of threads.
    """
    order = _depth_order(depths, radii)
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    # Each band of tile columns scans all splats, so more bands than threads would be wasted work.
    bands = max(1, min(tiles_x, nb.get_num_threads()))
    counts = np.zeros(tiles_x * tiles_y, np.int64)
    no_ids, no_rows = np.empty(0, np.int32), np.empty(0, np.uint8)
    _scan(means2d, conics, opacities, radii, order, tiles_x, tiles_y, bands, False, counts, no_ids, no_rows)
    offsets = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    ids, rows = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.uint8)
    cursor = offsets[:-1].copy()
    _scan(means2d, conics, opacities, radii, order, tiles_x, tiles_y, bands, True, cursor, ids, rows)
    return TileLists(ids, rows, offsets)


def _depth_order(depths: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Indices of the visible Gaussians, nearest first, ties in their own order: int32 [visible]."""
    visible = np.flatnonzero(radii > 0).astype(np.int32)
    if depths.dtype == np.float32:
        # Visible depths are positive, and positive floats sort like their bits read as integers.
        return _radix_sort(np.ascontiguousarray(depths).view(np.uint32), visible)
    return visible[np.argsort(depths[visible], kind="stable")]


@nb.njit(cache=True, nogil=True)
def _radix_sort(keys, order):
    """Stable sort of `order` by `keys[order]`, least significant digit first."""
    other = np.empty_like(order)
    for p in range(_RADIX_PASSES):
        shift = np.uint32(p * _RADIX_BITS)
        start = np.zeros((1 << _RADIX_BITS) + 1, np.int64)
        for i in range(order.size):
            start[((keys[order[i]] >> shift) & np.uint32((1 << _RADIX_BITS) - 1)) + 1] += 1
        for d in range(1 << _RADIX_BITS):
            start[d + 1] += start[d]
        for i in range(order.size):
            digit = (keys[order[i]] >> shift) & np.uint32((1 << _RADIX_BITS) - 1)
            other[start[digit]] = order[i]
            start[digit] += 1
        order, other = other, order
    return order


@nb.njit(cache=True, nogil=True)
def _rows_in_strip(a, b, c, reach, left, right):
    """Span of dy over which `a dx^2 + 2 b dx dy + c dy^2 <= reach` has a solution with left <= dx <= right.

    The upper border of the ellipse is concave in dx and the lower one convex, so each has its extreme at the tip,
    or at the end of the strip that is nearer to the tip. Returns (1, 0) when the strip misses the ellipse.
    """
    det = a * c - b * b
    half_width = math.sqrt(c * reach / det)
    left, right = max(left, -half_width), min(right, half_width)
    if left > right:
        return 1.0, 0.0
    tip = -b * math.sqrt(reach / (a * det))
    x_top = min(max(tip, left), right)
    x_bottom = min(max(-tip, left), right)
    top = (-b * x_top + math.sqrt(max(c * reach - det * x_top * x_top, 0.0))) / c
    bottom = (-b * x_bottom - math.sqrt(max(c * reach - det * x_bottom * x_bottom, 0.0))) / c
    return bottom, top


@nb.njit(cache=True, nogil=True, parallel=True)
def _scan(means2d, conics, opacities, radii, order, tiles_x, tiles_y, bands, fill, cursor, ids, rows):
    """Count the entries of each tile in `cursor`, or (fill) write them from `cursor` on.

    Bands of tile columns are independent: a tile belongs to one band, and each band visits the splats in order.
    """
    for band in nb.prange(bands):
        band_start, band_end = band * tiles_x // bands, (band + 1) * tiles_x // bands
        for i in range(order.size):
            g = order[i]
            radius = radii[g]
            x, y = means2d[g, 0], means2d[g, 1]
            first_x = max(math.floor((x - radius) / TILE), band_start)
            end_x = min(math.ceil((x + radius) / TILE), band_end)
            if first_x >= end_x or opacities[g] < ALPHA_MIN * 0.999:
                continue
            first_y = max(math.floor((y - radius) / TILE), 0)
            end_y = min(math.ceil((y + radius) / TILE), tiles_y)
            # Float64 and a margin: rounding must never drop a pixel that the compositing would have drawn. Single
            # precision loses most where a long thin splat runs diagonally and large terms cancel.
            a, b, c = float(conics[g, 0]), float(conics[g, 1]), float(conics[g, 2])
            reach = 2.0 * math.log(255.0 * opacities[g]) + 0.02 + 5e-7 * (a + c) * float(radius) * float(radius)
            if not a * c - b * b > 0.0:
                a, b, c = 0.0, 0.0, 0.0
            for tx in range(first_x, end_x):
                low, high = -1e9, 1e9
                if a > 0.0:
                    left = TILE * tx + 0.5 - x
                    low, high = _rows_in_strip(a, b, c, max(reach, 0.01), left, left + (TILE - 1))
                first_row = max(int(math.ceil(max(y + low - 0.5, -1.0))), first_y * TILE)
                last_row = min(int(math.floor(min(y + high - 0.5, 1e6))), end_y * TILE - 1)
                if first_row > last_row:
                    continue
                for ty in range(first_row // TILE, last_row // TILE + 1):
                    tile = ty * tiles_x + tx
                    if fill:
                        slot = cursor[tile]
                        ids[slot] = g
                        top, bottom = max(first_row - ty * TILE, 0), min(last_row - ty * TILE, TILE - 1)
                        rows[slot] = np.uint8(top | (bottom << 4))
                    cursor[tile] += 1
