"""A posed data set in nerfstudio's format, read without nerfstudio: a GPU machine may have torch and gsplat only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.splatting.projection import opencv_view

HOLD_OUT_EVERY = 8
"""Where the data set does not say which photos are held out, every eighth is, as in most papers."""

_PLY_TYPES = {"float": "f4", "float32": "f4", "double": "f8", "float64": "f8", "uchar": "u1", "uint8": "u1"}


@dataclass(frozen=True)
class Photo:
    """One photo and its camera.

    Attributes:
        path: image file.
        image: uint8 [H, W, 3].
        viewmat: world-to-camera, OpenCV axes. [4, 4]
        K: intrinsics in pixels. [3, 3]
    """

    path: Path
    image: Tensor
    viewmat: Tensor
    K: Tensor


@dataclass(frozen=True)
class PosedPhotos:
    """A data set, moved and scaled as nerfstudio does: cameras around the origin, the farthest at distance 1.

    Attributes:
        train: photos to train on.
        held_out: photos to evaluate on.
        points: [P, 3] sparse points in the same frame.
        colors: [P, 3] their colours in 0..255.
    """

    train: list[Photo]
    held_out: list[Photo]
    points: Tensor
    colors: Tensor


def read_posed_photos(folder: Path, device: torch.device) -> PosedPhotos:
    """Read `transforms.json`, its photos and its `.ply` of points; all tensors go to `device`.

    Raises:
        UserError: a file is missing, the photos are distorted, or none or all of them are held out.
    """
    meta = _read_json(folder / "transforms.json")
    frames = sorted(meta["frames"], key=lambda frame: frame["file_path"])
    poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)  # [F, 4, 4]
    center = poses[:, :3, 3].mean(0)
    scale = 1.0 / (poses[:, :3, 3] - center).abs().max()
    poses[:, :3, 3] = (poses[:, :3, 3] - center) * scale
    photos = [_read_photo(folder, {**meta, **frame}, pose, device) for frame, pose in zip(frames, poses, strict=True)]
    held_out = _held_out([frame["file_path"] for frame in frames], meta)
    if all(held_out) or not any(held_out):
        raise UserError(f"{folder} must have photos to train on and others to hold out; it holds out {sum(held_out)}.")
    points, colors = read_points(folder / meta.get("ply_file_path", "sparse_pc.ply"))
    return PosedPhotos(
        train=[photo for photo, kept in zip(photos, held_out, strict=True) if not kept],
        held_out=[photo for photo, kept in zip(photos, held_out, strict=True) if kept],
        points=((points.double() - center) * scale).float().to(device),
        colors=colors.to(device),
    )


def read_points(path: Path) -> tuple[Tensor, Tensor]:
    """Points float32 [P, 3] and colours uint8 [P, 3] of a `.ply` as COLMAP, nerfstudio and the demo write it.

    Raises:
        UserError: the file is missing, or is no point cloud with colours.
    """
    content = _read(path)
    head, _, body = content.partition(b"end_header\n")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    try:
        fields = [(line[2], "<" + _PLY_TYPES[line[1]]) for line in lines if line[0] == "property"]
        count = next(int(line[2]) for line in lines if line[:2] == ["element", "vertex"])
        if ["format", "ascii", "1.0"] in lines:
            rows = np.array(body.split()[: count * len(fields)], dtype=np.float64).reshape(count, len(fields))
            columns = {name: rows[:, i] for i, (name, _) in enumerate(fields)}
        else:
            table = np.frombuffer(body, dtype=fields, count=count)
            columns = {name: table[name] for name, _ in fields}
        points, colors = (
            np.stack([columns[name] for name in names], axis=1) for names in (("x", "y", "z"), ("red", "green", "blue"))
        )
    except (KeyError, IndexError, StopIteration, ValueError) as error:
        raise UserError(f"{path} is no .ply of points with colours ({error}).") from error
    return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(colors.astype(np.uint8))


def _read_photo(folder: Path, entry: dict[str, Any], pose: Tensor, device: torch.device) -> Photo:
    from PIL import Image

    path = folder / entry["file_path"]
    if not path.is_file():
        raise UserError(f"{path}: no such photo, but {folder / 'transforms.json'} names it.")
    with Image.open(path) as file:
        image = torch.from_numpy(np.array(file.convert("RGB")))
    _check_camera(entry, path, *image.shape[:2])
    K = torch.tensor([[entry["fl_x"], 0, entry["cx"]], [0, entry["fl_y"], entry["cy"]], [0, 0, 1]])
    return Photo(path, image.to(device), opencv_view(pose).float().to(device), K.float().to(device))


def _check_camera(entry: dict[str, Any], path: Path, height: int, width: int) -> None:
    """Raise a UserError for anything but a pinhole camera of the photo's size."""
    missing = [key for key in ("fl_x", "fl_y", "cx", "cy", "w", "h") if key not in entry]
    if missing:
        raise UserError(f"transforms.json does not tell {missing[0]} of {path}, so it cannot be drawn.")
    distorted = [key for key in ("k1", "k2", "k3", "k4", "p1", "p2") if entry.get(key)]
    if distorted or "FISHEYE" in entry.get("camera_model", ""):
        found = f"{distorted[0]} = {entry[distorted[0]]}" if distorted else entry["camera_model"]
        raise UserError(f"{path} is distorted ({found}): undistort the photos first.")
    if (entry["w"], entry["h"]) != (width, height):
        raise UserError(f"{path} has {width} x {height} pixels, transforms.json says {entry['w']} x {entry['h']}.")


def _held_out(names: list[str], meta: dict[str, Any]) -> list[bool]:
    if "val_filenames" in meta:
        return [name in meta["val_filenames"] for name in names]
    return [index % HOLD_OUT_EVERY == 0 for index in range(len(names))]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}.") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; --data takes a folder in nerfstudio's format."
        ) from error
