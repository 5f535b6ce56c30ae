"""Frames of a video that are worth posing: spread evenly, each the sharpest of its neighbourhood."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_atomically

CANDIDATES = 6
"""Frames that are compared for each one that is kept; more find little more and take time to decode."""
BLURRY = 0.25
"""A frame is dropped where its sharpness is below this share of the median of the frames around it."""
AROUND = 4
"""Frames on either side that a frame's sharpness is compared with, since scenes have smooth and busy parts."""
_SIDE = 480


def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian of a grey picture of comparable size (Pech-Pacheco et al. 2000).

    Args:
        image: uint8 [H, W, 3] or [H, W].
    """
    import cv2

    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    factor = min(1.0, _SIDE / max(grey.shape))
    small = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else grey
    return float(cv2.Laplacian(small, cv2.CV_64F).var())


def extract_frames(video: Path, folder: Path, count: int) -> list[Path]:
    """Write about `count` sharp frames of a video into `folder`; frames that are there are not written again.

    The video is cut into `count` equal parts, and the sharpest of a few frames of each part is kept, unless it is much
    blurrier than those around it.

    Args:
        video: anything that OpenCV opens.
        folder: for frames of this video alone.
        count: how many to keep at most, at least 1.

    Returns:
        The files, in the order of the video.

    Raises:
        UserError: there is no such file, or no frame of it can be read.
    """
    if not video.is_file():
        raise UserError(f"{video}: no such file; --video wants a video, --images a folder of photos.")
    values = {index: sharpness(frame) for index, frame in _candidates(video, count)}
    if not values:
        raise UserError(f"{video}: no frame can be read; is it a video? Convert it to mp4, or give photos (--images).")
    best = _best_of_parts(values, count)
    kept = drop_blurry({index: values[index] for index in best})
    if len(kept) < len(best):
        CONSOLE.print(f"{len(best) - len(kept)} of {len(best)} frames of {video.name} are blurred and left out.")
    folder.mkdir(parents=True, exist_ok=True)
    paths = {index: folder / f"frame_{index:06d}.jpg" for index in kept}
    missing = {index for index, path in paths.items() if not path.exists()}
    if missing:
        for index, frame in _frames(video, missing):
            _save(paths[index], frame)
    return [path for path in paths.values() if path.exists()]


def drop_blurry(values: dict[int, float]) -> list[int]:
    """Frames that are sharp beside their neighbours.

    Args:
        values: frame number -> sharpness, in order.
    """
    numbers, sharp = list(values), np.array(list(values.values()))
    kept = []
    for place, number in enumerate(numbers):
        around = sharp[max(0, place - AROUND) : place + AROUND + 1]
        if sharp[place] >= BLURRY * np.median(around):
            kept.append(number)
    return kept


def _best_of_parts(values: dict[int, float], count: int) -> list[int]:
    """The sharpest frame of each of `count` parts of the video, in order."""
    length = max(values) + 1
    best: dict[int, int] = {}
    for index, value in values.items():
        part = index * count // length
        if part not in best or value > values[best[part]]:
            best[part] = index
    return [best[part] for part in sorted(best)]


def _candidates(video: Path, count: int) -> Iterator[tuple[int, np.ndarray]]:
    import cv2

    capture = _open(video)
    length = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    step = max(1, length // (count * CANDIDATES))
    # Containers may lie about their length; what cannot be read ends the loop.
    yield from track(_every(video, step), f"Looking at {video.name}", total=max(1, -(-length // step)), unit="frames")


def _every(video: Path, step: int) -> Iterator[tuple[int, np.ndarray]]:
    for index, decode in _grabbed(video):
        if index % step == 0:
            frame = decode()
            if frame is not None:
                yield index, frame


def _frames(video: Path, wanted: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    last = max(wanted)
    for index, decode in _grabbed(video):
        if index in wanted:
            frame = decode()
            if frame is not None:
                yield index, frame
        if index >= last:
            return


def _grabbed(video: Path) -> Iterator[tuple[int, Any]]:
    """Frame numbers and a function that decodes each; seeking is not exact in many containers, so none is skipped."""
    capture = _open(video)
    try:
        index = 0
        while capture.grab():
            yield index, partial(_retrieve, capture)
            index += 1
    finally:
        capture.release()


def _open(video: Path) -> Any:
    # What is wrong with a file is said in one line of ours, not in FFmpeg's own.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    return cv2.VideoCapture(str(video))


def _retrieve(capture: Any) -> np.ndarray | None:
    done, frame = capture.retrieve()
    return frame if done else None


def _save(path: Path, frame: np.ndarray) -> None:
    import cv2

    done, encoded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done, "OpenCV always encodes JPEG"
    write_atomically(path, lambda file: file.write(encoded.tobytes()))
