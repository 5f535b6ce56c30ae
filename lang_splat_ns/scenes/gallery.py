"""The demo scene: a small room that is drawn by ray casting, with exact cameras, depth, points and masks.

Nothing is fetched: the solids are formulas and the framed photographs come with scikit-image. What
`write_gallery` leaves is an ordinary nerfstudio data set with ground truth beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.console import track
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text
from lang_splat_ns.scenes.gallery_files import save_depth, save_image, save_masks, save_points
from lang_splat_ns.scenes.gallery_light import prepare
from lang_splat_ns.scenes.gallery_points import PointSampler
from lang_splat_ns.scenes.gallery_render import Picture, View, path, render
from lang_splat_ns.scenes.gallery_scene import ABSENT, CHINESE, COLOURS, prompts, things
from lang_splat_ns.scenes.labels import Box, FrameLabels, Polygon, SceneLabels
from lang_splat_ns.scenes.labels_lerf_ovs import write_labels
from lang_splat_ns.scenes.outlines import trace

SCENE_VERSION = 2
"""Goes up whenever the same call would write other pictures or labels; scores of two versions do not compare."""

# What is seen of a thing must reach this share of the photo and this many pixels to be asked for in it.
SMALLEST_SHARE = 4e-4
SMALLEST_PIXELS = 12


def write_gallery(
    out: Path,
    *,
    width: int = 480,
    height: int = 270,
    views: int = 40,
    held_out: int = 8,
    points: int = 20000,
    seed: int = 0,
) -> None:
    """Draw the demo scene into the folder `out`; the same arguments give the same bytes.

    Writes `transforms.json` (OpenGL camera-to-world, metres, z up), `images/`, `sparse_pc.ply`, `depth/` (uint16
    PNG, millimetres along the camera's axis), `masks/` (uint16 PNG, see `masks/instances.json`) and, for the
    held-out photos, `label/` in the form of LERF-OVS. Files of the same name are replaced.

    Args:
        out: folder of the data set; it is made where it is missing.
        width: width of the photos in pixels.
        height: height of the photos in pixels.
        views: number of photos.
        held_out: how many of them are for evaluation, spread over the camera's path.
        points: number of points in `sparse_pc.ply`, sampled on what the training photos see.
        seed: seed of that sampling.

    Raises:
        UserError: a number is too small, or more photos are held out than would leave two for training.
        OSError: the folder cannot be written, or the disk is full.
    """
    _check(width, height, views, held_out, points)
    cameras = path(width, height, views)
    names = [f"frame_{number:05d}" for number in range(1, views + 1)]
    kept_back = {int((index + 0.5) * views / held_out) for index in range(held_out)}
    sampler = PointSampler(points, views - held_out, seed)
    labels: dict[str, FrameLabels] = {}
    for index, picture in enumerate(track(_pictures(cameras), "Drawing the demo scene", total=views)):
        _save(out, names[index], picture)
        if index in kept_back:
            labels[names[index]] = _label(names[index], picture)
        else:
            sampler.add(cameras[index], picture)
    save_points(out / "sparse_pc.ply", *sampler.points())
    write_labels(out, SceneLabels(labels, ABSENT, CHINESE), {"scene_version": SCENE_VERSION})
    _write_json(out / "masks" / "instances.json", _instances())
    # The data set's own description comes last: with it, the folder is whole.
    _write_json(out / "transforms.json", _transforms(cameras, names, kept_back))


def _check(width: int, height: int, views: int, held_out: int, points: int) -> None:
    if width < 16 or height < 9:
        raise UserError(f"The demo scene cannot be drawn at {width}x{height}; the least is 16x9 pixels.")
    if held_out < 1 or views - held_out < 2:
        raise UserError(
            f"{held_out} of {views} photos cannot be held out: at least 1 is needed there and 2 for training."
        )
    if points < 1:
        raise UserError(f"The demo scene needs at least 1 point, not {points}.")


def _pictures(cameras: list[View]) -> Iterator[Picture]:
    prepare()
    # numpy lets go of the interpreter inside its loops, so that a second thread shortens the time. More than a few
    # would only need memory.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(render, cameras)


def _save(out: Path, name: str, picture: Picture) -> None:
    save_image(out / "images" / f"{name}.png", picture.image)
    save_depth(out / "depth" / f"{name}.png", picture.depth)
    save_masks(out / "masks" / f"{name}.png", picture.instance, picture.part)


def _label(name: str, picture: Picture) -> FrameLabels:
    height, width = picture.instance.shape
    polygons: dict[str, list[Polygon]] = {}
    boxes: dict[str, list[Box]] = {}
    for prompt, (instance, part) in prompts().items():
        mask: NDArray[np.bool_] = picture.instance == instance
        if part is not None:
            mask = mask & (picture.part == part)
        if mask.sum() < max(SMALLEST_PIXELS, SMALLEST_SHARE * mask.size):
            continue
        traced, around = trace(mask)
        if traced:
            polygons[prompt], boxes[prompt] = traced, around
    return FrameLabels(f"{name}.png", width, height, polygons, boxes)


def _transforms(cameras: list[View], names: list[str], kept_back: set[int]) -> dict[str, Any]:
    first = cameras[0]
    files = [f"images/{name}.png" for name in names]
    held = [file for index, file in enumerate(files) if index in kept_back]
    return {
        "scene_version": SCENE_VERSION,
        "about": "Procedural demo scene: metres, z up; depth/*.png is uint16, millimetres along the camera's axis.",
        "camera_model": "OPENCV",
        "w": first.width,
        "h": first.height,
        "fl_x": first.focal,
        "fl_y": first.focal,
        "cx": 0.5 * first.width,
        "cy": 0.5 * first.height,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "applied_transform": np.eye(4)[:3].tolist(),
        "ply_file_path": "sparse_pc.ply",
        "train_filenames": [file for index, file in enumerate(files) if index not in kept_back],
        "val_filenames": held,
        "test_filenames": held,
        "frames": [
            {"file_path": file, "transform_matrix": camera.pose.tolist()}
            for file, camera in zip(files, cameras, strict=True)
        ],
    }


def _instances() -> dict[str, Any]:
    listed = {prompt: {"instance": instance, "part": part} for prompt, (instance, part) in prompts().items()}
    return {
        "scene_version": SCENE_VERSION,
        "about": "masks/*.png is uint16 with 10 * instance + part of each pixel's centre; parts count from 1.",
        "instances": [
            {
                "id": instance,
                "name": thing.name,
                "solid": thing.solid,
                "parts": [
                    {"id": number, "name": part.name, "colour": part.colour, "srgb": COLOURS.get(part.colour)}
                    for number, part in enumerate(thing.parts, start=1)
                ],
            }
            for instance, thing in enumerate(things())
        ],
        "prompts": listed,
    }


def _write_json(target: Path, content: dict[str, Any]) -> None:
    write_text(target, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
