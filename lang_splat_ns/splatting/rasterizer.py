"""One call that draws Gaussians: gsplat's kernels where the tensors are on CUDA, our own compiled ones on CPU."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lang_splat_ns.compat import gsplat_wants_two_radii
from lang_splat_ns.errors import UserError
from lang_splat_ns.interrupts import uninterrupted
from lang_splat_ns.splatting.projection import project
from lang_splat_ns.splatting.spherical_harmonics import (
    spherical_harmonics,
    spherical_harmonics_basis,
    view_directions,
)

CHANNEL_CHUNK = 32
"""Channels that gsplat blends in one pass; its default."""

__all__ = ["rasterize", "spherical_harmonics", "spherical_harmonics_basis", "view_directions"]


@uninterrupted()
def rasterize(
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
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Draw Gaussians into one pinhole camera by sorted alpha compositing (Kerbl et al. 2023, section 4 to 6).

    Both backends follow gsplat 1.4.0: alpha is clamped to 0.999, skipped below 1/255, and a pixel is finished before
    the splat that would bring its transmittance to 1e-4 or less. (gsplat 1.5 cuts splats off at 3.33 standard
    deviations instead of 3, so with it images on CUDA differ by up to 0.01 there.) Differentiable in means, quats,
    scales, opacities, colors, extra, background and viewmat, and on the CPU in K as well. On the CPU float64 works too.

    Args:
        means: centres in the world frame. [N, 3]
        quats: rotations (w, x, y, z); they are normalised here. [N, 4]
        scales: standard deviations along the own axes in scene units, positive (no logarithm). [N, 3]
        opacities: 0 to 1. [N]
        colors: any number of channels [N, D], or spherical harmonics [N, K, 3] when `sh_degree` is given.
        viewmat: world-to-camera transform, OpenCV axes (x right, y down, z forward). [4, 4]
        K: intrinsics in pixels; the middle of the first pixel is (0.5, 0.5). [3, 3]
        width, height: image size in pixels; 0 gives an empty image.
        sh_degree: highest band in use. The colours become `max(sh + 0.5, 0)` and D = 3.
        extra: more channels, appended to the colours as they are: depth, features. [N, E]
        background: what shows where the splats do not cover, for all channels. [D + E]
        near_plane: Gaussians closer than this, in scene units, are dropped.
        absgrad: also sum the absolute gradients of the image positions, as `info["means2d"].absgrad`, in backward
            (Ye et al. 2024, AbsGS).
        rasterize_mode: "antialiased" lowers the opacity of what the 0.3 px^2 blur enlarges (Yu et al. 2024).

    Returns:
        The image [H, W, D + E], the accumulated alpha [H, W, 1], and `info` as gsplat's densification strategies want
        it with `packed=False`: `means2d` [1, N, 2] (call `retain_grad` on it), `radii` int32 in pixels with 0 = culled,
        [1, N] and from gsplat 1.5 on [1, N, 2], `depths` [1, N], `conics` [1, N, 3], `opacities` [1, N],
        `gaussian_ids` None, `n_cameras` 1, `width`, `height` and the tile lists. Rows of culled Gaussians mean nothing.

    Raises:
        ValueError: an argument has the wrong shape, type or device. The message names it.
        UserError: the tensors are on CUDA, and gsplat's kernels are not there.
    """
    check_arguments(means, quats, scales, opacities, colors, viewmat, K, width, height, sh_degree, extra, background)
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(f'rasterize_mode must be "classic" or "antialiased", got {rasterize_mode!r}')
    backend = _rasterize_cuda if means.is_cuda else _rasterize_cpu
    return backend(
        means, quats, scales, opacities, colors, viewmat, K, width, height,
        sh_degree, extra, background, near_plane, absgrad, rasterize_mode == "antialiased",
    )  # fmt: skip


