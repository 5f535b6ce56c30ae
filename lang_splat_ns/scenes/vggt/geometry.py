"""Between the network's encoded cameras, matrices and points."""

from __future__ import annotations

import torch
from torch import Tensor


def decode_cameras(encoded: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Camera matrices from the network's encoding.

    Args:
        encoded: translation, quaternion (x, y, z, w) of any length, vertical and horizontal field of view in rad.
            [..., 9]
        height, width: of the network's input in pixels.

    Returns:
        World-to-camera transforms [..., 3, 4] with OpenCV axes, and pinhole intrinsics [..., 3, 3] in pixels of the
        network's input, the principal point in its middle.
    """
    x, y, z, w = (encoded[..., 3:7] / encoded[..., 3:7].norm(dim=-1, keepdim=True)).unbind(-1)
    rotation = torch.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y - z * w),
            2 * (x * z + y * w),
            2 * (x * y + z * w),
            1 - 2 * (x * x + z * z),
            2 * (y * z - x * w),
            2 * (x * z - y * w),
            2 * (y * z + x * w),
            1 - 2 * (x * x + y * y),
        ],
        dim=-1,
    ).unflatten(-1, (3, 3))
    extrinsics = torch.cat([rotation, encoded[..., :3, None]], dim=-1)
    tangents = torch.tan(encoded[..., 7:] / 2)
    intrinsics = encoded.new_zeros(*encoded.shape[:-1], 3, 3)
    intrinsics[..., 0, 0] = width / 2 / tangents[..., 1]
    intrinsics[..., 1, 1] = height / 2 / tangents[..., 0]
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = width / 2, height / 2, 1.0
    return extrinsics, intrinsics


def unproject(depth: Tensor, extrinsics: Tensor, intrinsics: Tensor, pixel_centre: float = 0.5) -> Tensor:
    """World points of every pixel.

    Args:
        depth: along the camera's axis. [..., H, W]
        extrinsics: world-to-camera, OpenCV axes. [..., 3 or 4, 4]
        intrinsics: in pixels. [..., 3, 3]
        pixel_centre: where the middle of the first pixel lies. 0.5 fits the principal point that `decode_cameras`
            gives; the official code takes 0.

    Returns:
        Points in the world frame. [..., H, W, 3]
    """
    height, width = depth.shape[-2:]
    u = torch.arange(width, device=depth.device, dtype=depth.dtype) + pixel_centre
    v = torch.arange(height, device=depth.device, dtype=depth.dtype) + pixel_centre
    x = (u - intrinsics[..., 0, 2, None]) / intrinsics[..., 0, 0, None]  # [..., W]
    y = (v - intrinsics[..., 1, 2, None]) / intrinsics[..., 1, 1, None]  # [..., H]
    x, y = x[..., None, :].expand_as(depth), y[..., :, None].expand_as(depth)
    points = torch.stack([x, y, torch.ones_like(depth)], dim=-1) * depth[..., None]
    rotation, translation = extrinsics[..., :3, :3], extrinsics[..., :3, 3]
    # Row vectors: p_world = (p_camera - t) R.
    return ((points - translation[..., None, None, :]).flatten(-3, -2) @ rotation).unflatten(-2, (height, width))
