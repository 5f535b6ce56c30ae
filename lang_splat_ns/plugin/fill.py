"""The hole that a removed object leaves, filled: what other views see of it is there already, the rest is painted.

What the object hid from all photos has no Gaussians. The training views that show most of that hole are rendered
without the object; a 2D inpainter continues their colours into it, depth is continued likewise, and each painted pixel
becomes a Gaussian. A view renders what the ones before it have added, and paints only what is still missing.

A hole is where little is left to see. Where a far wall shows through a hole in a table, it is not noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from lang_splat_ns.perception.inpainters import Inpainter
from lang_splat_ns.splatting.gaussians import SH_C0, Gaussians
from lang_splat_ns.splatting.projection import opencv_view
from lang_splat_ns.splatting.rasterizer import rasterize

MOST_VIEWS = 6
"""Views that paint; the first few see nearly all of a hole."""
UNSEEN = 0.7
"""Alpha below which a pixel shows a hole once the object is gone."""
LEAST_PIXELS = 12
"""Smaller holes are cracks between splats."""
_RIM = 2
"""Pixels around a hole that are painted too, since what is blended there is half empty."""
_WIDTH = 0.7
"""Standard deviation of a painted Gaussian, in pixels of its view."""
_EVENING = 60
"""Rounds in which depth in a hole becomes even, each some pixels wide."""
_OPACITY = 4.0
"""Its opacity's logit."""


@dataclass(frozen=True)
class _Picture:
    """One view of a scene: colours [H, W, 3], depth along the optical axis [H, W] and alpha [H, W]."""

    rgb: Tensor
    depth: Tensor
    alpha: Tensor


@torch.no_grad()
def fill_hole(model: Any, cameras: Cameras, removed: Tensor, inpainter: Inpainter) -> Gaussians:
    """Gaussians for what no photo has seen behind an object.

    Args:
        model: a splatting model; its frame is the result's.
        cameras: undistorted training cameras.
        removed: the object's Gaussians. bool [N]
        inpainter: paints the views.

    Returns:
        None or more Gaussians.
    """
    every = model.gaussians().tensors()
    alone = Gaussians(**{name: tensor.detach()[removed] for name, tensor in every.items()})
    scene = Gaussians(**{name: tensor.detach()[~removed] for name, tensor in every.items()})
    added = Gaussians(**{name: tensor[:0] for name, tensor in scene.tensors().items()})
    sizes = torch.tensor([int(_hole(model, scene, alone, camera).sum()) for camera in _each(cameras)])
    for index in sizes.argsort(descending=True, stable=True)[:MOST_VIEWS].tolist():
        camera = cameras[index : index + 1]
        hole = _hole(model, joined(scene, added), alone, camera)
        if int(hole.sum()) >= LEAST_PIXELS:
            added = joined(added, _painted(model, joined(scene, added), camera, hole, inpainter))
    return added


def joined(one: Gaussians, other: Gaussians) -> Gaussians:
    """Both together, the first ones first."""
    others = other.tensors()
    return Gaussians(**{name: torch.cat([tensor, others[name]]) for name, tensor in one.tensors().items()})


def _each(cameras: Cameras) -> list[Cameras]:
    return [cameras[index : index + 1] for index in range(len(cameras))]


def _hole(model: Any, scene: Gaussians, alone: Gaussians, camera: Cameras) -> Tensor:
    """Pixels that the object covers and nothing else does: bool [H, W]."""
    return (_render(model, alone, camera).alpha > 0.5) & (_render(model, scene, camera).alpha < UNSEEN)


def _render(model: Any, gaussians: Gaussians, camera: Cameras) -> _Picture:
    view = opencv_view(camera.camera_to_worlds[0].to(gaussians.means))
    depth = gaussians.means @ view[2, :3, None] + view[2, 3]
    degree = model.config.sh_degree
    harmonics = torch.cat([gaussians.features_dc[:, None], gaussians.features_rest], dim=1)
    image, alpha, _ = rasterize(
        gaussians.means,
        gaussians.quats,
        torch.exp(gaussians.scales),
        torch.sigmoid(gaussians.opacities)[:, 0],
        torch.sigmoid(gaussians.features_dc) if degree == 0 else harmonics,
        view,
        camera.get_intrinsics_matrices()[0].to(gaussians.means),
        int(camera.width.item()),
        int(camera.height.item()),
        sh_degree=None if degree == 0 else degree,
        extra=depth,
        rasterize_mode=model.config.rasterize_mode,
    )
    return _Picture(image[..., :3], image[..., 3] / alpha[..., 0].clamp_min(1e-6), alpha[..., 0])


def _painted(model: Any, scene: Gaussians, camera: Cameras, hole: Tensor, inpainter: Inpainter) -> Gaussians:
    """A Gaussian for each pixel of a view's hole, at the depth and in the colour that are around it."""
    import cv2

    picture = _render(model, scene, camera)
    wide = cv2.dilate(hole.cpu().numpy().astype(np.uint8), np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8))
    rgb = (picture.rgb.clamp(0, 1) * 255).round().byte().cpu().numpy()
    colours = inpainter.inpaint(rgb, wide > 0)
    depths = _continued(picture.depth.float().cpu().numpy(), wide > 0)
    rows, columns = hole.nonzero(as_tuple=True)
    z = torch.from_numpy(depths).to(picture.depth)[rows, columns]
    rgb_there = torch.from_numpy(colours.copy()).to(picture.rgb)[rows, columns] / 255
    matrix = camera.get_intrinsics_matrices()[0].to(z)
    x = (columns + 0.5 - matrix[0, 2]) / matrix[0, 0] * z
    y = (rows + 0.5 - matrix[1, 2]) / matrix[1, 1] * z
    view = opencv_view(camera.camera_to_worlds[0].to(z))
    means = (torch.stack([x, y, z], dim=1) - view[:3, 3]) @ view[:3, :3]
    width = (_WIDTH * z / matrix[0, 0]).clamp_min(1e-7).log()
    rgb_there = rgb_there.clamp(1e-3, 1 - 1e-3)
    return Gaussians(
        means=means,
        scales=width[:, None].repeat(1, 3),
        quats=means.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(means), 1),
        features_dc=torch.logit(rgb_there) if model.config.sh_degree == 0 else (rgb_there - 0.5) / SH_C0,
        features_rest=means.new_zeros(len(means), *scene.features_rest.shape[1:]),
        opacities=means.new_full((len(means), 1), _OPACITY),
    )


def _continued(depth: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Depth [H, W] with the nearest known one in the hole, made even there; nothing is ever extrapolated."""
    import cv2
    from scipy.ndimage import distance_transform_edt

    if hole.all():
        return depth
    nearest: Any = distance_transform_edt(hole, return_distances=False, return_indices=True)
    filled = depth[tuple(nearest)]
    for _ in range(_EVENING):
        filled = np.where(hole, cv2.blur(filled, (5, 5)), filled)
    return filled
