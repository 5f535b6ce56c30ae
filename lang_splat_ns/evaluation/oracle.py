"""The ceiling of a segmenter and an encoder: what they answer on the labelled photo itself, without any 3D.

A field that is lifted into 3D sees a photo's regions through other photos and through geometry. The oracle sees them
directly, so the distance between the two is what 3D costs (or, by joining views, gains), and the oracle's own
distance from full marks is what segmenter and encoder cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.errors import NotSplatError, UserError
from lang_splat_ns.evaluation.evaluator import LabelledFrame
from lang_splat_ns.language.field import Query, RelevancyMaps, Selection
from lang_splat_ns.language.relevancy import choose_level, relevancy
from lang_splat_ns.language.text import TextCache
from lang_splat_ns.perception.encoders import Encoder
from lang_splat_ns.perception.extract import Frame, FrameFeatures
from lang_splat_ns.perception.feature_store import make_key


class OracleField:
    """Keeps the `LanguageField` protocol with nothing but the 2D features of the asked photo.

    Args:
        encoder: embedded the regions and embeds the prompts.
        levels: names of the label maps' levels, coarse to fine.
        features: gives the label maps and embeddings of a photo; its argument is what `relevancy` gets as `camera`,
            for example a perception `Frame` that is looked up in the feature store.
    """

    def __init__(self, encoder: Encoder, levels: tuple[str, ...], features: Callable[[Any], FrameFeatures]) -> None:
        self._texts = TextCache(encoder)
        self._levels = levels
        self._features = features

    @property
    def encoder(self) -> Encoder:
        """Where prompts are embedded."""
        return self._texts.encoder

    @property
    def levels(self) -> tuple[str, ...]:
        """The label maps' levels, coarse to fine."""
        return self._levels

    def relevancy(self, camera: Any, query: Query) -> RelevancyMaps:
        """Relevancy of each region, painted on its pixels; 0 where there is no region.

        Raises:
            KeyError: a prompt that the encoder cannot represent.
            UserError: the level is none of the field's, or the photo was never extracted.
        """
        features = self._features(camera)
        positives, negatives = self._texts.embed(query.positives), self._texts.negatives(query.negatives)
        temperature = self._texts.temperature
        painted = [
            paint(relevancy(torch.from_numpy(rows), positives, negatives, temperature), torch.from_numpy(labels))
            for labels, rows in zip(features.label_maps.labels, features.embeddings, strict=True)
        ]
        values = torch.stack(painted, dim=1)  # [Q, L, H, W]
        return RelevancyMaps(values, choose_level(values, query.level, self.levels), self.levels)

    def select(self, query: Query) -> Selection:
        """Not possible: a photo has no Gaussians."""
        raise NotSplatError("The 2D oracle has no Gaussians to select: it looks at photos only.")

    def silhouettes(self, camera: Any, masks: Tensor) -> Tensor:
        """Not possible either."""
        raise NotSplatError("The 2D oracle has no Gaussians to draw: it looks at photos only.")


def paint(per_region: Tensor, labels: Tensor) -> Tensor:
    """Give every pixel its region's value.

    Args:
        per_region: float [Q, count].
        labels: int [H, W], ids 0..count-1, or -1 for no region.

    Returns:
        float [Q, H, W], 0 where there is no region.
    """
    # A column of zeros at the end is what index -1 reads.
    padded = torch.nn.functional.pad(per_region, (0, 1))
    return padded[:, labels.long()]


def shrink(frame: LabelledFrame, photo: Frame, factor: float) -> tuple[LabelledFrame, Frame]:
    """The same labelled photo at 1/factor of its size, labels and pixels by area averaging.

    Args:
        frame: labels at the photo's size.
        photo: the photo; its features are cached apart from those of the full size.
        factor: 1 or more; 1 changes nothing.

    Returns:
        The smaller labels, whose `camera` is the smaller photo, and that photo.

    Raises:
        UserError: the factor is below 1.
    """
    if not factor >= 1:
        raise UserError(f"A photo can be made smaller by a factor of 1 or more, not by {factor}.")
    if factor == 1:
        return replace(frame, camera=photo), photo
    key = make_key(photo.content_key, "shrink", repr(float(factor)))

    def carry(ids: np.ndarray) -> np.ndarray:
        return _nearest_resize(ids if photo.carry is None else photo.carry(ids), factor)

    smaller = Frame(photo.name, key, lambda: _area_resize(photo.load(), factor), carry)
    masks = {prompt: _shrink_mask(mask, factor) for prompt, mask in frame.masks.items()}
    boxes = {prompt: [_shrink_mask(box, factor) for box in boxes] for prompt, boxes in frame.boxes.items()}
    return LabelledFrame(frame.name, smaller, masks, boxes), smaller


def _shrink_mask(mask: np.ndarray, factor: float) -> np.ndarray:
    return _area_resize(mask.astype(np.float32), factor) > 0.5


def _area_resize(image: np.ndarray, factor: float) -> np.ndarray:
    height, width = _smaller(image.shape, factor)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _nearest_resize(ids: np.ndarray, factor: float) -> np.ndarray:
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(_smaller(ids.shape, factor), ids.shape, strict=True)
    )
    return ids[rows[:, None], columns]


def _smaller(size: tuple[int, ...], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] / factor)), max(1, round(size[1] / factor))
