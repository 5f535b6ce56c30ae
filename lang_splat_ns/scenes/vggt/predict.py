"""From photos to cameras, depth and points, however many photos there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.vggt.geometry import decode_cameras
from lang_splat_ns.scenes.vggt.merging import merge
from lang_splat_ns.scenes.vggt.model import FRAMES_CHUNK_SIZE, VGGT
from lang_splat_ns.scenes.vggt.photos import place_photos
from lang_splat_ns.scenes.vggt.prediction import Prediction, WindowPrediction
from lang_splat_ns.scenes.vggt.windows import Layout, plan_windows

CPU_WINDOW = 24
"""Photos per window on a CPU. The attention across all photos takes time that grows with the square of their number."""

LARGEST_WINDOW = 200
"""Photos per window on a GPU with memory for more, for the same reason."""

_FIELD_OF_VIEW = (0.05, 3.0)
_HEAD_BYTES_PER_PIXEL = 2200
_TRUNK_BYTES_PER_CHANNEL = 110


def predict(
    model: VGGT,
    photos: Iterable[npt.NDArray[np.uint8]],
    *,
    longer_side: int | None = None,
    window: int | None = None,
    shared: int | None = None,
    layout: Layout = "interleaved",
    frames_chunk_size: int = FRAMES_CHUNK_SIZE,
) -> Prediction:
    """Cameras and depth of photos of one scene, in one world.

    Photos are placed on a common canvas, see `photos.Placement`. More than fit in one pass are predicted in
    overlapping windows, which are then laid over each other by the similarity between the cameras and the surest
    points of the photos that they share.

    Args:
        model: the network, in eval mode on its device, see `weights.load_vggt`.
        photos: RGB uint8 [H, W, 3], upright, of any sizes. Each is asked for once, so that they may be read on demand.
        longer_side: of the canvas in pixels; what the network was made for by default, 518.
        window: photos per pass; by default what the memory holds, and half as many when that turns out to be too many.
        shared: photos that windows have in common; by default a quarter of a window, 2 to 16.
        layout: which photos make a window, see `windows.plan_windows`.
        frames_chunk_size: photos that the depth head works on at a time.

    Raises:
        UserError: no photos, something that is no photo, no memory even for a few, or windows that do not agree.
    """
    scaled, placements = place_photos(photos, longer_side or model.config.image_size, model.config.patch_size)
    size = window or _window_that_fits(model, placements[0].canvas, frames_chunk_size)
    while True:
        size = min(size, len(scaled))
        common = shared or min(max(2, min(16, size // 4)), max(1, size - 1))
        windows = plan_windows(len(scaled), size, common, layout)
        try:
            parts = (
                _predict_window(model, [placements[index].put(scaled[index]) for index in few], frames_chunk_size)
                for few in (track(windows, "Predicting windows of photos") if len(windows) > 1 else windows)
            )
            return merge(parts, windows, placements)
        except torch.OutOfMemoryError as error:
            if size <= 2:
                raise UserError(
                    f"the GPU's memory does not hold {size} photos of {placements[0].canvas} pixels; free some, take a "
                    f"smaller longer_side, or predict on the CPU"
                ) from error
            # Fewer photos per window cannot share as many.
            size, shared = max(2, size // 2), None
            CONSOLE.print(f"The GPU's memory does not hold so many photos at once; going on with {size} at a time")
        torch.cuda.empty_cache()


@torch.inference_mode()
def _predict_window(model: VGGT, canvases: Sequence[Tensor], frames_chunk_size: int) -> WindowPrediction:
    device = next(model.parameters()).device
    images = torch.stack(list(canvases)).to(device)
    found = model(images, heads=("camera", "depth"), frames_chunk_size=frames_chunk_size)
    pose, depth, confidence = (found[name][0].cpu() for name in ("pose_enc", "depth", "depth_conf"))
    if not (pose.isfinite().all() and depth.isfinite().all()):
        raise UserError(
            "the network's answer holds infinite numbers: the checkpoint is damaged, or the GPU's half precision does "
            "not do for it; try another checkpoint or the CPU"
        )
    height, width = images.shape[-2:]
    extrinsics, intrinsics = decode_cameras(_usable(pose.double()), height, width)
    square = torch.eye(4, dtype=torch.float64).repeat(len(images), 1, 1)
    square[:, :3] = extrinsics
    return WindowPrediction(
        square.numpy(), intrinsics.numpy(), depth[..., 0].float().numpy(), confidence.float().numpy()
    )


def _usable(pose: Tensor) -> Tensor:
    """Keep fields of view where a pinhole camera can have them."""
    low, high = _FIELD_OF_VIEW
    view = pose[:, 7:].clamp(low, high)
    if not torch.equal(view, pose[:, 7:]):
        CONSOLE.print(
            f"The network gave fields of view that no camera has, which were put between {low} and {high} rad. Its "
            f"answer is hardly of use for these photos",
            soft_wrap=True,
        )
    return torch.cat([pose[:, :7], view], dim=1)


def _window_that_fits(model: VGGT, canvas: tuple[int, int], frames_chunk_size: int) -> int:
    """Photos per pass, by a generous estimate of what a photo takes."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return CPU_WINDOW
    pixels = canvas[0] * canvas[1]
    tokens = pixels / model.config.patch_size**2 + 1 + model.config.register_tokens
    free = torch.cuda.mem_get_info(device)[0] - frames_chunk_size * pixels * _HEAD_BYTES_PER_PIXEL
    return int(min(LARGEST_WINDOW, max(2, free / (tokens * model.config.embed_dim * _TRUNK_BYTES_PER_CHANNEL))))
