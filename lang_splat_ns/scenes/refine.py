"""Bundle adjustment of predicted cameras: features are matched, triangulated with them, and both are adjusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.scenes.colmap import ColmapOptions, match_photos, pose_of
from lang_splat_ns.scenes.colmap_files import write_model
from lang_splat_ns.scenes.colmap_process import Watch, Workshop
from lang_splat_ns.scenes.from_depth import DepthView
from lang_splat_ns.scenes.photos import Photos

ROUNDS = 3
FEWEST_POINTS = 50
FEWEST_SEEN = 10
"""Points that a photo must see for its camera to be adjusted and its depth to be rescaled."""


def refine_views(photos: Photos, views: list[DepthView], cameras: NDArray[np.int64], folder: Path) -> list[DepthView]:
    """Adjust cameras to matched features (tracks by pycolmap), and rescale each photo's depth to go with them.

    Where too little matches, the views stay as they are, and a line says so.

    Args:
        photos: the photos.
        views: their predicted cameras and depth, in the same order.
        cameras: number of each photo's camera, from 1; photos of one camera share its intrinsics.
        folder: for the work on these photos with these options alone.
    """
    shop = Workshop(folder)
    match_photos(photos, shop, ColmapOptions(camera_model="PINHOLE", shared_intrinsics=len(set(cameras)) < len(views)))
    ids = dict(shop.query("SELECT name, image_id FROM images"))
    owners = dict(shop.query("SELECT name, camera_id FROM images"))
    start, out = shop.fresh("predicted"), shop.fresh("refined")
    _write_start(start, photos, views, ids, owners)
    shop.run(
        "refine",
        "triangulate_and_adjust",
        {
            "database": str(shop.database),
            "images": str(photos.folder),
            "model": str(start),
            "out": str(out),
            "rounds": ROUNDS,
        },
        Watch("Adjusting cameras", "", 1, lambda: 0),
    )
    import pycolmap

    scene = pycolmap.Reconstruction(out)
    if len(scene.points3D) < FEWEST_POINTS:
        CONSOLE.print("[yellow]Too little matches between these photos to adjust their cameras; they stay.[/yellow]")
        return views
    refined = [_refined(view, scene, ids[photo.name]) for photo, view in zip(photos.photos, views, strict=True)]
    kept = sum(new is not old for new, old in zip(refined, views, strict=True))
    CONSOLE.print(
        f"Cameras of {kept} of {len(views)} photos adjusted to {len(scene.points3D):,} points, mean reprojection error "
        f"{scene.compute_mean_reprojection_error():.2f} pixels.",
        soft_wrap=True,
    )
    return refined


def _write_start(
    folder: Path, photos: Photos, views: list[DepthView], ids: dict[str, int], owners: dict[str, int]
) -> None:
    """The predicted cameras as a model whose numbers are those of the database."""
    names = [photo.name for photo in photos.photos]
    write_model(
        folder,
        names,
        np.stack([view.world_to_camera for view in views]),
        np.stack([view.intrinsics for view in views]),
        np.array([view.size for view in views]),
        np.array([owners[name] for name in names]),
        np.zeros((0, 3)),
        np.zeros((0, 3), np.uint8),
        image_ids=[ids[name] for name in names],
    )


def _refined(view: DepthView, scene: Any, number: int) -> DepthView:
    """A view with its adjusted camera, and its depth times the factor that its triangulated points ask for."""
    image = scene.image(number)
    seen = [(point.xy, scene.points3D[point.point3D_id].xyz) for point in image.points2D if point.has_point3D()]
    if len(seen) < FEWEST_SEEN:
        return view
    pixels, points = (np.array(values, dtype=np.float64) for values in zip(*seen, strict=True))
    camera = scene.camera(image.camera_id)
    matrix = pose_of(image)
    depth = points @ matrix[2, :3] + matrix[2, 3]
    grid = np.floor((pixels - view.offset) / view.scale).astype(int)
    rows = grid[:, 1].clip(0, view.depth.shape[0] - 1)
    columns = grid[:, 0].clip(0, view.depth.shape[1] - 1)
    predicted = view.depth[rows, columns]
    usable = (depth > 0) & (predicted > 0)
    if usable.sum() < FEWEST_SEEN:
        return view
    factor = float(np.median(depth[usable] / predicted[usable]))
    lens = camera.calibration_matrix()
    return replace(
        view,
        world_to_camera=matrix,
        intrinsics=np.array([lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2]]),
        depth=(view.depth * factor).astype(np.float32),
    )
