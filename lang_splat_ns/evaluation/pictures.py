"""Pictures of answers: relevancy as colours over the photo, masks as light on it, and the files they go into."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from lang_splat_ns.evaluation.evaluator import UnitAnswer
from lang_splat_ns.evaluation.scores import Row
from lang_splat_ns.files import write_atomically

OUTLINE = (255, 214, 10)
"""Colour of a mask's edge; yellow stands out from most photos, and dimming makes it stand out from the rest."""


@dataclass(frozen=True)
class Picture:
    """A picture as a page holds it.

    Attributes:
        uri: a `data:` address, see `data_uri`.
        width: in pixels.
        height: in pixels.
    """

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class UnitPictures:
    """The pictures of one unit, and its row of the score table.

    Attributes:
        row: see `LanguageScores.table`.
        photo: the photo as it is.
        relevancy: relevancy at the chosen level over the photo.
        mask: what was found.
        truth: what is there, or None for an absent prompt.
    """

    row: Row
    photo: Picture
    relevancy: Picture
    mask: Picture
    truth: Picture | None


def unit_pictures(answer: UnitAnswer, photo: np.ndarray, max_side: int = 480) -> UnitPictures:
    """Pictures of an answer, small and packed at once, so that those of a whole evaluation fit into memory.

    Args:
        answer: what `evaluate` hands to `on_answer`.
        photo: float [H, W, 3] in 0..1 at the size of the maps.
        max_side: longest side of the pictures in pixels.
    """

    def packed(picture: np.ndarray) -> Picture:
        small = shrink_picture(picture, max_side)
        return Picture(data_uri(small), small.shape[1], small.shape[0])

    return UnitPictures(
        row=answer.row,
        photo=packed(to_uint8(photo)),
        relevancy=packed(relevancy_overlay(photo, answer.relevancy)),
        mask=packed(mask_overlay(photo, answer.mask)),
        truth=None if answer.truth is None else packed(mask_overlay(photo, answer.truth)),
    )


def relevancy_overlay(rgb: np.ndarray, relevancy: np.ndarray) -> np.ndarray:
    """Relevancy in turbo's colours over a subdued photo.

    The colours span 0.5 to 1. Where a negative is nearer than the prompt, at 0.5 and below, the photo shows alone;
    no map is stretched, so that a faint answer looks faint.

    Args:
        rgb: float [H, W, 3] in 0..1.
        relevancy: float [H, W] in 0..1.

    Returns:
        uint8 [H, W, 3].
    """
    heat = np.clip((np.nan_to_num(relevancy) - 0.5) * 2, 0.0, 1.0)
    # Full strength is reached soon, but not at a stroke, so that noise around 0.5 does not flicker.
    weight = 0.7 * np.clip(heat / 0.1, 0.0, 1.0)[..., None]
    grey = rgb.mean(-1, keepdims=True)
    subdued = 0.7 * (0.5 * rgb + 0.5 * grey)
    return to_uint8((1 - weight) * subdued + weight * turbo(heat))


def mask_overlay(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The photo, dark and grey outside the mask, with a line around it.

    Args:
        rgb: float [H, W, 3] in 0..1.
        mask: bool [H, W].

    Returns:
        uint8 [H, W, 3].
    """
    grey = rgb.mean(-1, keepdims=True)
    picture = np.where(mask[..., None], rgb, 0.3 * grey)
    # About two pixels in a picture of 480, whatever the photo's own size is.
    picture[_edge(mask, max(1, round(max(mask.shape) / 320)))] = np.array(OUTLINE) / 255
    return to_uint8(picture)


def turbo(values: np.ndarray) -> np.ndarray:
    """matplotlib's turbo: values in 0..1, any shape [...] -> float32 [..., 3]."""
    table = _turbo_table()
    return table[np.round(np.clip(values, 0.0, 1.0) * (len(table) - 1)).astype(np.int64)]


def to_uint8(rgb: np.ndarray) -> np.ndarray:
    """Colours in 0..1 as uint8, rounded; values outside are clipped."""
    return np.round(np.clip(rgb, 0.0, 1.0) * 255).astype(np.uint8)


def shrink_picture(picture: np.ndarray, max_side: int) -> np.ndarray:
    """uint8 [H, W, 3] with a longest side of at most `max_side` pixels; a smaller picture stays as it is."""
    height, width = picture.shape[:2]
    if max(height, width) <= max_side:
        return picture
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 [H, W, 3], or a mask as bool [H, W] (white is inside), atomically."""
    image = Image.fromarray(picture.astype(np.uint8) * 255 if picture.dtype == bool else picture)
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def data_uri(picture: np.ndarray) -> str:
    """uint8 [H, W, 3] as a JPEG inside a `data:` address, so that a page needs no other file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=84, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _edge(mask: np.ndarray, thickness: int) -> np.ndarray:
    """Pixels outside the mask and within `thickness` of it, so that small things are not covered by their own edge."""
    from scipy.ndimage import binary_dilation

    return np.logical_and(binary_dilation(mask, iterations=thickness), np.logical_not(mask))


@cache
def _turbo_table() -> np.ndarray:
    # matplotlib takes a while to import, and most users of this module never colour a map.
    import matplotlib

    return matplotlib.colormaps["turbo"](np.linspace(0.0, 1.0, 256))[:, :3].astype(np.float32)