def _rasterize_cpu(
    means, quats, scales, opacities, colors, viewmat, K, width, height,
    sh_degree, extra, background, near_plane, absgrad, antialiased,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """Our backend: projection, then tile lists and compositing in compiled loops."""
    # Imported here, because every ns-* command imports this module and numba is slow to import.
    from lang_splat_ns.splatting.cpu_compositing import composite
    from lang_splat_ns.splatting.cpu_projection import project_compiled
    from lang_splat_ns.splatting.tile_lists import TILE

    # The compiled projection takes the camera as given; refining poses is rarer, and goes through torch.
    moving_camera = torch.is_grad_enabled() and (viewmat.requires_grad or K.requires_grad)
    projector = project if moving_camera else project_compiled
    projection = projector(means, quats, scales, viewmat, K, width, height, near_plane)
    if sh_degree is not None:
        colors = _shade(spherical_harmonics(sh_degree, view_directions(means, viewmat), colors))
    if extra is not None:
        colors = torch.cat([colors, extra], dim=-1)
    if antialiased:
        opacities = opacities * projection.compensations
    # The leading camera axis is gsplat's; its strategies put `.grad` and `.absgrad` of this very tensor to use.
    means2d = projection.means2d[None]
    image, alpha, lists = composite(means2d, projection, opacities, colors, background, width, height, absgrad)
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    radii = projection.radii[None]
    info = {
        "camera_ids": None,
        "gaussian_ids": None,
        "radii": radii[..., None].expand(-1, -1, 2) if gsplat_wants_two_radii() else radii,
        "means2d": means2d,
        "depths": projection.depths[None],
        "conics": projection.conics[None],
        "opacities": opacities[None],
        "tile_width": tiles_x,
        "tile_height": tiles_y,
        "tile_size": TILE,
        "flatten_ids": torch.from_numpy(lists.ids),
        "isect_offsets": torch.from_numpy(lists.offsets[:-1]).to(torch.int32).reshape(1, tiles_y, tiles_x),
        "width": width,
        "height": height,
        "n_cameras": 1,
    }
    return image, alpha, info


def _rasterize_cuda(
    means, quats, scales, opacities, colors, viewmat, K, width, height,
    sh_degree, extra, background, near_plane, absgrad, antialiased,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """gsplat's backend."""
    gsplat = _load_gsplat()
    if sh_degree is not None and extra is not None:
        # gsplat takes either harmonics or plain channels in one call, so the harmonics are evaluated before.
        directions = view_directions(means, viewmat)
        # Its kernel divides by the directions' length, and the gradient of a Gaussian that sits in the camera's centre
        # would be NaN although it is not drawn.
        harmonics = gsplat.spherical_harmonics(sh_degree, directions, colors, masks=directions.any(dim=-1))
        colors, sh_degree = _shade(harmonics), None
    if extra is not None:
        colors = torch.cat([colors, extra], dim=-1)
    channels = 3 if sh_degree is not None else colors.shape[-1]
    image, alpha, info = gsplat.rasterization(
        means,
        quats,
        scales,
        opacities,
        colors,
        viewmat[None],
        K[None],
        # A kernel cannot be launched on an empty grid, so an empty image is cut out of a pixel.
        max(width, 1),
        max(height, 1),
        near_plane=near_plane,
        sh_degree=sh_degree,
        packed=False,
        backgrounds=None if background is None else background[None],
        absgrad=absgrad,
        rasterize_mode="antialiased" if antialiased else "classic",
        # Each pass over a chunk of channels overwrites the absolute gradients of the one before.
        channel_chunk=max(channels, CHANNEL_CHUNK) if absgrad else CHANNEL_CHUNK,
    )
    return image[0, :height, :width], alpha[0, :height, :width], info | {"width": width, "height": height}


def _load_gsplat() -> Any:
    """gsplat with its kernels. Imported here, because the import builds or loads CUDA code on first use.

    Raises:
        UserError: it has no kernels and cannot build them, which it would only say in the middle of a call.
    """
    import gsplat
    from gsplat.cuda import _backend

    if _backend._C is None:
        raise UserError(
            "gsplat has no CUDA kernels here and finds no nvcc to build them: install the CUDA toolkit that goes with "
            f"torch {torch.__version__}, or a gsplat wheel that was built for it."
        )
    return gsplat


def _shade(harmonics: Tensor) -> Tensor:
    """Colour from the sum of harmonics: the offset and the clamp that every 3DGS file and kernel assumes."""
    return torch.clamp_min(harmonics + 0.5, 0.0)


def check_arguments(
    means, quats, scales, opacities, colors, viewmat, K, width, height, sh_degree, extra, background
) -> None:
    """Raise a ValueError that names the first argument with a wrong shape, type or device."""
    if means.ndim != 2 or means.shape[1] != 3:
        raise ValueError(f"means must be [N, 3], got {list(means.shape)}")
    count = means.shape[0]
    named = {"quats": (quats, 4), "scales": (scales, 3)}
    for name, (tensor, columns) in named.items():
        if tensor.shape != (count, columns):
            raise ValueError(f"{name} must be [{count}, {columns}] to go with means, got {list(tensor.shape)}")
    if opacities.shape != (count,):
        raise ValueError(f"opacities must be [{count}] to go with means, got {list(opacities.shape)}")
    channels = _check_colors(count, colors, sh_degree, extra)
    if viewmat.shape != (4, 4):
        raise ValueError(f"viewmat must be [4, 4], got {list(viewmat.shape)}")
    if K.shape != (3, 3):
        raise ValueError(f"K must be [3, 3], got {list(K.shape)}")
    if width < 0 or height < 0:
        raise ValueError(f"width and height must not be negative, got {width} x {height}")
    if background is not None and background.shape != (channels,):
        raise ValueError(f"background must be [{channels}], one value per channel, got {list(background.shape)}")
    others = {"quats": quats, "scales": scales, "opacities": opacities, "colors": colors, "viewmat": viewmat, "K": K}
    others |= {"extra": extra, "background": background}
    for name, tensor in others.items():
        if tensor is not None and (tensor.device != means.device or tensor.dtype != means.dtype):
            raise ValueError(
                f"{name} must be {means.dtype} on {means.device} like means, got {tensor.dtype} on {tensor.device}"
            )
    allowed = (torch.float32,) if means.is_cuda else (torch.float32, torch.float64)
    if means.dtype not in allowed:
        raise ValueError(f"means must be one of {allowed} on {means.device}, got {means.dtype}")


def _check_colors(count: int, colors: Tensor, sh_degree: int | None, extra: Tensor | None) -> int:
    """Check `colors` and `extra`; returns the number of channels of the image."""
    if sh_degree is None:
        if colors.ndim != 2 or colors.shape[0] != count:
            raise ValueError(
                f"colors must be [{count}, D], or [{count}, K, 3] with sh_degree, got {list(colors.shape)}"
            )
        channels = colors.shape[1]
    else:
        least = (sh_degree + 1) ** 2
        if colors.ndim != 3 or colors.shape[0] != count or colors.shape[1] < least or colors.shape[2] != 3:
            raise ValueError(
                f"colors must be [{count}, K >= {least}, 3] with sh_degree={sh_degree}, got {list(colors.shape)}"
            )
        channels = 3
    if extra is None:
        return channels
    if extra.ndim != 2 or extra.shape[0] != count:
        raise ValueError(f"extra must be [{count}, E], got {list(extra.shape)}")
    return channels + extra.shape[1]
