"""More photos than fit in one pass: overlapping windows, and the similarity that lays one over another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError
from lang_splat_ns.splatting.gaussians import Similarity

Layout = Literal["interleaved", "sequence"]
Array = npt.NDArray[np.floating]
_TOLERANCE = 0.05
"""Points whose error is below this share of the typical depth may agree with each other."""
_LEAST_AGREEMENT = 0.25
"""Share of the points that must."""
_POINTS_PER_FRAME = 500
_REFITS = 5


def plan_windows(count: int, size: int, shared: int, layout: Layout = "interleaved") -> list[list[int]]:
    """Which photos are predicted together.

    Args:
        count: photos.
        size: of a window.
        shared: photos that a window has in common with an earlier one, below `size`.
        layout: with "interleaved" every window holds the same `shared` photos, spread over all, and every n-th of the
            others: each sees the whole scene and is laid over the first directly, so that no error adds up. With
            "sequence" a window begins with the last `shared` photos of the one before, for paths so long that every
            n-th photo would see nothing in common with the next.

    Returns:
        Rising indices of each window's photos; the first photo is in the first window.

    Raises:
        UserError: windows cannot share so many.
    """
    if count <= size:
        return [list(range(count))]
    if not 1 <= shared < size:
        raise UserError(
            f"windows of {size} photos cannot share {shared}: it takes at least 1, and fewer than there are in a window"
        )
    if layout == "sequence":
        starts = [*range(0, count - size, size - shared), count - size]
        return [list(range(start, start + size)) for start in starts]
    common = sorted({round(index) for index in np.linspace(0, count - 1, shared)})
    rest = sorted(set(range(count)) - set(common))
    windows = -(-len(rest) // (size - shared))
    return [sorted([*common, *rest[start::windows]]) for start in range(windows)]


@dataclass(frozen=True)
class Seen:
    """A frame in one world.

    Attributes:
        extrinsic: world-to-camera. [4, 4]
        depth, confidence: per pixel; those without any confidence do not count. [h, w]
        points: world points. [h, w, 3]
    """

    extrinsic: Array
    depth: Array
    confidence: Array
    points: Array

    def centre(self) -> Array:
        """The camera's place. [3]"""
        return -self.extrinsic[:3, :3].T @ self.extrinsic[:3, 3]


def fit_similarity(sources: Sequence[Seen], targets: Sequence[Seen]) -> Similarity | None:
    """The similarity that lays the same frames' cameras and surely seen points over each other.

    Robustly: a consensus of random samples first (LO-RANSAC in pycolmap, with Umeyama's solution), then least squares
    over those points whose errors are not far above the median.

    Args:
        sources: frames in the world to be moved.
        targets: the same frames, and the same confidence of each pixel, in the world that stays.

    Returns:
        None where nothing like agreement was found.
    """
    import pycolmap

    rows = _surest(targets)
    source, target = (
        np.concatenate(
            [*(frame.points.reshape(-1, 3)[few] for frame, few in zip(frames, rows, strict=True)), _centres(frames)]
        ).astype(np.float64)
        for frames in (sources, targets)
    )
    if len(source) < 3:
        return None
    options = pycolmap.RANSACOptions()
    options.max_error, options.random_seed = _TOLERANCE * _typical_depth(targets), 0
    # A table, whatever pycolmap's own annotation says.
    consensus: Any = pycolmap.estimate_sim3d_robust(source, target, options)
    # A world that shrinks to a point meets those few others that happen to lie around it.
    if consensus is None or consensus["num_inliers"] < _LEAST_AGREEMENT * len(source):
        return None
    found = _similarity(consensus["tgt_from_src"])
    for _ in range(_REFITS):
        errors = np.linalg.norm(found.of_points(source) - target, axis=1)
        good = errors <= 2.5 * np.median(errors)
        refit = pycolmap.estimate_sim3d(source[good], target[good])
        found = found if refit is None else _similarity(refit)
    return found


def _surest(frames: Sequence[Seen]) -> list[npt.NDArray[np.intp]]:
    """Some pixels of each frame, of the surer half."""
    rng = np.random.default_rng(0)
    found = []
    for frame in frames:
        confidence = frame.confidence.ravel()
        seen = confidence[confidence > 0]
        (rows,) = np.nonzero(confidence >= np.median(seen)) if len(seen) else (np.empty(0, np.intp),)
        found.append(rng.choice(rows, min(len(rows), _POINTS_PER_FRAME), replace=False))
    return found


def _centres(frames: Sequence[Seen]) -> Array:
    return np.array([frame.centre() for frame in frames])


def _typical_depth(frames: Sequence[Seen]) -> float:
    depths = np.concatenate([frame.depth[frame.confidence > 0] for frame in frames])
    return float(np.median(depths)) if len(depths) else 1.0


def _similarity(found: Any) -> Similarity:
    """From pycolmap's."""
    return Similarity(np.asarray(found.rotation.matrix()), np.asarray(found.translation), float(found.scale))
