"""Finished Gaussians from another run or from somebody else's file, brought into this run's frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.plugin import checkpoints
from lang_splat_ns.splatting.gaussians import PARAMETER_NAMES, Gaussians, Similarity, from_point_cloud, transform
from lang_splat_ns.splatting.ply import is_point_cloud, read_ply, read_points

TRANSFORMS_FILE = "dataparser_transforms.json"
_POSES = "_model.camera_optimizer.pose_adjustment"

PlyFrame = Literal["dataset", "nerfstudio"]


class Start(NamedTuple):
    """What a training may begin with."""

    gaussians: Gaussians
    """In the current nerfstudio frame."""
    pose_adjustment: Tensor | None = None
    """What the camera optimizer of that run has learned, [V, 6]; None where it had none, or in another frame."""


def read_start(path: Path, frame: Similarity, ply_frame: PlyFrame = "dataset", from_points: bool = False) -> Start:
    """Read Gaussians and carry them into the frame of the current data parser.

    Args:
        path: a run's `config.yml` or folder, a `step-*.ckpt` of any splatting method, or a 3DGS `.ply`.
        frame: from the data set's world to the current nerfstudio frame.
        ply_frame: the frame that a `.ply` is in.
        from_points: whether a `.ply` may be a plain point cloud, whose points become Gaussians.

    Raises:
        UserError: the file is missing or holds no Gaussians.
    """
    if path.suffix == ".ply":
        as_points = from_points and is_point_cloud(path)
        gaussians = from_point_cloud(*read_points(path), sh_degree=0) if as_points else read_ply(path)
        return Start(transform(gaussians, frame) if ply_frame == "dataset" else gaussians)
    checkpoint, state = _open(path)
    gaussians = _from_state(checkpoint, state["pipeline"])
    origin = run_frame(checkpoint.parent.parent)
    if origin is None or _same(origin, frame):
        # There and back again would move them by rounding, and votes belong to the very same Gaussians.
        return Start(gaussians, state["pipeline"].get(_POSES))
    return Start(transform(gaussians, origin.inverse().then(frame)))


def _same(one: Similarity, other: Similarity) -> bool:
    return (
        np.array_equal(one.rotation, other.rotation)
        and np.array_equal(one.translation, other.translation)
        and one.scale == other.scale
    )


def run_frame(run: Path) -> Similarity | None:
    """From the data set's world to the nerfstudio frame that a run was trained in, if its folder says so."""
    file = run / TRANSFORMS_FILE
    if not file.is_file():
        return None
    saved = json.loads(file.read_text(encoding="utf-8"))
    return Similarity.from_dataparser(saved["transform"], saved["scale"])


def _open(path: Path) -> tuple[Path, dict[str, Any]]:
    if path.suffix == ".ckpt":
        return path, checkpoints.load(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; init-from takes a run's config.yml, a step-*.ckpt or a 3DGS .ply.")
    return checkpoints.newest((path if path.is_dir() else path.parent) / "nerfstudio_models")


def _from_state(path: Path, state: dict[str, Any]) -> Gaussians:
    keys = {name: f"_model.gauss_params.{name}" for name in PARAMETER_NAMES}
    missing = [key for key in keys.values() if key not in state]
    if missing:
        raise UserError(f"{path}: holds no Gaussians (no {missing[0]}); init-from wants a run of a splatting method.")
    return Gaussians(**{name: state[key] for name, key in keys.items()})
