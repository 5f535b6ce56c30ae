"""The hole that a removed object leaves, filled: what other views see of it is there already, the rest is painted.

`holes` says which cells of the plane that the object stands on no photo has seen. A 2D inpainter continues the plane's
colours into them, as seen from straight above, and each painted cell becomes a flat Gaussian on the plane. Gaussians
that the object hid from every photo are taken out, since they look like nothing.
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

from lang_splat_ns.perception.inpainters import Inpainter
from lang_splat_ns.plugin.holes import EMPTY, Ground, Picture, hidden_by, look_at_ground, render
from lang_splat_ns.plugin.support import Chart, support_of
from lang_splat_ns.splatting.boxes import split_pieces
from lang_splat_ns.splatting.gaussians import SH_C0, Gaussians

VIEWS = 64
"""Views that are looked at, evenly spread over all."""
LEAST_CELLS = 12
"""Smaller holes are cracks between splats."""
_SEAM = 3
"""Cells around a hole that are laid anew in their own colours, since what is there is frayed."""
_BESIDE = 400
"""Places beside an object that are taken from each view to find its support."""
_WIDTH = 0.7
"""Standard deviation of a painted Gaussian, in cells."""
_FLAT = 0.1
"""Its thickness, as a share of that."""
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
        inpainter: paints the planes that objects stand on, as seen from straight above.
    """
    every = model.gaussians().detach()
    added = every.some(torch.zeros_like(removed))
    if not removed.any():
        return Filling(added, torch.zeros_like(removed))
    step = -(-len(cameras) // VIEWS)
    views = [cameras[index : index + 1] for index in range(0, len(cameras), step)]
    pictures = [render(model, every, camera) for camera in views]
    hidden = hidden_by(model, every, removed, views)
    pieces = split_pieces(every.some(removed).means)
    for piece in range(int(pieces.max()) + 1):
        which = removed.nonzero()[:, 0][pieces == piece]
        silhouettes = [render(model, every.some(which), camera).alpha > 0.5 for camera in views]
        found = _chart(every.some(which), pictures, silhouettes)
        if found is None:
            continue
        ground = look_at_ground(found, pictures, silhouettes)
        if ground.hole.sum() < LEAST_CELLS:
            continue
        laid, colours = _painted(ground, inpainter)
        added = added.joined(_splats(model, every, found, laid, colours))
    return Filling(added, hidden)


def _chart(thing: Gaussians, pictures: Sequence[Picture], silhouettes: Sequence[Tensor]) -> Chart | None:
    """Cells of the plane that an object stands on, as wide as the pixels that see it; None where there is no plane."""
    places = _places(thing)
    beside = [_beside(picture, silhouette) for picture, silhouette in zip(pictures, silhouettes, strict=True)]
    eyes = np.stack([_numpy(picture.camera.camera_to_worlds[0, :, 3]) for picture in pictures])
    plane = support_of(places, np.concatenate(beside), eyes)
    if plane is None:
        return None
    distances = np.linalg.norm(eyes - places.mean(axis=0), axis=1)
    focal = [float(picture.camera.fx.item()) for picture in pictures]
    return Chart.around(places, plane, float(np.median(distances / focal)))


def _beside(picture: Picture, silhouette: Tensor) -> NDArray[np.float64]:
    """Places that a view shows beside an object, the normals there and the depths: [M, 7]."""
    rows, columns = silhouette.nonzero(as_tuple=True)
    if not len(rows):
        return np.zeros((0, 7))
    window = torch.zeros_like(silhouette)
    reach = [int(0.3 * (axis.max() - axis.min())) + 8 for axis in (rows, columns)]
    top, left = (max(0, int(axis.min()) - far) for axis, far in zip((rows, columns), reach, strict=True))
    window[top : int(rows.max()) + reach[0], left : int(columns.max()) + reach[1]] = True
    window &= ~silhouette & (picture.alpha >= EMPTY)
    found = torch.cat([picture.places(), picture.normals(), picture.depth[..., None]], dim=-1)[window]
    return _numpy(found[:: -(-len(found) // _BESIDE) or 1])


def _painted(ground: Ground, inpainter: Inpainter) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Cells to lay [H, W], and their colours 0 to 1 [M, 3]: the hole and its seam."""
    import cv2

    laid = cv2.dilate(ground.hole.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=_SEAM) > 0
    laid &= ground.real
    image = (ground.colours.clip(0, 1) * 255).round().astype(np.uint8)
    painted = inpainter.inpaint(image, ~ground.seen)
    return laid, np.where(ground.seen[..., None], ground.colours, painted / 255)[laid]


def _splats(
    model: Any, like: Gaussians, chart: Chart, laid: NDArray[np.bool_], colours: NDArray[np.float64]
) -> Gaussians:
    """A flat Gaussian for each cell that is laid."""
    from scipy.spatial.transform import Rotation

    means = like.means.new_tensor(chart.places()[laid])
    rgb = like.means.new_tensor(colours).clamp(1e-3, 1 - 1e-3)
    quat = np.roll(Rotation.from_matrix(chart.axes.T).as_quat(), 1)
    widths = _WIDTH * chart.cell * means.new_tensor([1.0, 1.0, _FLAT])
    return Gaussians(
        means=means,
        scales=widths.log().expand(len(means), 3),
        quats=means.new_tensor(quat).expand(len(means), 4),
        features_dc=torch.logit(rgb) if model.config.sh_degree == 0 else (rgb - 0.5) / SH_C0,
        features_rest=means.new_zeros(len(means), *like.features_rest.shape[1:]),
        opacities=means.new_full((len(means), 1), _OPACITY),
    )


def _places(thing: Gaussians) -> NDArray[np.float64]:
    return _numpy(thing.means[torch.sigmoid(thing.opacities[:, 0]) > 0.5])


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()
