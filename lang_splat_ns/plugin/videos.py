"""Prompts along a camera path: every frame as the viewer's panel would show it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox

from lang_splat_ns.console import track
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.pictures import to_uint8, write_png
from lang_splat_ns.files import write_atomically
from lang_splat_ns.language.text import refused_texts
from lang_splat_ns.plugin.runs import Run
from lang_splat_ns.plugin.viewer.renders import answered_outputs
from lang_splat_ns.plugin.viewer.session import Session, View


@dataclass(frozen=True)
class CameraPath:
    """Cameras one after the other.

    Attributes:
        cameras: one per frame.
        frames_per_second: how fast they follow each other.
        crop: the part of the scene that is shown; None is all.
    """

    cameras: Cameras
    frames_per_second: float
    crop: OrientedBox | None = None


def read_camera_path(file: Path) -> CameraPath:
    """A path made in nerfstudio's viewer (its Render tab writes `camera_path.json`).

    Raises:
        UserError: the file is missing or is no camera path.
    """
    from nerfstudio.cameras.camera_paths import get_path_from_json
    from nerfstudio.scripts.render import get_crop_from_json

    if not file.is_file():
        raise UserError(f"{file}: no such file; --camera-path wants the JSON of the viewer's Render tab.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        cameras, crop = get_path_from_json(content), get_crop_from_json(content)
        # A JSON may hold whole numbers, which torch would take for integers.
        cameras.camera_to_worlds = cameras.camera_to_worlds.float()
        seconds = float(content["seconds"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{file}: not a camera path of nerfstudio's viewer ({error!r}).") from error
    if not seconds > 0:
        raise UserError(f"{file}: the path takes {seconds} seconds; it must take longer than 0.")
    return CameraPath(cameras, len(cameras) / seconds, None if crop is None else crop.obb)


def path_through_photos(run: Run, seconds: float, frames_per_second: float) -> CameraPath:
    """A smooth path past the evaluation photos' cameras, at the run's own resolution.

    Raises:
        UserError: there are fewer than two of them.
    """
    from nerfstudio.cameras.camera_paths import get_interpolated_camera_path

    manager = run.pipeline.datamanager
    cameras = manager.eval_dataset.cameras
    if len(cameras) < 2:
        raise UserError("The run has fewer than two evaluation photos to fly past: give a --camera-path.")
    steps = max(1, round(seconds * frames_per_second / (len(cameras) - 1)))
    path = get_interpolated_camera_path(cameras, steps=steps, order_poses=True)
    path.rescale_output_resolution(float(getattr(manager.config, "camera_res_scale_factor", 1.0)))
    return CameraPath(path, frames_per_second)


def frames(run: Run, view: View, path: CameraPath) -> Iterator[np.ndarray]:
    """The path's pictures, uint8 [H, W, 3].

    Raises:
        UserError: the encoder does not know a prompt, or the method cannot draw what the view asks for.
    """
    model, session = run.pipeline.model, Session()
    field = model.language_field(view.query_mode)
    query = view.query
    refused = refused_texts(field.encoder, [*query.positives, *query.negatives]) if query is not None else {}
    if refused:
        raise UserError("; ".join(refused.values()))
    session.view = view
    for index in track(range(len(path.cameras)), "Rendering", unit="frames"):
        outputs, _ = answered_outputs(model, path.cameras[index : index + 1], path.crop, session, view)
        yield to_uint8(outputs["rgb"].cpu().numpy())


def write_video(out: Path, pictures: Iterable[np.ndarray], frames_per_second: float) -> int:
    """Write pictures as `.mp4` (with ffmpeg) or `.gif`, or else one PNG each into a folder; returns how many.

    Raises:
        UserError: there is no ffmpeg for an `.mp4`.
    """
    kind = out.suffix.lower()
    if kind == ".mp4":
        return _write_mp4(out, pictures, frames_per_second)
    if kind == ".gif":
        return _write_gif(out, pictures, frames_per_second)
    count = 0
    for count, one in enumerate(pictures, start=1):
        write_png(out / f"{count - 1:05d}.png", one)
    return count


def _write_mp4(out: Path, pictures: Iterable[np.ndarray], frames_per_second: float) -> int:
    if shutil.which("ffmpeg") is None:
        raise UserError(f"{out}: an .mp4 needs ffmpeg, which is not there; install it, or write a .gif or a folder.")
    import mediapy

    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished, count, writer = out.with_name(f".{out.name}.part.mp4"), 0, None
    try:
        for one in pictures:
            if writer is None:
                writer = mediapy.VideoWriter(unfinished, shape=(one.shape[0], one.shape[1]), fps=frames_per_second)
                writer.__enter__()
            writer.add_image(one)
            count += 1
    finally:
        if writer is not None:
            writer.close()
    if count:
        unfinished.replace(out)
    return count


def _write_gif(out: Path, pictures: Iterable[np.ndarray], frames_per_second: float) -> int:
    from PIL import Image

    images = [Image.fromarray(one).quantize(128) for one in pictures]
    if images:
        options = {"save_all": True, "append_images": images[1:], "loop": 0}
        pause = round(1000 / frames_per_second)
        write_atomically(out, lambda file: images[0].save(file, format="GIF", duration=pause, **options))
    return len(images)
