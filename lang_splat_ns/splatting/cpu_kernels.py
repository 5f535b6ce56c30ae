"""Compositing of tile lists, forward and backward, compiled with numba."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

TILE = 16
ALPHA_MAX = 0.999
ALPHA_MIN = 1.0 / 255.0
T_MIN = 1e-4


@nb.njit(cache=True, nogil=True, parallel=True)
def composite_forward(means2d, conics, opacities, colors, background, ids, offsets, width, height):
    D = colors.shape[1]
    tiles_x = (width + TILE - 1) // TILE
    tiles_y = (height + TILE - 1) // TILE
    image = np.zeros((height, width, D), colors.dtype)
    final_T = np.ones((height, width), colors.dtype)
    stop = np.zeros((height, width), np.int32)
    for tile in nb.prange(tiles_x * tiles_y):
        y0, x0 = tile // tiles_x * TILE, tile % tiles_x * TILE
        for y in range(y0, min(y0 + TILE, height)):
            for x in range(x0, min(x0 + TILE, width)):
                T = colors.dtype.type(1.0)
                end = offsets[tile + 1] - offsets[tile]
                for s in range(end):
                    g = ids[offsets[tile] + s]
                    dx, dy = means2d[g, 0] - (x + 0.5), means2d[g, 1] - (y + 0.5)
                    sigma = 0.5 * (conics[g, 0] * dx * dx + conics[g, 2] * dy * dy) + conics[g, 1] * dx * dy
                    alpha = min(ALPHA_MAX, opacities[g] * math.exp(-sigma))
                    if sigma < 0.0 or alpha < ALPHA_MIN:
                        continue
                    if T * (1.0 - alpha) <= T_MIN:
                        end = s
                        break
                    for k in range(D):
                        image[y, x, k] += colors[g, k] * alpha * T
                    T *= 1.0 - alpha
                stop[y, x] = end
                final_T[y, x] = T
                for k in range(D):
                    image[y, x, k] += T * background[k]
    return image, final_T, stop


@nb.njit(cache=True, nogil=True)
def composite_backward(
    means2d, conics, opacities, colors, background, ids, offsets, width, height, final_T, stop, v_image, v_alpha_image
):
    N, D = colors.shape
    tiles_x = (width + TILE - 1) // TILE
    v_means2d, v_abs, v_conics = np.zeros_like(means2d), np.zeros_like(means2d), np.zeros_like(conics)
    v_opacities, v_colors = np.zeros_like(opacities), np.zeros_like(colors)
    for y in range(height):
        for x in range(width):
            tile = y // TILE * tiles_x + x // TILE
            T = final_T[y, x]
            behind = -T * v_alpha_image[y, x]
            for k in range(D):
                behind += T * background[k] * v_image[y, x, k]
            for s in range(stop[y, x] - 1, -1, -1):
                g = ids[offsets[tile] + s]
                dx, dy = means2d[g, 0] - (x + 0.5), means2d[g, 1] - (y + 0.5)
                sigma = 0.5 * (conics[g, 0] * dx * dx + conics[g, 2] * dy * dy) + conics[g, 1] * dx * dy
                vis = math.exp(-sigma)
                alpha = min(ALPHA_MAX, opacities[g] * vis)
                if sigma < 0.0 or alpha < ALPHA_MIN:
                    continue
                ra = 1.0 / (1.0 - alpha)
                T *= ra
                dot = 0.0
                for k in range(D):
                    dot += colors[g, k] * v_image[y, x, k]
                    v_colors[g, k] += alpha * T * v_image[y, x, k]
                v_alpha = T * dot - ra * behind
                behind += alpha * T * dot
                if opacities[g] * vis <= ALPHA_MAX:
                    v_sigma = -opacities[g] * vis * v_alpha
                    v_conics[g, 0] += 0.5 * v_sigma * dx * dx
                    v_conics[g, 1] += v_sigma * dx * dy
                    v_conics[g, 2] += 0.5 * v_sigma * dy * dy
                    gx = v_sigma * (conics[g, 0] * dx + conics[g, 1] * dy)
                    gy = v_sigma * (conics[g, 1] * dx + conics[g, 2] * dy)
                    v_means2d[g, 0] += gx
                    v_means2d[g, 1] += gy
                    v_abs[g, 0] += abs(gx)
                    v_abs[g, 1] += abs(gy)
                    v_opacities[g] += vis * v_alpha
    return v_means2d, v_abs, v_conics, v_opacities, v_colors
