"""Boxes around Gaussians that are one thing, without the floaters that any splatted scene has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.splatting.gaussians import Gaussians

_REACH = 4.0
"""Pieces are apart where the gap between them is this many times the usual distance between neighbours."""
_LEAST_SHARE = 0.05
"""A piece with less than this share of the largest one's opacity is a floater."""
_TRIMMED = 0.005
"""Share of the surface points that is cut off at each end of an axis: needles that stick out."""


@dataclass(frozen=True)
class Boxes:
    """The two boxes around a thing, in the frame of its Gaussians.

    Attributes:
        low, high: [3], corners of the axis-aligned box.
        centre: [3], middle of the oriented box.
        axes: [3, 3], its axes as rows, unit vectors, right-handed, the longest side first.
        half_sizes: [3], half of its sides along those axes.
    """

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    axes: np.ndarray
    half_sizes: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """`aabb` with `min` and `max`, `obb` with `centre`, `axes` (rows) and `half_sizes`, as plain lists."""
        return {
            "aabb": {"min": self.low.tolist(), "max": self.high.tolist()},
            "obb": {
                "centre": self.centre.tolist(),
                "axes": self.axes.tolist(),
                "half_sizes": self.half_sizes.tolist(),
            },
        }


def solid_pieces(means: Tensor, opacities: Tensor) -> Tensor:
    """Which Gaussians belong to the thing's pieces, and which are floaters around it: bool [N].

    Gaussians hang together where they are no farther apart than four times the usual distance to the eighth
    neighbour (scikit-learn's DBSCAN; the usual distance is the median). Pieces with less than 5 % of the largest
    one's opacity are floaters. Several things of similar size, like the two shoes of a pair, all stay.

    Args:
        means: [N, 3] centres.
        opacities: [N] in 0..1.
    """
    pieces = split_pieces(means)
    if int(pieces.max(initial=-1)) < 0:
        return torch.ones(len(means), dtype=torch.bool, device=means.device)
    weights = opacities.detach().double().cpu().numpy()
    sums = np.bincount(pieces[pieces >= 0], weights[pieces >= 0])
    kept = (pieces >= 0) & (sums >= _LEAST_SHARE * sums.max())[pieces]
    return torch.from_numpy(kept).to(means.device)


def split_pieces(means: Tensor) -> np.ndarray:
    """The piece that each Gaussian belongs to, as in `solid_pieces`: int64 [N], -1 where it is alone.

    Args:
        means: [N, 3] centres.
    """
    from scipy.spatial import KDTree
    from sklearn.cluster import DBSCAN

    count = len(means)
    if count < 3:
        return np.full(count, -1, np.int64)
    xyz = means.detach().double().cpu().numpy()
    distances = KDTree(xyz).query(xyz, k=min(9, count))[0][:, -1]
    reach = float(max(_REACH * np.median(distances), np.finfo(np.float64).tiny))
    # Every Gaussian with two others in reach ties its surroundings together; lone ones are noise, marked by -1.
    return DBSCAN(eps=reach, min_samples=3).fit_predict(xyz)


def boxes_around(gaussians: Gaussians) -> Boxes:
    """An axis-aligned and an oriented box around Gaussians.

    Floaters are dropped first (see `solid_pieces`). What is enclosed are the centres and the points one standard
    deviation away from them along each Gaussian's axes, but for half a percent at each end of every axis. The oriented
    box is the one of least volume (trimesh, by the hull's faces); where points have no volume it has world axes.

    Args:
        gaussians: of one thing, at least one.

    Raises:
        ValueError: there is no Gaussian.
    """
    if len(gaussians.means) == 0:
        raise ValueError("there is nothing to put a box around")
    points = _surface_points(gaussians)
    low, high = _trimmed_range(points)
    axes = _least_box_axes(points[((points >= low) & (points <= high)).all(1)])
    start, end = _trimmed_range(points @ axes.T)
    half = (end - start) / 2
    order = np.argsort(-half, kind="stable")
    axes, half, middle = axes[order], half[order], ((start + end) / 2)[order]
    centre = middle @ axes
    if np.linalg.det(axes) < 0:
        axes[2] *= -1
    return Boxes(low, high, centre, axes, half)


def _surface_points(gaussians: Gaussians) -> np.ndarray:
    """Centres without floaters, and the points one standard deviation away along each axis: float64 [7 n, 3]."""
    from scipy.spatial.transform import Rotation

    opacities = torch.sigmoid(gaussians.opacities)[:, 0]
    kept = solid_pieces(gaussians.means, opacities)
    means, scales, quats = (
        tensor[kept].detach().double().cpu().numpy() for tensor in (gaussians.means, gaussians.scales, gaussians.quats)
    )
    rotations = Rotation.from_quat(quats[:, [1, 2, 3, 0]]).as_matrix()  # columns are the axes
    steps = np.swapaxes(rotations * np.exp(scales)[:, None, :], 1, 2)  # [n, axis, 3]
    return np.concatenate([means[:, None], means[:, None] + steps, means[:, None] - steps], axis=1).reshape(-1, 3)


def _trimmed_range(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(points, [_TRIMMED, 1 - _TRIMMED], axis=0)
    return low, high


def _least_box_axes(points: np.ndarray) -> np.ndarray:
    """Axes of the smallest box around points, as rows: [3, 3]."""
    from trimesh.bounds import oriented_bounds

    if len(points) < 4:
        return np.eye(3)
    try:
        # The rotation takes points into the box's own frame, so that its rows are the box's axes.
        return np.array(oriented_bounds(points)[0])[:3, :3]
    except Exception:
        # Flat or straight sets of points have no hull; scipy's Qhull says so with an exception of its own.
        return np.eye(3)
