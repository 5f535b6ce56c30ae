"""Masks of one thing in the photos of a walk, linked by following each with SAM 2's video model.

For every photo that comes with a label map, each of its regions is told which object it is: the object of the earlier
photos whose followed mask it overlaps, or a new one, which is followed from there on. Photos without a label map are
only looked at, so that masks need to be made for some of them alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Frame = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32] | None]
"""A photo, RGB uint8 [H, W, 3], and its label map, int32 [H, W] with -1 where no mask is, or None."""


class Tracker(Protocol):
    """Follows things from photo to photo, each for itself."""

    def look(self, image: npt.NDArray[np.uint8]) -> None:
        """Go on to the next photo, uint8 [H, W, 3]."""
        ...

    def begin(self, mask: npt.NDArray[np.bool_]) -> Any:
        """Start to follow what a mask of the photo, bool [H, W], shows; returns what `follow` needs of it."""
        ...

    def follow(self, track: Any) -> Tensor | None:
        """Mask logits of the thing in the photo, float32 [h, w] stretched over it, or None where it is hidden."""
        ...


@dataclass(frozen=True)
class LinkSettings:
    """How regions are matched with followed masks.

    Attributes:
        least_iou: a region is an object's if it overlaps the followed mask by at least this.
        min_share: smaller regions than this share of the photo are given an object of their own and not followed.
        patience: an object that was hidden for this many photos is given up.
    """

    least_iou: float = 0.5
    min_share: float = 1 / 2500
    patience: int = 16


@dataclass(frozen=True)
class Links:
    """What is known of one photo.

    Attributes:
        objects: int64 [count], the object that each region of the photo's label map is; empty without a label map.
        tracked: int32 [H, W], the object that is followed at each pixel, -1 where none is. Objects that begin here are
            not in it.
    """

    objects: npt.NDArray[np.int64]
    tracked: npt.NDArray[np.int32]


@dataclass
class _Followed:
    """An object on its way: its id, the tracker's own notes, and for how many photos it was hidden."""

    object_id: int
    track: Any
    hidden: int = 0


def link_masks(tracker: Tracker, frames: Iterable[Frame], settings: LinkSettings | None = None) -> Iterator[Links]:
    """Link the regions of photos in the order in which they were taken; one photo is held at a time.

    Args:
        tracker: for example a `sam2_tracker.Sam2Tracker`.
        frames: photos of any sizes.
        settings: see `LinkSettings`.

    Yields:
        Links of each photo. Object ids are 0, 1, ... in the order in which objects are first seen.
    """
    settings = settings or LinkSettings()
    followed: list[_Followed] = []
    count = 0
    for image, labels in frames:
        tracker.look(image)
        tracked, followed = _follow(tracker, followed, (image.shape[0], image.shape[1]), settings)
        if labels is None:
            yield Links(np.zeros(0, dtype=np.int64), tracked)
            continue
        objects = match(labels, tracked, settings.least_iou)
        areas = np.bincount(labels[labels >= 0], minlength=len(objects))
        for region in np.flatnonzero(objects < 0):
            objects[region] = count
            if areas[region] >= settings.min_share * labels.size:
                followed.append(_Followed(count, tracker.begin(labels == region)))
            count += 1
        yield Links(objects, tracked)


def match(labels: npt.NDArray[np.int32], tracked: npt.NDArray[np.int32], least_iou: float) -> npt.NDArray[np.int64]:
    """The object of each region, at most one region for an object, so that the sum of their overlaps is largest.

    Args:
        labels: regions, int32 [H, W]; -1 = none, ids without gaps.
        tracked: objects, int32 [H, W]; -1 = none.
        least_iou: below this overlap, a region and an object have nothing to do with each other.

    Returns:
        int64 [count]; -1 for a region without an object.
    """
    from scipy.optimize import linear_sum_assignment

    count = int(labels.max(initial=-1)) + 1
    found = np.full(count, -1, dtype=np.int64)
    ids, objects = np.unique(tracked[tracked >= 0], return_inverse=True)
    if not count or not len(ids):
        return found
    both = (labels >= 0) & (tracked >= 0)
    column = np.searchsorted(ids, tracked[both])
    shared = np.bincount(labels[both] * len(ids) + column, minlength=count * len(ids)).reshape(count, len(ids))
    areas = np.bincount(labels[labels >= 0], minlength=count)
    union = areas[:, None] + np.bincount(objects.ravel(), minlength=len(ids)) - shared
    iou = shared / np.maximum(union, 1)
    iou[iou < least_iou] = 0.0
    for region, place in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
        if iou[region, place] > 0:
            found[region] = ids[place]
    return found


def _follow(
    tracker: Tracker, followed: list[_Followed], size: tuple[int, int], settings: LinkSettings
) -> tuple[npt.NDArray[np.int32], list[_Followed]]:
    """The strongest object at each pixel of the photo, and the objects that are still followed."""
    best = torch.zeros(size)
    tracked = torch.full(size, -1, dtype=torch.int32)
    for item in followed:
        logits = tracker.follow(item.track)
        item.hidden = 0 if logits is not None else item.hidden + 1
        if logits is not None:
            large = F.interpolate(logits[None, None].cpu(), size, mode="bilinear", align_corners=False)[0, 0]
            tracked[large > best] = item.object_id
            best = torch.maximum(best, large)
    return tracked.numpy(), [item for item in followed if item.hidden < settings.patience]
