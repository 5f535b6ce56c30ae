"""Label maps, the segmenter protocol, and segmenters by name. Importing this module loads no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.registry import Registry, call_with_known_arguments, takes

SAM_LEVELS = ("whole", "part", "subpart")

SEGMENTERS = Registry(
    kind="segmenter",
    group="lang_splat_ns.segmenters",
    variable="LANG_SPLAT_SEGMENTERS",
    builtin={
        "sam": "lang_splat_ns.perception.sam:SamVitH",
        "sam-vit-h": "lang_splat_ns.perception.sam:SamVitH",
        "sam-vit-l": "lang_splat_ns.perception.sam:SamVitL",
        "sam-vit-b": "lang_splat_ns.perception.sam:SamVitB",
        "mobile-sam": "lang_splat_ns.perception.sam:MobileSam",
        "sam2": "lang_splat_ns.perception.sam2:Sam2Segmenter",
        "sam2-large": "lang_splat_ns.perception.sam2:Sam2Segmenter",
        "sam2-base-plus": "lang_splat_ns.perception.sam2:Sam2BasePlus",
        "sam2-small": "lang_splat_ns.perception.sam2:Sam2Small",
        "sam2-tiny": "lang_splat_ns.perception.sam2:Sam2Tiny",
        "labels": "lang_splat_ns.perception.label_files:LabelFiles",
        "felzenszwalb": "lang_splat_ns.perception.felzenszwalb:FelzenszwalbSegmenter",
    },
)


Carry = Callable[[npt.NDArray[np.int32]], npt.NDArray[np.int32]]
"""Takes ids that lie on a photo as it is on disk, int32 [H, W], to the photo as it is used; -1 comes in from outside.

It raises `UserError` if they are not of the photo's size."""


@dataclass(frozen=True)
class LabelMaps:
    """Which region owns each pixel, once per level.

    Attributes:
        labels: int32 [L, H, W]; -1 = no mask, otherwise ids 0..counts[l]-1 of that level.
        levels: names of the L levels, coarse to fine.
    """

    labels: npt.NDArray[np.int32]
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.labels.dtype != np.int32 or self.labels.ndim != 3 or len(self.labels) != len(self.levels):
            raise ValueError(
                f"labels must be int32 [L,H,W] with one level name each, got {self.labels.dtype} "
                f"{self.labels.shape} for levels {self.levels}"
            )
        if self.labels.size and self.labels.min() < -1:
            raise ValueError(f"labels start at -1, got {self.labels.min()}")

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of regions of each level."""
        return tuple(int(level.max(initial=-1)) + 1 for level in self.labels)


@runtime_checkable
class Segmenter(Protocol):
    """Cuts a photo into regions at several granularities.

    One more part is looked for and may be missing: `segment_named(name, image, carry)`, for regions that were made
    elsewhere and lie beside the photo; see `segment_photo`.
    """

    @property
    def segmenter_id(self) -> str:
        """Names model, weights digest and every parameter; part of the cache key."""
        ...

    def segment(self, image: npt.NDArray[np.uint8]) -> LabelMaps:
        """Label maps of an RGB image, uint8 [H, W, 3]."""
        ...


def segment_photo(
    segmenter: Segmenter, name: str, image: npt.NDArray[np.uint8], carry: Carry | None = None
) -> LabelMaps:
    """Label maps of one photo of a data set.

    Args:
        segmenter: any; one that has `segment_named` is told which photo it is.
        name: the photo's file name.
        image: RGB, uint8 [H, W, 3], as it is used.
        carry: see `Carry`; None where the photo is used as it is on disk.
    """
    named = getattr(segmenter, "segment_named", None)
    if named is None:
        return segmenter.segment(image)
    return named(name, image, carry)


def default_segmenter(device: str) -> str:
    """Name of the segmenter for a device: SAM ViT-H where there is CUDA, MobileSAM elsewhere.

    It depends on the device alone. Missing weights are an error later on, never a reason to take another one.
    """
    return "sam" if str(device).startswith("cuda") else "mobile-sam"


def make_segmenter(
    name: str, *, device: str = "cpu", points_per_side: int | None = None, weights: Path | None = None
) -> Segmenter:
    """Build the segmenter that `name` stands for.

    Args:
        name: a built-in name, a plug-in's, or `NAME:VARIANT` where the segmenter has variants: `labels:FOLDER`,
            `sam2:REPOSITORY`.
        device: torch device of the network, where the segmenter has one.
        points_per_side: side of the grid of prompts, for the SAM family; None is the segmenter's own default.
        weights: weights to take instead of the published ones: a file, or a folder for SAM 2.

    Raises:
        UserError: unknown name (the message lists the known ones), weights that cannot be had, or a variant of a
            segmenter that has none.
    """
    if points_per_side is not None and points_per_side < 1:
        raise UserError(f"points_per_side must be at least 1, got {points_per_side}")
    base, _, variant = (name, "", "") if name in SEGMENTERS.names() else name.partition(":")
    factory = SEGMENTERS.load(base)
    if variant and not takes(factory, "variant"):
        raise UserError(f"the segmenter {base} has no variants, so {name!r} cannot be met; write {base}")
    offers = {"device": str(device), "points_per_side": points_per_side, "weights": weights, "variant": variant or None}
    segmenter = call_with_known_arguments(factory, offers)
    missing = [part for part in ("segmenter_id", "segment") if not hasattr(segmenter, part)]
    if missing:
        raise UserError(
            f"segmenter {name!r} lacks {', '.join(missing)}; see lang_splat_ns.perception.segmenters.Segmenter"
        )
    return segmenter


def compact(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Renumber one label map [H, W] so that its ids are 0..n-1 without gaps; negative labels become -1."""
    ids, inverse = np.unique(labels, return_inverse=True)
    negative = int((ids < 0).sum())
    # numpy 2.0 alone returned the inverse flat, hence the reshape.
    return (np.maximum(inverse.reshape(labels.shape), negative - 1) - negative).astype(np.int32)
