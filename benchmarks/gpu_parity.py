"""The rasterizer of a device against its plain torch twin in double precision, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lang_splat_ns.splatting.rasterizer import rasterize
from lang_splat_ns.splatting.reference import rasterize_reference

VISIBLE_DIFFERENCE = 1e-3
"""A pixel is off where a channel of 0..1 differs by more. Single pixels may be: on a splat's edge, where alpha is
1/255, rounding decides whether it is drawn."""

PIXELS_OFF = 1e-3
"""Share of pixels that may be off."""

GRADIENT_ERROR = 1e-2
"""Length of the gradients' difference that is allowed, as a share of the gradient's length."""


@dataclass(frozen=True)
class Case:
    """One way of calling the rasterizer."""

    name: str
    channels: int = 3
    sh_degree: int | None = None
    extra: int = 0
    antialiased: bool = False
    background: bool = False
    absgrad: bool = False


CASES = (
    Case("colours", absgrad=True),
    Case("colours before a background", background=True),
    Case("antialiased", antialiased=True, absgrad=True),
    Case("harmonics", sh_degree=3, absgrad=True),
    Case("harmonics and depth", sh_degree=3, extra=1, absgrad=True),
    Case("harmonics, depth and 9 codes", sh_degree=3, extra=10, background=True),
    Case("9 codes", channels=9),
    Case("13 channels, which gsplat pads", channels=13, background=True, absgrad=True),
    Case("32 channels", channels=32),
    Case("40 channels, two passes in gsplat", channels=40, background=True),
    Case("40 channels, one pass for absolute gradients", channels=40, absgrad=True),
    Case("512 channels, 16 passes in gsplat", channels=512),
)

Inputs = dict[str, Any]


def compare(device: torch.device, splats: int, width: int, height: int) -> dict[str, Any]:
    """All cases on random splats; `agrees` says whether every one is within the limits of this module."""
    cases = [_compare_case(case, device, splats, width, height) for case in CASES]
    return {
        "splats": splats,
        "width": width,
        "height": height,
        "agrees": all(case["agrees"] for case in cases),
        "worst_pixels_off": max(case["pixels_off"] for case in cases),
        "worst_gradient_error": max(max(case["gradient_error"].values()) for case in cases),
        "cases": cases,
    }


def _compare_case(case: Case, device: torch.device, splats: int, width: int, height: int) -> dict[str, Any]:
    inputs = _random_inputs(case, splats, width, height)
    ours = _draw(rasterize, inputs, case, device, torch.float32)
    twin = _draw(rasterize_reference, inputs, case, device, torch.float64)
    off = {name: (ours[name].double() - twin[name]).abs() for name in ("image", "alpha")}
    gradients = {
        name: float((ours["gradients"][name].double() - expected).norm() / expected.norm())
        for name, expected in twin["gradients"].items()
    }
    pixels_off = float((off["image"].amax(-1) > VISIBLE_DIFFERENCE).double().mean())
    return {
        "case": case.name,
        "agrees": pixels_off <= PIXELS_OFF and max(gradients.values()) <= GRADIENT_ERROR,
        "pixels_off": pixels_off,
        "difference": {name: {"mean": float(value.mean()), "max": float(value.max())} for name, value in off.items()},
        "gradient_error": gradients,
    }


def _random_inputs(case: Case, splats: int, width: int, height: int) -> Inputs:
    """Splats of all sizes before, beside and behind a camera that is turned a little, and a loss's gradient."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    means = normal(splats, 3) * torch.tensor([1.5, 1.0, 1.0]) + torch.tensor([0.0, 0.0, 4.0])
    means[::9, 2] *= -1
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:2, :2] = torch.tensor([[0.96, -0.28], [0.28, 0.96]])
    viewmat[:3, 3] = torch.tensor([0.1, -0.05, 0.2])
    inputs: Inputs = {
        "means": means,
        "quats": normal(splats, 4),
        "scales": torch.exp(normal(splats, 3) * 0.6 - 3.0),
        "opacities": torch.sigmoid(normal(splats) * 2),
        "colors": normal(splats, case.channels) if case.sh_degree is None else normal(splats, 16, 3) * 0.3,
        "viewmat": viewmat,
        "K": torch.tensor([[width * 0.9, 0, width * 0.48], [0, width * 0.9, height * 0.53], [0, 0, 1]]).double(),
    }
    channels = (case.channels if case.sh_degree is None else 3) + case.extra
    if case.extra:
        inputs["extra"] = normal(splats, case.extra)
    if case.background:
        inputs["background"] = normal(channels)
    # Values are in 0..1 by and large, so that one limit fits images of all cases.
    inputs |= {name: torch.sigmoid(inputs[name]) for name in ("extra", "background") if name in inputs}
    if case.sh_degree is None:
        inputs["colors"] = torch.sigmoid(inputs["colors"])
    return inputs | {"v_image": normal(height, width, channels), "v_alpha": normal(height, width, 1)}


def _draw(function: Any, inputs: Inputs, case: Case, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Render and backpropagate: image, alpha, and the gradients by name."""
    moved = {name: tensor.to(device, dtype, copy=True) for name, tensor in inputs.items()}
    v_image, v_alpha, K = moved.pop("v_image"), moved.pop("v_alpha"), moved.pop("K")
    leaves = {name: tensor.requires_grad_() for name, tensor in moved.items()}
    image, alpha, info = function(
        **leaves,
        K=K,
        width=v_image.shape[1],
        height=v_image.shape[0],
        sh_degree=case.sh_degree,
        rasterize_mode="antialiased" if case.antialiased else "classic",
        **({"absgrad": case.absgrad} if function is rasterize else {}),
    )
    torch.autograd.backward([image, alpha], [v_image, v_alpha])
    gradients = {name: leaf.grad for name, leaf in leaves.items()}
    if case.absgrad:
        summed = info["means2d"].absgrad[0] if function is rasterize else _absolute_gradient(info, leaves["means"])
        gradients["means2d, absolute"] = summed
    return {"image": image.detach(), "alpha": alpha.detach(), "gradients": gradients}


def _absolute_gradient(info: dict[str, Any], means: Tensor) -> Tensor:
    """The twin's absolute gradients by the image positions, summed over pixels: [N, 2]."""
    total = means.new_zeros(len(means), 2)
    for ids, centers in info["pixel_means2d"]:
        if centers.grad is not None:
            total.index_add_(0, ids, centers.grad.abs().sum(0))
    return total
