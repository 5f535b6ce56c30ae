"""From predicted cameras and depth to a posed scene: confident depth is lifted to coloured points and thinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.posed_scene import PosedScene

VOXELS = 512
"""Finest voxels along the median depth of the scene; finer ones keep the noise of the depth."""


@dataclass(frozen=True)
class DepthView:
    """A photo, its predicted camera, and its depth on the grid of a network.

    Pixels of the grid belong to the photo by `photo = scale * grid + offset`, where both count from the outer corner
    of the first pixel, whose centre is (0.5, 0.5).

    Attributes:
        image: file of the photo.
        size: its width and height.
        world_to_camera: float64 [4, 4], OpenCV axes.
        intrinsics: float64 [4], fx fy cx cy in pixels of the photo.
        depth: float32 [h, w] along the camera's axis, in units of the world.
        confidence: float32 [h, w], of any unit; larger is surer.
        scale: float64 [2], of x and y.
        offset: float64 [2], of x and y, in pixels of the photo.
    """

    image: Path
    size: tuple[int, int]
    world_to_camera: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]


@dataclass(frozen=True)
class Confidence:
    """Which depth is believed: what is surer than `least`, or all but the least sure share `drop`."""

    least: float | None = None
    drop: float = 0.3


def parse_confidence(text: str) -> Confidence:
    """ "30%" leaves out the least confident 30 percent of all pixels; a number is the least confidence itself.

    Raises:
        UserError: anything else.
    """
    try:
        if not text.endswith("%"):
            return Confidence(least=float(text))
        if 0.0 <= float(text[:-1]) < 100.0:
            return Confidence(drop=float(text[:-1]) / 100)
    except ValueError:
        pass
    raise UserError(f"--confidence {text!r}: give a share to leave out, as 30%, or the least confidence, as 5.")


def scene_from_depth(
    views: Sequence[DepthView], cameras: NDArray[np.int64], confidence: Confidence, max_points: int
) -> PosedScene:
    """Posed photos and their points.

    Args:
        views: at least one.
        cameras: int [V], from 1; photos with the same number have the same intrinsics.
        confidence: which depth is believed.
        max_points: voxels grow until no more points than this are left, at least 1.

    Raises:
        UserError: no depth is believed.
    """
    threshold = _threshold(views, confidence)
    good = [_believed(view, threshold) for view in views]
    if not any(mask.any() for mask in good):
        raise UserError("no depth is confident enough to become a point; lower --confidence.")
    xyz = np.concatenate([_lift(view, mask) for view, mask in zip(views, good, strict=True)])
    rgb = np.concatenate([_colors(view)[mask] for view, mask in zip(views, good, strict=True)])
    typical = float(np.median(np.concatenate([view.depth[mask] for view, mask in zip(views, good, strict=True)])))
    xyz, rgb = thin(xyz, rgb, typical / VOXELS, max_points)
    return PosedScene(
        images=tuple(view.image for view in views),
        world_to_camera=np.stack([view.world_to_camera for view in views]),
        intrinsics=np.stack([view.intrinsics for view in views]),
        sizes=np.array([view.size for view in views], dtype=np.int64),
        cameras=cameras,
        points=xyz,
        colors=rgb,
    )


def thin(
    points: NDArray[np.float64], colors: NDArray[np.uint8], voxel: float, max_points: int
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """One point per voxel, the mean of those in it with their mean colour, in an order that does not depend on theirs.

    Args:
        points: [P, 3].
        colors: [P, 3].
        voxel: edge, in units of the world; grows until at most `max_points` are left.
        max_points: see `voxel`.
    """
    while True:
        cells = np.floor(points / voxel).astype(np.int64)
        _, owner, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        if len(count) <= max_points:
            break
        # Surfaces fill voxels by the square of their edge.
        voxel *= max(1.05, (len(count) / max_points) ** 0.5)
    owner = owner.reshape(-1)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([np.bincount(owner, column, len(count)) / count for column in values.T], axis=1)

    return mean(points), np.rint(mean(colors.astype(np.float64))).astype(np.uint8)


def grid_in_photo(view: DepthView) -> NDArray[np.float64]:
    """[h, w, 2]: where the centre of each pixel of the grid lies in the photo, x and y."""
    rows, columns = np.indices(view.depth.shape, dtype=np.float64)
    return np.stack([columns + 0.5, rows + 0.5], axis=-1) * view.scale + view.offset


def _threshold(views: Sequence[DepthView], confidence: Confidence) -> float:
    if confidence.least is not None:
        return confidence.least
    # Pixels of the grid that show no photo have no confidence at all, and count for nothing.
    return float(np.quantile(np.concatenate([view.confidence[view.confidence > 0] for view in views]), confidence.drop))


def _believed(view: DepthView, threshold: float) -> NDArray[np.bool_]:
    """[h, w]: which pixels become points."""
    place = grid_in_photo(view)
    inside = ((place >= 0) & (place < view.size)).all(-1)
    sure = (view.confidence >= threshold) & (view.confidence > 0)
    return inside & sure & (view.depth > 0) & np.isfinite(view.depth)


def _lift(view: DepthView, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """World points [P, 3] of the pixels of a mask."""
    depth, place = view.depth[mask].astype(np.float64)[:, None], grid_in_photo(view)[mask]
    fx, fy, cx, cy = view.intrinsics
    seen = np.concatenate([(place - (cx, cy)) / (fx, fy) * depth, depth], axis=1)
    rotation, shift = view.world_to_camera[:3, :3], view.world_to_camera[:3, 3]
    return (seen - shift) @ rotation


def _colors(view: DepthView) -> NDArray[np.uint8]:
    """The photo on the grid [h, w, 3], each pixel the mean of what it covers."""
    import cv2
    from PIL import Image

    height, width = view.depth.shape
    with Image.open(view.image) as photo:
        pixels = np.asarray(photo.convert("RGB"))
    # Shrunk first, since interpolation alone would pick single pixels of a large photo.
    factor = np.minimum(1.0, 1.0 / view.scale)
    size = tuple(int(max(1, round(side))) for side in np.array(view.size) * factor)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    place = grid_in_photo(view) * (np.array(size) / view.size) - 0.5
    x, y = (np.ascontiguousarray(place[..., axis], dtype=np.float32) for axis in (0, 1))
    assert x.shape == (height, width)
    return np.asarray(cv2.remap(small, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8)
