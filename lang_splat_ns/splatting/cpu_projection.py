"""The projection of `projection.project` in one compiled pass over the Gaussians, forward and backward.

As some forty torch operations with autograd, the projection takes longer than the compositing does. The torch version
stays: it defines what is computed here, it is the tests' oracle, and it serves where the camera itself has gradients.
All arithmetic is in float64, which costs nothing next to the memory traffic and spares the determinant a cancellation.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.splatting.cpu_threads import ONE_AT_A_TIME, ONLY_PRANGE
from lang_splat_ns.splatting.projection import EPS2D, FAR_PLANE, Projection

_TINY = 1e-12
"""Length below which a quaternion counts as this long, as in torch's `normalize`."""

_CHUNK = 1024
"""Gaussians per task of the backward pass."""


def project_compiled(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
    near_plane: float = 0.01,
) -> Projection:
    """`projection.project` on the CPU, differentiable in means, quats and scales but not in the camera."""
    return Projection(*_Project.apply(means, quats, scales, viewmat, K, width, height, near_plane))  # type: ignore[misc]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means, quats, scales, viewmat, K, width: int, height: int, near_plane: float):
        camera = _camera(viewmat, K, width, height)
        with ONE_AT_A_TIME:
            outputs = _project(_numpy(means), _numpy(quats), _numpy(scales), camera, width, height, near_plane)
        means2d, conics, depths, radii, compensations = map(torch.from_numpy, outputs)
        ctx.save_for_backward(means, quats, scales, radii)
        ctx.camera = camera
        ctx.mark_non_differentiable(radii)
        return means2d, conics, depths, radii, compensations

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        v_means2d, v_conics, v_depths, _, v_compensations = grad_outputs
        means, quats, scales, radii = map(_numpy, ctx.saved_tensors)
        incoming = map(_numpy, (v_means2d, v_conics, v_depths, v_compensations))
        with ONE_AT_A_TIME:
            gradients = _project_backward(means, quats, scales, radii, ctx.camera, *incoming)
        return *map(torch.from_numpy, gradients), None, None, None, None, None


def _camera(viewmat: Tensor, K: Tensor, width: int, height: int) -> np.ndarray:
    """The camera in 20 numbers: rotation (9), translation (3), fx, fy, cx, cy, and the bounds of x/z and y/z."""
    fx, fy, cx, cy = (K[i, j].item() for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    slack_x, slack_y = 0.15 * width / fx, 0.15 * height / fy
    view = viewmat.detach().double().numpy()
    bounds = [-(cx / fx + slack_x), (width - cx) / fx + slack_x, -(cy / fy + slack_y), (height - cy) / fy + slack_y]
    return np.concatenate([view[:3, :3].ravel(), view[:3, 3], [fx, fy, cx, cy], bounds])


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


@nb.njit(forceinline=True)
def _to_camera(camera, row, x, y, z):
    """One component of the rotated (not shifted) vector."""
    return camera[3 * row] * x + camera[3 * row + 1] * y + camera[3 * row + 2] * z


@nb.njit(forceinline=True)
def _from_camera(camera, column, x, y, z):
    """One component of the vector rotated back."""
    return camera[column] * x + camera[3 + column] * y + camera[6 + column] * z


@nb.njit(forceinline=True)
def _rotation_column(w, x, y, z, column):
    """A column of the unit quaternion's rotation matrix: where the Gaussian's own axis points."""
    if column == 0:
        return 1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)
    if column == 1:
        return 2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)
    return 2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)


@nb.njit(forceinline=True)
def _unit(quat):
    """The quaternion at unit length, and the length that it had."""
    w, x, y, z = float(quat[0]), float(quat[1]), float(quat[2]), float(quat[3])
    length = max(math.sqrt(w * w + x * x + y * y + z * z), _TINY)
    return w / length, x / length, y / length, z / length, length


