"""Shapes of the demo scene and where rays meet them, in closed form wherever there is one.

Every shape lives in a frame of its own (`Pose`), where it is centred and upright. Rays are arrays of any leading
shape; the origin may be one point for all of them. Directions need not have unit length, so that a ray's
parameter `t` can be depth along a camera's axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# Where a ray starts on a surface, rounding must not let it hit that same surface again.
NEAREST = np.float32(1e-3)
MISS = np.float32(np.inf)


@dataclass(frozen=True)
class Pose:
    """Place and turn of a shape in the room.

    Attributes:
        centre: origin of the shape's frame, metres, room frame (z up).
        axes: [3, 3], columns are the shape's x, y and z axis in the room frame.
    """

    centre: FloatArray
    axes: FloatArray

    @staticmethod
    def at(x: float, y: float, z: float, *, turn: float = 0.0, tilt: float = 0.0) -> Pose:
        """A pose at (x, y, z), tilted about the x axis and then turned about the upright, both in degrees."""
        a, b = np.deg2rad(turn), np.deg2rad(tilt)
        about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        return Pose(np.array([x, y, z], np.float32), (about_z @ about_x).astype(np.float32))

    def to_local(self, points: FloatArray) -> FloatArray:
        """[..., 3] points in the room -> [..., 3] in the shape's frame."""
        return (points - self.centre) @ self.axes

    def to_room(self, points: FloatArray) -> FloatArray:
        """[..., 3] points in the shape's frame -> [..., 3] in the room."""
        return points @ self.axes.T + self.centre

    def turn_to_local(self, vectors: FloatArray) -> FloatArray:
        """[..., 3] directions in the room -> in the shape's frame."""
        return vectors @ self.axes

    def turn_to_room(self, vectors: FloatArray) -> FloatArray:
        """[..., 3] directions in the shape's frame -> in the room."""
        return vectors @ self.axes.T


class Shape(Protocol):
    """What the renderer knows of a shape."""

    @property
    def pose(self) -> Pose: ...

    @property
    def extent(self) -> FloatArray:
        """[3] half sizes of the box around the shape, in its own frame."""
        ...

    def hit(self, origin: FloatArray, direction: FloatArray) -> FloatArray:
        """First `t` beyond `NEAREST` of rays in the shape's own frame, [...]; `MISS` where there is none."""
        ...

    def normal(self, points: FloatArray) -> FloatArray:
        """Outward unit normals [n, 3] at points [n, 3] of the surface, both in the shape's own frame."""
        ...


@dataclass(frozen=True)
class Block:
    """A box with half sizes `half`, in metres."""

    pose: Pose
    half: tuple[float, float, float]

    @property
    def extent(self) -> FloatArray:
        return np.array(self.half, np.float32)

    def hit(self, origin: FloatArray, direction: FloatArray) -> FloatArray:
        near, far = _slabs(origin, direction, self.extent)
        # A ray that starts inside meets the far side: what stands on a table hides the lamp from all below it.
        first = np.where(near > NEAREST, near, far)
        return np.where((near <= far) & (first > NEAREST), first, MISS)

    def normal(self, points: FloatArray) -> FloatArray:
        # A point of the surface lies in the face whose coordinate reaches furthest towards its half size.
        return _face_normal(points, self.extent)


@dataclass(frozen=True)
class Hollow:
    """A box seen from inside: the room itself. Normals point inwards."""

    pose: Pose
    half: tuple[float, float, float]

    @property
    def extent(self) -> FloatArray:
        return np.array(self.half, np.float32)

    def hit(self, origin: FloatArray, direction: FloatArray) -> FloatArray:
        near, far = _slabs(origin, direction, self.extent)
        return np.where((near <= far) & (far > NEAREST), far, MISS)

    def normal(self, points: FloatArray) -> FloatArray:
        return -_face_normal(points, self.extent)


