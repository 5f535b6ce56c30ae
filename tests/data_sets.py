"""The demo scene in the layouts in which LERF-OVS and 3D-OVS are downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lang_splat_ns.scenes.colmap_files import write_model
from lang_splat_ns.scenes.gallery_files import PART_BASE
from lang_splat_ns.scenes.posed_scene import OPENGL

CLASSES = ("teal cylinder", "green ball", "purple ring", "blue cube", "orange die", "green cone")
"""Solid things of one colour each, none of which covers another in the labels."""


def lerf_ovs(scene: Path, root: Path) -> Path:
    """`root/lerf_ovs/gallery` and `root/lerf_ovs/label/gallery` of a demo scene; returns the former."""
    names = photo_names(scene)
    target = root / "lerf_ovs" / "gallery"
    _write(scene, target, {name: f"{Path(name).stem}.jpg" for name in names})
    labels = target.parent / "label" / "gallery"
    labels.mkdir(parents=True)
    for path in sorted((scene / "label").glob("frame_*.json")):
        content = json.loads(path.read_text())
        content["info"]["name"] = f"{path.stem}.jpg"
        (labels / path.name).write_text(json.dumps(content))
        _as_jpg(scene / "images" / f"{path.stem}.png", labels / f"{path.stem}.jpg")
    return target


def three_d_ovs(scene: Path, root: Path) -> Path:
    """`root/gallery` of a demo scene, with photos `00.jpg`, `01.jpg`, ... and masks of the photos that it holds out."""
    names = photo_names(scene)
    target = root / "gallery"
    _write(scene, target, {name: f"{index:02d}.jpg" for index, name in enumerate(names)})
    masks = target / "segmentations"
    masks.mkdir()
    (masks / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    instances = {
        one["name"]: one["id"] for one in json.loads((scene / "masks" / "instances.json").read_text())["instances"]
    }
    for index, name in enumerate(names):
        if (scene / "label" / f"{Path(name).stem}.json").is_file():
            shown = read(scene / "masks" / name) // PART_BASE
            (masks / f"{index:02d}").mkdir()
            for word in CLASSES:
                path = masks / f"{index:02d}" / f"{word}.png"
                cv2.imwrite(str(path), np.uint8(255) * (shown == instances[word]).astype(np.uint8))
    return target


def photo_names(scene: Path) -> list[str]:
    """File names of the scene's photos, in the order of its cameras."""
    return [Path(frame["file_path"]).name for frame in _meta(scene)["frames"]]


def read(path: Path) -> np.ndarray:
    """An image file as OpenCV reads it."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def _write(scene: Path, target: Path, names: dict[str, str]) -> None:
    """Photos under new names, and their cameras and points as COLMAP's model."""
    meta = _meta(scene)
    (target / "images").mkdir(parents=True)
    for old, new in names.items():
        _as_jpg(scene / "images" / old, target / "images" / new)
    (target / "sparse" / "0").mkdir(parents=True)
    count = len(names)
    points, colors = _points(scene / "sparse_pc.ply")
    write_model(
        target / "sparse" / "0",
        list(names.values()),
        np.array([np.linalg.inv(np.array(frame["transform_matrix"]) @ OPENGL) for frame in meta["frames"]]),
        np.tile([meta[key] for key in ("fl_x", "fl_y", "cx", "cy")], (count, 1)),
        np.tile([meta["w"], meta["h"]], (count, 1)),
        np.ones(count, np.int64),
        points,
        colors,
    )


def _meta(scene: Path) -> Any:
    return json.loads((scene / "transforms.json").read_text())


def _as_jpg(source: Path, target: Path) -> None:
    cv2.imwrite(str(target), read(source), [cv2.IMWRITE_JPEG_QUALITY, 98])


def _points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from plyfile import PlyData

    vertices = PlyData.read(str(path))["vertex"]
    axes, tones = ("x", "y", "z"), ("red", "green", "blue")
    return (
        np.stack([np.asarray(vertices[name], np.float64) for name in axes], axis=1),
        np.stack([np.asarray(vertices[name], np.uint8) for name in tones], axis=1),
    )
