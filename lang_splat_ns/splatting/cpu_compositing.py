"""The compiled compositing as a differentiable torch function."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.splatting import cpu_kernels
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
    """Blend splats into an image [H, W, D] with alpha [H, W, 1]; see `rasterizer.rasterize`."""
    lists = build_tile_lists(
        _numpy(means2d[0]), _numpy(projection.conics), _numpy(opacities),
        projection.radii.numpy(), _numpy(projection.depths), width, height,
    )  # fmt: skip
    if background is None:
        background = colors.new_zeros(colors.shape[1])
    image, alpha = _Composite.apply(
        means2d, projection.conics, opacities, colors, background, lists, width, height, absgrad
    )
    return image, alpha, lists


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d, conics, opacities, colors, background, lists: TileLists, width: int, height: int, absgrad
    ) -> tuple[Tensor, Tensor]:
        image, final_T, stop = cpu_kernels.composite_forward(
            _numpy(means2d[0]), _numpy(conics), _numpy(opacities), _numpy(colors), _numpy(background),
            lists.ids, lists.offsets, width, height,
        )  # fmt: skip
        ctx.save_for_backward(means2d, conics, opacities, colors, background)
        ctx.rest = (lists, width, height, absgrad, final_T, stop)
        return torch.from_numpy(image), torch.from_numpy(1.0 - final_T)[..., None]

    @staticmethod
    def backward(ctx: Any, v_image: Tensor, v_alpha: Tensor):
        means2d, conics, opacities, colors, background = ctx.saved_tensors
        lists, width, height, absgrad, final_T, stop = ctx.rest
        v_means2d, v_abs, v_conics, v_opacities, v_colors = cpu_kernels.composite_backward(
            _numpy(means2d[0]), _numpy(conics), _numpy(opacities), _numpy(colors), _numpy(background),
            lists.ids, lists.offsets, width, height, final_T, stop, _numpy(v_image), _numpy(v_alpha[..., 0]),
        )  # fmt: skip
        if absgrad:
            means2d.absgrad = torch.from_numpy(v_abs)[None]
        v_background = None
        if ctx.needs_input_grad[4]:
            v_background = (v_image * torch.from_numpy(final_T)[..., None]).sum(dim=(0, 1))
        return (
            torch.from_numpy(v_means2d)[None], torch.from_numpy(v_conics), torch.from_numpy(v_opacities),
            torch.from_numpy(v_colors), v_background, None, None, None, None,
        )  # fmt: skip


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
