"""From 3D Gaussians to 2D ones: EWA projection (Zwicker et al. 2001) with gsplat's conventions, in torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS2D = 0.3
"""Variance in square pixels that is added to every splat, so that none is thinner than about a pixel."""

FAR_PLANE = 1e10
"""Depth beyond which a Gaussian is dropped; gsplat's default."""


class Projection(NamedTuple):
    """What the compositing needs to know of each Gaussian. Rows with radius 0 take no part and hold zeros."""

    means2d: Tensor
    """Centres in pixels; the middle of the first pixel is (0.5, 0.5). [N, 2]"""
    conics: Tensor
    """Inverse covariances (xx, xy, yy) in 1/px^2. [N, 3]"""
    depths: Tensor
    """Camera-space z, in scene units. [N]"""
    radii: Tensor
    """Three standard deviations of the longer axis, rounded up, in pixels; 0 = culled. int32 [N]"""
    compensations: Tensor
    """sqrt(det before / det after) of the added blur, the factor of the antialiased mode. [N]"""


def project(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
    near_plane: float = 0.01,
) -> Projection:
    """Project Gaussians into a pinhole camera, differentiably in every tensor argument.

    The covariance goes through the local affine approximation of the perspective (Zwicker et al. 2001, section 4.2;
    Kerbl et al. 2023, equation 5). As in gsplat, the point at which the Jacobian is taken is clamped to 1.3 times
    the field of view, since the approximation explodes for Gaussians beside the camera.

    Args:
        means: centres in the world frame. [N, 3]
        quats: rotations (w, x, y, z), of any length. [N, 4]
        scales: standard deviations along the Gaussian's own axes, in scene units. [N, 3]
        viewmat: world-to-camera transform, OpenCV axes. [4, 4]
        K: pinhole intrinsics in pixels. [3, 3]
        width, height: image size in pixels.
        near_plane: Gaussians closer than this are dropped.

    Returns:
        See `Projection`.
    """
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    centers = means @ rotation.T + translation  # [N, 3]
    depths = centers[:, 2]  # [N]
    in_range = (depths >= near_plane) & (depths <= FAR_PLANE)  # [N]
    # Culled rows get a harmless depth before the division, so that no infinity reaches the backward pass.
    z = torch.where(in_range, depths, torch.ones_like(depths))
    means2d = (centers[:, :2] * torch.stack([K[0, 0], K[1, 1]])) / z[:, None] + K[:2, 2]  # [N, 2]

    jacobian = _jacobian(centers[:, 0] / z, centers[:, 1] / z, z, K, width, height)  # [N, 2, 3]
    half = jacobian @ (rotation @ (quats_to_matrices(quats) * scales[:, None, :]))  # [N, 2, 3]
    xx, xy, yy = (half[:, 0] ** 2).sum(-1), (half[:, 0] * half[:, 1]).sum(-1), (half[:, 1] ** 2).sum(-1)  # [N]
    det_sharp = xx * yy - xy * xy
    xx, yy = xx + EPS2D, yy + EPS2D
    det = xx * yy - xy * xy

    radii = _radii(xx, yy, det, means2d, in_range, width, height)  # [N]
    seen = radii > 0
    safe_det = torch.where(seen, det, torch.ones_like(det))
    conics = torch.stack([yy, -xy, xx], dim=-1) / safe_det[:, None]
    # The square root has no finite slope at 0, where the product of two tiny scales may underflow to.
    ratio = det_sharp / safe_det
    positive = seen & (ratio > 0)
    compensations = torch.where(positive, torch.where(positive, ratio, torch.ones_like(ratio)).sqrt(), 0.0)
    return Projection(
        torch.where(seen[:, None], means2d, 0.0),
        torch.where(seen[:, None], conics, 0.0),
        torch.where(seen, depths, 0.0),
        radii,
        compensations,
    )


def opencv_view(camera_to_world: Tensor) -> Tensor:
    """World-to-camera matrix [4, 4] in OpenCV's convention from nerfstudio's camera-to-world [3 or 4, 4] (OpenGL)."""
    # OpenGL looks along -z with y up, OpenCV along +z with y down.
    rotation = camera_to_world[:3, :3] * camera_to_world.new_tensor([1.0, -1.0, -1.0])
    view = torch.eye(4, device=camera_to_world.device, dtype=camera_to_world.dtype)
    view[:3, :3] = rotation.T
    view[:3, 3] = -rotation.T @ camera_to_world[:3, 3]
    return view


def quats_to_matrices(
    quats: Tensor,  # [N, 4]
) -> Tensor:
    """Rotation matrices of quaternions (w, x, y, z) of any length but 0: [N, 3, 3]."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _jacobian(u: Tensor, v: Tensor, z: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """Derivative of the pixel position by the camera-space point, taken within 1.3 fields of view: [N, 2, 3]."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    slack_x, slack_y = 0.15 * width / fx, 0.15 * height / fy
    u = torch.minimum(torch.maximum(u, -(cx / fx + slack_x)), (width - cx) / fx + slack_x)
    v = torch.minimum(torch.maximum(v, -(cy / fy + slack_y)), (height - cy) / fy + slack_y)
    zero = torch.zeros_like(z)
    flat = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], dim=-1)
    return flat.reshape(-1, 2, 3)


@torch.no_grad()
def _radii(xx: Tensor, yy: Tensor, det: Tensor, means2d: Tensor, in_range: Tensor, width: int, height: int) -> Tensor:
    """Radius in whole pixels, 0 for what is out of depth range, degenerate or wholly off the image. int32 [N]"""
    middle = 0.5 * (xx + yy)
    longest = middle + (middle * middle - det).clamp_min(0.01).sqrt()
    radii = (3.0 * longest.sqrt()).ceil()
    x, y = means2d[:, 0], means2d[:, 1]
    on_screen = (x + radii > 0) & (x - radii < width) & (y + radii > 0) & (y - radii < height)
    # A radius that is not finite would not survive the conversion to an integer.
    keep = in_range & (det > 0) & on_screen & torch.isfinite(radii)
    return torch.where(keep, radii, 0.0).clamp_max(2.0**30).to(torch.int32)
