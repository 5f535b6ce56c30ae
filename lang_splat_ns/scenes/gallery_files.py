"""The demo scene's pictures and points on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.files import write_atomically
from lang_splat_ns.scenes.solids import FloatArray

PART_BASE = 10
"""A pixel of a mask file is `PART_BASE * instance + part`."""


def save_image(target: Path, image: NDArray[np.uint8]) -> None:
    """uint8 [H, W, 3] sRGB -> PNG."""
    _save_png(target, np.ascontiguousarray(image[..., ::-1]))


def save_depth(target: Path, depth: FloatArray) -> None:
    """[H, W] metres along the camera's axis -> uint16 PNG in millimetres."""
    _save_png(target, np.clip(np.round(depth * 1000), 0, 65535).astype(np.uint16))


def save_masks(target: Path, instance: NDArray[np.uint8], part: NDArray[np.uint8]) -> None:
    """Instance and part ids [H, W] -> uint16 PNG, see `PART_BASE`."""
    _save_png(target, (np.uint16(PART_BASE) * instance + part).astype(np.uint16))


def save_points(target: Path, points: FloatArray, colours: NDArray[np.uint8]) -> None:
    """[n, 3] points in metres and their [n, 3] sRGB colours -> binary PLY as COLMAP and nerfstudio write it."""
    names = ("x", "y", "z", "red", "green", "blue")
    vertices = np.empty(len(points), dtype=list(zip(names, ("<f4",) * 3 + ("u1",) * 3, strict=True)))
    for axis in range(3):
        vertices[names[axis]] = points[:, axis]
        vertices[names[axis + 3]] = colours[:, axis]
    kinds = ("float",) * 3 + ("uchar",) * 3
    properties = "".join(f"property {kind} {name}\n" for kind, name in zip(kinds, names, strict=True))
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}end_header\n"
    write_atomically(target, lambda file: file.write(head.encode("ascii") + vertices.tobytes()))


def _save_png(target: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    import cv2

    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    assert done, "OpenCV always encodes PNG"
    write_atomically(target, lambda file: file.write(encoded.tobytes()))
