"""What a person takes out of the viewer: a picture, and a good place to look from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

LOOK_SIZE = 96
"""Height in pixels at which views are compared."""
CANDIDATES = 16
"""Photos whose views are rendered to compare them."""


def png(rgb: Tensor) -> bytes:
    """A picture [H, W, 3] in 0..1 as the content of a PNG file."""
    from PIL import Image

    from lang_splat_ns.evaluation.pictures import to_uint8

    buffer = io.BytesIO()
    Image.fromarray(to_uint8(rgb.detach().cpu().numpy())).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


@dataclass(frozen=True)
class Place:
    """Where to look from, and at what, in nerfstudio's frame.

    Attributes:
        position: of the camera. [3]
        target: middle of the selection. [3]
    """

    position: np.ndarray
    target: np.ndarray


@torch.no_grad()
def best_place(model: Any, cameras: Cameras, mask: Tensor) -> Place:
    """The photo's camera from which most of a selection is seen, turned towards its middle.

    Args:
        model: whose Gaussians they are.
        cameras: of the photos.
        mask: the selection, bool [N], not empty.
    """
    points = model.gaussians().means.detach()[mask].cpu()
    target = points.median(0).values
    shares = torch.stack([_share_in_view(cameras[index], points) for index in range(len(cameras))])
    candidates = shares.topk(min(CANDIDATES, len(shares))).indices.tolist()
    seen = [_seen(model, cameras[index : index + 1], mask) for index in candidates]
    best = candidates[int(np.argmax(seen))]
    position = cameras.camera_to_worlds[best, :3, 3].cpu()
    return Place(position.double().numpy(), target.double().numpy())


def flight(start: Place, end: Place, steps: int) -> list[Place]:
    """Places on the way from one to another, slow at both ends; the last is the end."""
    shares = [0.5 - 0.5 * np.cos(np.pi * (step + 1) / steps) for step in range(steps)]
    return [
        Place((1 - share) * start.position + share * end.position, (1 - share) * start.target + share * end.target)
        for share in shares
    ]


def _share_in_view(camera: Cameras, points: Tensor) -> Tensor:
    """Share of points [M, 3] that project into a camera's picture, a little less where they look small."""
    pose = camera.camera_to_worlds.cpu().reshape(3, 4)
    inside = (points - pose[:, 3]) @ pose[:, :3]  # OpenGL: x right, y up, looking along -z.
    depth = -inside[:, 2]
    x = camera.fx.cpu() * inside[:, 0] / depth + camera.cx.cpu()
    y = camera.cy.cpu() - camera.fy.cpu() * inside[:, 1] / depth
    width, height = camera.width.cpu(), camera.height.cpu()
    visible = (depth > 1e-3) & (x > 0) & (x < width) & (y > 0) & (y < height)
    return visible.float().mean() - 0.01 * depth.clamp_min(0).mean()


def _seen(model: Any, camera: Cameras, mask: Tensor) -> float:
    """How large a selection is in a camera's picture, less what the border cuts."""
    small = Cameras(
        camera.camera_to_worlds, camera.fx, camera.fy, camera.cx, camera.cy, width=camera.width, height=camera.height
    )
    small.rescale_output_resolution(LOOK_SIZE / float(camera.height.max()))
    seen, _ = model.blend(small, mask.float()[:, None])
    area = seen[..., 0]
    border = torch.cat([area[0], area[-1], area[:, 0], area[:, -1]])
    return float(area.mean()) * (1.0 - min(1.0, 4.0 * float(border.mean())))
