"""Where a removed object leaves a hole, and which surface belongs there.

In a closed room something shows through every hole: the floor through a table, or shapeless Gaussians that no photo
ever saw. So a hole is not where nothing is left. It is where the plane that the object stands on, or hangs on, would go
on nearer than what is left to see there, and where no photo has looked through that place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from numpy.typing import NDArray
from torch import Tensor

from lang_splat_ns.splatting.gaussians import Gaussians
from lang_splat_ns.splatting.projection import opencv_view
from lang_splat_ns.splatting.rasterizer import rasterize

EMPTY = 0.7
"""Alpha below which a pixel counts as empty."""
_RING = 8
"""Pixels around an object in which the surface is looked for that goes on behind it."""
_EVEN = 0.01
"""Share of its depth by which a pixel may be off a plane and still be on it."""
_JUMP = 0.03
"""Share of its depth by which a surface must be nearer than what is left to see."""
_RIM = 2
"""Pixels around a jump that are part of the hole."""
_THROUGH = 0.05
"""Share of its depth by which a photo must see farther than a place to have looked through it."""
_TOUCH = 0.15
"""Share of the object's size that it may be off a plane, to either side, and still stand on it."""
_NEAR = 0.3
"""Share of the object's size within which a place counts as around it."""
_LEAST_RING = 0.4
"""Share of what is around an object, in all views, that must be on the plane."""
_PLACES = 4000
"""Places around an object that planes are fitted to."""
_TRIES = 1000
"""Planes through three of them that are tried."""


@dataclass(frozen=True)
class Picture:
    """One view of a scene: colours [H, W, 3], depth along the optical axis [H, W] and alpha [H, W]."""

    rgb: Tensor
    depth: Tensor
    alpha: Tensor

    def far(self) -> Tensor:
        """Depth, and infinity where it is empty: float [H, W]."""
        return torch.where(self.alpha < EMPTY, torch.inf, self.depth)


@dataclass(frozen=True)
class Surface:
    """A plane in one view, whose inverse depth is `a u + b v + c` in pixels: exact for planes in perspective."""

    plane: NDArray[np.float64]

    @classmethod
    def seen(cls, plane: NDArray[np.float64], camera: Cameras) -> Surface:
        """A plane [4] of the world, `plane[:3] @ x + plane[3] = 0`, in a view."""
        view = opencv_view(camera.camera_to_worlds[0].double()).cpu().numpy()
        matrix = camera.get_intrinsics_matrices()[0].double().cpu().numpy()
        inside = plane @ np.linalg.inv(view)
        return cls(-inside[:3] @ np.linalg.inv(matrix) / inside[3])

    def inverse_depth(self, rows: Any, columns: Any) -> NDArray[np.float64]:
        """At the middle of pixels; zero or negative behind the camera and beyond the horizon."""
        a, b, c = self.plane
        return a * (np.asarray(columns) + 0.5) + b * (np.asarray(rows) + 0.5) + c

    def depth(self, height: int, width: int) -> NDArray[np.float64]:
        """Of a whole view [H, W], infinite where the plane is not seen."""
        inverse = self.inverse_depth(*np.mgrid[:height, :width])
        return np.where(inverse > 1e-9, 1 / np.maximum(inverse, 1e-9), np.inf)


def render(model: Any, gaussians: Gaussians, camera: Cameras) -> Picture:
    """What one camera sees of Gaussians in the model's frame."""
    degree = model.config.sh_degree
    view, arguments = _arguments(model, gaussians, camera)
    depth = gaussians.means @ view[2, :3, None] + view[2, 3]
    harmonics = torch.cat([gaussians.features_dc[:, None], gaussians.features_rest], dim=1)
    colours = torch.sigmoid(gaussians.features_dc) if degree == 0 else harmonics
    image, alpha, _ = rasterize(colors=colours, extra=depth, sh_degree=None if degree == 0 else degree, **arguments)
    return Picture(image[..., :3], image[..., 3] / alpha[..., 0].clamp_min(1e-6), alpha[..., 0])


