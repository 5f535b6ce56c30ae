"""Label maps at the size of a view, read from the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang_splat_ns.perception.extract import Frame, read_label_maps
from lang_splat_ns.perception.feature_store import FeatureStore


def resize_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour resize of label maps [L, h, w], since ids cannot be averaged."""
    if labels.shape[-2:] == (height, width):
        return labels
    # float32 holds ids up to 2**24 exactly, far more than an image has masks.
    resized = torch.nn.functional.interpolate(labels[None].float(), size=(height, width), mode="nearest-exact")
    return resized[0].to(labels.dtype)


def read_view_labels(
    frame: Frame, segmenter_id: str, store: FeatureStore, height: int, width: int
) -> tuple[Tensor, tuple[int, ...]]:
    """Label maps of a photo at the given size, int32 [L, height, width], and how many masks each level has.

    Raises:
        MissingRecordError: the store has no whole record of it.
    """
    maps = read_label_maps(frame, segmenter_id, store)
    # A mask that is lost in the smaller size has an embedding all the same, and so it counts.
    return resize_labels(torch.from_numpy(maps.labels), height, width), maps.counts


@dataclass(frozen=True)
class StoredLabels:
    """Reads label maps by the view's number, without networks or photos, so that it can travel to other machines.

    Attributes:
        frames: the views' photos.
        segmenter_id: whose label maps.
        store: where they are; all machines see it.
    """

    frames: Sequence[Frame]
    segmenter_id: str
    store: FeatureStore

    def __call__(self, index: int, height: int, width: int) -> tuple[Tensor, tuple[int, ...]]:
        """See `read_view_labels`."""
        return read_view_labels(self.frames[index], self.segmenter_id, self.store, height, width)

    @classmethod
    def of(cls, frames: Sequence[Frame], segmenter_id: str, store: FeatureStore) -> StoredLabels:
        """For photos whose pixels are not needed: what loads them stays behind."""
        return cls([Frame(frame.name, frame.content_key, _no_photo) for frame in frames], segmenter_id, store)


def _no_photo() -> npt.NDArray[np.uint8]:
    raise RuntimeError("label maps are read without their photos")
