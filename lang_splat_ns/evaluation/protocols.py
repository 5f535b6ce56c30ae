"""How maps and Gaussians are read for a score: our own rule, and those under which the papers published theirs.

Scores of one protocol say nothing about scores of another. Ours never stretches a map, so that an absent prompt can
stay empty; the published ones do, so that every prompt is found somewhere. Which photos were used for training is a
matter of the data set's split and not of these.

- `held-out`: DESIGN's rule. The photo's smoothed raw relevancy above a threshold, at the level that the field chose.
- `lerf-ovs-2d`: LangSplat's evaluation (Qin et al., CVPR 2024) with the constants of its published code: 30 x 30 means,
  maps stretched to 0..1, and of that what lies above 0.4 of the upper half, after a 7 x 7 majority vote.
- `lerf-ovs-3d`: the evaluation of OpenGaussian, Dr. Splat and VALA, with VALA's constants (2025): relevancy of
  Gaussians, averaged with their ten nearest, stretched to 0..1, and of that what lies above 0.6 of the upper half;
  those alone are drawn. It has no localisation and says nothing about maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.errors import NotSplatError
from lang_splat_ns.language.field import LanguageField, Query, ScoresGaussians
from lang_splat_ns.language.relevancy import (
    Threshold,
    choose_level,
    mask_of_smoothed,
    resolve_threshold,
    smooth,
)

ProtocolName = Literal["held-out", "lerf-ovs-2d", "lerf-ovs-3d"]

_BOX, _MAJORITY = 30, 7
"""Pixels, whatever the photo's size, as in LangSplat's code."""
_STRETCHED_2D, _STRETCHED_3D = 0.4, 0.6
"""Thresholds on the upper half of a stretched map, of LangSplat's code and of VALA."""
_NEAREST = 10
"""Gaussians that VALA averages over, the Gaussian itself included."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One prompt's maps in one frame, read.

    Attributes:
        maps: float [L, H, W], what masks were read off, before any stretching.
        masks: bool [L, H, W].
        chosen: the level that answers.
        pointing: float [H, W], the map whose peak is the prompt's place.
        threshold: the number that applied.
    """

    maps: np.ndarray
    masks: np.ndarray
    chosen: int
    pointing: np.ndarray
    threshold: float


@dataclass(frozen=True)
class EvaluationProtocol:
    """A way to read answers.

    Attributes:
        read: reads one prompt's raw relevancy [L, H, W], given the level that the field has chosen and the query; None
            where maps are not scored.
        select: the Gaussians that answer each prompt, bool [Q, N], where those are scored; raises `NotSplatError`
            where a field has none.
        opaque: alpha above which a pixel belongs to a selection's silhouette.
    """

    read: Callable[[Tensor, int, Query], Reading] | None
    select: Callable[[LanguageField, Query], Tensor] | None
    opaque: float = 0.5


def read_held_out(maps: Tensor, chosen: int, query: Query) -> Reading:
    """Smoothed raw relevancy above the query's threshold."""
    smoothed = smooth(maps)
    masks = torch.stack([mask_of_smoothed(level, query.threshold) for level in smoothed])
    found = smoothed.cpu().numpy()
    limit = resolve_threshold(float(found[chosen].max()), query.threshold)
    return Reading(found, masks.cpu().numpy(), chosen, found[chosen], limit)


def read_langsplat(maps: Tensor, chosen: int, query: Query) -> Reading:
    """Stretched maps; with the level "auto" that of the highest smoothed peak, for masks and for places apart."""
    raw = maps.float().cpu().numpy()
    blurred = np.stack([_box_mean(level) for level in raw])
    smoothed = (raw + blurred) / 2
    limit = _limit(query.threshold, _STRETCHED_2D)
    masks = np.stack([majority(upper_half(level) > limit) for level in smoothed])
    pointing = blurred[chosen]
    if query.level == "auto":
        chosen = int(smoothed.max((1, 2)).argmax())
        pointing = blurred[int(blurred.max((1, 2)).argmax())]
    return Reading(smoothed, masks, chosen, pointing, limit)


def select_own(field: LanguageField, query: Query) -> Tensor:
    """The field's own selection: bool [Q, N]."""
    return field.select(query).mask


def select_vala(field: LanguageField, query: Query) -> Tensor:
    """Stretched relevancy of Gaussians, at the level of the highest peak after averaging: bool [Q, N].

    Raises:
        NotSplatError: the field has no Gaussians.
    """
    if not isinstance(field, ScoresGaussians):
        raise NotSplatError("lerf-ovs-3d needs Gaussians to select, and this method has none.")
    scores, around = field.scores(query), field.neighbours()  # [Q, L, N]
    if around is not None:
        scores = (scores + mean_of_nearest(scores, around.index[:, :_NEAREST])) / 2
    levels = choose_level(scores, query.level, field.levels)
    limit = _limit(query.threshold, _STRETCHED_3D)
    best = scores[torch.arange(len(levels)), torch.tensor(levels)].cpu().numpy()  # [Q, N]
    return torch.from_numpy(np.stack([upper_half(row) > limit for row in best])).to(scores.device)


PROTOCOLS: dict[ProtocolName, EvaluationProtocol] = {
    "held-out": EvaluationProtocol(read_held_out, select_own),
    "lerf-ovs-2d": EvaluationProtocol(read_langsplat, None),
    "lerf-ovs-3d": EvaluationProtocol(None, select_vala, opaque=10 / 255),
}


def upper_half(values: np.ndarray) -> np.ndarray:
    """Values stretched to 0..1, and of that the upper half stretched to 0..1, the lower one 0; constant ones are 0."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low) * 2 - 1, 0, 1)


def majority(mask: np.ndarray) -> np.ndarray:
    """Where more than half of the pixels in a 7 x 7 window, as far as it lies in the image, are set: bool [H, W]."""
    import cv2

    options: Any = {"ddepth": cv2.CV_32F, "ksize": (_MAJORITY, _MAJORITY), "normalize": False}
    options["borderType"] = cv2.BORDER_CONSTANT
    ones = np.ones(mask.shape, np.float32)
    return cv2.boxFilter(mask.astype(np.float32), **options) * 2 > cv2.boxFilter(ones, **options)


def mean_of_nearest(scores: Tensor, index: Tensor) -> Tensor:
    """Plain means over given Gaussians: scores [..., N] and index [N, k] -> [..., N]."""
    total = torch.zeros_like(scores)
    for place in index.T:
        total += scores.index_select(-1, place)
    return total / max(index.shape[1], 1)


def _box_mean(image: np.ndarray) -> np.ndarray:
    """Mean over 30 x 30 pixels, from 15 before to 14 after, mirrored at the border as OpenCV's filters do."""
    import cv2

    return cv2.blur(image, (_BOX, _BOX))


def _limit(threshold: Threshold, published: float) -> float:
    return resolve_threshold(0.0, published if threshold == "auto" else threshold)
