"""The hole that a removed object leaves, filled: what other views see of it is there already, the rest is painted.

`holes` says where the plane that the object stands on must go on behind it. The training views that show most of that
are rendered without the object; a 2D inpainter continues the plane's colours, and each painted pixel becomes a flat
Gaussian on it. A view renders what the ones before it have added, and paints only what is still missing. Gaussians that
the object hid from every photo are taken out, since they look like nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from numpy.typing import NDArray
from torch import Tensor

from lang_splat_ns.perception.inpainters import Inpainter
from lang_splat_ns.plugin.holes import Picture, Surface, hidden_by, hole_of, points_at, render, support_of
from lang_splat_ns.splatting.gaussians import SH_C0, Gaussians

PAINTING_VIEWS = 8
"""Views that paint; the first few see nearly all of a hole."""
VIEWS = 64
"""Views that are looked at, evenly spread over all."""
LEAST_PIXELS = 12
"""Smaller holes are cracks between splats."""
_MARGIN = 32
"""Pixels around a hole that the inpainter sees, at least."""
_ON = 0.02
"""Share of its depth by which a pixel may be off the surface and still give it colour."""
_CONTACT = 6
"""Pixels beside what is off the surface that give it no colour either."""
_WIDTH = 0.7
"""Standard deviation of a painted Gaussian, in pixels of its view."""
_FLAT = 0.1
"""Its thickness, as a share of its least width."""
_OPACITY = 4.0
"""Its opacity's logit."""


@dataclass(frozen=True)
class Filling:
    """What is to be done about a hole.

    Attributes:
        added: none or more Gaussians to add, in the model's frame.
        hidden: those to take out besides the object's, since it hid them from every photo. bool [N]
    """

    added: Gaussians
    hidden: Tensor


@torch.no_grad()
def fill_hole(model: Any, cameras: Cameras, removed: Tensor, inpainter: Inpainter) -> Filling:
    """Find out what no photo has seen behind an object, and make it up.

    Args:
        model: a splatting model; its frame is the result's.
        cameras: undistorted training cameras.
        removed: the object's Gaussians. bool [N]
        inpainter: paints the views.
    """
    every = model.gaussians().detach()
    step = -(-len(cameras) // VIEWS)
    views = [cameras[index : index + 1] for index in range(0, len(cameras), step)]
    hidden = hidden_by(model, every, removed, views)
    photos = [(camera, render(model, every, camera).far()) for camera in views]
    alone, left = every.some(removed), every.some(~removed & ~hidden)
    silhouettes = [(render(model, alone, camera).alpha > 0.5).cpu().numpy() for camera in views]

    plane = support_of(alone, silhouettes, [render(model, left, camera) for camera in views], views)
    added = every.some(torch.zeros_like(removed))
    if plane is None:
        return Filling(added, torch.zeros_like(removed))
    surfaces = [Surface.seen(plane, camera) for camera in views]

    def look(index: int) -> tuple[Picture, NDArray[np.bool_]]:
        picture = render(model, left.joined(added), views[index])
        return picture, hole_of(surfaces[index], silhouettes[index], picture, views[index], photos)

    sizes = np.array([look(index)[1].sum() for index in range(len(views))])
    for index in np.argsort(-sizes, kind="stable")[:PAINTING_VIEWS].tolist():
        picture, hole = look(index)
        if hole.sum() >= LEAST_PIXELS:
            colours = _colours(picture, surfaces[index], hole, inpainter)
            added = added.joined(_splats(model, every, views[index], surfaces[index], hole, colours))
    return Filling(added, hidden if len(added.means) else torch.zeros_like(removed))


def _colours(picture: Picture, surface: Surface, hole: NDArray[np.bool_], inpainter: Inpainter) -> NDArray[np.float64]:
    """A colour 0 to 1 for each pixel of a hole [M, 3], continued from those pixels around it that show the surface."""
    import cv2

    rows, columns = np.nonzero(hole)
    margin = max(_MARGIN, np.ptp(rows), np.ptp(columns))
    window = tuple(slice(max(0, int(axis.min()) - margin), int(axis.max()) + margin + 1) for axis in (rows, columns))
    depth = surface.depth(*hole.shape)
    # What stands in front, and what is behind the surface's edge, must not bleed into it; nor must what is half empty.
    other = np.abs(depth - picture.far().cpu().numpy()) > _ON * depth
    # Where another thing touches the surface, its depth says nothing.
    other = cv2.dilate(other.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=_CONTACT) > 0
    rim = cv2.dilate(hole.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2) > 0
    rgb = (picture.rgb.clamp(0, 1) * 255).round().byte().cpu().numpy()
    painted = inpainter.inpaint(np.ascontiguousarray(rgb[window]), (rim | other)[window])
    return painted[hole[window]] / 255


def _splats(
    model: Any,
    like: Gaussians,
    camera: Cameras,
    surface: Surface,
    hole: NDArray[np.bool_],
    colours: NDArray[np.float64],
) -> Gaussians:
    """A flat Gaussian on a surface for each pixel of a hole, as wide there as the pixel is."""
    rows, columns = np.nonzero(hole)
    inverse = surface.inverse_depth(rows, columns)
    means = like.means.new_tensor(points_at(camera, rows, columns, 1 / inverse))
    quats, widths = _footprints(camera, surface, rows, columns)
    rgb = like.means.new_tensor(colours).clamp(1e-3, 1 - 1e-3)
    return Gaussians(
        means=means,
        scales=means.new_tensor(widths).clamp_min(1e-7).log(),
        quats=means.new_tensor(quats),
        features_dc=torch.logit(rgb) if model.config.sh_degree == 0 else (rgb - 0.5) / SH_C0,
        features_rest=means.new_zeros(len(means), *like.features_rest.shape[1:]),
        opacities=means.new_full((len(means), 1), _OPACITY),
    )


def _footprints(
    camera: Cameras, surface: Surface, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations w x y z [M, 4] and standard deviations [M, 3] of pixels [M] where they meet a surface."""
    from scipy.spatial.transform import Rotation

    matrix = camera.get_intrinsics_matrices()[0].double().cpu().numpy()
    focal = matrix[[0, 1], [0, 1]]
    inverse = surface.inverse_depth(rows, columns)
    ray = np.stack([(columns + 0.5 - matrix[0, 2]) / focal[0], (rows + 0.5 - matrix[1, 2]) / focal[1]], axis=1)
    ray = np.concatenate([ray, np.ones((len(ray), 1))], axis=1)
    # How the place ray / inverse moves from one pixel to the next, to the right and down: [M, 3, 2]
    moves = np.eye(3)[:, :2] / focal / inverse[:, None, None]
    moves = moves - ray[:, :, None] * surface.plane[:2] / inverse[:, None, None] ** 2
    axes, widths, _ = np.linalg.svd(moves, full_matrices=True)
    axes[np.linalg.det(axes) < 0, :, 2] *= -1
    # Towards the horizon a pixel is endlessly long.
    widths = np.minimum(widths, 8 * widths[:, 1:])
    widths = _WIDTH * np.concatenate([widths, _FLAT * widths[:, 1:]], axis=1)
    turn = camera.camera_to_worlds[0, :3, :3].double().cpu().numpy() @ np.diag([1.0, -1.0, -1.0])
    quats = Rotation.from_matrix(turn @ axes).as_quat()
    return np.roll(quats, 1, axis=1), widths
