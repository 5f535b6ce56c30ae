"""Finished runs: opening one for questions, and cameras of its photos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras

from lang_splat_ns.errors import UserError
from lang_splat_ns.plugin import checkpoints
from lang_splat_ns.plugin.pipeline import LanguagePipeline
from lang_splat_ns.plugin.undistort import undistort


@dataclass(frozen=True)
class Run:
    """A trained run, loaded.

    Attributes:
        config: nerfstudio's trainer configuration.
        pipeline: the loaded pipeline, in evaluation mode.
        checkpoint: the file that was loaded.
    """

    config: Any
    pipeline: LanguagePipeline
    checkpoint: Path


def open_run(load_config: Path) -> Run:
    """Load a run of a language method as `ns-eval` does.

    Raises:
        UserError: no such file, no checkpoint, or the run is of a method that does not answer text.
    """
    if not load_config.is_file():
        raise UserError(f"{load_config}: no such file; --load-config wants the config.yml of a training run.")
    folder = load_config.parent / "nerfstudio_models"
    if not checkpoints.steps(folder):
        raise UserError(f"{folder}: no checkpoint yet; let the training run until it has saved one.")
    from nerfstudio.utils.eval_utils import eval_setup

    def run_lies_here(config: Any) -> Any:
        # A run stays usable when its folder is moved or opened from elsewhere.
        config.get_base_dir = lambda: load_config.parent
        if hasattr(config.pipeline, "run_dir"):
            config.pipeline.run_dir = load_config.parent
        return config

    config, pipeline, checkpoint, _ = eval_setup(load_config, test_mode="test", update_config_callback=run_lies_here)
    if not isinstance(pipeline, LanguagePipeline):
        raise UserError(f"{load_config}: {config.method_name} does not answer text; train a language method.")
    return Run(config, pipeline, checkpoint)


def frame_names(run: Run) -> list[str]:
    """File names of all photos: the evaluation ones first."""
    manager = run.pipeline.datamanager
    return [path.name for path in (*manager.eval_dataset.image_filenames, *manager.train_dataset.image_filenames)]


def frame_camera(run: Run, name: str | None) -> tuple[str, Cameras]:
    """Camera of a photo, undistorted, at the resolution of the run.

    Args:
        run: the run.
        name: file name or stem of a photo; None is the first evaluation photo.

    Raises:
        UserError: there is no such photo.
    """
    manager = run.pipeline.datamanager
    for dataset in (manager.eval_dataset, manager.train_dataset):
        for index, path in enumerate(dataset.image_filenames):
            if name in (None, path.name, path.stem):
                distorted = dataset._dataparser_outputs.cameras[index]
                return path.name, _undistorted(distorted, manager.config.camera_res_scale_factor)
    raise UserError(f"No photo {name!r} in this run; its photos are {', '.join(frame_names(run)[:8])}, ...")


def _undistorted(camera: Cameras, factor: float) -> Cameras:
    width, height = int(camera.width.item()), int(camera.height.item())
    # Only the size of the result and its intrinsics matter, so an empty image serves.
    image, intrinsics = undistort(np.zeros((height, width), np.uint8), camera)
    height, width = (math.floor(side * factor) for side in image.shape[:2])
    matrix = torch.from_numpy(np.asarray(intrinsics, dtype=np.float32)) * factor
    return Cameras(
        camera_to_worlds=camera.camera_to_worlds.reshape(1, 3, 4),
        fx=matrix[0, 0].reshape(1, 1),
        fy=matrix[1, 1].reshape(1, 1),
        cx=matrix[0, 2].reshape(1, 1),
        cy=matrix[1, 2].reshape(1, 1),
        width=torch.tensor([[width]]),
        height=torch.tensor([[height]]),
    )
