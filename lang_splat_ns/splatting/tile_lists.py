"""Which splats touch which tile, nearest first: the sorting stage of the CPU rasterizer, compiled with numba."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from lang_splat_ns.splatting.cpu_threads import ONLY_PRANGE

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
    first_columns, column_counts = _tile_columns(means2d, opacities, radii, order, tiles_x)
    starts = np.zeros(order.size + 1, np.int64)
    np.cumsum(column_counts, out=starts[1:])
    spans = _row_spans(means2d, conics, opacities, radii, order, tiles_y, first_columns, starts)
    # Each band of tile columns visits all splats, so more bands than threads would be wasted work.
    bands = max(1, min(tiles_x, nb.get_num_threads()))
    offsets = np.zeros(tiles_x * tiles_y + 1, np.int64)
    nothing = np.empty(0, np.int32), np.empty(0, np.uint8)
    _scan(order, first_columns, starts, spans, tiles_x, bands, False, offsets[1:], *nothing)
    np.cumsum(offsets, out=offsets)
    ids, rows = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.uint8)
    _scan(order, first_columns, starts, spans, tiles_x, bands, True, offsets[:-1].copy(), ids, rows)
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


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _tile_columns(means2d, opacities, radii, order, tiles_x):
    """The first tile column of each splat's box, and how many it has; [V] each, for the V splats in `order`."""
    firsts, counts = np.empty(order.size, np.int32), np.empty(order.size, np.int64)
    for i in nb.prange(order.size):
        g = order[i]
        first = max(math.floor((means2d[g, 0] - radii[g]) / TILE), 0)
        end = min(math.ceil((means2d[g, 0] + radii[g]) / TILE), tiles_x)
        # What never reaches the smallest alpha is in no tile at all.
        firsts[i], counts[i] = first, max(end - first, 0) if opacities[g] >= ALPHA_MIN * 0.999 else 0
    return firsts, counts


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _row_spans(means2d, conics, opacities, radii, order, tiles_y, first_columns, starts):
    """First and last row of pixels that each splat can reach in each of its tile columns, first > last = none.

    In a column the ellipse's upper border is concave and the lower one convex, so each has its extreme at the
    ellipse's tip, or at the end of the column that is nearer to the tip.

    Returns:
        [C, 2] for the C pairs of splat and column; those of splat i are `starts[i]:starts[i + 1]`.
    """
    spans = np.empty((starts[-1], 2), np.int32)
    for i in nb.prange(order.size):
        g = order[i]
        if starts[i] == starts[i + 1]:
            continue
        x, y, radius = float(means2d[g, 0]), float(means2d[g, 1]), float(radii[g])
        # The box is cut in the input's precision, as gsplat does it; the rest in float64.
        top = max(math.floor((means2d[g, 1] - radii[g]) / TILE), 0) * TILE
        bottom = min(math.ceil((means2d[g, 1] + radii[g]) / TILE), tiles_y) * TILE - 1
        a, b, c = float(conics[g, 0]), float(conics[g, 1]), float(conics[g, 2])
        # A margin, since rounding must never drop a pixel that the compositing would draw. Single precision loses
        # most where a long thin splat runs diagonally and large terms cancel.
        reach = 2.0 * math.log(255.0 * opacities[g]) + 0.02 + 5e-7 * (a + c) * radius * radius
        det = a * c - b * b
        if not (det > 0.0 and a > 0.0 and reach > 0.0):
            spans[starts[i] : starts[i + 1], 0], spans[starts[i] : starts[i + 1], 1] = top, bottom
            continue
        half_width, tip, inverse = math.sqrt(c * reach / det), -b * math.sqrt(reach / (a * det)), 1.0 / c
        for j in range(starts[i], starts[i + 1]):
            edge = TILE * (first_columns[i] + j - starts[i]) + 0.5 - x
            left, right = max(edge, -half_width), min(edge + (TILE - 1), half_width)
            if left > right:
                spans[j, 0], spans[j, 1] = 1, 0
                continue
            at_bottom, at_top = min(max(tip, left), right), min(max(-tip, left), right)
            high = (math.sqrt(max(c * reach - det * at_bottom * at_bottom, 0.0)) - b * at_bottom) * inverse
            low = (-math.sqrt(max(c * reach - det * at_top * at_top, 0.0)) - b * at_top) * inverse
            spans[j, 0] = max(math.ceil(max(y + low - 0.5, -1.0)), top)
            spans[j, 1] = min(math.floor(min(y + high - 0.5, 1e6)), bottom)
    return spans


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _scan(order, first_columns, starts, spans, tiles_x, bands, fill, cursor, ids, rows):
    """Count the entries of each tile in `cursor`, or (fill) write them from `cursor` on.

    Bands of tile columns are independent: a tile belongs to one band, and each band visits the splats in order.
    """
    for band in nb.prange(bands):
        band_start, band_end = band * tiles_x // bands, (band + 1) * tiles_x // bands
        for i in range(order.size):
            first = first_columns[i]
            end = min(first + starts[i + 1] - starts[i], band_end)
            for tx in range(max(first, band_start), end):
                span = starts[i] + tx - first
                first_row, last_row = spans[span, 0], spans[span, 1]
                if first_row > last_row:
                    continue
                for ty in range(first_row // TILE, last_row // TILE + 1):
                    tile = ty * tiles_x + tx
                    if fill:
                        slot = cursor[tile]
                        ids[slot] = order[i]
                        top, bottom = max(first_row - ty * TILE, 0), min(last_row - ty * TILE, TILE - 1)
                        rows[slot] = np.uint8(top | (bottom << 4))
                    cursor[tile] += 1