def hidden_by(model: Any, gaussians: Gaussians, removed: Tensor, cameras: Sequence[Cameras]) -> Tensor:
    """Gaussians that only show once an object is gone: bool [N].

    No photo has formed them, so they have no meaningful colour and place. These are Gaussians of which every view sees
    less than half, at best, of what it sees without the object.

    Args:
        model: how to render.
        gaussians: the whole scene.
        removed: the object's. bool [N]
        cameras: all views.
    """
    with_it, without = (torch.zeros(len(removed), device=gaussians.means.device) for _ in range(2))
    rest = gaussians.some(~removed)
    for camera in cameras:
        with_it = torch.maximum(with_it, _seen(model, gaussians, camera))
        without[~removed] = torch.maximum(without[~removed], _seen(model, rest, camera))
    return ~removed & (without > 0.05) & (with_it < 0.5 * without)


def support_of(
    alone: Gaussians,
    silhouettes: Sequence[NDArray[np.bool_]],
    pictures: Sequence[Picture],
    cameras: Sequence[Cameras],
) -> NDArray[np.float64] | None:
    """The plane that an object stands or hangs on: `plane[:3] @ x + plane[3] = 0`, of unit length, or None.

    It is the plane that most of what is seen around the object lies on (RANSAC, Fischler and Bolles 1981), among those
    that touch the object and do not cut it; so neither a wall behind it nor the things beside it.

    Args:
        alone: the object.
        silhouettes: pixels of the object in each view. [H, W] each
        pictures: the views without it.
        cameras: of these views.
    """
    from scipy.spatial import KDTree

    found = [_places_around(*view) for view in zip(silhouettes, pictures, cameras, strict=True)]
    around, depths = np.concatenate([places for places, _ in found]), np.concatenate([depth for _, depth in found])
    thing = alone.means[torch.sigmoid(alone.opacities[:, 0]) > 0.5].double().cpu().numpy()
    if len(around) < 3 or len(thing) == 0:
        return None
    size = float(np.linalg.norm(np.percentile(thing, 98, axis=0) - np.percentile(thing, 2, axis=0)))
    near = KDTree(thing).query(around, distance_upper_bound=_NEAR * size)[0] < np.inf
    around, depths = around[near], depths[near]
    if len(around) < 3:
        return None
    random = np.random.default_rng(0)
    some = random.choice(len(around), min(_PLACES, len(around)), replace=False)
    around, even = around[some], _EVEN * depths[some]
    eyes = torch.cat([camera.camera_to_worlds[0, :, 3][None] for camera in cameras]).double().cpu().numpy()
    best, plane = np.zeros(len(around), bool), None
    for three in random.integers(0, len(around), (_TRIES, 3)):
        tried = _plane_through(around[three], eyes)
        if tried is None or abs(np.percentile(thing @ tried[:3] + tried[3], 3)) > _TOUCH * size:
            continue
        on = np.abs(around @ tried[:3] + tried[3]) < even
        if on.sum() > best.sum():
            best, plane = on, tried
    return _fitted(around[best]) if plane is not None and best.mean() >= _LEAST_RING else None


