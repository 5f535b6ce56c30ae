"""Undistortion of anything that lies on a photo, the way nerfstudio undistorts the photo itself."""

from __future__ import annotations

import numpy as np
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
    distortion = _distortion(camera)
    if distortion is None:
        return image, intrinsics
    intrinsics, image, _ = _undistort_image(camera, distortion, {}, image, intrinsics)
    return np.ascontiguousarray(image), intrinsics


def undistort_mask(mask: np.ndarray, camera: Cameras) -> np.ndarray:
    """Undistort a bool mask [H, W]; a pixel is inside where more than half of it is."""
    return undistort(mask.astype(np.float32), camera)[0] > 0.5


def undistort_ids(ids: np.ndarray, camera: Cameras) -> np.ndarray:
    """Undistort ids, integers [H, W], by nearest neighbour; -1 comes in from outside of the photo."""
    if _distortion(camera) is None:
        return ids
    rows, columns = np.indices(ids.shape, dtype=np.float32)
    # Undistortion interpolates, which ids do not bear and positions do.
    share, row, column = (undistort(layer, camera)[0] for layer in (np.ones_like(rows), rows, columns))
    inside = share > 0.5
    share = np.where(inside, share, 1.0)
    nearest = ids[
        np.rint(row / share).astype(int).clip(0, ids.shape[0] - 1),
        np.rint(column / share).astype(int).clip(0, ids.shape[1] - 1),
    ]
    return np.where(inside, nearest, -1).astype(ids.dtype)


def _distortion(camera: Cameras) -> np.ndarray | None:
    """Distortion parameters of one camera, or None where it has none."""
    parameters = camera.distortion_params
    return parameters.numpy().reshape(-1) if parameters is not None and bool(parameters.any()) else None
