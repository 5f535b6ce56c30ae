"""The compiled compositing as a differentiable torch function."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.splatting.cpu_gradients import composite_backward
from lang_splat_ns.splatting.cpu_kernels import composite_forward, pack_splats
from lang_splat_ns.splatting.cpu_threads import ONE_AT_A_TIME
from lang_splat_ns.splatting.projection import Projection
from lang_splat_ns.splatting.tile_lists import TileLists, build_tile_lists


def composite(
    means2d: Tensor,  # [1, N, 2]
    projection: Projection,
    opacities: Tensor,  # [N]
    colors: Tensor,  # [N, D]
    background: Tensor | None,  # [D]
    width: int,
    height: int,
    absgrad: bool,
) -> tuple[Tensor, Tensor, TileLists]:
    """Blend splats into an image [H, W, D] with alpha [H, W, 1], differentiably; see `rasterizer.rasterize`.

    Args:
        means2d: the projection's centres with gsplat's camera axis; with `absgrad`, backward sets `means2d.absgrad`.
        projection: conics, radii and depths of the same Gaussians.
        opacities: as composited, so after any compensation.
        colors: any number of channels.
        background: None is black.
        width, height: image size in pixels.
        absgrad: also sum the absolute gradients by the centres.
    """
    if background is None:
        background = colors.new_zeros(colors.shape[1])
    packed, lists = list_splats(projection, opacities, width, height)
    image, alpha = _Composite.apply(
        means2d, projection.conics, opacities, colors, background, packed, lists, width, height, absgrad
    )  # type: ignore[misc]
    return image, alpha, lists


def list_splats(
    projection: Projection,
    opacities: Tensor,  # [N]
    width: int,
    height: int,
) -> tuple[np.ndarray, TileLists]:
    """Splats packed for the compiled loops [N, 8], and which of them touch which tile."""
    means2d, conics, radii = _numpy(projection.means2d), _numpy(projection.conics), _numpy(projection.radii)
    opacity = _numpy(opacities)
    with ONE_AT_A_TIME:
        lists = build_tile_lists(means2d, conics, opacity, radii, _numpy(projection.depths), width, height)
        return pack_splats(means2d, conics, opacity, radii), lists


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d, conics, opacities, colors, background, packed, lists: TileLists, width, height, absgrad
    ) -> tuple[Tensor, Tensor]:
        with ONE_AT_A_TIME:
            image, *drawn = composite_forward(
                packed, _numpy(colors), _numpy(background), lists.ids, lists.rows, lists.offsets, width, height
            )
        ctx.save_for_backward(means2d, conics, opacities, colors, background)
        ctx.rest = (packed, lists, drawn, absgrad)
        return torch.from_numpy(image), torch.from_numpy(1.0 - drawn[0])[..., None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        v_image, v_alpha = grad_outputs
        means2d, conics, opacities, colors, background = ctx.saved_tensors
        packed, lists, drawn, absgrad = ctx.rest
        with ONE_AT_A_TIME:
            gradients = composite_backward(
                packed, _numpy(conics), _numpy(opacities), _numpy(colors), _numpy(background), lists, drawn,
                _numpy(v_image), _numpy(v_alpha[..., 0]), absgrad,
            )  # fmt: skip
        v_means2d, v_conics, v_opacities, v_colors, v_absolute = map(torch.from_numpy, gradients)
        if absgrad:
            means2d.absgrad = v_absolute[None].contiguous()
        v_background = None
        if ctx.needs_input_grad[4]:
            v_background = (v_image * torch.from_numpy(drawn[0])[..., None]).sum(dim=(0, 1))
        return v_means2d[None], v_conics, v_opacities, v_colors, v_background, None, None, None, None, None


def _numpy(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as an array, copied only if it is not contiguous."""
    return tensor.detach().contiguous().numpy()