def _places_around(
    silhouette: NDArray[np.bool_], left: Picture, camera: Cameras
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places [M, 3] that a view shows around an object, and their depths [M]."""
    import cv2

    near = np.ones((3, 3), np.uint8)
    ring = cv2.dilate(silhouette.astype(np.uint8), near, iterations=_RING) > 0
    ring &= (cv2.dilate(silhouette.astype(np.uint8), near) == 0) & (left.alpha >= EMPTY).cpu().numpy()
    depth = left.depth.double().cpu().numpy()[ring]
    rows, columns = np.nonzero(ring)
    return points_at(camera, rows, columns, depth), depth


def _plane_through(places: NDArray[np.float64], eyes: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The plane through three places that has most cameras before it; None where they are in a line."""
    normal = np.cross(places[1] - places[0], places[2] - places[0])
    length = np.linalg.norm(normal)
    if length < 1e-12:
        return None
    plane = np.append(normal, -normal @ places[0]) / length
    return plane if np.median(eyes @ plane[:3] + plane[3]) > 0 else -plane


def _fitted(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """The plane nearest to places [M, 3]."""
    middle = places.mean(axis=0)
    normal = np.linalg.svd(places - middle, full_matrices=False)[2][2]
    return np.append(normal, -normal @ middle)


def hole_of(
    surface: Surface,
    silhouette: NDArray[np.bool_],
    left: Picture,
    camera: Cameras,
    photos: list[tuple[Cameras, Tensor]],
) -> NDArray[np.bool_]:
    """Pixels in which the surface must go on behind an object: bool [H, W].

    Args:
        surface: what the object stands on, in this view.
        silhouette: pixels of the object. [H, W]
        left: the view without it.
        camera: that view.
        photos: all views, and how far each sees while the object is there. [H, W] each
    """
    import cv2

    near = np.ones((3, 3), np.uint8)
    depth, far = surface.depth(*silhouette.shape), left.far().cpu().numpy()
    # Single pixels and lines are where depth is rough; around the others depth is blended, so that the jump is less.
    jump = cv2.morphologyEx((silhouette & (depth < (1 - _JUMP) * far)).astype(np.uint8), cv2.MORPH_OPEN, near)
    around = cv2.dilate(silhouette.astype(np.uint8), near, iterations=_RIM) > 0
    hole = (cv2.dilate(jump, near, iterations=_RIM) > 0) & around & (depth < (1 + _EVEN) * far)
    rows, columns = np.nonzero(hole)
    places = torch.from_numpy(points_at(camera, rows, columns, depth[hole])).to(left.depth)
    through = sum((_looks_through(places, *photo).int() for photo in photos), torch.zeros(len(places)).to(left.depth))
    # One photo may be wrong, since depth is blended along outlines.
    hole[hole] = (through < min(2, len(photos))).cpu().numpy()
    return np.asarray(hole, dtype=bool)


def points_at(
    camera: Cameras, rows: NDArray[np.int64], columns: NDArray[np.int64], depth: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Places [M, 3] in the world's frame, of pixels [M] of a camera and their depths [M]."""
    matrix = camera.get_intrinsics_matrices()[0].double().cpu().numpy()
    x = (columns + 0.5 - matrix[0, 2]) / matrix[0, 0] * depth
    y = (rows + 0.5 - matrix[1, 2]) / matrix[1, 1] * depth
    view = opencv_view(camera.camera_to_worlds[0].double()).cpu().numpy()
    return np.asarray((np.stack([x, y, depth], axis=1) - view[:3, 3]) @ view[:3, :3], dtype=np.float64)


def _looks_through(places: Tensor, camera: Cameras, far: Tensor) -> Tensor:
    """Whether a photo sees something well behind places [M, 3]: bool [M]."""
    view = opencv_view(camera.camera_to_worlds[0].to(places))
    matrix = camera.get_intrinsics_matrices()[0].to(places)
    inside = places @ view[:3, :3].T + view[:3, 3]
    pixels = inside @ matrix.T
    z = inside[:, 2].clamp_min(1e-9)
    column, row = (pixels[:, 0] / z).floor().long(), (pixels[:, 1] / z).floor().long()
    height, width = far.shape
    seen = (inside[:, 2] > 1e-6) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return seen & (far[row.clamp(0, height - 1), column.clamp(0, width - 1)] > (1 + _THROUGH) * z)


def _seen(model: Any, gaussians: Gaussians, camera: Cameras) -> Tensor:
    """How much a view sees of each Gaussian, in pixels [N]: the gradient of what is blended by its colour."""
    with torch.enable_grad():
        colours = gaussians.means.new_zeros(len(gaussians.means), 1, requires_grad=True)
        image, _, _ = rasterize(colors=colours, **_arguments(model, gaussians, camera)[1])
        return torch.autograd.grad(image.sum(), colours)[0][:, 0]


def _arguments(model: Any, gaussians: Gaussians, camera: Cameras) -> tuple[Tensor, dict[str, Any]]:
    view = opencv_view(camera.camera_to_worlds[0].to(gaussians.means))
    return view, {
        "means": gaussians.means,
        "quats": gaussians.quats,
        "scales": torch.exp(gaussians.scales),
        "opacities": torch.sigmoid(gaussians.opacities)[:, 0],
        "viewmat": view,
        "K": camera.get_intrinsics_matrices()[0].to(gaussians.means),
        "width": int(camera.width.item()),
        "height": int(camera.height.item()),
        "rasterize_mode": model.config.rasterize_mode,
    }
