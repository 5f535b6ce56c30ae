"""Light in the demo room: soft, diffuse and the same from every side.

One broad lamp up in front of the table, and light from all around. Nothing shines or mirrors, so a surface has
one brightness in all views, as a scene of Gaussians without view dependence would have it. Flat surfaces keep
their light in a map that is made once by casting shadow rays; round ones estimate it from balls that stand in for
the solids around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from lang_splat_ns.scenes.gallery_scene import ROOM_HALF, ROOM_MIDDLE, TABLE_TOP, WALL_Y, things
from lang_splat_ns.scenes.gallery_textures import look_up
from lang_splat_ns.scenes.solids import FloatArray, Hollow, Shape

LAMP = np.array([-1.05, -1.0, 2.2], np.float32)
LAMP_RADIUS = 0.3
LAMP_RAYS = 32
AROUND_RAYS = 32
# How near something must be to take away light from around, in metres.
AROUND_REACH = 0.45

LAMP_STRENGTH = 0.6
AROUND_STRENGTH = 0.45


@dataclass(frozen=True)
class LightMap:
    """Light on a rectangle: `values` [rows, columns] over `corner + u * along + v * across`, u and v in 0..1."""

    corner: FloatArray
    along: FloatArray
    across: FloatArray
    values: FloatArray

    def at(self, points: FloatArray) -> FloatArray:
        """Light [n] at points [n, 3] of the rectangle; outside it the nearest value holds."""
        offset = points - self.corner
        u = offset @ (self.along / (self.along @ self.along))
        v = offset @ (self.across / (self.across @ self.across))
        return look_up(self.values, u, v)


def light_on_solid(points: FloatArray, normals: FloatArray, own: Shape | None) -> FloatArray:
    """Light [n] on points [n, 3] of the shape `own` with unit normals [n, 3], shaded by what stands around."""
    lamp, towards = _lamp_cosine(points, normals)
    open_sky = np.ones(len(points), np.float32)
    visible = np.ones(len(points), np.float32)
    for shape, centres, radius in _stand_ins():
        if shape is own:
            continue
        for centre in centres:
            offset = centre - points
            away = np.linalg.norm(offset, axis=1)
            facing = np.einsum("ni,ni->n", offset, normals) / np.maximum(away, radius)
            near = np.minimum(radius / np.maximum(away, radius), 1.0)
            open_sky -= np.float32(0.55) * np.maximum(facing, 0) * near * near
            ahead = np.einsum("ni,ni->n", offset, towards)
            aside = np.sqrt(np.maximum(away * away - ahead * ahead, 0))
            # The lamp is a disc: its edge blurs the more, the farther away the thing that shades is.
            blur = np.maximum(ahead, 0) * np.float32(LAMP_RADIUS / 1.9) + np.float32(0.012)
            covered = np.clip((radius + blur - aside) / (2 * blur), 0, 1) * np.clip(ahead / radius, 0, 1)
            visible *= 1 - np.float32(0.85) * covered
    # The table hides the lower half of the surroundings from what is close above it.
    above = np.clip((points[:, 2] - np.float32(TABLE_TOP)) / np.float32(0.12), 0, 1)
    table = 1 - np.float32(0.4) * np.maximum(-normals[:, 2], 0) - np.float32(0.22) * (1 - above) ** 2
    around = np.clip(open_sky, 0.35, 1) * table * (np.float32(0.84) + np.float32(0.16) * normals[:, 2])
    # A little light comes from the right, so that the sides away from the lamp are round too and keep their hue.
    fill = np.float32(0.12) * np.maximum(normals @ np.array([0.8, -0.5, 0.33], np.float32), 0)
    return np.float32(AROUND_STRENGTH) * around + np.float32(LAMP_STRENGTH) * lamp * visible + fill


def light_on_room(points: FloatArray, normals: FloatArray) -> FloatArray:
    """Light [n] on points [n, 3] of walls, floor, ceiling or table, whose normals [n, 3] point into the room."""
    light = np.empty(len(points), np.float32)
    todo = np.ones(len(points), bool)
    for light_map, axis, height in _maps():
        here = todo & (np.abs(points[:, axis] - height) < 4e-3) & (np.abs(normals[:, axis]) > 0.9)
        light[here] = light_map.at(points[here])
        todo &= ~here
    if todo.any():
        lamp, _ = _lamp_cosine(points[todo], normals[todo])
        light[todo] = np.float32(AROUND_STRENGTH) * _corners(points[todo]) + np.float32(LAMP_STRENGTH) * lamp
    return light


def _lamp_cosine(points: FloatArray, normals: FloatArray) -> tuple[FloatArray, FloatArray]:
    offset = LAMP - points
    towards = offset / np.linalg.norm(offset, axis=1, keepdims=True)
    # A broad lamp reaches a little around the edge of what it lights.
    cosine = np.einsum("ni,ni->n", towards, normals)
    return np.maximum((cosine + np.float32(0.25)) / np.float32(1.25), 0), towards


def _corners(points: FloatArray) -> FloatArray:
    """A little darker towards the room's edges, as daylight is."""
    inside = np.array(ROOM_HALF, np.float32) - np.abs(points - np.array(ROOM_MIDDLE, np.float32))
    second = np.partition(inside, 1, axis=1)[:, 1]
    return np.float32(0.8) + np.float32(0.2) * np.clip(second / np.float32(0.5), 0, 1) ** np.float32(0.6)


