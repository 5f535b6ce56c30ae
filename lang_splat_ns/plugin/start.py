"""A model set to finished Gaussians, after a look at whether they belong to the data set at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.plugin.init_from import PlyFrame, read_start
from lang_splat_ns.splatting.gaussians import Similarity

SAMPLE = 20_000
"""Gaussians that are looked for first; of most scenes the first camera sees some of them."""
UNLIKE_DB = 15.0
"""PSNR against training photos below which Gaussians hardly show the same place: renders of nothing have 7 to 8 dB on
the test scenes, two different photos of one scene 10 to 13 (medians), finished scenes 20 and more."""
MARGIN_DB = 3.0
"""How much better the other frame must be before it is taken for the right one."""


def start_from(path: Path, model: Any, datamanager: Any) -> None:
    """Set a model to the Gaussians of `path`, and its camera optimizer to what goes with them.

    Args:
        path: see `read_start`.
        model: a splatting model of this suite; its configuration says the frame of a `.ply`.
        datamanager: has the training photos.

    Raises:
        UserError: see `read_start`; or no training camera sees any of the Gaussians; or a `.ply` fits the photos much
            better in the other frame than in the one that it is said to be in.
    """
    outputs = datamanager.train_dataparser_outputs
    frame = Similarity.from_dataparser(outputs.dataparser_transform, outputs.dataparser_scale)
    given = model.config.ply_frame
    gaussians, poses = read_start(path, frame, given, _from_points(model))
    model.set_gaussians(gaussians)
    _take_poses(model, poses, path)
    is_ply = path.suffix == ".ply"
    if not any_in_view(gaussians.means, datamanager.train_dataset.cameras):
        hint = f"; if {path.name} is in the {_other(given)} frame, say ply-frame {_other(given)}" if is_ply else ""
        raise UserError(
            f"{path}: no training camera sees any of its {len(gaussians.means):,} Gaussians, so it is another scene "
            f"than {datamanager.config.data}, or in another frame of reference{hint}."
        )
    if is_ply:
        _compare_frames(path, model, datamanager, frame)


def any_in_view(means: Tensor, cameras: Cameras) -> bool:
    """Whether the centre of any Gaussian lies in the picture of any camera.

    Args:
        means: [N, 3], in the cameras' world.
        cameras: nerfstudio's, whose z axis points backwards.
    """
    few = means[:: max(1, len(means) // SAMPLE)]
    return any(_in_view(points, camera) for points in (few, means) for camera in cameras.flatten())


def _in_view(points: Tensor, camera: Cameras) -> bool:
    pose, matrix = (tensor.to(points) for tensor in (camera.camera_to_worlds, camera.get_intrinsics_matrices()))
    seen = (points - pose[:3, 3]) @ pose[:3, :3]
    depth = -seen[:, 2]
    ahead = depth > 0
    x = matrix[0, 0] * seen[ahead, 0] / depth[ahead] + matrix[0, 2]
    y = -matrix[1, 1] * seen[ahead, 1] / depth[ahead] + matrix[1, 2]
    return bool(((x >= 0) & (x < camera.width.item()) & (y >= 0) & (y < camera.height.item())).any())


def _take_poses(model: Any, poses: Tensor | None, path: Path) -> None:
    """Photos and Gaussians fit together at the poses that were optimized along with them."""
    if poses is None:
        return
    own = getattr(model.camera_optimizer, "pose_adjustment", None)
    if own is not None and own.shape == poses.shape:
        own.data = poses.to(own)
    elif bool(poses.any()):
        CONSOLE.print(
            f"[yellow]{path} has optimized the cameras' poses too, and this run does not: give it the same photos and "
            "the same --pipeline.model.camera-optimizer.mode, or use lang-splat lift.[/yellow]"
        )


def _compare_frames(path: Path, model: Any, datamanager: Any, frame: Similarity) -> None:
    """Compare renders with photos. A `.ply` says nothing about its frame, so it is easily told wrong."""
    given: PlyFrame = model.config.ply_frame
    quality = _likeness(model, datamanager)
    if quality >= UNLIKE_DB:
        return
    kept = model.gaussians().detach()
    model.set_gaussians(read_start(path, frame, _other(given), _from_points(model)).gaussians)
    other = _likeness(model, datamanager)
    if other > quality + MARGIN_DB:
        raise UserError(
            f"{path} looks like the photos in the {_other(given)} frame ({other:.1f} dB) and not in the {given} frame "
            f"({quality:.1f} dB): say ply-frame {_other(given)}."
        )
    model.set_gaussians(kept)
    CONSOLE.print(
        f"[yellow]{path} looks little like the photos ({quality:.1f} dB on training views): does it show the same "
        "place at the same poses?[/yellow]"
    )


def _from_points(model: Any) -> bool:
    return bool(getattr(model.config, "from_points", False))


def _other(frame: PlyFrame) -> PlyFrame:
    return "nerfstudio" if frame == "dataset" else "dataset"


@torch.no_grad()
def _likeness(model: Any, datamanager: Any) -> float:
    """Mean PSNR in dB of a few training photos; distortion is ignored."""
    dataset = datamanager.train_dataset
    values = []
    was_training = model.training
    model.eval()
    for index in sorted({0, len(dataset) // 2, len(dataset) - 1}):
        # The plain model's outputs: there is no language yet.
        rgb = model.get_outputs(dataset.cameras[index : index + 1].to(model.device))["rgb"]
        photo = dataset.get_image_float32(index)[..., :3].to(rgb)
        values.append(-10 * torch.log10((rgb - photo).square().mean().clamp_min(1e-10)))
    model.train(was_training)
    return float(torch.stack(values).mean())
