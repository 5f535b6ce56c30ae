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
        tracker: for example a `Sam2Tracker`.
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


class Sam2Tracker:
    """A `transformers.Sam2VideoModel` as a `Tracker`.

    Every object has a session of its own, since the model goes through a session's objects one by one anyway, and one
    that is given up can then be dropped. All of them share the photo's features, which are computed once.

    Args:
        model: the model, in eval mode on its device.
    """

    def __init__(self, model: Any) -> None:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceCache

        self._model = model
        self._features = Sam2VideoInferenceCache(inference_device=model.device, inference_state_device=model.device)
        self._time = -1
        self._pixels: Tensor | None = None
        self._size = (0, 0)

    @staticmethod
    def load(variant: str | None = None, device: str = "cpu") -> Sam2Tracker:
        """A tracker with published weights.

        Args:
            variant: `OWNER/NAME` on the hub, or a folder in the form of `save_pretrained`; None is SAM 2.1 Hiera-L.
            device: torch device.

        Raises:
            UserError: the model cannot be had, or is no SAM 2.
        """
        from lang_splat_ns.perception.sam2 import Sam2Segmenter, check_model_type, load_model

        folder = Sam2Segmenter.fetch(variant)
        check_model_type(folder, variant or Sam2Segmenter.address)
        return Sam2Tracker(load_model("Sam2VideoModel", folder, device))

    def look(self, image: npt.NDArray[np.uint8]) -> None:
        """Go on to the next photo."""
        from lang_splat_ns.perception.sam2 import square_pixels

        self._time += 1
        self._size = (image.shape[0], image.shape[1])
        self._pixels = square_pixels(image, self._model.image_size, self._model.device)

    def begin(self, mask: npt.NDArray[np.bool_]) -> Any:
        """Start to follow what a mask of the photo shows."""
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        session = Sam2VideoInferenceSession(
            video_height=self._size[0],
            video_width=self._size[1],
            inference_device=self._model.device,
            inference_state_device=self._model.device,
            dtype=torch.float32,
        )
        session.cache = self._features
        side = self._model.image_size
        pixels = torch.from_numpy(mask)[None, None].float()
        square = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        session.add_mask_inputs(session.obj_id_to_idx(0), self._time, (square >= 0.5).float())
        session.obj_with_new_inputs = [0]
        self._step(session)
        return session

    def follow(self, track: Any) -> Tensor | None:
        """Mask logits of the thing in the photo, or None where the model thinks that it is hidden."""
        output = self._step(track)
        if float(output.object_score_logits.max()) <= 0:
            return None
        return output.pred_masks[0, 0].float()

    @torch.inference_mode()
    def _step(self, session: Any) -> Any:
        from lang_splat_ns.perception.promptable import half_precision

        with half_precision(self._model.device):
            output = self._model(session, frame=self._pixels, frame_idx=self._time)
        self._forget(session)
        return output

    def _forget(self, session: Any) -> None:
        """Drop what no later photo needs; the model itself keeps every photo and every mask at its full size."""
        session.processed_frames.clear()
        reach = max(self._model.num_maskmem, self._model.config.max_object_pointers_in_encoder)
        for outputs in session.output_dict_per_obj[0].values():
            for output in outputs.values():
                output.pop("high_res_masks", None)
        past = session.output_dict_per_obj[0]["non_cond_frame_outputs"]
        for time in [time for time in past if time <= self._time - reach]:
            del past[time]
        session.frames_tracked_per_obj[0].clear()