@cache
def _shapes() -> tuple[Shape, ...]:
    """Everything that can throw a shadow: all but the room."""
    every = (shape for thing in things() for part in thing.parts for shape in part.shapes)
    return tuple(shape for shape in every if not isinstance(shape, Hollow))


@cache
def _stand_ins() -> tuple[tuple[Shape, FloatArray, np.float32], ...]:
    """(shape, centres [k, 3], radius) of balls along the longest axis of each shape on the table."""
    found = []
    for thing in things():
        for shape in (shape for part in thing.parts for shape in part.shapes if thing.solid):
            reach = shape.extent
            longest = int(reach.argmax())
            radius = float(np.sort(reach)[1]) * 0.92
            spread = max(float(reach[longest]) - radius, 0.0)
            middle = 0.5 * (getattr(shape, "low", 0.0) + getattr(shape, "high", 0.0))
            count = 1 if spread < 0.2 * radius else 3
            local = np.zeros((count, 3), np.float32)
            local[:, 2] = middle
            if count > 1 and middle == 0.0:
                local[:, longest] = np.linspace(-spread, spread, count)
            found.append((shape, shape.pose.to_room(local), np.float32(min(radius, 0.11))))
    return tuple(found)


def prepare() -> None:
    """Make the light maps now. `functools.cache` has no lock, so threads would each make their own."""
    _maps()
    _stand_ins()


@cache
def _maps() -> tuple[tuple[LightMap, int, float], ...]:
    """The mapped rectangles, each with the axis it is square to and where it lies on that axis."""
    (mx, my, _), (hx, hy, hz) = ROOM_MIDDLE, ROOM_HALF
    table = _bake((-0.78, -0.42, TABLE_TOP), (1.56, 0, 0), (0, 0.92, 0), (0, 0, 1), (92, 156))
    floor = _bake((mx - hx, my - hy, 0), (2 * hx, 0, 0), (0, 2 * hy, 0), (0, 0, 1), (60, 80))
    wall = _bake((mx - hx, WALL_Y, 0), (2 * hx, 0, 0), (0, 0, 2 * hz), (0, -1, 0), (110, 160))
    return (table, 2, TABLE_TOP), (floor, 2, 0.0), (wall, 1, WALL_Y)


def _bake(
    corner: tuple[float, float, float],
    along: tuple[float, float, float],
    across: tuple[float, float, float],
    normal: tuple[float, float, float],
    size: tuple[int, int],
) -> LightMap:
    import cv2

    start, u_axis, v_axis, up = (np.array(value, np.float32) for value in (corner, along, across, normal))
    rows, columns = size
    v, u = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    points = (start + u[..., None] * u_axis + v[..., None] * v_axis).astype(np.float32).reshape(-1, 3)
    points = points + 1e-3 * up
    lamp, _ = _lamp_cosine(points, np.broadcast_to(up, points.shape))
    disc = _disc(LAMP_RAYS) * LAMP_RADIUS
    lamps = LAMP + np.stack([disc[:, 0], disc[:, 1], np.zeros(LAMP_RAYS)], axis=1).astype(np.float32)
    visible = np.mean([~_blocked(points, spot - points, 1.0) for spot in lamps], axis=0)
    opened = np.mean([~_blocked(points, d * np.float32(AROUND_REACH), 1.0) for d in _dome(up)], axis=0)
    around = (0.2 + 0.8 * opened) * _corners(points)
    light = (AROUND_STRENGTH * around + LAMP_STRENGTH * lamp * (0.1 + 0.9 * visible)).astype(np.float32)
    # The lamp's few rays leave steps in the half shadow; a blur of a texel and a half takes them away.
    blurred = cv2.GaussianBlur(light.reshape(rows, columns), (0, 0), 1.5, borderType=cv2.BORDER_REPLICATE)
    return LightMap(start, u_axis, v_axis, np.asarray(blurred, np.float32))


def _blocked(points: FloatArray, direction: FloatArray, until: float) -> np.ndarray:
    """Whether a ray from each point [n, 3] along `direction` ([n, 3] or [3]) meets something before `until`."""
    direction = np.broadcast_to(direction, points.shape)
    squared = np.einsum("ni,ni->n", direction, direction)
    blocked = np.zeros(len(points), bool)
    for shape in _shapes():
        # Only rays that pass near the shape's middle are worth the exact test.
        offset = shape.pose.centre - points
        t = np.clip(np.einsum("ni,ni->n", offset, direction) / squared, 0, until)
        gap = offset - t[:, None] * direction
        near = (np.einsum("ni,ni->n", gap, gap) < float(shape.extent @ shape.extent)) & ~blocked
        if near.any():
            local = shape.pose.to_local(points[near]), shape.pose.turn_to_local(direction[near])
            blocked[near] = shape.hit(*local) < until
    return blocked


def _disc(count: int) -> FloatArray:
    """[count, 2] points spread evenly over the unit disc (a sunflower's pattern)."""
    index = np.arange(count) + 0.5
    radius, angle = np.sqrt(index / count), np.pi * (1 + np.sqrt(5)) * index
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def _dome(up: FloatArray) -> FloatArray:
    """Unit directions around `up`, denser where a matt surface takes more light from."""
    disc = _disc(AROUND_RAYS)
    height = np.sqrt(np.maximum(1 - (disc**2).sum(axis=1), 0))
    side = np.array([1, 0, 0], np.float32)
    other = np.cross(up, side)
    return (disc[:, :1] * side + disc[:, 1:] * other + height[:, None] * up).astype(np.float32)
