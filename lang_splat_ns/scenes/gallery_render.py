"""Pictures of the demo scene: cameras on their path, rays, and what each ray meets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.scenes.gallery_light import light_on_room, light_on_solid
from lang_splat_ns.scenes.gallery_paint import paint, to_srgb
from lang_splat_ns.scenes.gallery_scene import Part, Thing, things
from lang_splat_ns.scenes.solids import MISS, FloatArray, Hollow, Shape

FIELD_OF_VIEW = 50.0
"""Vertical field of view in degrees."""

TARGET = (0.0, 0.06, 0.95)
"""What the cameras look at, metres in the room frame."""

SWEEPS = 3
SWEEP_DEGREES = 56.0

# Offsets in pixels of the rays of one pixel. The last is the centre, which alone decides depth and masks.
RAYS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25), (0.0, 0.0))


@dataclass(frozen=True)
class View:
    """A camera.

    Attributes:
        pose: [4, 4] camera-to-world in OpenGL's convention (x right, y up, z back), metres, float64.
        width, height: size in pixels.
        focal: focal length in pixels, both axes; the principal point is the image's middle.
    """

    pose: NDArray[np.float64]
    width: int
    height: int
    focal: float


@dataclass(frozen=True)
class Picture:
    """What a view sees.

    Attributes:
        image: uint8 [H, W, 3], sRGB.
        depth: float32 [H, W], metres along the camera's axis, of each pixel's centre.
        instance: uint8 [H, W], index into `things()`, of each pixel's centre.
        part: uint8 [H, W], index into the thing's parts plus 1.
        colour: uint8 [H, W, 3], colour of each pixel's centre alone, unmixed with what lies beside it.
    """

    image: NDArray[np.uint8]
    depth: FloatArray
    instance: NDArray[np.uint8]
    part: NDArray[np.uint8]
    colour: NDArray[np.uint8]


def path(width: int, height: int, views: int) -> list[View]:
    """Cameras on three sweeps in front of the table that rise from the first to the last."""
    focal = 0.5 * height / np.tan(np.deg2rad(0.5 * FIELD_OF_VIEW))
    steps = (np.arange(views) + 0.5) / views
    target = np.array(TARGET, np.float64)
    found = []
    for step in steps:
        # The cosine slows down at the turns, where neighbours on the path then stand close together.
        azimuth = np.deg2rad(-SWEEP_DEGREES * np.cos(np.pi * SWEEPS * step))
        elevation = np.deg2rad(4.0 + 21.0 * step)
        distance = 1.4 - 0.12 * np.cos(2 * azimuth)
        sideways, upwards = distance * np.cos(elevation), distance * np.sin(elevation)
        offset: NDArray[np.float64] = np.array([sideways * np.sin(azimuth), -sideways * np.cos(azimuth), upwards])
        found.append(View(_look(target + offset, target), width, height, float(focal)))
    return found


def _look(eye: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, eye], axis=1)
    return pose


def render(view: View) -> Picture:
    """Cast the rays of a view and shade what they meet."""
    origin = view.pose[:3, 3].astype(np.float32)
    directions = _directions(view)
    depth = np.full(directions.shape[:3], MISS, np.float32)
    hit = np.zeros(directions.shape[:3], np.uint8)
    surfaces = list(_surfaces())
    for index, (_, _, _, _, shape) in enumerate(surfaces):
        rows, columns = _window(view, shape)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        rays = directions[:, rows, columns]
        t = shape.hit(shape.pose.to_local(origin), shape.pose.turn_to_local(rays))
        nearer = t < depth[:, rows, columns]
        depth[:, rows, columns][nearer] = t[nearer]
        hit[:, rows, columns][nearer] = index
    light = _shade(surfaces, origin, directions, depth, hit)
    ids = np.array([(instance, part) for instance, part, *_ in surfaces], np.uint8)
    return Picture(_bytes(light.mean(axis=0)), depth[-1], ids[hit[-1], 0], ids[hit[-1], 1], _bytes(light[-1]))


def _surfaces() -> list[tuple[int, int, Thing, Part, Shape]]:
    return [
        (instance, part_id, thing, part, shape)
        for instance, thing in enumerate(things())
        for part_id, part in enumerate(thing.parts, start=1)
        for shape in part.shapes
    ]


def _directions(view: View) -> FloatArray:
    """[rays, H, W, 3] in the room, one unit long along the camera's axis, so that `t` is depth."""
    x = (np.arange(view.width) + 0.5 - 0.5 * view.width)[None, None, :]
    y = (np.arange(view.height) + 0.5 - 0.5 * view.height)[None, :, None]
    dx, dy = (np.array([offset[axis] for offset in RAYS])[:, None, None] for axis in (0, 1))
    right, up = np.broadcast_arrays((x + dx) / view.focal, -(y + dy) / view.focal)
    local = np.stack([right, up, -np.ones_like(right)], axis=-1)
    return (local @ view.pose[:3, :3].T).astype(np.float32)


def _window(view: View, shape: Shape) -> tuple[slice, slice]:
    """Rows and columns that a shape can be seen in, from the corners of its box."""
    whole = slice(0, view.height), slice(0, view.width)
    if isinstance(shape, Hollow):
        return whole
    signs = np.stack(np.meshgrid((-1, 1), (-1, 1), (-1, 1)), axis=-1).reshape(-1, 3)
    corners = shape.pose.to_room((signs * shape.extent).astype(np.float32))
    local = (corners - view.pose[:3, 3]) @ view.pose[:3, :3]
    ahead = -local[:, 2]
    if ahead.min() < 0.05:
        return whole
    x = local[:, 0] / ahead * view.focal + 0.5 * view.width
    y = -local[:, 1] / ahead * view.focal + 0.5 * view.height
    return _span(y, view.height), _span(x, view.width)


def _span(values: NDArray[np.floating], size: int) -> slice:
    low, high = int(np.floor(values.min())) - 1, int(np.ceil(values.max())) + 1
    return slice(min(max(low, 0), size), min(max(high, 0), size))


def _shade(
    surfaces: list[tuple[int, int, Thing, Part, Shape]],
    origin: FloatArray,
    directions: FloatArray,
    depth: FloatArray,
    hit: NDArray[np.uint8],
) -> FloatArray:
    light = np.zeros(directions.shape, np.float32)
    for index, (_, _, thing, part, shape) in enumerate(surfaces):
        seen = hit == index
        if not seen.any():
            continue
        points = origin + depth[seen][:, None] * directions[seen]
        normals = shape.pose.turn_to_room(shape.normal(shape.pose.to_local(points)))
        received = light_on_solid(points, normals, shape) if thing.solid else light_on_room(points, normals)
        light[seen] = paint(part.colour, shape, points, normals) * received[:, None]
    return light


def _bytes(linear: FloatArray) -> NDArray[np.uint8]:
    return np.round(to_srgb(linear) * 255).astype(np.uint8)
