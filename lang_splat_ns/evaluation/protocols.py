"""How maps and Gaussians are read for a score: our own rule, and those under which the papers published theirs.

Scores of one protocol say nothing about scores of another. Ours never stretches a map, so that an absent prompt can
stay empty; the published ones do, so that every prompt is found somewhere.

Published scores differ along two axes. One is the reading, which is what is here. The other is the role of the
labelled photos: whether geometry and language were trained on them. That is settled when a run is trained (the data
parsers `lerf-ovs` and `3d-ovs` call it `views`), and a protocol can only choose which of a run's labelled photos it
scores: those that were held out, or, as the papers do, those that were trained on, too.

- `held-out`: DESIGN's rule. The photo's smoothed raw relevancy above a threshold, at the level that the field chose.
- `lerf-ovs-2d`: LangSplat's evaluation (Qin et al., CVPR 2024) with the constants of its published code: 30 x 30 means,
  maps stretched to 0..1, and of that what lies above 0.4 of the upper half, after a 7 x 7 majority vote.
- `lerf-ovs-3d`: the evaluation of OpenGaussian, Dr. Splat and VALA, with VALA's constants (2025): relevancy of
  Gaussians, averaged with their ten nearest, stretched to 0..1, and of that what lies above 0.6 of the upper half;
  those alone are drawn. It has no localisation and says nothing about maps.
- `3d-ovs`: the evaluation of 3D-OVS (Liu et al., NeurIPS 2023). The scene's classes are a closed list, and every pixel
  answers with the one of the highest relevancy, which with the same negatives for all is the nearest one. Mean IoU
  over photos and the classes in them, and pixel accuracy.
- `as-published`: read as `lerf-ovs-2d`, with the view roles of the LangSplat family: every labelled photo counts,
  whether it was trained on or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.errors import NotSplatError
from lang_splat_ns.evaluation.protocol_names import ProtocolName
from lang_splat_ns.language.field import LanguageField, Query, ScoresGaussians
from lang_splat_ns.language.relevancy import (
    Threshold,
    choose_level,
    mask_of_smoothed,
    resolve_threshold,
    smooth,
)

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
        masks: bool [L, H, W], where that level alone would say that the prompt is.
        mask: bool [H, W], the answer.
        chosen: the level that answers.
        pointing: float [H, W], the map whose peak is the prompt's place.
        threshold: the number that applied.
    """

    maps: np.ndarray
    masks: np.ndarray
    mask: np.ndarray
    chosen: int
    pointing: np.ndarray
    threshold: float


@dataclass(frozen=True)
class EvaluationProtocol:
    """A way to read answers.

    Attributes:
        read: reads raw relevancy of a query's prompts [Q, L, H, W] in one frame, given the level that the field has
            chosen for each and the query; None where maps are not scored.
        select: the Gaussians that answer each prompt, bool [Q, N], where those are scored; raises `NotSplatError`
            where a field has none.
        opaque: alpha above which a pixel belongs to a selection's silhouette.
        closed: whether prompts are a closed list: they are all asked in every frame and read together, and none of
            them is ever absent.
        seen: whether labelled photos that were trained on are scored as well as those that were held out.
    """

    read: Callable[[Tensor, Sequence[int], Query], Iterable[Reading]] | None
    select: Callable[[LanguageField, Query], Tensor] | None
    opaque: float = 0.5
    closed: bool = False
    seen: bool = False


def one_by_one(
    read: Callable[[Tensor, int, Query], Reading],
) -> Callable[[Tensor, Sequence[int], Query], Iterable[Reading]]:
    """A reading of prompts that do not mind each other, from that of one prompt [L, H, W] and its level."""

    def read_each(maps: Tensor, chosen: Sequence[int], query: Query) -> Iterable[Reading]:
        return (read(of_prompt, level, query) for of_prompt, level in zip(maps, chosen, strict=True))

    return read_each


def read_held_out(maps: Tensor, chosen: int, query: Query) -> Reading:
    """Smoothed raw relevancy above the query's threshold."""
    smoothed = smooth(maps)
    masks = torch.stack([mask_of_smoothed(level, query.threshold) for level in smoothed])
    found = smoothed.cpu().numpy()
    limit = resolve_threshold(float(found[chosen].max()), query.threshold)
    return Reading(found, masks.cpu().numpy(), masks[chosen].cpu().numpy(), chosen, found[chosen], limit)


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
    return Reading(smoothed, masks, masks[chosen], chosen, pointing, limit)


def read_closed_list(maps: Tensor, chosen: Sequence[int], query: Query) -> Iterable[Reading]:
    """Each pixel belongs to the class of the highest raw relevancy there, each class at its own level.

    A pixel without evidence for any class (relevancy 0) belongs to none. There is no threshold.
    """
    raw = maps.float().cpu().numpy()  # [Q, L, H, W]
    answers = highest(raw[np.arange(len(raw)), list(chosen)])
    of_levels = np.stack([highest(raw[:, level]) for level in range(raw.shape[1])])
    for number, level in enumerate(chosen):
        yield Reading(raw[number], of_levels == number, answers == number, level, raw[number, level], 0.0)


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
    "held-out": EvaluationProtocol(one_by_one(read_held_out), select_own),
    "lerf-ovs-2d": EvaluationProtocol(one_by_one(read_langsplat), None),
    "lerf-ovs-3d": EvaluationProtocol(None, select_vala, opaque=10 / 255),
    "3d-ovs": EvaluationProtocol(read_closed_list, None, closed=True),
}
PROTOCOLS["as-published"] = replace(PROTOCOLS["lerf-ovs-2d"], seen=True)


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


def highest(scores: np.ndarray) -> np.ndarray:
    """Which of Q maps is the highest, of equals the first, and -1 where all are 0: [Q, H, W] -> int [H, W]."""
    return np.where(scores.max(axis=0) > 0, scores.argmax(axis=0), -1)


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
