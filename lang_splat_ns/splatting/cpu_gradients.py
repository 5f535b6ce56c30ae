"""Alpha compositing of tile lists, backward: compiled loops that undo the forward pass, back to front.

The formulas are those of Kerbl et al. 2023, appendix C, with one saving: a pixel's loss depends on the channels only
through the scalar product of a splat's colour with the pixel's incoming gradient, so "what lies behind" is one number
per pixel, not one per channel.

No two threads write to one place and nothing is atomic: the tiles are cut into spans of about equal work, each span
sums into rows of its own for the Gaussians that it meets, and these are added up in the spans' order. So the result
is the same bit for bit whenever the number of threads is.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from lang_splat_ns.splatting.cpu_kernels import (
    ALPHA_MAX,
    MAX_ROW_CHANNELS,
    PIXELS,
    add_scaled,
    aligned,
    lane_centers,
    zeros,
)
from lang_splat_ns.splatting.cpu_threads import ONLY_PRANGE
from lang_splat_ns.splatting.simd import (
    absolute,
    address,
    exp2,
    fill,
    lane_bits,
    load,
    lowest_lane,
    minimum,
    store,
    total,
    where,
)
from lang_splat_ns.splatting.tile_lists import ALPHA_MIN, TILE

GEOMETRY = 8
"""Columns of a gradient row before the colours: x, y, conic xx, xy, yy, opacity, absolute x, absolute y."""

_SPANS_PER_THREAD = 4


def composite_backward(packed, conics, opacities, colors, background, lists, drawn, v_image, v_alpha, absgrad):
    """Gradients of a scalar by everything that `composite_forward` was given.

    Args:
        packed, colors, background: as in `composite_forward`.
        conics, opacities: what `packed` was made of. [N, 3], [N]
        lists: the tile lists.
        drawn: final transmittance, stops and reached list positions, from `composite_forward`.
        v_image, v_alpha: gradients by the image and by 1 - final_t. [H, W, D], [H, W]
        absgrad: also sum absolute gradients by the position.

    Returns:
        Gradients by means2d [N, 2], conics [N, 3], opacities [N], colors [N, D], and the sum of absolute gradients by
        means2d [N, 2].
    """
    final_t, stop, reached = drawn
    spans = _cut_spans(reached)
    owners, counts = _own_rows(lists.ids, lists.offsets, reached, spans, len(opacities))
    starts = np.concatenate([[0], np.cumsum(counts)])
    sums = _span_gradients(
        packed, conics, opacities, colors, background, lists.ids, lists.rows, lists.offsets, spans, owners, starts,
        final_t, stop, reached, v_image, v_alpha, absgrad,
    )  # fmt: skip
    geometry, v_colors = _add_spans(owners, starts, sums, colors.shape[1])
    return geometry[:, 0:2], geometry[:, 2:5], geometry[:, 5], v_colors, geometry[:, 6:8]


def _cut_spans(reached: np.ndarray) -> np.ndarray:
    """First tile of each span, and the end: spans of about the same number of list entries."""
    count = max(1, min(reached.size, _SPANS_PER_THREAD * nb.get_num_threads()))
    # A tile costs something even when its list is empty, hence the constant per tile.
    work = np.concatenate([[0], np.cumsum(reached + 8)])
    return np.searchsorted(work, np.linspace(0, work[-1], count + 1))


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _own_rows(ids, offsets, reached, spans, gaussians):
    """Number the Gaussians that each span meets, in order of appearance: [S, N], -1 = not met, and the counts."""
    owners = np.empty((spans.size - 1, gaussians), np.int32)
    counts = np.zeros(spans.size - 1, np.int64)
    for span in nb.prange(spans.size - 1):
        owners[span, :] = -1
        count = 0
        for tile in range(spans[span], spans[span + 1]):
            for entry in range(offsets[tile], offsets[tile] + reached[tile]):
                if owners[span, ids[entry]] < 0:
                    owners[span, ids[entry]] = count
                    count += 1
        counts[span] = count
    return owners, counts


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _span_gradients(
    packed, conics, opacities, colors, background, ids, rows, offsets, spans, owners, starts,
    final_t, stop, reached, v_image, v_alpha, absgrad,
):  # fmt: skip
    """Every span's own sums: [all spans' rows, 8 + D]."""
    channels, dtype = colors.shape[1], colors.dtype
    sums = np.zeros((starts[-1], GEOMETRY + channels), dtype)
    tiles_x = (v_image.shape[1] + TILE - 1) // TILE
    for span in nb.prange(spans.size - 1):
        scratch = aligned(4 * TILE, dtype)
        color_sums = aligned(channels * TILE, dtype)
        for tile in range(spans[span], spans[span + 1]):
            y0, x0 = tile // tiles_x * TILE, tile % tiles_x * TILE
            state, row_stops = _start_tile(y0, x0, background, final_t, stop, v_image, v_alpha)
            v_rows = _rows_of_gradient(v_image, y0, x0)
            _tile_gradients(
                packed, conics, opacities, colors, ids[offsets[tile] :], rows[offsets[tile] :], reached[tile], y0, x0,
                owners[span], sums[starts[span] :], state, row_stops, lane_centers(x0, dtype), scratch, color_sums,
                v_rows, v_image, absgrad,
            )  # fmt: skip
    return sums


@nb.njit(cache=True, nogil=True)
def _start_tile(y0, x0, background, final_t, stop, v_image, v_alpha):
    """A tile's state behind its last splat.

    Returns three blocks of 256 in one array: the transmittance; the part of the gradient that comes from behind (the
    background, and alpha); and the list position at which each pixel was finished, as floats, which are exact and
    compare in a row, and 0 outside the image. Also the largest of the positions in each row [16].
    """
    height, width = final_t.shape
    state, row_stops = zeros(3 * PIXELS, final_t.dtype), np.zeros(TILE, np.int64)
    state[:PIXELS] = 1.0
    for y in range(y0, min(y0 + TILE, height)):
        for x in range(x0, min(x0 + TILE, width)):
            p = (y - y0) * TILE + x - x0
            value = -v_alpha[y, x]
            for k in range(background.size):
                value += background[k] * v_image[y, x, k]
            state[p] = final_t[y, x]
            state[PIXELS + p] = value * final_t[y, x]
            state[2 * PIXELS + p] = stop[y, x]
            row_stops[y - y0] = max(row_stops[y - y0], stop[y, x])
    return state, row_stops


@nb.njit(cache=True, nogil=True)
def _rows_of_gradient(v_image, y0, x0):
    """Few channels: a tile's incoming gradient, each channel's pixels together, 0 outside the image. [D * 256]"""
    height, width, channels = v_image.shape
    if channels > MAX_ROW_CHANNELS:
        return aligned(0, v_image.dtype)
    result = zeros(channels * PIXELS, v_image.dtype)
    for y in range(y0, min(y0 + TILE, height)):
        for x in range(x0, min(x0 + TILE, width)):
            for k in range(channels):
                result[k * PIXELS + (y - y0) * TILE + x - x0] = v_image[y, x, k]
    return result


@nb.njit(cache=True, nogil=True)
def _tile_gradients(
    packed, conics, opacities, colors, ids, rows, count, y0, x0, owner, sums,
    state, row_stops, centers, scratch, color_sums, v_rows, v_image, absgrad,
):  # fmt: skip
    """Add one tile's share to the span's sums [rows, 8 + D]; `owner` [N] tells which row is whose."""
    channels = colors.shape[1]
    by_rows = channels <= MAX_ROW_CHANNELS
    state_at, scratch_at, sums_at, v_rows_at = address(state), address(scratch), address(sums), address(v_rows)
    color_sums_at, colors_at, v_at = address(color_sums), address(colors), address(v_image)
    xs = load(centers, 0)
    zero = xs * 0.0
    for place in range(count - 1, -1, -1):
        g = ids[place]
        a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
        dx = xs - packed[g, 0]
        from_x, slope = dx * dx * packed[g, 2], dx * packed[g, 3]
        top, from_y, opacity_log = y0 + 0.5 - packed[g, 1], packed[g, 4], packed[g, 5]
        sum_0, sum_y, sum_yy, abs_x, abs_y = zero, zero, zero, zero, zero
        touched = False
        for row in range(rows[place] & 15, (rows[place] >> 4) + 1):
            if place >= row_stops[row]:
                continue
            at = row * TILE
            dy = top + row
            falloff = from_x + (slope * dy + from_y * dy * dy)
            full = exp2(opacity_log - falloff)
            alpha = minimum(full, ALPHA_MAX)
            drawn = (falloff >= 0.0) & (alpha >= ALPHA_MIN) & (load(state_at, 2 * PIXELS + at) > place)
            bits = lane_bits(drawn)
            if bits == 0:
                continue
            if not touched:
                touched = True
                for k in range(0, channels * TILE if by_rows else channels, TILE):
                    store(color_sums_at, k, zero)
            gain = 1.0 / (1.0 - alpha)
            after, behind = load(state_at, at), load(state_at, PIXELS + at)
            before = after * gain
            weight = where(drawn, before * alpha, 0.0)
            if by_rows:
                dots = _channel_rows(v_rows_at, at, colors_at, g * channels, weight, color_sums_at, channels)
            else:
                store(scratch_at, 0, weight)
                store(scratch_at, TILE, zero)
                pixel = (y0 + row) * v_image.shape[1] + x0
                _channel_pixels(bits, v_at, pixel, colors_at, g * channels, scratch_at, color_sums_at, channels)
                dots = load(scratch_at, TILE)
            store(state_at, at, where(drawn, before, after))
            store(state_at, PIXELS + at, behind + weight * dots)
            v_falloff = where(drawn & (full <= ALPHA_MAX), full * (behind * gain - before * dots), 0.0)
            along_y = v_falloff * dy
            sum_0, sum_y, sum_yy = sum_0 + v_falloff, sum_y + along_y, sum_yy + along_y * dy
            if absgrad:
                abs_x = abs_x + absolute(v_falloff * (dx * a + b * dy))
                abs_y = abs_y + absolute(v_falloff * (dx * b + c * dy))
        if touched:
            out = owner[g] * (GEOMETRY + channels)
            _add_geometry(sums_at, out, dx, sum_0, sum_y, sum_yy, abs_x, abs_y, a, b, c, opacities[g], absgrad)
            _add_colors(sums_at, out + GEOMETRY, color_sums_at, channels)


@nb.njit(forceinline=True)
def _channel_rows(v_rows, at, colors, color, weight, color_sums, channels):
    """Few channels: scalar products of colour and gradient for a row of pixels; adds to the colour's gradient."""
    dots = weight * 0.0
    for k in range(channels):
        v = load(v_rows, k * PIXELS + at)
        dots = dots + v * colors[color + k]
        store(color_sums, k * TILE, load(color_sums, k * TILE) + v * weight)
    return dots