@nb.njit(forceinline=True)
def _half(camera, p, q, u, v, axis, scale):
    """One column of J W R S, whose product with its transpose is the 2D covariance, and the axis in the camera."""
    gx = _to_camera(camera, 0, axis[0], axis[1], axis[2]) * scale
    gy = _to_camera(camera, 1, axis[0], axis[1], axis[2]) * scale
    gz = _to_camera(camera, 2, axis[0], axis[1], axis[2]) * scale
    return p * (gx - u * gz), q * (gy - v * gz), gz


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _project(means, quats, scales, camera, width, height, near_plane):
    """Means2d [N, 2], conics [N, 3], depths [N], radii [N] and compensations [N]."""
    count, dtype = means.shape[0], means.dtype
    means2d, conics, depths = np.zeros((count, 2), dtype), np.zeros((count, 3), dtype), np.zeros(count, dtype)
    radii, compensations = np.zeros(count, np.int32), np.zeros(count, dtype)
    for g in nb.prange(count):
        x, y, z = float(means[g, 0]), float(means[g, 1]), float(means[g, 2])
        depth = _to_camera(camera, 2, x, y, z) + camera[11]
        if not near_plane <= depth <= FAR_PLANE:
            continue
        u = (_to_camera(camera, 0, x, y, z) + camera[9]) / depth
        v = (_to_camera(camera, 1, x, y, z) + camera[10]) / depth
        px, py = camera[12] * u + camera[14], camera[13] * v + camera[15]
        u, v = min(max(u, camera[16]), camera[17]), min(max(v, camera[18]), camera[19])
        qw, qx, qy, qz, _ = _unit(quats[g])
        xx, xy, yy = 0.0, 0.0, 0.0
        for j in range(3):
            axis = _rotation_column(qw, qx, qy, qz, j)
            h0, h1, _ = _half(camera, camera[12] / depth, camera[13] / depth, u, v, axis, scales[g, j])
            xx, xy, yy = xx + h0 * h0, xy + h0 * h1, yy + h1 * h1
        det_sharp = xx * yy - xy * xy
        xx, yy = xx + EPS2D, yy + EPS2D
        det = xx * yy - xy * xy
        middle = 0.5 * (xx + yy)
        radius = math.ceil(3.0 * math.sqrt(middle + math.sqrt(max(middle * middle - det, 0.01))))
        on_screen = px + radius > 0 and px - radius < width and py + radius > 0 and py - radius < height
        if not (det > 0.0 and det < math.inf and on_screen):
            continue
        means2d[g, 0], means2d[g, 1], depths[g], radii[g] = px, py, depth, min(radius, 2**30)
        conics[g, 0], conics[g, 1], conics[g, 2] = yy / det, -xy / det, xx / det
        compensations[g] = math.sqrt(max(det_sharp / det, 0.0))
    return means2d, conics, depths, radii, compensations


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _project_backward(means, quats, scales, radii, camera, v_means2d, v_conics, v_depths, v_compensations):
    """Gradients by means, quats and scales. The forward values are computed again, which is cheaper than keeping."""
    v_means, v_quats, v_scales = np.zeros_like(means), np.zeros_like(quats), np.zeros_like(scales)
    for chunk in nb.prange((means.shape[0] + _CHUNK - 1) // _CHUNK):
        _backward_range(
            chunk * _CHUNK, min((chunk + 1) * _CHUNK, means.shape[0]), means, quats, scales, radii, camera,
            v_means2d, v_conics, v_depths, v_compensations, v_means, v_quats, v_scales,
        )  # fmt: skip
    return v_means, v_quats, v_scales


@nb.njit(cache=True, nogil=True)
def _backward_range(
    start, end, means, quats, scales, radii, camera, v_means2d, v_conics, v_depths, v_compensations,
    v_means, v_quats, v_scales,
):  # fmt: skip
    """`_project_backward` for the Gaussians from start to end."""
    for g in range(start, end):
        if radii[g] == 0:
            continue
        x, y, z = float(means[g, 0]), float(means[g, 1]), float(means[g, 2])
        depth = _to_camera(camera, 2, x, y, z) + camera[11]
        free_u = (_to_camera(camera, 0, x, y, z) + camera[9]) / depth
        free_v = (_to_camera(camera, 1, x, y, z) + camera[10]) / depth
        u, v = min(max(free_u, camera[16]), camera[17]), min(max(free_v, camera[18]), camera[19])
        p, q = camera[12] / depth, camera[13] / depth
        unit = _unit(quats[g])
        xx, xy, yy = 0.0, 0.0, 0.0
        for j in range(3):
            axis = _rotation_column(unit[0], unit[1], unit[2], unit[3], j)
            h0, h1, _ = _half(camera, p, q, u, v, axis, scales[g, j])
            xx, xy, yy = xx + h0 * h0, xy + h0 * h1, yy + h1 * h1
        v_xx, v_xy, v_yy = _covariance_gradient(xx, xy, yy, v_conics[g], v_compensations[g])
        v_u, v_v, v_depth, v_rotation = 0.0, 0.0, float(v_depths[g]), (0.0, 0.0, 0.0, 0.0)
        for j in range(3):
            axis, scale = _rotation_column(unit[0], unit[1], unit[2], unit[3], j), float(scales[g, j])
            h0, h1, gz = _half(camera, p, q, u, v, axis, scale)
            v_h0, v_h1 = 2 * v_xx * h0 + v_xy * h1, 2 * v_yy * h1 + v_xy * h0
            # The Jacobian's first entries are f/z and those of its last column -f u/z.
            v_u, v_v, v_depth = v_u - p * v_h0 * gz, v_v - q * v_h1 * gz, v_depth - (v_h0 * h0 + v_h1 * h1) / depth
            v_gx, v_gy, v_gz = p * v_h0, q * v_h1, -(p * u * v_h0 + q * v * v_h1)
            ax, ay = _from_camera(camera, 0, v_gx, v_gy, v_gz), _from_camera(camera, 1, v_gx, v_gy, v_gz)
            az = _from_camera(camera, 2, v_gx, v_gy, v_gz)
            v_scales[g, j] = ax * axis[0] + ay * axis[1] + az * axis[2]
            v_rotation = _add_column_gradient(v_rotation, unit, j, ax * scale, ay * scale, az * scale)
        _store_quat_gradient(v_quats, g, unit, v_rotation)
        # Where u or v was clamped, the Jacobian does not depend on it.
        v_u = camera[12] * v_means2d[g, 0] + (v_u if u == free_u else 0.0)
        v_v = camera[13] * v_means2d[g, 1] + (v_v if v == free_v else 0.0)
        v_x, v_y = v_u / depth, v_v / depth
        v_depth -= (v_u * free_u + v_v * free_v) / depth
        for j in range(3):
            v_means[g, j] = _from_camera(camera, j, v_x, v_y, v_depth)


@nb.njit(forceinline=True)
def _covariance_gradient(xx, xy, yy, v_conic, v_compensation):
    """From gradients by conic and compensation to those by the covariance before the blur (xy counted once)."""
    blurred_xx, blurred_yy = xx + EPS2D, yy + EPS2D
    det_sharp, det = xx * yy - xy * xy, blurred_xx * blurred_yy - xy * xy
    a, b, c = blurred_yy / det, -xy / det, blurred_xx / det
    # The derivative of an inverse P is -P dS P.
    va, vb, vc = float(v_conic[0]), 0.5 * float(v_conic[1]), float(v_conic[2])
    v_xx = -(a * (a * va + b * vb) + b * (a * vb + b * vc))
    v_xy = -2 * (a * (b * va + c * vb) + b * (b * vb + c * vc))
    v_yy = -(b * (b * va + c * vb) + c * (b * vb + c * vc))
    ratio = det_sharp / det
    if v_compensation != 0.0 and ratio > 0.0:
        v_ratio = 0.5 * v_compensation / math.sqrt(ratio)
        v_sharp, v_det = v_ratio / det, -v_ratio * ratio / det
        v_xx += v_sharp * yy + v_det * blurred_yy
        v_yy += v_sharp * xx + v_det * blurred_xx
        v_xy -= 2 * xy * (v_sharp + v_det)
    return v_xx, v_xy, v_yy


@nb.njit(forceinline=True)
def _add_column_gradient(v_quat, unit, column, x_, y_, z_):
    """Add what the gradient (x_, y_, z_) by a column of the rotation matrix says of the unit quaternion."""
    w, x, y, z, _ = unit
    vw, vx, vy, vz = v_quat
    if column == 0:
        vw, vx = vw + 2 * (z * y_ - y * z_), vx + 2 * (y * y_ + z * z_)
        vy, vz = vy + 2 * (x * y_ - w * z_ - 2 * y * x_), vz + 2 * (w * y_ + x * z_ - 2 * z * x_)
    elif column == 1:
        vw, vx = vw + 2 * (x * z_ - z * x_), vx + 2 * (y * x_ + w * z_ - 2 * x * y_)
        vy, vz = vy + 2 * (x * x_ + z * z_), vz + 2 * (y * z_ - w * x_ - 2 * z * y_)
    else:
        vw, vx = vw + 2 * (y * x_ - x * y_), vx + 2 * (z * x_ - w * y_ - 2 * x * z_)
        vy, vz = vy + 2 * (w * x_ + z * y_ - 2 * y * z_), vz + 2 * (x * x_ + y * y_)
    return vw, vx, vy, vz


@nb.njit(forceinline=True)
def _store_quat_gradient(v_quats, g, unit, v_unit):
    """Through the normalisation: only what is at right angles to the quaternion counts."""
    along = unit[0] * v_unit[0] + unit[1] * v_unit[1] + unit[2] * v_unit[2] + unit[3] * v_unit[3]
    v_quats[g, 0] = (v_unit[0] - along * unit[0]) / unit[4]
    v_quats[g, 1] = (v_unit[1] - along * unit[1]) / unit[4]
    v_quats[g, 2] = (v_unit[2] - along * unit[2]) / unit[4]
    v_quats[g, 3] = (v_unit[3] - along * unit[3]) / unit[4]
