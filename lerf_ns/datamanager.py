"""Rays with LERF's targets for nerfacto, and whole photos with them for Gaussians."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader

from lang_splat_ns.plugin.datamanager import SplatDataManager, SplatDataManagerConfig, as_floats
from lang_splat_ns.plugin.undistort import undistort, undistort_mask
from lerf_ns.pixels import PixelStore
from lerf_ns.source import PyramidOptions, PyramidSource, random_scales

SCALE_LABEL, PIXEL_SPREAD = "lerf_scale", "lerf_spread"
"""Names under which rays carry their scale in 0..1, and their photo's height divided by its focal length."""


class UndistortedDataset(InputDataset):
    """Photos as splatting methods see them: undistorted and cropped, so that rays, labels and pyramids all fit.

    Args:
        dataparser_outputs: what nerfstudio's parser found.
        scale_factor: the training resolution as a share of the photos' own.
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        self._distorted = deepcopy(self.cameras)
        parameters = self._distorted.distortion_params
        for index in range(len(self.cameras)):
            if parameters is not None and bool(parameters[index].any()):
                self._straighten(index)
        # Any distortion that stayed would be applied to the rays again.
        self.cameras.distortion_params = None

    def _straighten(self, index: int) -> None:
        camera, cameras = self._distorted[index], self.cameras
        # Only the size of the result and its intrinsics matter, so an empty image serves.
        empty = np.zeros((int(camera.height.item()), int(camera.width.item())), np.uint8)
        image, intrinsics = undistort(empty, camera)
        cameras.height[index], cameras.width[index] = image.shape[:2]
        cameras.fx[index], cameras.fy[index] = float(intrinsics[0, 0]), float(intrinsics[1, 1])
        cameras.cx[index], cameras.cy[index] = float(intrinsics[0, 2]), float(intrinsics[1, 2])

    def get_data(self, image_idx: int, image_type: Any = "float32") -> dict[str, Any]:
        """One photo, [H, W, 3 or 4], and its mask where the data set has masks."""
        data = super().get_data(image_idx, image_type)
        camera = self._distorted[image_idx]
        data["image"] = torch.from_numpy(undistort(data["image"].numpy(), camera)[0])
        if "mask" in data:
            data["mask"] = torch.from_numpy(undistort_mask(data["mask"][..., 0].numpy(), camera))[..., None]
        return data


@dataclass
class LerfDataManagerConfig(PyramidOptions, VanillaDataManagerConfig):
    """Rays, and what LERF trains them towards."""

    _target: type = field(default_factory=lambda: LerfDataManager)
    train_num_rays_per_batch: int = 4096
    """Rays per training step."""
    eval_num_rays_per_batch: int = 4096
    """Rays per evaluation step."""


class LerfDataManager(VanillaDataManager[InputDataset]):
    """Rays of photos of any sizes and intrinsics.

    A photo is drawn at random and a pixel in it, so that small photos count as much as large ones. Photos are held as
    bytes. The pyramids are opened by training only: viewing and evaluating never touch encoders or the store.
    """

    config: LerfDataManagerConfig

    @cached_property
    def features(self) -> PyramidSource:
        """Targets of the training photos' pixels."""
        return PyramidSource(self.train_dataset, self.config, Path(str(self.config.data)), str(self.device))

    def create_train_dataset(self) -> InputDataset:
        """The training photos, undistorted."""
        return UndistortedDataset(self.train_dataparser_outputs, self.config.camera_res_scale_factor)

    def create_eval_dataset(self) -> InputDataset:
        """The evaluation photos, undistorted."""
        outputs = self.dataparser.get_dataparser_outputs(split=self.test_split)
        return UndistortedDataset(outputs, self.config.camera_res_scale_factor)

    def setup_train(self) -> None:
        """Nothing yet: photos are read when the first ray is wanted."""

    def setup_eval(self) -> None:
        """What gives evaluation photos one by one."""
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(self.eval_dataset, device=self.device)
        self.eval_dataloader = RandIndicesEvalDataloader(self.eval_dataset, device=self.device)

    @cached_property
    def train_pixels(self) -> PixelStore:
        """All pixels of the training photos."""
        return PixelStore(self.train_dataset)

    @cached_property
    def eval_pixels(self) -> PixelStore:
        """All pixels of the evaluation photos."""
        return PixelStore(self.eval_dataset)

    def train_camera_copy(self) -> Cameras:
        """All training cameras, undistorted, on the training device."""
        return deepcopy(self.train_dataset.cameras).to(self.device)

    def eval_camera_copy(self) -> Cameras:
        """All evaluation cameras, undistorted, on the training device."""
        return deepcopy(self.eval_dataset.cameras).to(self.device)

    def eval_photo(self, index: int) -> torch.Tensor:
        """An evaluation photo as its camera sees it: float [H, W, 3] in 0..1."""
        return as_floats(self.eval_dataset.get_data(index)["image"])

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Rays with their colours, and with their targets at random scales."""
        self.train_count += 1
        rays, batch = self._draw(self.train_pixels, self._train_cameras, self.config.train_num_rays_per_batch)
        photos, pixels = batch["indices"][:, 0], batch["indices"][:, 1:]
        heights, widths = (getattr(self._train_cameras, side)[photos, 0] for side in ("height", "width"))
        scales = random_scales(len(photos), self.device)
        places = (pixels + 0.5) / torch.stack([heights, widths], dim=-1)
        batch["language"] = self.features.targets(photos, places, scales)
        spread = heights / self._train_cameras.fy[photos, 0]
        rays.metadata |= {SCALE_LABEL: scales[:, None], PIXEL_SPREAD: spread[:, None]}
        return rays, batch

    def next_eval(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Rays of the evaluation photos with their colours."""
        self.eval_count += 1
        return self._draw(self.eval_pixels, self.eval_camera_copy(), self.config.eval_num_rays_per_batch)

    def get_train_rays_per_batch(self) -> int:
        """Rays per training step."""
        return self.config.train_num_rays_per_batch

    def get_eval_rays_per_batch(self) -> int:
        """Rays per evaluation step."""
        return self.config.eval_num_rays_per_batch

    @cached_property
    def _train_cameras(self) -> Cameras:
        return self.train_camera_copy()

    def _draw(self, pixels: PixelStore, cameras: Cameras, count: int) -> tuple[RayBundle, dict[str, Any]]:
        drawn = pixels.draw(count)
        indices = drawn.indices.to(self.device)
        rays = cameras.generate_rays(camera_indices=indices[:, :1], coords=indices[:, 1:] + 0.5)
        return rays, {"image": drawn.colours.to(self.device), "indices": indices}


@dataclass
class LerfSplatDataManagerConfig(PyramidOptions, SplatDataManagerConfig):
    """Whole photos, and what LERF trains them towards."""

    _target: type = field(default_factory=lambda: LerfSplatDataManager)


class LerfSplatDataManager(SplatDataManager):
    """Photos for splatting, with pyramids in place of masks."""

    config: LerfSplatDataManagerConfig

    @cached_property
    def features(self) -> PyramidSource:
        """Targets of the training photos' pixels."""
        return PyramidSource(self.train_dataset, self.config, Path(str(self.config.data)), str(self.device))
