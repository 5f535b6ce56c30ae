"""Alpha compositing of tile lists, forward: compiled loops over splats and rows of 16 pixels.

One task is one tile. Splats come front to back; for each, only the rows that it can reach are visited. A row of
pixels is one SIMD value (see `simd`), so the loop over pixels does not appear. The tile's transmittance and colours
stay in a few kilobytes of scratch memory, in the first-level cache.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from lang_splat_ns.splatting.simd import (
    exp2,
    fill,
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

MAX_ROW_CHANNELS = 16
"""Up to here channels are blended a row of pixels at a time, beyond it a pixel at a time, 16 channels at once.

The second way has no idle lanes where a splat covers only part of a row, but costs more per pixel.
"""


@nb.njit(cache=True, nogil=True, parallel=True)
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


@nb.njit(cache=True, nogil=True, parallel=True)
def composite_forward(packed, colors, background, ids, rows, offsets, width, height):
    """Blend the listed splats into an image.

    Args:
        packed: from `pack_splats`. [N, 8]
        colors: [N, D]
        background: [D]
        ids, rows, offsets: the tile lists.

    Returns:
        Image [H, W, D], final transmittance [H, W], and for each pixel the position in its tile's list at which it
        was finished (or the list's length), int32 [H, W].
    """
    channels = colors.shape[1]
    image = np.empty((height, width, channels), colors.dtype)
    final_t = np.empty((height, width), colors.dtype)
    stop = np.empty((height, width), np.int32)
    tiles_x = (width + TILE - 1) // TILE
    for tile in nb.prange(offsets.size - 1):
        y0, x0 = tile // tiles_x * TILE, tile % tiles_x * TILE
        count = offsets[tile + 1] - offsets[tile]
        light = start_light(y0, x0, width, height, colors.dtype)
        stops = np.full(PIXELS, count, np.int32)
        if channels <= MAX_ROW_CHANNELS:
            blended = _blend_rows(packed, colors, ids, rows, offsets[tile], count, y0, x0, light, stops)
        else:
            blended = _blend_pixels(packed, colors, ids, rows, offsets[tile], count, y0, x0, light, stops)
        for y in range(y0, min(y0 + TILE, height)):
            for x in range(x0, min(x0 + TILE, width)):
                p = (y - y0) * TILE + x - x0
                remaining = abs(light[p])
                final_t[y, x], stop[y, x] = remaining, stops[p]
                for k in range(channels):
                    value = blended[k, p] if channels <= MAX_ROW_CHANNELS else blended[p, k]
                    image[y, x, k] = value + remaining * background[k]
    return image, final_t, stop


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


@nb.njit(forceinline=True)
def _pass_light(light, stops, alive, place, row, falloff, opacity_log):
    """Send the light of one row of pixels through one splat.

    Returns the weights alpha * T of the splat in the row's pixels, and the lanes in which it is drawn.
    """
    alpha = minimum(exp2(opacity_log - falloff), ALPHA_MAX)
    before = load(light, row * TILE)
    after = before - before * alpha
    seen = (falloff >= 0.0) & (alpha >= ALPHA_MIN)
    drawn = seen & (after > T_MIN)
    finished = lane_bits(seen & (before > 0.0) & (after <= T_MIN))
    bits = lane_bits(drawn)
    if bits != 0:
        store(light, row * TILE, where(drawn, after, before))
    if finished != 0:
        _finish(light, stops, alive, place, row, finished)
    return where(drawn, before * alpha, 0.0), bits


@nb.njit(cache=True, nogil=True)
def _finish(light, stops, alive, place, row, lanes):
    """Close pixels of a row for all further splats, and narrow the range of rows that still have open ones."""
    while lanes != 0:
        p = row * TILE + lowest_lane(lanes)
        lanes &= lanes - np.uint32(1)
        light[p] = -light[p]
        stops[p] = place
    while alive[0] <= alive[1] and _is_dark(light, alive[0]):
        alive[0] += 1
    while alive[0] <= alive[1] and _is_dark(light, alive[1]):
        alive[1] -= 1


@nb.njit(cache=True, nogil=True)
def _is_dark(light, row):
    return lane_bits(load(light, row * TILE) > 0.0) == 0


@nb.njit(cache=True, nogil=True)
def _first_alive(light):
    """First and last row of a tile that lie in the image."""
    alive = np.array([0, TILE - 1])
    while alive[1] > 0 and _is_dark(light, alive[1]):
        alive[1] -= 1
    return alive


@nb.njit(cache=True, nogil=True)
def _blend_rows(packed, colors, ids, rows, start, count, y0, x0, light, stops):
    """Few channels: add `colour * weights` to each channel's rows. Returns [D, 256]."""
    channels = colors.shape[1]
    blended = aligned(channels * PIXELS, colors.dtype)
    blended[:] = 0.0
    centers = load(lane_centers(x0, colors.dtype), 0)
    alive = _first_alive(light)
    for place in range(count):
        g = ids[start + place]
        first, last = max(rows[start + place] & 15, alive[0]), min(rows[start + place] >> 4, alive[1])
        dx = centers - packed[g, 0]
        from_x, slope = dx * dx * packed[g, 2], dx * packed[g, 3]
        top, c, opacity_log = y0 + 0.5 - packed[g, 1], packed[g, 4], packed[g, 5]
        for row in range(first, last + 1):
            dy = top + row
            falloff = from_x + (slope * dy + c * dy * dy)
            weights, bits = _pass_light(light, stops, alive, place, row, falloff, opacity_log)
            if bits != 0:
                for k in range(channels):
                    at = k * PIXELS + row * TILE
                    store(blended, at, load(blended, at) + weights * colors[g, k])
        if alive[0] > alive[1]:
            break
    return blended.reshape(channels, PIXELS)


@nb.njit(cache=True, nogil=True)
def _blend_pixels(packed, colors, ids, rows, start, count, y0, x0, light, stops):
    """Many channels: add `weight * colours` to each drawn pixel. Returns [256, D]."""
    channels = colors.shape[1]
    flat_colors = colors.reshape(-1)
    blended = aligned(PIXELS * channels, colors.dtype)
    blended[:] = 0.0
    weight_of = aligned(TILE, colors.dtype)
    centers = load(lane_centers(x0, colors.dtype), 0)
    alive = _first_alive(light)
    for place in range(count):
        g = ids[start + place]
        first, last = max(rows[start + place] & 15, alive[0]), min(rows[start + place] >> 4, alive[1])
        dx = centers - packed[g, 0]
        from_x, slope = dx * dx * packed[g, 2], dx * packed[g, 3]
        top, c, opacity_log = y0 + 0.5 - packed[g, 1], packed[g, 4], packed[g, 5]
        for row in range(first, last + 1):
            dy = top + row
            falloff = from_x + (slope * dy + c * dy * dy)
            weights, bits = _pass_light(light, stops, alive, place, row, falloff, opacity_log)
            store(weight_of, 0, weights)
            while bits != 0:
                lane = lowest_lane(bits)
                bits &= bits - np.uint32(1)
                to = (row * TILE + lane) * channels
                add_scaled(blended, to, flat_colors, g * channels, weight_of[lane], channels)
        if alive[0] > alive[1]:
            break
    return blended.reshape(PIXELS, channels)


@nb.njit(forceinline=True)
def add_scaled(target, target_start, source, source_start, factor, count):
    """`target[target_start + k] += factor * source[source_start + k]` for k below count."""
    whole = count - count % TILE
    factors = fill(factor)
    for k in range(0, whole, TILE):
        store(target, target_start + k, load(target, target_start + k) + factors * load(source, source_start + k))
    for k in range(whole, count):
        target[target_start + k] += factor * source[source_start + k]
