"""Alpha compositing of tile lists, forward: compiled loops over splats and rows of 16 pixels.

One task is one tile. Splats come front to back; for each, only the rows that it can reach are visited. A row of
pixels is one SIMD value (see `simd`), so the loop over pixels does not appear. The tile's transmittance and colours
stay in a few kilobytes of scratch memory, in the first-level cache.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from lang_splat_ns.splatting.cpu_threads import ONLY_PRANGE
from lang_splat_ns.splatting.simd import (
    address,
    exp2,
    lane_bits,
    load,
    lowest_lane,
    minimum,
    store,
    where,
)
from lang_splat_ns.splatting.tile_lists import ALPHA_MIN, TILE

ALPHA_MAX = 0.999
"""Alpha never gets closer to 1, which would make the backward pass divide by 0; gsplat's value."""

T_MIN = 1e-4
"""A pixel is finished before the splat that would bring its transmittance down to this."""

PIXELS = TILE * TILE
LOG2_E = 1.0 / math.log(2.0)

MAX_ROW_CHANNELS = 32
"""Up to here channels are blended a row of pixels at a time, beyond it a pixel at a time, 16 channels at once.

The second way has no idle lanes where a splat covers only part of a row, but costs more per pixel.
"""


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def pack_splats(means2d, conics, opacities, radii):
    """Bring what the compositing reads of each splat together: x, y, A, B, C, log2(opacity) and 2 unused. [N, 8]

    alpha = 2**(log2(opacity) - (A dx^2 + B dx dy + C dy^2)): one exponential, no factors.
    """
    packed = np.zeros((opacities.size, 8), means2d.dtype)
    for g in nb.prange(opacities.size):
        if radii[g] > 0 and opacities[g] > 0.0:
            packed[g, 0], packed[g, 1] = means2d[g, 0], means2d[g, 1]
            packed[g, 2] = 0.5 * LOG2_E * conics[g, 0]
            packed[g, 3] = LOG2_E * conics[g, 1]
            packed[g, 4] = 0.5 * LOG2_E * conics[g, 2]
            packed[g, 5] = math.log2(opacities[g])
    return packed


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def composite_forward(packed, colors, background, ids, rows, offsets, width, height):
    """Blend the listed splats into an image.

    Args:
        packed: from `pack_splats`. [N, 8]
        colors: [N, D]
        background: [D]
        ids, rows, offsets: the tile lists.

    Returns:
        Image [H, W, D]; final transmittance [H, W]; for each pixel the position in its tile's list at which it was
        finished, or the list's length, int32 [H, W]; and the largest of these in each tile, int64 [tiles].
    """
    channels, tiles = colors.shape[1], offsets.size - 1
    image = np.empty((height, width, channels), colors.dtype)
    final_t = np.empty((height, width), colors.dtype)
    stop = np.empty((height, width), np.int32)
    reached = np.zeros(tiles, np.int64)
    step = stride(tiles)
    for i in nb.prange(tiles):
        # Each thread gets a run of i. Striding through the image gives every run its share of sky and of foliage.
        tile = i * step % tiles
        reached[tile] = _draw_tile(tile, packed, colors, background, ids, rows, offsets, image, final_t, stop)
    return image, final_t, stop, reached


@nb.njit(cache=True, nogil=True)
def stride(count):
    """A number that has no divisor in common with count, near its golden section: i * step visits everything."""
    step = max(1, int(0.618 * count))
    while math.gcd(step, count) > 1:
        step += 1
    return step


@nb.njit(cache=True, nogil=True)
def _draw_tile(tile, packed, colors, background, ids, rows, offsets, image, final_t, stop):
    """Blend one tile and write it out; returns how far into its list any pixel came."""
    height, width, channels = image.shape
    tiles_x = (width + TILE - 1) // TILE
    y0, x0 = tile // tiles_x * TILE, tile % tiles_x * TILE
    start, count = offsets[tile], offsets[tile + 1] - offsets[tile]
    light, stops = start_light(y0, x0, width, height, colors.dtype), np.full(PIXELS, count, np.int32)
    centers, weights, blended = (
        lane_centers(x0, colors.dtype),
        aligned(TILE, colors.dtype),
        zeros(PIXELS * channels, colors.dtype),
    )
    open_rows = np.array([0, min(TILE, height - y0) - 1])
    by_rows = channels <= MAX_ROW_CHANNELS
    _blend(packed, colors, ids[start:], rows[start:], count, y0, light, stops, open_rows, centers, weights, blended)
    reached = 0
    for y in range(y0, min(y0 + TILE, height)):
        for x in range(x0, min(x0 + TILE, width)):
            p = (y - y0) * TILE + x - x0
            remaining = abs(light[p])
            final_t[y, x], stop[y, x] = remaining, stops[p]
            reached = max(reached, stops[p])
            for k in range(channels):
                value = blended[k * PIXELS + p] if by_rows else blended[p * channels + k]
                image[y, x, k] = value + remaining * background[k]
    return reached


