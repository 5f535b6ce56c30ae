"""The rasterizer once more, slow and plain: torch operations only, gradients by autograd. The tests' oracle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lang_splat_ns.splatting.projection import Projection, project
from lang_splat_ns.splatting.spherical_harmonics import spherical_harmonics, view_directions

TILE = 16


def rasterize_reference(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor,  # [N, D] or [N, K, 3]
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    extra: Tensor | None = None,  # [N, E]
    background: Tensor | None = None,  # [D + E]
    near_plane: float = 0.01,
    rasterize_mode: str = "classic",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """What `rasterizer.rasterize` computes, without anything that makes it fast.

    Every tile is a table of its pixels by its splats, blended with a cumulative product (Kerbl et al. 2023,
    equations 2 and 3). Works on any device, in float32 and float64.

    Returns:
        Image [H, W, D + E], alpha [H, W, 1] and `info` with `means2d` [1, N, 2], `radii` [1, N], `depths` [1, N] and
        `pixel_means2d`: pairs of Gaussian indices [n] and the centres as each pixel of one tile saw them [P, n, 2].
        The absolute values of the latter's gradients sum up to gsplat's `absgrad`.
    """
    projection = project(means, quats, scales, viewmat, K, width, height, near_plane)
    if sh_degree is not None:
        colors = torch.clamp_min(spherical_harmonics(sh_degree, view_directions(means, viewmat), colors) + 0.5, 0.0)
    if extra is not None:
        colors = torch.cat([colors, extra], dim=-1)
    if rasterize_mode == "antialiased":
        opacities = opacities * projection.compensations
    info: dict[str, Any] = {
        "means2d": projection.means2d[None],
        "radii": projection.radii[None],
        "depths": projection.depths[None],
        "pixel_means2d": [],
    }
    projection = projection._replace(means2d=info["means2d"][0])
    image, transmittance = means.new_zeros(height, width, colors.shape[1]), means.new_ones(height, width)
    order = torch.argsort(projection.depths, stable=True)
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            ids = order[_in_box(projection, x, y)[order]]
            tile = slice(y, min(y + TILE, height)), slice(x, min(x + TILE, width))
            weights, light, centers = _blend_tile(projection, opacities, ids, *tile)
            info["pixel_means2d"].append((ids, centers))
            shape = transmittance[tile].shape
            image[tile] = (weights @ colors[ids]).reshape(*shape, -1)
            transmittance[tile] = light.reshape(shape)
    if background is not None:
        image = image + transmittance[..., None] * background
    return image, 1.0 - transmittance[..., None], info


def _in_box(projection: Projection, x: int, y: int) -> Tensor:
    """Whether the tile at (x, y) lies in the box of three standard deviations around each splat: bool [N]."""
    corner = torch.tensor([x, y], dtype=projection.means2d.dtype, device=projection.means2d.device)
    radii = projection.radii[:, None]
    first = torch.floor((projection.means2d - radii) / TILE) * TILE
    end = torch.ceil((projection.means2d + radii) / TILE) * TILE
    return (projection.radii > 0) & (first <= corner).all(-1) & (corner < end).all(-1)


def _blend_tile(
    projection: Projection, opacities: Tensor, ids: Tensor, rows: slice, columns: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [P, n] of a tile's splats in its pixels, what light is left [P], and the centres per pixel [P, n, 2]."""
    like = {"dtype": opacities.dtype, "device": opacities.device}
    ys, xs = torch.arange(rows.start, rows.stop, **like) + 0.5, torch.arange(columns.start, columns.stop, **like) + 0.5
    pixels = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).reshape(-1, 1, 2)  # [P, 1, 2]
    centers = projection.means2d[ids][None].expand(len(pixels), -1, -1)  # [P, n, 2]
    if centers.requires_grad:
        centers.retain_grad()
    dx, dy = (centers - pixels).unbind(-1)  # [P, n]
    a, b, c = projection.conics[ids].unbind(-1)  # [n]
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy  # [P, n]
    alpha = torch.clamp_max(opacities[ids] * torch.exp(-sigma), 0.999)
    alpha = torch.where((sigma >= 0) & (alpha >= 1.0 / 255.0), alpha, 0.0)
    # The product never grows, so everything behind the splat that closes a pixel fails the same test.
    alpha = torch.where(torch.cumprod(1.0 - alpha, dim=1) > 1e-4, alpha, 0.0)
    light = torch.cumprod(torch.cat([alpha.new_ones(len(alpha), 1), 1.0 - alpha], dim=1), dim=1)  # [P, n + 1]
    return alpha * light[:, :-1], light[:, -1], centers
