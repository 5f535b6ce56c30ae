"""How far two sets of cameras of the same photos are apart, whatever their worlds' orientation and scale."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PoseErrors:
    """Errors of the photos that both sets have.

    Attributes:
        photos: how many.
        position_percent: median distance of a camera from where it should be, after the best similarity (Umeyama 1991,
            least squares over the camera centres), in percent of the largest distance between two true cameras.
        rotation_degrees: median error of the rotation between two cameras, over all pairs.
    """

    photos: int
    position_percent: float
    rotation_degrees: float


def read_poses(transforms: Path) -> dict[str, NDArray[np.float64]]:
    """Camera-to-world matrices [4, 4] by file name."""
    frames = json.loads(transforms.read_text(encoding="utf-8"))["frames"]
    return {Path(frame["file_path"]).stem: np.array(frame["transform_matrix"]) for frame in frames}


def compare(found: dict[str, NDArray[np.float64]], true: dict[str, NDArray[np.float64]]) -> PoseErrors:
    """Compare camera-to-world matrices of the same convention."""
    names = sorted(set(found) & set(true))
    ours, theirs = (np.stack([poses[name][:3, 3] for name in names]) for poses in (found, true))
    moved = align(ours, theirs)
    extent = max(float(np.linalg.norm(one - other)) for one, other in combinations(theirs, 2))
    turns = [
        _angle((found[one][:3, :3].T @ found[other][:3, :3]).T @ (true[one][:3, :3].T @ true[other][:3, :3]))
        for one, other in combinations(names, 2)
    ]
    distances = np.linalg.norm(moved - theirs, axis=1)
    return PoseErrors(len(names), float(100 * np.median(distances) / extent), float(np.degrees(np.median(turns))))


def align(points: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points [N, 3] moved by the similarity that brings them closest to `targets` [N, 3] in the least squares sense."""
    from scipy.spatial.transform import Rotation

    origin, goal = points.mean(0), targets.mean(0)
    rotation, _ = Rotation.align_vectors(targets - goal, points - origin)
    turned = rotation.apply(points - origin)
    scale = np.sum(turned * (targets - goal)) / np.sum(turned**2)
    return scale * turned + goal


def _angle(rotation: NDArray[np.float64]) -> float:
    # The sine keeps its digits where the angle is small, and the cosine's arc does not.
    sine = 0.5 * np.linalg.norm(rotation - rotation.T) / np.sqrt(2)
    return float(np.arctan2(sine, 0.5 * (np.trace(rotation) - 1)))
