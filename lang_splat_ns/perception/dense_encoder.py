"""`dense`: a feature map of the whole photo, averaged under each mask."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.clip_encoder import ClipEncoder
from lang_splat_ns.perception.encoders import RegionTask, make_encoder

LONG_SIDE = 512
"""Pixels along the photo's longer side as the network sees it."""


class DenseEncoder:
    """Patches of a CLIP under MaskCLIP's change (see `ClipNetwork.encode_patches`), averaged under each mask.

    One pass over the photo serves all regions and levels, so it is much faster than crops and sees every region in its
    surroundings; in exchange it resolves no more than a patch.

        encoder = make_encoder("dense:chinese-clip")

    Args:
        device: torch device.
        weights: weights of the network, as its own encoder takes them.
        variant: name of the encoder whose network looks at the photo and reads the prompts; `open_clip` by default.
        templates: "phrase" or "ensemble", see `prompt_templates`.

    Raises:
        UserError: that encoder has no patches, or cannot be had.
    """

    def __init__(
        self,
        device: str = "cpu",
        weights: Path | None = None,
        variant: str = "open_clip",
        templates: str | None = None,
    ) -> None:
        inner = make_encoder(variant, device=device, weights=weights, templates=templates)
        if not isinstance(inner, ClipEncoder):
            raise UserError(f"dense:{variant}: {variant} has no patches; take one of the CLIP encoders")
        self._inner = inner
        self.dim, self.negatives = inner.dim, inner.negatives
        self.encoder_id = f"dense/1 side={LONG_SIDE} {inner.network_id}"

    @property
    def temperature(self) -> float:
        """See `ClipEncoder.temperature`."""
        return self._inner.temperature

    def embed_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See `Encoder.embed_text`."""
        return self._inner.embed_text(texts)

    def embed_regions(
        self, image: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], count: int
    ) -> npt.NDArray[np.float32]:
        """Embed regions; see `Encoder.embed_regions`."""
        return pool(self._features(image), labels, count)

    def embed_many(self, tasks: Sequence[RegionTask]) -> list[npt.NDArray[np.float32]]:
        """Embed several label maps; the levels of one photo share its feature map. See `encoders.embed_many`."""
        rows: list[npt.NDArray[np.float32]] = []
        for _, group in groupby(tasks, key=lambda task: id(task.image)):
            levels = list(group)
            features = self._features(levels[0].image)
            rows += [pool(features, task.labels, task.count) for task in levels]
        return rows

    def _features(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        import cv2

        patch = self._inner.network.patch
        scale = LONG_SIDE / max(image.shape[:2])
        height, width = (max(1, round(extent * scale / patch)) * patch for extent in image.shape[:2])
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        resized = cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)
        return self._inner.encode_patches(resized)


def pool(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.float32]:
    """Mean feature of each region, made unit: every pixel counts with the feature of the patch that it lies in.

    Args:
        features: float32 [h, w, D], spread evenly over the image.
        labels: int32 [H, W], -1 = no region.
        count: number of regions.

    Returns:
        float32 [count, D]; NaN for a region without pixels.
    """
    rows, columns, _ = features.shape
    height, width = labels.shape
    patch = (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width
    inside = labels >= 0
    pixels = np.bincount(labels[inside] * (rows * columns) + patch[inside], minlength=count * rows * columns)
    sums = pixels.reshape(count, -1).astype(np.float32) @ features.reshape(rows * columns, -1)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(length > 0, sums / np.where(length > 0, length, 1.0), np.nan).astype(np.float32)
