"""Where a removed object leaves a hole: those cells of its support that no photo has seen.

In a closed room something shows through every hole: the floor through a table, or shapeless Gaussians that no photo
ever saw. So a hole is not where nothing is left to see. It is what no photo has seen of the plane that the object
stands on, or hangs on, inside the convex hull of what photos have seen of it around the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from numpy.typing import NDArray
from torch import Tensor

from lang_splat_ns.plugin.support import FACING, Chart
from lang_splat_ns.splatting.gaussians import Gaussians
from lang_splat_ns.splatting.projection import opencv_view
from lang_splat_ns.splatting.rasterizer import rasterize

EMPTY = 0.7
"""Alpha below which a pixel counts as empty."""
_ON = 0.02
"""Share of its depth by which a place may be off the plane and still be on it."""
_THROUGH = 0.05
"""Share of its depth by which a photo must see farther than a cell to have looked through it."""
_HIDDEN = 0.5
"""Share of the views in which the object is before what belongs to its hole."""
_RIM = 2
"""Pixels around an object's outline, where its colour bleeds into what is beside it."""


@dataclass(frozen=True)
class Picture:
    """One view of a scene: colours [H, W, 3], depth along the optical axis [H, W] and alpha [H, W]."""

    camera: Cameras
    rgb: Tensor
    depth: Tensor
    alpha: Tensor

    def far(self) -> Tensor:
        """Depth, and infinity where it is empty: float [H, W]."""
        return torch.where(self.alpha < EMPTY, torch.inf, self.depth)

    def eye(self) -> Tensor:
        """The camera's place in the world: [3]."""
        return self.camera.camera_to_worlds[0, :, 3].to(self.depth)

    def view(self) -> Tensor:
        """World to camera, OpenCV axes: [4, 4]."""
        return opencv_view(self.camera.camera_to_worlds[0].to(self.depth))

    def places(self) -> Tensor:
        """What each pixel shows, in the world's frame: [H, W, 3]."""
        matrix, view = self.camera.get_intrinsics_matrices()[0].to(self.depth), self.view()
        height, width = self.depth.shape
        rows, columns = torch.meshgrid(
            torch.arange(height).to(self.depth), torch.arange(width).to(self.depth), indexing="ij"
        )
        x = (columns + 0.5 - matrix[0, 2]) / matrix[0, 0] * self.depth
        y = (rows + 0.5 - matrix[1, 2]) / matrix[1, 1] * self.depth
        return (torch.stack([x, y, self.depth], dim=-1) - view[:3, 3]) @ view[:3, :3]

    def normals(self) -> Tensor:
        """Of the surface that each pixel shows, towards the camera: [H, W, 3], unit vectors."""
        places = self.places()
        down, right = (places.roll(-2, axis) - places.roll(2, axis) for axis in (0, 1))
        normals = torch.nn.functional.normalize(torch.linalg.cross(right, down), dim=-1)
        return normals * -torch.sign((normals * (places - self.eye())).sum(-1, keepdim=True))

    def pixels_of(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where places [..., 3] are seen: row and column, depth, and whether that is in the picture."""
        view, matrix = self.view(), self.camera.get_intrinsics_matrices()[0].to(self.depth)
        inside = places @ view[:3, :3].T + view[:3, 3]
        depth = inside[..., 2]
        pixels = (inside @ matrix.T)[..., :2] / depth.clamp_min(1e-9)[..., None]
        column, row = pixels.floor().clamp(-1, 1 << 20).long().unbind(-1)
        height, width = self.depth.shape
        shown = (depth > 1e-6) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        return row.clamp(0, height - 1), column.clamp(0, width - 1), depth, shown


def render(model: Any, gaussians: Gaussians, camera: Cameras) -> Picture:
    """What one camera sees of Gaussians in the model's frame."""
    degree = model.config.sh_degree
    view, arguments = _arguments(model, gaussians, camera)
    depth = gaussians.means @ view[2, :3, None] + view[2, 3]
    harmonics = torch.cat([gaussians.features_dc[:, None], gaussians.features_rest], dim=1)
    colours = torch.sigmoid(gaussians.features_dc) if degree == 0 else harmonics
    image, alpha, _ = rasterize(colors=colours, extra=depth, sh_degree=None if degree == 0 else degree, **arguments)
    return Picture(camera, image[..., :3], image[..., 3] / alpha[..., 0].clamp_min(1e-6), alpha[..., 0])


def hidden_by(model: Any, gaussians: Gaussians, removed: Tensor, cameras: Sequence[Cameras]) -> Tensor:
    """Gaussians that only show once an object is gone: bool [N].

    No photo has formed them, so they have no meaningful colour and place. These are Gaussians of which every view sees
    less than half, at best, of what it sees without the object.

    Args:
        model: how to render.
        gaussians: the whole scene.
        removed: the object's. bool [N]
        cameras: all views.
    """
    with_it, without = (torch.zeros(len(removed), device=gaussians.means.device) for _ in range(2))
    rest = gaussians.some(~removed)
    for camera in cameras:
        with_it = torch.maximum(with_it, _seen(model, gaussians, camera))
        without[~removed] = torch.maximum(without[~removed], _seen(model, rest, camera))
    return ~removed & (without > 0.05) & (with_it < 0.5 * without)


@dataclass(frozen=True)
class Ground:
    """What photos have seen of a plane's cells.

    Attributes:
        colours: mean colour 0 to 1 of each cell, where it is seen. float [H, W, 3]
        seen: a photo shows the plane there. bool [H, W]
        real: the plane must be there: the cell is in the convex hull of what is seen, and no photo looks through it.
            bool [H, W]
        hole: it is there, but no photo shows it, since the object is in front of it. bool [H, W]
    """

    colours: NDArray[np.float64]
    seen: NDArray[np.bool_]
    real: NDArray[np.bool_]
    hole: NDArray[np.bool_]


def look_at_ground(chart: Chart, pictures: Sequence[Picture], silhouettes: Sequence[Tensor]) -> Ground:
    """What photos see of a plane, and where it must go on behind an object.

    Args:
        chart: cells of the plane around the object.
        pictures: views with the object.
        silhouettes: pixels of the object in each. bool [H, W]
    """
    from skimage.morphology import convex_hull_image, opening

    cells = pictures[0].depth.new_tensor(chart.places())
    normal = pictures[0].depth.new_tensor(chart.axes[2])
    weights, through, views, behind = (torch.zeros(cells.shape[:2]).to(cells) for _ in range(4))
    colours = torch.zeros_like(cells)
    for picture, silhouette in zip(pictures, silhouettes, strict=True):
        row, column, depth, shown = picture.pixels_of(cells)
        views += shown
        own = shown & _grown(silhouette, _RIM)[row, column]
        behind += own
        clear = shown & ~own
        facing = _shrunk(picture.normals() @ normal > FACING, _RIM)
        shows = clear & facing[row, column] & ((picture.far()[row, column] / depth - 1).abs() < _ON)
        # Things far away, or seen aslant, are seen badly.
        slant = (torch.nn.functional.normalize(cells - picture.eye(), dim=-1) @ normal).abs()
        weight = shows * slant / depth.clamp_min(1e-6) ** 2
        colours += weight[..., None] * picture.rgb[row, column]
        weights += weight
        # Around an outline depth is blended.
        nearest = -_largest(-picture.far(), 1)
        through += clear & (nearest[row, column] > (1 + _THROUGH) * depth)
    seen = opening((weights > 0).cpu().numpy(), np.ones((3, 3), bool))
    # One photo may be wrong.
    real = (convex_hull_image(seen) if seen.any() else seen) & (through < min(2, len(pictures))).cpu().numpy()
    hole = real & ~seen & (behind > _HIDDEN * views).cpu().numpy()
    return Ground((colours / weights.clamp_min(1e-12)[..., None]).double().cpu().numpy(), seen, real, hole)


def _largest(values: Tensor, pixels: int) -> Tensor:
    """The largest of the values [H, W] within so many pixels."""
    return torch.nn.functional.max_pool2d(values[None], 2 * pixels + 1, 1, pixels)[0]


def _grown(mask: Tensor, pixels: int) -> Tensor:
    return _largest(mask.float(), pixels) > 0


def _shrunk(mask: Tensor, pixels: int) -> Tensor:
    return ~_grown(~mask, pixels)


def _seen(model: Any, gaussians: Gaussians, camera: Cameras) -> Tensor:
    """How much a view sees of each Gaussian, in pixels [N]: the gradient of what is blended by its colour."""
    with torch.enable_grad():
        colours = gaussians.means.new_zeros(len(gaussians.means), 1, requires_grad=True)
        image, _, _ = rasterize(colors=colours, **_arguments(model, gaussians, camera)[1])
        return torch.autograd.grad(image.sum(), colours)[0][:, 0]


def _arguments(model: Any, gaussians: Gaussians, camera: Cameras) -> tuple[Tensor, dict[str, Any]]:
    view = opencv_view(camera.camera_to_worlds[0].to(gaussians.means))
    return view, {
        "means": gaussians.means,
        "quats": gaussians.quats,
        "scales": torch.exp(gaussians.scales),
        "opacities": torch.sigmoid(gaussians.opacities)[:, 0],
        "viewmat": view,
        "K": camera.get_intrinsics_matrices()[0].to(gaussians.means),
        "width": int(camera.width.item()),
        "height": int(camera.height.item()),
        "rasterize_mode": model.config.rasterize_mode,
    }
