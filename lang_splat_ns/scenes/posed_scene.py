"""A posed scene, whoever posed it, and the nerfstudio data set that it is written as."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.files import write_atomically, write_text
from lang_splat_ns.scenes.colmap_files import write_model
from lang_splat_ns.scenes.gallery_files import save_points

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""From OpenCV's camera axes (y down, z ahead) to OpenGL's (y up, z back), and back."""

FEWEST_TO_HOLD_OUT = 10
"""Photos from which on nerfstudio's own split, nine tenths for training, holds any out."""


@dataclass(frozen=True)
class PosedScene:
    """V photos without distortion, their cameras, and P points, in one world of any orientation and scale.

    Attributes:
        images: [V] files of the photos; their names are those in the data set.
        world_to_camera: float64 [V, 4, 4], OpenCV axes.
        intrinsics: float64 [V, 4], fx fy cx cy in pixels; the centre of the first pixel is (0.5, 0.5).
        sizes: int [V, 2], width and height of each photo.
        cameras: int [V], from 1; photos with the same number share one camera.
        points: float64 [P, 3].
        colors: uint8 [P, 3].
        model: folder with the same scene as COLMAP's binary model with tracks, or None to have one made without.
    """

    images: tuple[Path, ...]
    world_to_camera: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    sizes: NDArray[np.int64]
    cameras: NDArray[np.int64]
    points: NDArray[np.float64]
    colors: NDArray[np.uint8]
    model: Path | None = None


def write_scene(out: Path, scene: PosedScene, about: dict[str, Any]) -> None:
    """Write `images/`, `colmap/sparse/0/`, `sparse_pc.ply` and, last, `transforms.json`, all in the same world.

    `applied_transform` is the identity, since nerfstudio would otherwise take it that COLMAP's axes were swapped.

    Args:
        out: folder of the data set; files of the same name are replaced.
        scene: the scene.
        about: where it comes from, for `transforms.json`, as JSON values.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    for path in scene.images:
        with path.open("rb") as file:
            write_atomically(out / "images" / path.name, partial(shutil.copyfileobj, file))
    sparse = out / "colmap" / "sparse" / "0"
    sparse.mkdir(parents=True, exist_ok=True)
    if scene.model is None:
        names = [path.name for path in scene.images]
        write_model(
            sparse, names, scene.world_to_camera, scene.intrinsics, scene.sizes, scene.cameras,
            scene.points, scene.colors,
        )  # fmt: skip
    else:
        for path in sorted(scene.model.glob("*.bin")):
            with path.open("rb") as file:
                write_atomically(sparse / path.name, partial(shutil.copyfileobj, file))
    save_points(out / "sparse_pc.ply", scene.points.astype(np.float32), scene.colors)
    write_text(out / "transforms.json", json.dumps(_transforms(scene, about), indent=1, ensure_ascii=False) + "\n")


def _transforms(scene: PosedScene, about: dict[str, Any]) -> dict[str, Any]:
    lenses = [_lens(size, values) for size, values in zip(scene.sizes, scene.intrinsics, strict=True)]
    shared = len({json.dumps(lens) for lens in lenses}) == 1
    poses = np.linalg.inv(scene.world_to_camera) @ OPENGL
    return {
        "poses": about,
        "camera_model": "OPENCV",
        **(lenses[0] if shared else {}),
        "applied_transform": np.eye(4)[:3].tolist(),
        "ply_file_path": "sparse_pc.ply",
        **_splits([f"images/{path.name}" for path in scene.images]),
        "frames": [
            {"file_path": f"images/{path.name}", **({} if shared else lens), "transform_matrix": pose.tolist()}
            for path, lens, pose in zip(scene.images, lenses, poses, strict=True)
        ],
    }


def _splits(files: list[str]) -> dict[str, list[str]]:
    """Of a few photos nerfstudio would hold none out, and evaluation would trip over that; it gets the same ones."""
    names = ("train_filenames", "val_filenames", "test_filenames")
    return dict.fromkeys(names, files) if len(files) < FEWEST_TO_HOLD_OUT else {}


def _lens(size: Sequence[int] | NDArray[np.int64], values: NDArray[np.float64]) -> dict[str, Any]:
    fx, fy, cx, cy = (float(value) for value in values)
    return {
        "w": int(size[0]),
        "h": int(size[1]),
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx,
        "cy": cy,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
    }
