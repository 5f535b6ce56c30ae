"""Poses by COLMAP (Schoenberger and Frahm 2016): features, matches, cameras and points from the photos alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text
from lang_splat_ns.scenes.colmap_pairs import ALL_PAIRS_UP_TO, choose_pairs
from lang_splat_ns.scenes.colmap_process import Watch, Workshop
from lang_splat_ns.scenes.photos import Photos
from lang_splat_ns.scenes.posed_scene import PosedScene

CameraModel = Literal["SIMPLE_RADIAL", "RADIAL", "OPENCV", "SIMPLE_PINHOLE", "PINHOLE", "OPENCV_FISHEYE"]
Matching = Literal["auto", "exhaustive", "sequential"]
MORE_OVERLAP = "take photos that overlap by two thirds, from places a step apart"
FEW_FEATURES = 50


@dataclass(frozen=True)
class ColmapOptions:
    """How COLMAP poses.

    Attributes:
        camera_model: COLMAP's name of the lens model that is fitted.
        shared_intrinsics: photos of one camera, size and zoom share one lens; otherwise each has its own.
        matching: every pair, or neighbours in order and photos that look alike; auto goes by the number of photos.
    """

    camera_model: CameraModel = "SIMPLE_RADIAL"
    shared_intrinsics: bool = True
    matching: Matching = "auto"


def pose_with_colmap(photos: Photos, folder: Path, options: ColmapOptions) -> tuple[PosedScene, dict[str, str]]:
    """Pose photos; what an interrupted call has finished in `folder` is not done again.

    The result has photos without distortion and pinhole cameras: then every method, the masks, and other programs see
    the very same pixels, whether or not they know about lenses.

    Args:
        photos: at least two.
        folder: for the work on these photos with these options alone.
        options: how.

    Returns:
        The largest connected part of the scene, and why each photo that is not in it is not.

    Raises:
        UserError: too few photos, or none of them can be posed.
    """
    if len(photos.photos) < 2:
        raise UserError("COLMAP needs two photos or more, of one thing from different places; give more photos.")
    shop = Workshop(folder)
    match_photos(photos, shop, options)
    models = _models(photos, shop, relaxed=False)
    if _most(models) * 2 < len(photos.photos):
        models = {**_models(photos, shop, relaxed=True), **models}
    if not _most(models):
        raise UserError(_why_nothing(photos, shop))
    largest = max(models, key=lambda path: len(models[path]))
    rejected = _why_not(photos, shop, models, largest)
    return _without_distortion(photos, shop, largest), rejected


def match_photos(photos: Photos, shop: Workshop, options: ColmapOptions) -> None:
    """Fill the database with features and matches.

    Raises:
        UserError: COLMAP fails.
    """
    names = [photo.name for photo in photos.photos]
    groups = _groups(photos, options.shared_intrinsics)
    arguments: dict[str, Any] = {"database": str(shop.database)}
    shop.run(
        "features",
        "extract_features",
        {**arguments, "images": str(photos.folder), "groups": groups, "camera_model": options.camera_model},
        Watch("Finding features", "photos", len(names), lambda: shop.count("keypoints")),
    )
    total, pairs = len(names) * (len(names) - 1) // 2, None
    every = options.matching == "exhaustive" or (options.matching == "auto" and len(names) <= ALL_PAIRS_UP_TO)
    if not every and not shop.is_done("matches"):
        chosen = choose_pairs(names, shop.database)
        total, pairs = len(chosen), shop.folder / "pairs.txt"
        write_text(pairs, "".join(f"{one} {other}\n" for one, other in chosen))
    shop.run(
        "matches",
        "match_features",
        {**arguments, "pairs": pairs and str(pairs)},
        Watch("Matching photos", "pairs", total, lambda: shop.count("two_view_geometries")),
    )


def _groups(photos: Photos, shared: bool) -> list[dict[str, Any]]:
    """Photos that share a camera, with the focal length that it has told."""
    groups: dict[str, dict[str, Any]] = {}
    for photo in photos.photos:
        fresh = {"names": [], "focal": photo.focal, "longest": max(photo.width, photo.height)}
        groups.setdefault(photo.lens if shared else photo.name, fresh)["names"].append(photo.name)
    return list(groups.values())


def _models(photos: Photos, shop: Workshop, relaxed: bool) -> dict[Path, list[str]]:
    """Folders of COLMAP's models, and the photos that each has posed."""
    import pycolmap

    name = "map-relaxed" if relaxed else "map"
    out = shop.folder / name if shop.is_done(name) else shop.fresh(name)
    progress = shop.folder / "posed.txt"
    if not shop.is_done(name):
        progress.write_text("0", encoding="ascii")
    count = len(photos.photos)
    shop.run(
        name,
        "map_scene",
        {
            "database": str(shop.database),
            "images": str(photos.folder),
            "out": str(out),
            "progress": str(progress),
            "relaxed": relaxed,
            "count": count,
        },
        Watch("Posing photos", "photos", count, lambda: int(progress.read_text(encoding="ascii") or 0)),
    )
    models = {}
    for path in sorted(out.iterdir()):
        scene = pycolmap.Reconstruction(path)
        models[path] = [scene.image(number).name for number in scene.reg_image_ids()]
    return models


