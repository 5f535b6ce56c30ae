"""Masks at the photo's own size, from low-resolution logits: measured, cleaned and painted inside their boxes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang_splat_ns.perception.promptable import Placement

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Masks:
    """Masks of one photo, each stored inside its box.

    Attributes:
        size: height and width of the photo.
        boxes: int64 [M, 4], first column, first row, last column and last row of each mask.
        crops: bool [rows, columns] for each mask.
        predicted_iou: float32 [M], quality that the network predicts.
        stability: float32 [M], IoU of the masks cut one logit above and below zero.
    """

    size: tuple[int, int]
    boxes: npt.NDArray[np.int64]
    crops: tuple[npt.NDArray[np.bool_], ...]
    predicted_iou: npt.NDArray[np.float32]
    stability: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """Pixels of each mask: int64 [M]."""
        return np.array([np.count_nonzero(crop) for crop in self.crops], dtype=np.int64)

    def dense(self) -> npt.NDArray[np.bool_]:
        """All masks as one array, bool [M, H, W]."""
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for mask, box, crop in zip(masks, self.boxes, self.crops, strict=True):
            mask[window_of(box)] = crop
        return masks


class Enlargement:
    """Bilinear enlargement of a network's low-resolution output to the photo's pixels, in any window of it.

    Args:
        placement: where the photo lies in the output.
        device: where the logits are.

    Attributes:
        pixels: of the photo.
    """

    def __init__(self, placement: Placement, device: torch.device) -> None:
        self.pixels = placement.size[0] * placement.size[1]
        self._axes = [_Axis(placement.positions(axis), placement.low[axis], device) for axis in (0, 1)]

    def window(self, logits: Tensor, cut: float) -> Window:
        """Rows and columns of the photo outside of which no mask of [M, h, w] is above `cut`."""
        # Largest values are found several times as fast as whether any is above something.
        return self._axes[0].reach(logits.amax(dim=(0, 2)) > cut), self._axes[1].reach(logits.amax(dim=(0, 1)) > cut)

    def __call__(self, logits: Tensor, window: Window) -> Tensor:
        """Logits in a window of the photo: float32 [M, rows, columns] from [M, h, w]."""
        # Columns first, since there are few rows yet; the second step then moves whole rows, which is fast.
        rows = self._axes[0].source(window[0])
        wide = self._axes[1].interpolate(logits[:, rows].float(), window[1], dim=2)
        return self._axes[0].interpolate(wide, window[0], dim=1, first=rows.start)


class _Axis:
    """One axis of an enlargement: every pixel of the photo lies between two low-resolution ones."""

    def __init__(self, positions: Tensor, low: int, device: torch.device) -> None:
        positions = positions.clamp(0, low - 1)
        below = positions.floor().long()
        above = (below + 1).clamp(max=low - 1)
        self._below, self._above = below.numpy(), above.numpy()
        self._indices = below.to(device), above.to(device)
        self._weights = (positions - below).float().to(device)

    def reach(self, covered: Tensor) -> slice:
        """Pixels of the photo between or beside low-resolution ones that are covered, bool [low]."""
        found = np.flatnonzero(covered.cpu().numpy())
        if not len(found):
            return slice(0, 1)
        # A photo smaller than the output may fall between the covered pixels; one of its own is looked at all the same.
        start = min(int(np.searchsorted(self._above, found[0], side="left")), len(self._above) - 1)
        stop = int(np.searchsorted(self._below, found[-1], side="right"))
        return slice(start, max(stop, start + 1))

    def source(self, part: slice) -> slice:
        """Low-resolution pixels that a part of the photo's lies between."""
        return slice(int(self._below[part.start]), int(self._above[part.stop - 1]) + 1)

    def interpolate(self, values: Tensor, part: slice, dim: int, first: int = 0) -> Tensor:
        """Values at a part of the photo's pixels along `dim`, where `values` starts at low-resolution pixel `first`."""
        below, above = (index[part] - first for index in self._indices)
        weights = self._weights[part]
        weights = weights if dim == 2 else weights[:, None]
        return torch.lerp(values.index_select(dim, below), values.index_select(dim, above), weights)


