"""`lang-splat poses`: from photos or a video to a nerfstudio data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass
class Poses:
    """Find where photos were taken and write a nerfstudio data set: transforms.json, sparse_pc.ply, images, and
    colmap/sparse/0. Every method here reads it, and so do nerfstudio's own. Give either --images or --video.

    Safe to interrupt: run the same command again, and it goes on; finished steps are not done again. The photos
    themselves are never changed: those of the data set are upright, undistorted copies.
    """

    out: Path
    """Folder of the new data set."""
    images: Path | None = None
    """Folder of photos of one place: JPEG, PNG, WebP, TIFF, BMP, and HEIC with pip install 'lang-splat-ns[heif]'."""
    video: Path | None = None
    """A video; its sharpest frames are taken."""
    backend: Literal["auto", "colmap", "vggt"] = "auto"
    """colmap matches features and is exact; vggt (a network) takes seconds and also does with one or two photos, or
    with few that overlap. By default vggt where CUDA and its weights are here, else colmap."""
    refine: bool = False
    """Adjust the cameras of vggt to matched features afterwards; colmap's always are."""
    frames: int = 150
    """How many frames of a video are taken at most."""
    longest_side: int = 1600
    """Photos larger than this many pixels are made smaller; 0 keeps them as they are."""
    intrinsics: Literal["auto", "shared", "per-photo"] = "auto"
    """Whether photos of one camera, size and zoom share one lens. By default they do, but with vggt only if its
    cameras are refined."""
    camera_model: Literal[
        "auto", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "SIMPLE_PINHOLE", "PINHOLE", "OPENCV_FISHEYE"
    ] = "auto"
    """Lens model that colmap fits; by default SIMPLE_RADIAL. Photos are undistorted with it in any case."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """Which photos colmap matches: all pairs, or those next to each other in the order of their names and those that
    look alike. By default all up to 100 photos."""
    weights: str = "vggt"
    """Weights of vggt: vggt, vggt-commercial, or a file."""
    confidence: str = "30%"
    """Which depth of vggt becomes points: a share to leave out, as 30%, or the least confidence, as 5."""
    max_points: int = 200_000
    """How many points of vggt are kept at most."""

    def run(self) -> None:
        """Pose, say how to go on."""
        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.scenes.posing import Posing

        out = Posing(self._request()).run(self.out)
        CONSOLE.print(f"Data set: {out}", markup=False, soft_wrap=True)
        CONSOLE.print(f"Train:    ns-train langsplat-lift --data {out}", markup=False, soft_wrap=True)
        CONSOLE.print(f"Or, without any training: lang-splat lift --data {out}", markup=False, soft_wrap=True)

    def _request(self) -> Any:
        from lang_splat_ns.errors import UserError
        from lang_splat_ns.scenes.posing import make_request

        if (self.images is None) == (self.video is None):
            both = ", not both" if self.images else "; lang-splat poses --help says more"
            raise UserError(f"give either --images, a folder of photos, or --video, a file{both}.")
        if self.images is not None and self.images.is_file():
            raise UserError(f"{self.images}: a file; --images wants a folder of photos, --video a video.")
        if self.video is not None and not self.video.is_file():
            raise UserError(f"{self.video}: no such file; --video wants a video, --images a folder of photos.")
        return make_request(
            self.images or self.video or Path(),
            backend=self.backend,
            refine=self.refine,
            frames=self.frames,
            longest_side=self.longest_side,
            intrinsics=self.intrinsics,
            camera_model=self.camera_model,
            matching=self.matching,
            weights=self.weights,
            confidence=self.confidence,
            max_points=self.max_points,
        )
