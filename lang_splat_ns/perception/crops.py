"""Regions as square crops for image networks: how a region is cut out, and how several crops of it are fused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError

CropKind = Literal["black", "blur", "context"]
Box = tuple[slice, slice]
"""Rows and columns of a region's tight box."""

CONTEXT = 1.5
"""Side of a context crop over the longer side of the region's box."""
BLUR = 1 / 16
"""Standard deviation of the blur around a region, as a share of the crop's side."""


@dataclass(frozen=True)
class CropPlan:
    """Which crops of a region are embedded, and what each counts in the mean of their unit vectors.

    `black` is LangSplat's: the tight box with black outside the region, padded to a square with black. `blur` is the
    square around the region, sharp inside it and blurred outside ("blur reverse mask" of Yang et al. 2023, Fine-Grained
    Visual Prompting). `context` is the photo as it is in a square half as large again.

    Attributes:
        kinds: the crops, each kind at most once.
        weights: one positive number per kind; only their ratios count.
    """

    kinds: tuple[CropKind, ...] = ("black",)
    weights: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, text: str) -> CropPlan:
        """Read "black", "black+context" or "black:1+blur:0.5+context:0.5"; a kind without a number weighs 1.

        Raises:
            UserError: an unknown kind, one that comes twice, or a weight that is no positive number.
        """
        parts = [part.strip().partition(":") for part in text.split("+")]
        kinds = [kind.strip() for kind, _, _ in parts]
        unknown = [kind for kind in kinds if kind not in get_args(CropKind)]
        if unknown or len(set(kinds)) < len(kinds):
            what = f"unknown crop {unknown[0]!r}" if unknown else "a crop comes twice"
            raise UserError(
                f"crops {text!r}: {what}; join {', '.join(get_args(CropKind))} with '+', for example black+context"
            )
        weights = tuple(_weight(number, text) if colon else 1.0 for _, colon, number in parts)
        # A mean over one crop is that crop, whatever it weighs.
        return cls(cast(tuple[CropKind, ...], tuple(kinds)), weights if len(kinds) > 1 else (1.0,))

    @property
    def name(self) -> str:
        """The plan as part of an encoder's id: equal names give equal vectors."""
        # The first version had nothing else, and features that were made with it stay valid.
        if self == CropPlan():
            return "crop/1"
        return "crop/1 " + "+".join(f"{kind}:{weight:g}" for kind, weight in zip(self.kinds, self.weights, strict=True))


def _weight(number: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise UserError(f"crops {text!r}: the weight {number!r} is no positive number")
    return value


def region_boxes(labels: npt.NDArray[np.int32], count: int) -> Iterator[tuple[int, Box]]:
    """Tight boxes of the regions that have pixels, by rising id.

    Args:
        labels: int32 [H, W], -1 = no region.
        count: number of regions.
    """
    from scipy.ndimage import find_objects

    for region, box in enumerate(find_objects(labels + 1, max_label=count)):
        if box is not None:
            yield region, box


def cut(
    image: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], region: int, box: Box, kind: CropKind, side: int
) -> npt.NDArray[np.uint8]:
    """One square crop of one region; see `CropPlan` for the kinds.

    Args:
        image: RGB, uint8 [H, W, 3].
        labels: int32 [H, W].
        region: the region's id.
        box: its tight box, see `region_boxes`.
        kind: how it is cut out.
        side: pixels per side of the result.

    Returns:
        uint8 [side, side, 3].
    """
    if kind == "black":
        return _resize(_on_black(image, labels, region, box), side)
    longest = max(extent.stop - extent.start for extent in box)
    if kind == "context":
        return _resize(_window(image, box, round(CONTEXT * longest)), side)
    mask = np.where(_window(labels, box, longest, beyond=-1) == region, np.uint8(255), np.uint8(0))
    return _mixed(_resize(_window(image, box, longest), side), _resize(mask, side)[..., None])


def _on_black(
    image: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], region: int, box: Box
) -> npt.NDArray[np.uint8]:
    inside = (labels[box] == region)[..., None]
    height, width = inside.shape[:2]
    longest = max(height, width)
    square = np.zeros((longest, longest, 3), dtype=np.uint8)
    top, left = (longest - height) // 2, (longest - width) // 2
    square[top : top + height, left : left + width] = np.where(inside, image[box], 0)
    return square


def _window(pixels: npt.NDArray[Any], box: Box, size: int, beyond: int | None = None) -> npt.NDArray[Any]:
    """The square of `size` pixels around a box's middle; outside the image its border repeats, or `beyond` stands."""
    starts = [(extent.start + extent.stop - size) // 2 for extent in box]
    asked = [np.arange(start, start + size) for start in starts]
    rows, columns = (np.clip(index, 0, limit - 1) for index, limit in zip(asked, pixels.shape, strict=False))
    window = pixels[rows][:, columns]
    if beyond is not None:
        window[rows != asked[0]] = beyond
        window[:, columns != asked[1]] = beyond
    return window


def _resize(square: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    import cv2

    # Averaging avoids aliases where the crop shrinks; where it grows, a cubic keeps edges.
    method = cv2.INTER_AREA if len(square) > side else cv2.INTER_CUBIC
    return cv2.resize(square, (side, side), interpolation=method).astype(np.uint8, copy=False)


def _mixed(sharp: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A square [S, S, 3] that is sharp where the mask [S, S, 1] is 255, and blurred where it is 0."""
    import cv2

    side = len(sharp)
    # So wide a blur leaves nothing that a quarter of the pixels could not hold, and costs a tenth there.
    small = cv2.resize(sharp, (max(1, side // 4),) * 2, interpolation=cv2.INTER_AREA)
    blurred = cv2.resize(cv2.GaussianBlur(small, (0, 0), BLUR * len(small)), (side, side))
    # 16 bits hold 255 * 255 and the half that rounds.
    weight = mask.astype(np.uint16)
    return ((weight * sharp + (255 - weight) * blurred + 127) // 255).astype(np.uint8)