def measure(logits: Tensor, enlarge: Enlargement, chunk: int, offset: float = 1.0) -> tuple[Tensor, Tensor]:
    """Boxes and stability of masks as they are at the photo's size.

    Args:
        logits: [M, h, w].
        enlarge: to the photo's size.
        chunk: masks enlarged at a time. Their window spans all of them, so few keep it small and many keep a GPU busy.
        offset: see `stability_scores`.

    Returns:
        int64 [M, 4], first column, first row, last column and last row, zeros for a mask without a pixel; and float32
        [M].
    """
    boxes = torch.zeros(len(logits), 4, dtype=torch.long, device=logits.device)
    stability = torch.zeros(len(logits), device=logits.device)
    for start in range(0, len(logits), chunk):
        part = logits[start : start + chunk]
        window = enlarge.window(part, -offset)
        large = enlarge(part, window)
        stability[start : start + chunk] = stability_scores(large, offset)
        left, right = _ends(large.amax(dim=1) > 0, window[1].start)
        top, bottom = _ends(large.amax(dim=2) > 0, window[0].start)
        boxes[start : start + chunk] = torch.stack([left, top, right, bottom], dim=1)
    return boxes, stability


def stability_scores(logits: Tensor, offset: float = 1.0) -> Tensor:
    """IoU of the masks cut `offset` above and below zero: float [...] from logits [..., h, w]."""
    inner, outer = (_count(logits > cut) for cut in (offset, -offset))
    return inner / outer.clamp(min=1)


def _count(masks: Tensor) -> Tensor:
    # Bytes are summed several times as fast as bools.
    return masks.view(torch.uint8).sum(dim=(-2, -1), dtype=torch.int32)


def _ends(covered: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """First and last covered index of each row of bool [M, n], counted from `start`; zeros where nothing is."""
    length = covered.shape[1]
    indices = torch.arange(length, device=covered.device)
    first = torch.where(covered, indices, length).amin(dim=1) + start
    last = torch.where(covered, indices, -1).amax(dim=1) + start
    empty = ~covered.any(dim=1)
    return first.masked_fill(empty, 0), last.masked_fill(empty, 0)


def window_of(box: npt.NDArray[np.int64]) -> Window:
    """Rows and columns of a box (first column, first row, last column, last row)."""
    left, top, right, bottom = (int(value) for value in box)
    return slice(top, bottom + 1), slice(left, right + 1)


def remove_specks(mask: npt.NDArray[np.bool_], min_area: int) -> npt.NDArray[np.bool_]:
    """Fill holes and drop islands smaller than `min_area` pixels; if all islands are small, the largest stays.

    Args:
        mask: bool [H, W]. Background that the mask cuts off from the rest is a hole, also at the edge.
        min_area: in pixels.

    Returns:
        bool [H, W].
    """
    filled = mask.astype(np.uint8)
    pieces, areas = _components(filled == 0)
    small = areas < min_area
    # Piece 0 is the mask itself.
    small[0] = False
    if small.any():
        filled[small[pieces]] = 1
    islands, areas = _components(filled)
    keep = areas >= min_area
    keep[0] = False
    if len(areas) > 1 and not keep.any():
        keep[1 + np.argmax(areas[1:])] = True
    return filled.astype(bool) if keep[1:].all() else keep[islands]


def _components(pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Which connected piece each pixel that is not 0 belongs to, counted from 1, and the pieces' areas from piece 0."""
    import cv2

    _, pieces, statistics, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8), connectivity=8)
    return np.asarray(pieces), np.asarray(statistics)[:, cv2.CC_STAT_AREA]


def paint(masks: Masks, order: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Draw masks over one another.

    Args:
        masks: the masks.
        order: indices of those to draw, the first one at the bottom.

    Returns:
        int32 [H, W]; -1 where there is no mask, ids without gaps.
    """
    labels = np.full(masks.size, -1, dtype=np.int32)
    for label, index in enumerate(order):
        labels[window_of(masks.boxes[index])][masks.crops[index]] = label
    drawn = np.bincount(labels.ravel() + 1, minlength=len(order) + 1)[1:] > 0
    # Masks that lie under others altogether are gone, and the rest close up.
    return np.concatenate([[-1], np.cumsum(drawn) - 1]).astype(np.int32)[labels + 1]