@dataclass(frozen=True)
class Revolved:
    """A piece of a quadric around the z axis, closed by discs: ball, dome, cylinder, cone or a cut cone.

    The radius at height z is given by `x^2 + y^2 = curve[0] + curve[1] z + curve[2] z^2`, for `low <= z <= high`.
    """

    pose: Pose
    curve: tuple[float, float, float]
    low: float
    high: float

    @property
    def extent(self) -> FloatArray:
        heights = np.linspace(self.low, self.high, 33)
        widest = float(np.sqrt(max(self._radius_squared(heights).max(), 0.0)))
        return np.array([widest, widest, max(abs(self.low), abs(self.high))], np.float32)

    def _radius_squared(self, z: NDArray[np.floating]) -> NDArray[np.floating]:
        return self.curve[0] + z * (self.curve[1] + z * self.curve[2])

    def hit(self, origin: FloatArray, direction: FloatArray) -> FloatArray:
        ox, oy, oz = (origin[..., i] for i in range(3))
        dx, dy, dz = (direction[..., i] for i in range(3))
        c0, c1, c2 = (np.float32(value) for value in self.curve)
        a = dx * dx + dy * dy - c2 * dz * dz
        half_b = ox * dx + oy * dy - dz * (np.float32(0.5) * c1 + c2 * oz)
        c = ox * ox + oy * oy - (c0 + oz * (c1 + oz * c2))
        root = half_b * half_b - a * c
        best = np.full(root.shape, MISS, np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(root)
            for t in ((-half_b - root) / a, (-half_b + root) / a):
                z = oz + t * dz
                best = np.where((t > NEAREST) & (z >= self.low) & (z <= self.high) & (t < best), t, best)
            for height in (self.low, self.high):
                radius_squared = float(self._radius_squared(np.array(height)))
                if radius_squared > 1e-9:
                    t = (np.float32(height) - oz) / dz
                    x, y = ox + t * dx, oy + t * dy
                    best = np.where((t > NEAREST) & (x * x + y * y <= radius_squared) & (t < best), t, best)
        return best

    def normal(self, points: FloatArray) -> FloatArray:
        z = points[:, 2]
        slope = -0.5 * self.curve[1] - self.curve[2] * z
        normals = _unit(np.stack([points[:, 0], points[:, 1], slope], axis=1))
        # Near a closing disc, what lies clearly inside the curve belongs to the disc.
        inside = points[:, 0] ** 2 + points[:, 1] ** 2 < self._radius_squared(z) * 0.998
        normals[inside & (z > 0.5 * (self.low + self.high))] = (0, 0, 1)
        normals[inside & (z <= 0.5 * (self.low + self.high))] = (0, 0, -1)
        return normals


def ball(pose: Pose, radius: float, *, squash: float = 1.0) -> Revolved:
    """A ball, or an ellipsoid that is `squash` times as high as it is wide."""
    high = radius * squash
    return Revolved(pose, (radius * radius, 0.0, -1.0 / (squash * squash)), -high, high)


def dome(pose: Pose, radius: float, height: float) -> Revolved:
    """The upper half of an ellipsoid, standing on z = 0."""
    return Revolved(pose, (radius * radius, 0.0, -((radius / height) ** 2)), 0.0, height)


def cylinder(pose: Pose, radius: float, height: float) -> Revolved:
    """An upright cylinder, centred."""
    return Revolved(pose, (radius * radius, 0.0, 0.0), -0.5 * height, 0.5 * height)


def cut_cone(pose: Pose, bottom: float, top: float, height: float) -> Revolved:
    """A cone of radius `bottom` at z = 0 that narrows (or widens) to `top` at z = `height`."""
    slope = (top - bottom) / height
    return Revolved(pose, (bottom * bottom, 2 * bottom * slope, slope * slope), 0.0, height)


@dataclass(frozen=True)
class Ring:
    """A torus around the z axis: a tube of radius `tube` along a circle of radius `radius`."""

    pose: Pose
    radius: float
    tube: float
    steps: int = 96

    @property
    def extent(self) -> FloatArray:
        return np.array([self.radius + self.tube, self.radius + self.tube, self.tube], np.float32)

    def hit(self, origin: FloatArray, direction: FloatArray) -> FloatArray:
        # The closed form is a quartic that needs care in single precision; walking along the ray by the distance
        # to the tube needs none, and only the few rays through the box around the ring have to walk.
        near, far = _slabs(origin, direction, self.extent * np.float32(1.01))
        found = np.full(near.shape, MISS, np.float32)
        rays = (near <= far) & (far > NEAREST)
        if not rays.any():
            return found
        d = direction[rays]
        o = np.broadcast_to(origin, direction.shape)[rays]
        length = np.linalg.norm(d, axis=1)
        t, beyond = np.maximum(near[rays], NEAREST), far[rays] + np.float32(1e-3)
        for _ in range(self.steps):
            # Past the box there is nothing left to meet, and a ray that ran on for ever would overflow.
            t = np.minimum(t + self._distance(o + t[:, None] * d) / length, beyond)
        hit = (np.abs(self._distance(o + t[:, None] * d)) < 5e-4) & (t <= far[rays])
        found[rays] = np.where(hit, t, MISS)
        return found

    def _distance(self, points: FloatArray) -> FloatArray:
        around = np.sqrt(points[:, 0] ** 2 + points[:, 1] ** 2) - self.radius
        return np.sqrt(around * around + points[:, 2] ** 2) - self.tube

    def normal(self, points: FloatArray) -> FloatArray:
        flat = points.copy()
        flat[:, 2] = 0
        return _unit(points - _unit(flat) * np.float32(self.radius))


def _slabs(origin: FloatArray, direction: FloatArray, half: FloatArray) -> tuple[FloatArray, FloatArray]:
    # A direction that is parallel to a slab would divide by zero; a tiny number gives the right huge bound.
    safe = np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction)
    middle, reach = -origin / safe, np.abs(half / safe)
    return (middle - reach).max(axis=-1), (middle + reach).min(axis=-1)


def _face_normal(points: FloatArray, half: FloatArray) -> FloatArray:
    share = points / half
    axis = np.abs(share).argmax(axis=1)
    rows = np.arange(len(points))
    normals = np.zeros_like(points)
    normals[rows, axis] = np.sign(share[rows, axis])
    return normals


def _unit(vectors: FloatArray) -> FloatArray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-9))
