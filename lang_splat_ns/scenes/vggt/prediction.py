"""What the network says of some photos: in one window, and of all together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lang_splat_ns.scenes.vggt.geometry import unproject
from lang_splat_ns.scenes.vggt.photos import Placement


@dataclass(frozen=True)
class Prediction:
    """What the network says of S photos, in one world whose axes are about those of the first camera (OpenCV).

    Lengths have no unit; in the training's scenes points lay about 1 away from the first camera.

    Attributes:
        extrinsics: world-to-camera transforms, OpenCV axes. float32 [S, 4, 4]
        intrinsics: in pixels of each original photo, the principal point in its middle (w / 2, h / 2), where the
            middle of the first pixel is (0.5, 0.5). float32 [S, 3, 3]
        depth: along each camera's axis, per canvas pixel. float32 [S, h, w]
        confidence: of the depth, above 1 and without an upper bound; 0 where the canvas does not show the photo.
            float32 [S, h, w]
        placements: where each photo lies on its canvas.
        windows: the photos that were predicted together; one window where all fit in one pass.
    """

    extrinsics: npt.NDArray[np.float32]
    intrinsics: npt.NDArray[np.float32]
    depth: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    placements: list[Placement]
    windows: list[list[int]]

    def world_points(self, index: int) -> npt.NDArray[np.float32]:
        """World points of one photo's canvas pixels: its depth, lifted by its camera. float32 [h, w, 3]

        They are computed on demand, because those of hundreds of photos would fill gigabytes. Each projects into the
        middle of the pixel that it came from, see `photos.Placement.to_photo`.
        """
        K = self.placements[index].intrinsics_of_canvas(self.intrinsics[index].astype(np.float64))
        return lift(self.depth[index], self.extrinsics[index], K).astype(np.float32)


@dataclass(frozen=True)
class WindowPrediction:
    """What the network says of the S photos of one window, in the window's own world.

    Attributes:
        extrinsics: world-to-camera, OpenCV axes. float64 [S, 4, 4]
        intrinsics: in canvas pixels. float64 [S, 3, 3]
        depth, confidence: float32 [S, h, w]
    """

    extrinsics: npt.NDArray[np.float64]
    intrinsics: npt.NDArray[np.float64]
    depth: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]


def lift(
    depth: npt.NDArray[np.floating], extrinsic: npt.NDArray[np.floating], K: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """World points [h, w, 3] of a depth map [h, w], with intrinsics in its own pixels."""
    depths, view, intrinsics = (torch.from_numpy(np.asarray(array, np.float64)) for array in (depth, extrinsic, K))
    return unproject(depths, view, intrinsics).numpy()