@nb.njit(cache=True, nogil=True)
def aligned(size, dtype):
    """Uninitialised memory that begins on a cache line, so that a row never straddles two."""
    raw = np.empty(size + 16, dtype)
    skip = (-(raw.ctypes.data // raw.itemsize)) % 16
    return raw[skip : skip + size]


@nb.njit(cache=True, nogil=True)
def start_light(y0, x0, width, height, dtype):
    """Transmittance of a tile's pixels before the first splat: 1, or -1 for those outside the image. [256]

    A negative sign means finished; the magnitude is the transmittance. So one array holds both, and pixels outside
    the image need no care.
    """
    light = aligned(PIXELS, dtype)
    for p in range(PIXELS):
        light[p] = 1.0 if y0 + p // TILE < height and x0 + p % TILE < width else -1.0
    return light


@nb.njit(cache=True, nogil=True)
def lane_centers(x0, dtype):
    """x of the pixel middles of a tile's row. [16]"""
    centers = aligned(TILE, dtype)
    for i in range(TILE):
        centers[i] = x0 + i + 0.5
    return centers


@nb.njit(cache=True, nogil=True)
def zeros(size, dtype):
    """Like `aligned`, filled with zeros."""
    memory = aligned(size, dtype)
    memory[:] = 0.0
    return memory


@nb.njit(cache=True, nogil=True)
def _blend(packed, colors, ids, rows, count, y0, light, stops, open_rows, centers, weights, blended):
    """Send the light of one tile through its splats.

    Args:
        light, stops: transmittance and list position of the end, per pixel; updated. [256]
        open_rows: first and last row with an unfinished pixel; updated.
        centers: x of the pixel middles. [16]
        weights: memory for one row. [16]
        blended: sums of colour times weight, [D, 256] for few channels, [256, D] for many; updated. [D * 256]
    """
    channels = colors.shape[1]
    by_rows = channels <= MAX_ROW_CHANNELS
    light_at, stops_at, open_at = address(light), address(stops), address(open_rows)
    weights_at, blended_at, colors_at = address(weights), address(blended), address(colors)
    xs = load(centers, 0)
    for place in range(count):
        g = ids[place]
        dx = xs - packed[g, 0]
        from_x, slope = dx * dx * packed[g, 2], dx * packed[g, 3]
        top, c, opacity_log = y0 + 0.5 - packed[g, 1], packed[g, 4], packed[g, 5]
        for row in range(max(rows[place] & 15, open_rows[0]), min(rows[place] >> 4, open_rows[1]) + 1):
            dy = top + row
            falloff = from_x + (slope * dy + c * dy * dy)
            weight, bits = draw_row(light_at, stops_at, open_at, place, row, opacity_log, falloff)
            if bits != 0:
                if by_rows:
                    _add_row(blended_at, row * TILE, weight, colors_at, g * channels, channels)
                else:
                    store(weights_at, 0, weight)
                    _add_pixels(blended_at, row * TILE, bits, weights_at, colors_at, g * channels, channels)
        if open_rows[0] > open_rows[1]:
            break


@nb.njit(forceinline=True)
def draw_row(light, stops, open_rows, place, row, opacity_log, falloff):
    """Send the light of one row of pixels through one splat, given its falloff there.

    Args:
        light, stops, open_rows: as in `_blend`, by address; updated.
        place: the splat's position in the tile's list.
        opacity_log, falloff: the splat's alpha is `2**(opacity_log - falloff)`, before the clamp.

    Returns:
        The splat's share alpha T of each pixel, 0 where it is not drawn, and the drawn lanes as bits.
    """
    alpha = minimum(exp2(opacity_log - falloff), ALPHA_MAX)
    before = load(light, row * TILE)
    weight = before * alpha
    after = before - weight
    # A finished pixel has negative light, so it fails the second test.
    seen = (falloff >= 0.0) & (alpha >= ALPHA_MIN) & (before > 0.0)
    drawn = seen & (after > T_MIN)
    bits = lane_bits(drawn)
    finished = lane_bits(seen) - bits
    if finished != 0:
        _finish(light, stops, open_rows, place, row, finished)
        before = load(light, row * TILE)
    if bits != 0:
        store(light, row * TILE, where(drawn, after, before))
    return where(drawn, weight, 0.0), bits


@nb.njit(forceinline=True)
def _add_row(blended, first_pixel, weight, colors, color, channels):
    """Few channels: add a splat to a row of pixels, channel by channel."""
    for k in range(channels):
        at = k * PIXELS + first_pixel
        store(blended, at, load(blended, at) + weight * colors[color + k])


@nb.njit(forceinline=True)
def _add_pixels(blended, first_pixel, bits, weights, colors, color, channels):
    """Many channels: add a splat to the drawn pixels of a row, pixel by pixel."""
    while bits != 0:
        lane = lowest_lane(bits)
        bits &= bits - np.uint32(1)
        add_scaled(blended, (first_pixel + lane) * channels, colors, color, weights[lane], channels)


@nb.njit(forceinline=True)
def add_scaled(target, target_start, source, source_start, factor, count):
    """`target[target_start + k] += factor * source[source_start + k]` for k below count, all given by address."""
    whole = count - count % TILE
    for k in range(0, whole, TILE):
        store(target, target_start + k, load(target, target_start + k) + load(source, source_start + k) * factor)
    for k in range(whole, count):
        target[target_start + k] += factor * source[source_start + k]


@nb.njit(cache=True, nogil=True)
def _finish(light, stops, open_rows, place, row, lanes):
    """Close pixels of a row for all further splats, and narrow the range of rows that still have open ones."""
    while lanes != 0:
        p = row * TILE + lowest_lane(lanes)
        lanes &= lanes - np.uint32(1)
        light[p] = -light[p]
        stops[p] = place
    while open_rows[0] <= open_rows[1] and _is_dark(light, open_rows[0]):
        open_rows[0] += 1
    while open_rows[0] <= open_rows[1] and _is_dark(light, open_rows[1]):
        open_rows[1] -= 1


@nb.njit(forceinline=True)
def _is_dark(light, row):
    """Whether all pixels of a row are finished."""
    return lane_bits(load(light, row * TILE) > 0.0) == 0
