"""Colours of the demo scene's surfaces: plain solids, the room's quiet patterns, the photographs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.gallery_scene import COLOURS, ROOM_HALF, TABLE_TOP, WALL_Y
from lang_splat_ns.scenes.gallery_textures import look_up
from lang_splat_ns.scenes.solids import Block, FloatArray, Shape

# Photographs are shrunk to this many pixels along their longer side, about what the nearest camera resolves;
# more would only flicker from view to view.
PHOTO_SIZE = 160
PAPER_BLACK = 0.025

WALL = (230, 216, 184)
SIDE_WALL = (220, 205, 171)
SKIRTING = (236, 226, 200)
CEILING = (240, 234, 216)
FLOOR = (150, 118, 84)
WOOD_LIGHT, WOOD_DARK = (204, 164, 114), (180, 138, 90)
FRAME = (128, 92, 58)


def to_linear(srgb: object) -> FloatArray:
    """sRGB 0..1 -> linear light 0..1, any shape."""
    value = np.asarray(srgb, np.float32)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_srgb(linear: FloatArray) -> FloatArray:
    """Linear light -> sRGB 0..1, clipped, any shape."""
    value = np.clip(linear, 0, 1)
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** np.float32(1 / 2.4) - 0.055)


def paint(colour: str, shape: Shape, points: FloatArray, normals: FloatArray) -> FloatArray:
    """Linear colours [n, 3] at points [n, 3] of a shape's surface with normals [n, 3], both in the room frame."""
    if colour in COLOURS:
        return np.broadcast_to(_flat(COLOURS[colour]), points.shape)
    if colour.startswith("photo:"):
        return _photograph(colour.removeprefix("photo:"), shape, points)
    if colour == "room":
        return _room(points, normals)
    if colour == "table":
        return _wood(points)
    return np.broadcast_to(_flat(FRAME), points.shape)


@cache
def photo(file: str) -> FloatArray:
    """A photograph that scikit-image's wheel carries, linear [h, w, 3]; nothing is fetched.

    Raises:
        UserError: this scikit-image does not carry the file.
    """
    import cv2
    import skimage
    from skimage.io import imread

    # The file is opened where the package lies: skimage.data's functions would download a missing one.
    path = Path(skimage.__file__).parent / "data" / file
    if not path.is_file():
        raise UserError(f"{path} is missing: the demo scene needs the photos of scikit-image's wheel; reinstall it.")
    pixels = to_linear(imread(path)[..., :3].astype(np.float32) / 255)
    # Printed on matt paper: the darkest ink still gives some light back.
    pixels = np.float32(PAPER_BLACK) + np.float32(1 - PAPER_BLACK) * pixels
    scale = PHOTO_SIZE / max(pixels.shape[:2])
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    # The linear copy is what is averaged, as a lens would.
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32)


def _flat(srgb: tuple[int, int, int]) -> FloatArray:
    return to_linear(np.array(srgb, np.float32) / 255)


def _photograph(file: str, shape: Shape, points: FloatArray) -> FloatArray:
    if not isinstance(shape, Block):
        raise TypeError("a photograph is printed on a block")
    pixels = photo(file)
    height, width = pixels.shape[:2]
    local = shape.pose.to_local(points)
    # Seen from the room, x runs to the right and z up. The print fills the block as a fitted crop would.
    ratio = (width / height) / (shape.half[0] / shape.half[2])
    u = 0.5 + 0.5 * min(1.0, 1.0 / ratio) * local[:, 0] / shape.half[0]
    v = 0.5 - 0.5 * min(1.0, ratio) * local[:, 2] / shape.half[2]
    return look_up(pixels, u, v)


def _room(points: FloatArray, normals: FloatArray) -> FloatArray:
    x, y, z = points.T
    colours = np.empty_like(points)
    floor, ceiling = normals[:, 2] > 0.5, normals[:, 2] < -0.5
    upright = ~floor & ~ceiling
    back = upright & (np.abs(y - WALL_Y) < 1e-2)
    colours[upright] = _flat(SIDE_WALL)
    colours[back] = _flat(WALL)
    # Walls have the faint clouds of a brushed coat of paint: enough for geometry, too little for an outline.
    along = np.where(back, x, y)
    clouds = np.sin(5.1 * along + 1.3 * np.sin(3.7 * z)) * np.sin(4.3 * z + 1.1 * np.sin(2.9 * along) + 0.7)
    colours[upright] *= (1 + np.float32(0.045) * clouds[upright])[:, None]
    skirting = upright & (z < 0.1)
    colours[skirting] = _flat(SKIRTING)
    colours[ceiling] = _flat(CEILING)
    colours[floor] = _floor(x[floor], y[floor])
    return colours


def _floor(x: FloatArray, y: FloatArray) -> FloatArray:
    # Boards along x: each has its own tone, and a soft dark line between neighbours.
    width = np.float32(0.22)
    across = (y + np.float32(ROOM_HALF[1] * 2)) / width
    board = np.floor(across)
    tone = 1 + np.float32(0.07) * np.sin(board * 12.9898) + np.float32(0.04) * np.sin(2.3 * x + board * 4.1)
    gap = np.abs(across - board - 0.5) * 2
    line = 1 - np.float32(0.3) * np.clip((gap - 0.93) / 0.07, 0, 1)
    return _flat(FLOOR) * (tone * line).astype(np.float32)[:, None]


def _wood(points: FloatArray) -> FloatArray:
    x, y, z = points.T
    # Legs and edges take the grain of the height, the top that of the depth.
    across = np.where(np.abs(z - TABLE_TOP) < 5e-3, y, z + 0.37 * y)
    rings = across + 0.035 * np.sin(2.1 * x + 4 * across) + 0.01 * np.sin(6.3 * x)
    grain = 0.5 + 0.3 * np.sin(2 * np.pi * rings / 0.16) + 0.2 * np.sin(2 * np.pi * rings / 0.07 + 1.7 * np.sin(3 * x))
    share = np.clip(grain, 0, 1).astype(np.float32)[:, None]
    return _flat(WOOD_LIGHT) * (1 - share) + _flat(WOOD_DARK) * share
