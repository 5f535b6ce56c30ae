"""What the CPU rasterizer is measured against: the same compositing as a plain compiled loop over pixels.

Nothing is wrong with it: single precision, parallel over tiles, early end per pixel. It leaves it to the compiler to
find the vector code, and the compiler finds none.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

TILE = 16
HALF, ONE, ALPHA_MAX, ALPHA_MIN, T_MIN = (np.float32(v) for v in (0.5, 1.0, 0.999, 1 / 255, 1e-4))


@nb.njit(cache=True, parallel=True)
def plain_forward(means2d, conics, opacities, colors, ids, offsets, width, height):
    """Image [H, W, D], transmittance [H, W] and the list position of the end of each pixel [H, W]."""
    channels = colors.shape[1]
    tiles_x = (width + TILE - 1) // TILE
    image = np.zeros((height, width, channels), np.float32)
    final_t, stop = np.ones((height, width), np.float32), np.zeros((height, width), np.int32)
    for tile in nb.prange(offsets.size - 1):
        y0, x0 = tile // tiles_x * TILE, tile % tiles_x * TILE
        for y in range(y0, min(y0 + TILE, height)):
            for x in range(x0, min(x0 + TILE, width)):
                light, end = ONE, offsets[tile + 1] - offsets[tile]
                for place in range(end):
                    g = ids[offsets[tile] + place]
                    dx, dy = means2d[g, 0] - np.float32(x + 0.5), means2d[g, 1] - np.float32(y + 0.5)
                    sigma = HALF * (conics[g, 0] * dx * dx + conics[g, 2] * dy * dy) + conics[g, 1] * dx * dy
                    alpha = min(ALPHA_MAX, opacities[g] * math.exp(-sigma))
                    if sigma < 0 or alpha < ALPHA_MIN:
                        continue
                    after = light * (ONE - alpha)
                    if after <= T_MIN:
                        end = place
                        break
                    for k in range(channels):
                        image[y, x, k] += colors[g, k] * alpha * light
                    light = after
                final_t[y, x], stop[y, x] = light, end
    return image, final_t, stop


@nb.njit(cache=True, parallel=True)
def plain_backward(means2d, conics, opacities, colors, ids, offsets, final_t, stop, v_image, v_alpha, parts):
    """Gradients by x, y, conic (3), opacity and colours: [N, 6 + D]. Every one of `parts` threads has its own sums."""
    height, width, channels = v_image.shape
    tiles, tiles_x = offsets.size - 1, (width + TILE - 1) // TILE
    sums = np.zeros((parts, opacities.size, 6 + channels), np.float32)
    for part in nb.prange(parts):
        for tile in range(part * tiles // parts, (part + 1) * tiles // parts):
            y0, x0 = tile // tiles_x * TILE, tile % tiles_x * TILE
            for y in range(y0, min(y0 + TILE, height)):
                for x in range(x0, min(x0 + TILE, width)):
                    light = final_t[y, x]
                    behind = -light * v_alpha[y, x]
                    for place in range(stop[y, x] - 1, -1, -1):
                        g = ids[offsets[tile] + place]
                        a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
                        dx, dy = means2d[g, 0] - np.float32(x + 0.5), means2d[g, 1] - np.float32(y + 0.5)
                        sigma = HALF * (a * dx * dx + c * dy * dy) + b * dx * dy
                        full = opacities[g] * math.exp(-sigma)
                        alpha = min(ALPHA_MAX, full)
                        if sigma < 0 or alpha < ALPHA_MIN:
                            continue
                        gain = ONE / (ONE - alpha)
                        light *= gain
                        dot = np.float32(0)
                        for k in range(channels):
                            dot += colors[g, k] * v_image[y, x, k]
                            sums[part, g, 6 + k] += alpha * light * v_image[y, x, k]
                        v_alpha_pixel = light * dot - gain * behind
                        behind += alpha * light * dot
                        if full <= ALPHA_MAX:
                            v_sigma = -full * v_alpha_pixel
                            sums[part, g, 0] += v_sigma * (a * dx + b * dy)
                            sums[part, g, 1] += v_sigma * (b * dx + c * dy)
                            sums[part, g, 2] += HALF * v_sigma * dx * dx
                            sums[part, g, 3] += v_sigma * dx * dy
                            sums[part, g, 4] += HALF * v_sigma * dy * dy
                            sums[part, g, 5] -= v_sigma / opacities[g]
    return sums.sum(axis=0)
