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
)
from lang_splat_ns.splatting.simd import (
    absolute,
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


def composite_backward(packed, conics, opacities, colors, background, lists, final_t, stop, v_image, v_alpha, absgrad):
    """Gradients of a scalar by everything that `composite_forward` was given.

    Args:
        packed, colors, background: as in `composite_forward`.
        conics, opacities: what `packed` was made of. [N, 3], [N]
        lists: the tile lists.
        final_t, stop: from `composite_forward`. [H, W]
        v_image, v_alpha: gradients by the image and by 1 - final_t. [H, W, D], [H, W]
        absgrad: also sum absolute gradients by the position.

    Returns:
        Gradients by means2d [N, 2], conics [N, 3], opacities [N], colors [N, D], and the sum of absolute gradients by
        means2d [N, 2].
    """
    spans = _cut_spans(lists.offsets)
    owners, starts = _own_rows(lists.ids, lists.offsets, spans, len(opacities))
    sums = _span_gradients(
        packed, conics, opacities, colors, background, lists.ids, lists.rows, lists.offsets, spans, owners, starts,
        final_t, stop, v_image, v_alpha, absgrad,
    )  # fmt: skip
    geometry, v_colors = _add_spans(owners, sums, colors.shape[1])
    return geometry[:, 0:2], geometry[:, 2:5], geometry[:, 5], v_colors, geometry[:, 6:8]


def _cut_spans(offsets: np.ndarray) -> np.ndarray:
    """First tile of each span, and the end: spans of about the same number of list entries."""
    tiles = offsets.size - 1
    count = max(1, min(tiles, _SPANS_PER_THREAD * nb.get_num_threads()))
    # A tile costs something even when its list is empty, hence the constant per tile.
    work = offsets + 8 * np.arange(tiles + 1)
    return np.searchsorted(work, np.linspace(0, work[-1], count + 1))


@nb.njit(cache=True, nogil=True, parallel=True)
def _mark(ids, offsets, spans, gaussians):
    """Number the Gaussians that each span meets, in order of appearance: [S, N], -1 = not met, and the counts."""
    owners = np.empty((spans.size - 1, gaussians), np.int32)
    counts = np.zeros(spans.size - 1, np.int64)
    for span in nb.prange(spans.size - 1):
        owners[span, :] = -1
        count = 0
        for entry in range(offsets[spans[span]], offsets[spans[span + 1]]):
            if owners[span, ids[entry]] < 0:
                owners[span, ids[entry]] = count
                count += 1
        counts[span] = count
    return owners, counts


def _own_rows(ids, offsets, spans, gaussians):
    """For each span and Gaussian the row of the span's sums, [S, N], and each span's first row, [S + 1]."""
    owners, counts = _mark(ids, offsets, spans, gaussians)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return (owners, starts[:-1]), starts


@nb.njit(cache=True, nogil=True, parallel=True)
def _span_gradients(
    packed, conics, opacities, colors, background, ids, rows, offsets, spans, owners, starts,
    final_t, stop, v_image, v_alpha, absgrad,
):  # fmt: skip
    """Every span's own sums: [all spans' rows, 8 + D]."""
    owner, _ = owners
    channels = colors.shape[1]
    sums = np.zeros((starts[-1], GEOMETRY + channels), colors.dtype)
    height, width = final_t.shape
    tiles_x = (width + TILE - 1) // TILE
    for span in nb.prange(spans.size - 1):
        for tile in range(spans[span], spans[span + 1]):
            start, y0, x0 = offsets[tile], tile // tiles_x * TILE, tile % tiles_x * TILE
            light, behind, stops, row_stops, count = _start_tile(
                y0, x0, background, final_t, stop, v_image, v_alpha
            )
            _tile_gradients(
                packed, conics, opacities, colors, ids, rows, start, count, y0, x0, owner[span], starts[span], sums,
                light, behind, stops, row_stops, v_image, absgrad,
            )  # fmt: skip
    return sums


@nb.njit(cache=True, nogil=True)
def _start_tile(y0, x0, background, final_t, stop, v_image, v_alpha):
    """A tile's state behind its last splat.

    Returns transmittance [256], the part of the gradient that comes from behind [256] (the background, and alpha),
    the list position at which each pixel was finished [256] (as floats, which are exact and compare in a row; 0
    outside the image), the largest of these in each row [16], and the largest of all.
    """
    height, width = final_t.shape
    light, behind = aligned(PIXELS, final_t.dtype), aligned(PIXELS, final_t.dtype)
    stops, row_stops = aligned(PIXELS, final_t.dtype), np.zeros(TILE, np.int64)
    light[:], behind[:], stops[:] = 1.0, 0.0, 0.0
    count = 0
    for y in range(y0, min(y0 + TILE, height)):
        for x in range(x0, min(x0 + TILE, width)):
            p = (y - y0) * TILE + x - x0
            light[p], stops[p] = final_t[y, x], stop[y, x]
            row_stops[y - y0] = max(row_stops[y - y0], stop[y, x])
            value = -v_alpha[y, x]
            for k in range(background.size):
                value += background[k] * v_image[y, x, k]
            behind[p] = value * final_t[y, x]
        count = max(count, row_stops[y - y0])
    return light, behind, stops, row_stops, count


@nb.njit(cache=True, nogil=True)
def _rows_of_gradient(v_image, y0, x0):
    """The incoming gradient of a tile with each channel's pixels together, 0 outside the image. [D * 256]"""
    height, width, channels = v_image.shape
    result = aligned(channels * PIXELS, v_image.dtype)
    result[:] = 0.0
    for y in range(y0, min(y0 + TILE, height)):
        for x in range(x0, min(x0 + TILE, width)):
            for k in range(channels):
                result[k * PIXELS + (y - y0) * TILE + x - x0] = v_image[y, x, k]
    return result


@nb.njit(cache=True, nogil=True)
def _tile_gradients(
    packed, conics, opacities, colors, ids, rows, start, count, y0, x0, owner, first_sum, sums,
    light, behind, stops, row_stops, v_image, absgrad,
):  # fmt: skip
    """Add one tile's share to the span's sums."""
    channels, image_width = colors.shape[1], v_image.shape[1]
    by_rows = channels <= MAX_ROW_CHANNELS
    v_rows = _rows_of_gradient(v_image, y0, x0) if by_rows else aligned(0, colors.dtype)
    color_sums = aligned(channels * TILE if by_rows else channels, colors.dtype)
    row_weights, row_dots = aligned(TILE, colors.dtype), aligned(TILE, colors.dtype)
    flat_v, flat_colors = v_image.reshape(-1), colors.reshape(-1)
    zero = fill(colors.dtype.type(0.0))
    centers = load(lane_centers(x0, colors.dtype), 0)
    for place in range(count - 1, -1, -1):
        g = ids[start + place]
        dx = centers - packed[g, 0]
        from_x, slope = dx * dx * packed[g, 2], dx * packed[g, 3]
        top, c, opacity_log = y0 + 0.5 - packed[g, 1], packed[g, 4], packed[g, 5]
        a_dx, b_dx = dx * conics[g, 0], dx * conics[g, 1]
        sum_0, sum_y, sum_yy, abs_x, abs_y = zero, zero, zero, zero, zero
        touched = False
        for row in range(rows[start + place] & 15, (rows[start + place] >> 4) + 1):
            if place >= row_stops[row]:
                continue
            at = row * TILE
            dy = top + row
            falloff = from_x + (slope * dy + c * dy * dy)
            full = exp2(opacity_log - falloff)
            alpha = minimum(full, ALPHA_MAX)
            drawn = (falloff >= 0.0) & (alpha >= ALPHA_MIN) & (load(stops, at) > place)
            bits = lane_bits(drawn)
            if bits == 0:
                continue
            if not touched:
                touched = True
                color_sums[:] = 0.0
            gain = 1.0 / (1.0 - alpha)
            before = load(light, at) * gain
            weights = where(drawn, before * alpha, 0.0)
            if by_rows:
                dots = zero
                for k in range(channels):
                    v = load(v_rows, k * PIXELS + at)
                    dots = dots + v * colors[g, k]
                    store(color_sums, k * TILE, load(color_sums, k * TILE) + v * weights)
            else:
                store(row_weights, 0, weights)
                store(row_dots, 0, zero)
                first_pixel = (y0 + row) * image_width + x0
                _dots_by_pixel(
                    bits, flat_v, first_pixel, flat_colors, g, channels, row_weights, row_dots, color_sums
                )
                dots = load(row_dots, 0)
            rest = load(behind, at)
            v_falloff = where(drawn & (full <= ALPHA_MAX), full * (rest * gain - before * dots), 0.0)
            store(light, at, where(drawn, before, load(light, at)))
            store(behind, at, rest + weights * dots)
            sum_0 = sum_0 + v_falloff
            along_y = v_falloff * dy
            sum_y = sum_y + along_y
            sum_yy = sum_yy + along_y * dy
            if absgrad:
                abs_x = abs_x + absolute(v_falloff * (a_dx + conics[g, 1] * dy))
                abs_y = abs_y + absolute(v_falloff * (b_dx + conics[g, 2] * dy))
        if touched:
            out = sums[first_sum + owner[g]]
            along_x = sum_0 * dx
            x_total, y_total = total(along_x), total(sum_y)
            out[0] -= conics[g, 0] * x_total + conics[g, 1] * y_total
            out[1] -= conics[g, 1] * x_total + conics[g, 2] * y_total
            out[2] += 0.5 * total(along_x * dx)
            out[3] += total(sum_y * dx)
            out[4] += 0.5 * total(sum_yy)
            out[5] -= total(sum_0) / opacities[g]
            if absgrad:
                out[6] += total(abs_x)
                out[7] += total(abs_y)
            if by_rows:
                for k in range(channels):
                    out[GEOMETRY + k] += total(load(color_sums, k * TILE))
            else:
                add_scaled(out, GEOMETRY, color_sums, 0, colors.dtype.type(1.0), channels)


@nb.njit(forceinline=True)
def _dots_by_pixel(bits, v_image, first_pixel, colors, g, channels, weights, dots, color_sums):
    """Many channels: per drawn pixel of a row, the scalar product with the colour, and the colour's gradient."""
    whole = channels - channels % TILE
    while bits != 0:
        lane = lowest_lane(bits)
        bits &= bits - np.uint32(1)
        pixel = (first_pixel + lane) * channels
        weight = weights[lane]
        products = fill(weight) * 0.0
        for k in range(0, whole, TILE):
            v = load(v_image, pixel + k)
            products = products + v * load(colors, g * channels + k)
            store(color_sums, k, load(color_sums, k) + v * weight)
        dot = total(products)
        for k in range(whole, channels):
            dot += v_image[pixel + k] * colors[g * channels + k]
            color_sums[k] += v_image[pixel + k] * weight
        dots[lane] = dot


@nb.njit(cache=True, nogil=True, parallel=True)
def _add_spans(owners, sums, channels):
    """Add each Gaussian's rows of all spans, in order: geometry [N, 8] and colours [N, D]."""
    owner, starts = owners
    spans, gaussians = owner.shape
    geometry = np.zeros((gaussians, GEOMETRY), sums.dtype)
    colors = np.zeros((gaussians, channels), sums.dtype)
    for g in nb.prange(gaussians):
        for span in range(spans):
            if owner[span, g] >= 0:
                row = sums[starts[span] + owner[span, g]]
                for k in range(GEOMETRY):
                    geometry[g, k] += row[k]
                add_scaled(colors.reshape(-1), g * channels, row, GEOMETRY, sums.dtype.type(1.0), channels)
    return geometry, colors
