"""COLMAP's binary model: written without its library, whose Python classes change from version to version."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.files import write_atomically

PINHOLE = 1
"""COLMAP's number of the camera model with parameters fx fy cx cy."""
_NO_ERROR = -1.0


def write_model(
    folder: Path,
    names: Sequence[str],
    world_to_camera: NDArray[np.float64],
    intrinsics: NDArray[np.float64],
    sizes: NDArray[np.int64],
    cameras: NDArray[np.int64],
    points: NDArray[np.float64],
    colors: NDArray[np.uint8],
    image_ids: Sequence[int] | None = None,
) -> None:
    """Write `cameras.bin`, `images.bin` and `points3D.bin` of V pinhole photos and P points without tracks.

    Args:
        folder: existing folder; files of the same name are replaced.
        names: [V] file names of the photos.
        world_to_camera: [V, 4, 4], OpenCV axes.
        intrinsics: [V, 4], fx fy cx cy in pixels.
        sizes: [V, 2], width and height in pixels.
        cameras: [V] ids of cameras, from 1; the first photo of each says what it is.
        points: [P, 3].
        colors: [P, 3] in 0..255.
        image_ids: [V] ids of the photos; by default 1 to V.
    """
    first = {int(number): view for view, number in reversed(list(enumerate(cameras)))}
    records = [struct.pack("<Q", len(first))]
    for number, view in sorted(first.items()):
        width, height = (int(side) for side in sizes[view])
        records.append(struct.pack("<IiQQ4d", number, PINHOLE, width, height, *intrinsics[view]))
    _write(folder / "cameras.bin", records)
    records = [struct.pack("<Q", len(names))]
    for view, name in enumerate(names):
        number = view + 1 if image_ids is None else image_ids[view]
        pose = (*_quaternion(world_to_camera[view, :3, :3]), *world_to_camera[view, :3, 3])
        records.append(struct.pack("<I7dI", number, *pose, int(cameras[view])))
        # No observations follow.
        records.append(name.encode() + b"\0" + struct.pack("<Q", 0))
    _write(folder / "images.bin", records)
    table = np.zeros(len(points), dtype=[("id", "<u8"), ("x", "<f8", 3), ("c", "u1", 3), ("e", "<f8"), ("n", "<u8")])
    table["id"], table["x"], table["c"], table["e"] = np.arange(1, len(points) + 1), points, colors, _NO_ERROR
    _write(folder / "points3D.bin", [struct.pack("<Q", len(points)), table.tobytes()])


def _quaternion(rotation: NDArray[np.float64]) -> tuple[float, ...]:
    """w x y z of a rotation matrix."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = (float(value) for value in Rotation.from_matrix(rotation).as_quat())
    return w, x, y, z


def _write(path: Path, records: list[bytes]) -> None:
    write_atomically(path, lambda file: file.write(b"".join(records)))
