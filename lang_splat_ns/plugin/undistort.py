"""Undistortion of anything that lies on a photo, the way nerfstudio undistorts the photo itself."""

from __future__ import annotations

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image


def undistort(image: np.ndarray, camera: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Undistort and crop an image exactly as nerfstudio does before training.

    Args:
        image: [H, W] or [H, W, C] at the camera's resolution.
        camera: one camera, with its distortion.

    Returns:
        The image, possibly a little smaller, and its intrinsics [3, 3].
    """
    camera = camera.reshape(())
    intrinsics = camera.get_intrinsics_matrices().numpy()
    if camera.distortion_params is None or not torch.any(camera.distortion_params):
        return image, intrinsics
    distortion = camera.distortion_params.numpy()
    intrinsics, image, _ = _undistort_image(camera, distortion, {}, image, intrinsics)
    return np.ascontiguousarray(image), intrinsics


def undistort_mask(mask: np.ndarray, camera: Cameras) -> np.ndarray:
    """Undistort a bool mask [H, W]; a pixel is inside where more than half of it is."""
    return undistort(mask.astype(np.float32), camera)[0] > 0.5
