"""Poses by VGGT: cameras and depth predicted at once, without matching anything; adjusted afterwards if wished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.scenes.from_depth import Confidence, DepthView, scene_from_depth
from lang_splat_ns.scenes.photos import Photos
from lang_splat_ns.scenes.posed_scene import PosedScene
from lang_splat_ns.scenes.refine import refine_views


@dataclass(frozen=True)
class VggtOptions:
    """How VGGT poses.

    Attributes:
        weights: name of a checkpoint, or its file.
        confidence: which depth becomes points.
        max_points: how many points are left at most.
        shared_intrinsics: photos of one camera, size and zoom share one lens, the median of those predicted.
        refine: adjust cameras to matched features afterwards.
    """

    weights: str = "vggt"
    confidence: Confidence = field(default_factory=Confidence)
    max_points: int = 200_000
    shared_intrinsics: bool = False
    refine: bool = False


def pose_with_vggt(photos: Photos, folder: Path, options: VggtOptions) -> tuple[PosedScene, dict[str, str]]:
    """Pose photos, one or many; every photo gets a camera, whether or not it shows the same place.

    Args:
        photos: at least one.
        folder: for the work on these photos with these options alone.
        options: how.

    Raises:
        UserError: the weights cannot be had, the memory does not do, or no depth is believed.
    """
    import torch

    from lang_splat_ns.scenes.vggt import VGGTConfig
    from lang_splat_ns.scenes.vggt.weights import load_vggt

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Points and tracks have heads of their own, which nothing here asks.
    config = VGGTConfig(points=False, track=False)
    return pose_with_network(load_vggt(options.weights, device, config), photos, folder, options)


def pose_with_network(
    model: Any, photos: Photos, folder: Path, options: VggtOptions
) -> tuple[PosedScene, dict[str, str]]:
    """The same with a network that is loaded already."""
    from lang_splat_ns.scenes.vggt.predict import predict

    prediction = predict(model, _pixels(photos))
    views = views_of(photos, prediction)
    cameras = cameras_of(photos, options.shared_intrinsics)
    if options.shared_intrinsics:
        views = share_intrinsics(views, cameras)
    if options.refine and len(views) > 1:
        views = refine_views(photos, views, cameras, folder)
    scene = scene_from_depth(views, cameras, options.confidence, options.max_points)
    CONSOLE.print(f"{len(views)} photos posed, {len(scene.points):,} points.")
    return scene, {}


def views_of(photos: Photos, prediction: Any) -> list[DepthView]:
    """A prediction of VGGT, photo by photo."""
    views = []
    for index, photo in enumerate(photos.photos):
        matrix, place = prediction.intrinsics[index].astype(np.float64), prediction.placements[index]
        scale = 1.0 / np.array(place.scale)
        views.append(
            DepthView(
                image=photos.folder / photo.name,
                size=(photo.width, photo.height),
                world_to_camera=_orthogonal(prediction.extrinsics[index].astype(np.float64)),
                intrinsics=np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]),
                depth=prediction.depth[index],
                confidence=prediction.confidence[index],
                scale=scale,
                offset=-np.array(place.offset) * scale,
            )
        )
    return views


def cameras_of(photos: Photos, shared: bool) -> NDArray[np.int64]:
    """Number of each photo's camera, from 1."""
    if not shared:
        return np.arange(1, len(photos.photos) + 1)
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(photo.lens, len(numbers) + 1) for photo in photos.photos], dtype=np.int64)


def share_intrinsics(views: list[DepthView], cameras: NDArray[np.int64]) -> list[DepthView]:
    """The same views with the median intrinsics of each camera."""
    lenses = np.stack([view.intrinsics for view in views])
    medians = {number: np.median(lenses[cameras == number], axis=0) for number in set(cameras.tolist())}
    return [replace(view, intrinsics=medians[int(number)]) for view, number in zip(views, cameras, strict=True)]


def _pixels(photos: Photos) -> Iterator[NDArray[np.uint8]]:
    from PIL import Image

    for path in photos.paths():
        with Image.open(path) as image:
            yield np.array(image.convert("RGB"))


def _orthogonal(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest rigid motion: a rotation that was computed in single precision is one only to 1e-7 or so."""
    left, _, right = np.linalg.svd(pose[:3, :3])
    result = pose.copy()
    result[:3, :3] = left @ right
    return result