def _most(models: dict[Path, list[str]]) -> int:
    return max((len(names) for names in models.values()), default=0)


def _matched(shop: Workshop) -> set[str]:
    """Photos of which at least one pair was verified."""
    ids = dict(shop.query("SELECT image_id, name FROM images"))
    found = set()
    for (pair,) in shop.query("SELECT pair_id FROM two_view_geometries WHERE rows > 0"):
        # COLMAP's number of a pair: the smaller id times 2^31 - 1, plus the larger one.
        found |= {ids.get(pair // 2147483647), ids.get(pair % 2147483647)}
    return found - {None}


def _why_nothing(photos: Photos, shop: Workshop) -> str:
    count = len(photos.photos)
    if not _matched(shop):
        return f"no two of the {count} photos show the same place, as far as COLMAP can tell: {MORE_OVERLAP}."
    return (
        f"the {count} photos match, but the camera hardly moved between them, so nothing can be told about depth: "
        "walk sideways between photos instead of turning on the spot or zooming."
    )


def _why_not(photos: Photos, shop: Workshop, models: dict[Path, list[str]], largest: Path) -> dict[str, str]:
    posed, matched = set(models[largest]), _matched(shop)
    elsewhere = {name for path, names in models.items() if path.parent == largest.parent for name in names} - posed
    features = dict(shop.query("SELECT name, rows FROM images JOIN keypoints ON images.image_id = keypoints.image_id"))
    reasons = {}
    for photo in photos.photos:
        if photo.name in posed:
            continue
        if features.get(photo.name, 0) < FEW_FEATURES:
            reasons[photo.name] = "almost no features: blurred, dark, or of something without texture"
        elif photo.name in elsewhere:
            reasons[photo.name] = "in another part of the scene: add photos that lead from there to here"
        elif photo.name in matched:
            reasons[photo.name] = "too few matches with the posed photos: add photos between them"
        else:
            reasons[photo.name] = "matches no other photo: add photos that overlap with it"
    return reasons


def _without_distortion(photos: Photos, shop: Workshop, model: Path) -> PosedScene:
    out = shop.folder / "undistorted"
    if not shop.is_done("undistort"):
        shop.fresh(out.name)
    import pycolmap

    count = pycolmap.Reconstruction(model).num_reg_images()
    shop.run(
        "undistort",
        "undistort",
        {"model": str(model), "images": str(photos.folder), "out": str(out)},
        Watch("Undistorting photos", "photos", count, lambda: sum(1 for _ in out.glob("images/*"))),
    )
    scene = read_model(out / "sparse", out / "images")
    CONSOLE.print(f"{count} of {len(photos.photos)} photos posed, {len(scene.points):,} points.")
    return scene


def pose_of(image: Any) -> NDArray[np.float64]:
    """World-to-camera [4, 4] of a photo of pycolmap's."""
    pose: Any = image.cam_from_world
    # A property in older versions, a method in newer ones.
    pose = pose() if callable(pose) else pose
    return np.vstack([pose.matrix(), [0, 0, 0, 1]])


def read_model(model: Path, images: Path) -> PosedScene:
    """A COLMAP model of pinhole cameras, with the photos in the order of their names.

    Args:
        model: folder with the binary files.
        images: folder of the photos.
    """
    import pycolmap

    scene = pycolmap.Reconstruction(model)
    posed = sorted((scene.image(number) for number in scene.reg_image_ids()), key=lambda image: image.name)
    matrices, lenses, sizes = [], [], []
    for image in posed:
        camera = scene.camera(image.camera_id)
        matrix = camera.calibration_matrix()
        lenses.append([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])
        sizes.append([camera.width, camera.height])
        matrices.append(pose_of(image))
    points = [scene.points3D[number] for number in sorted(scene.points3D)]
    return PosedScene(
        images=tuple(images / image.name for image in posed),
        world_to_camera=np.array(matrices, dtype=np.float64),
        intrinsics=np.array(lenses, dtype=np.float64),
        sizes=np.array(sizes, dtype=np.int64),
        cameras=np.array([image.camera_id for image in posed], dtype=np.int64),
        points=np.array([point.xyz for point in points], dtype=np.float64).reshape(-1, 3),
        colors=np.array([point.color for point in points], dtype=np.uint8).reshape(-1, 3),
        model=model,
    )