@nb.njit(forceinline=True)
def _channel_pixels(bits, v_image, first_pixel, colors, color, scratch, color_sums, channels):
    """Many channels: the same, pixel by pixel. `scratch` holds 16 weights and takes 16 scalar products."""
    whole = channels - channels % TILE
    while bits != 0:
        lane = lowest_lane(bits)
        bits &= bits - np.uint32(1)
        pixel = (first_pixel + lane) * channels
        weight = scratch[lane]
        products = fill(weight) * 0.0
        for k in range(0, whole, TILE):
            v = load(v_image, pixel + k)
            products = products + v * load(colors, color + k)
            store(color_sums, k, load(color_sums, k) + v * weight)
        dot = total(products)
        for k in range(whole, channels):
            dot += v_image[pixel + k] * colors[color + k]
            color_sums[k] += v_image[pixel + k] * weight
        scratch[TILE + lane] = dot


@nb.njit(forceinline=True)
def _add_geometry(sums, out, dx, sum_0, sum_y, sum_yy, abs_x, abs_y, a, b, c, opacity, absgrad):
    """Turn the moments of the falloff's gradient over a tile into gradients by position, conic and opacity.

    dx is the same in every row, so the moments in x are taken here, once.
    """
    sum_x = sum_0 * dx
    x, y = total(sum_x), total(sum_y)
    sums[out] -= a * x + b * y
    sums[out + 1] -= b * x + c * y
    sums[out + 2] += 0.5 * total(sum_x * dx)
    sums[out + 3] += total(sum_y * dx)
    sums[out + 4] += 0.5 * total(sum_yy)
    sums[out + 5] -= total(sum_0) / opacity
    if absgrad:
        sums[out + 6] += total(abs_x)
        sums[out + 7] += total(abs_y)


@nb.njit(forceinline=True)
def _add_colors(sums, out, color_sums, channels):
    """Add a splat's colour gradient, which is still spread over 16 lanes if the channels are few."""
    if channels <= MAX_ROW_CHANNELS:
        for k in range(channels):
            sums[out + k] += total(load(color_sums, k * TILE))
    else:
        add_scaled(sums, out, color_sums, 0, 1.0, channels)


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _add_spans(owners, starts, sums, channels):
    """Add each Gaussian's rows of all spans, in order: geometry [N, 8] and colours [N, D]."""
    spans, gaussians = owners.shape
    geometry = np.zeros((gaussians, GEOMETRY), sums.dtype)
    colors = np.zeros((gaussians, channels), sums.dtype)
    for g in nb.prange(gaussians):
        for span in range(spans):
            if owners[span, g] >= 0:
                row = starts[span] + owners[span, g]
                for k in range(GEOMETRY):
                    geometry[g, k] += sums[row, k]
                for k in range(channels):
                    colors[g, k] += sums[row, GEOMETRY + k]
    return geometry, colors
