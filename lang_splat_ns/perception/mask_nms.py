"""Mask scores and LangSplat's suppression of masks that repeat or sit inside one another.

Qin et al., LangSplat, CVPR 2024, section 3.2, with the thresholds of its published settings. Written from the
formulas; all pairs at once. `mask_nms_reference` is the same as a plain double loop, for the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

INNER_SHARE = 0.85
"""From this share of its own area inside another mask on, a mask counts as nested."""
OUTER_SHARE = 0.5
"""Below this share of the outer mask's area, the two are a nested pair, and not the same thing twice."""
_TILE = 64


@dataclass(frozen=True)
class MaskNmsSettings:
    """Thresholds of `mask_nms`.

    Attributes:
        iou: a mask goes if it overlaps one of higher score by more than this.
        score: a mask stays only with a score above this.
        inner: a nested mask goes if the pair's overlap score exceeds one minus this.
    """

    iou: float = 0.8
    score: float = 0.7
    inner: float = 0.5


def mask_scores(stability: Tensor, predicted_iou: Tensor) -> Tensor:
    """Score of each mask, float [M]: its stability times the intersection over union that the network predicts."""
    return stability * predicted_iou


def mask_nms(masks: Tensor, scores: Tensor, settings: MaskNmsSettings | None = None) -> Tensor:
    """Indices of the masks of one level that stay, by falling score.

    A mask goes if (1) its score is too low, (2) its IoU with any mask of higher score is too high, or (3) it is
    nested: at least 0.85 of it lies in another mask, of which that is less than 0.5, and the pair's overlap score
    `1 - (intersection / area) * (intersection / other area)` exceeds `1 - inner`. Every mask counts as another's
    rival, also one that goes itself. Equal scores are ordered by index.

    Args:
        masks: bool [M, H, W], of any resolution.
        scores: float [M].
        settings: thresholds; LangSplat's by default.

    Returns:
        int64 [K].
    """
    settings = settings or MaskNmsSettings()
    order = torch.argsort(scores, descending=True, stable=True)
    intersection = intersections(masks[order])
    area = intersection.diagonal()
    union = area[:, None] + area[None] - intersection
    iou = intersection / union.clamp(min=1.0)
    # Row: rival; column: the mask that is judged. Above the diagonal the rival has the higher score.
    repeated = (iou.triu(diagonal=1) > settings.iou).any(dim=0)
    of_rival = intersection / area[:, None].clamp(min=1.0)
    of_mask = intersection / area[None].clamp(min=1.0)
    nested = (of_rival < OUTER_SHARE) & (of_mask >= INNER_SHARE)
    inside = (nested & (1.0 - of_rival * of_mask > 1.0 - settings.inner)).any(dim=0)
    keep = (scores[order] > settings.score) & ~repeated & ~inside
    return order[keep]


def intersections(masks: Tensor) -> Tensor:
    """Pixels that each two masks share: float32 [M, M], exact up to 2^24 pixels.

    A mask lies in few places, so the photo is looked at in tiles, each with the masks that have a pixel there.

    Args:
        masks: bool [M, H, W].
    """
    shared = torch.zeros(len(masks), len(masks), device=masks.device)
    for band in masks.split(_TILE, dim=1):
        for tile in band.split(_TILE, dim=2):
            flat = tile.flatten(1)
            # Bytes are compared several times as fast as bools.
            present = torch.nonzero(flat.view(torch.uint8).amax(dim=1))[:, 0]
            inside = flat[present].float()
            shared[present[:, None], present] += inside @ inside.T
    return shared
