"""How well a place answers a prompt: LERF's relevancy, and what is read off its maps.

Relevancy compares a prompt with phrases that stand for "anything else". It is a share in 0..1, and 0.5 means
something by itself: above it the prompt beats every negative, whatever the encoder's range of cosines is. All
rules here therefore work on raw relevancy. No map is stretched to its own minimum and maximum, because that would
make every prompt present somewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lang_splat_ns.errors import UserError

Threshold = float | Literal["auto"]

TEMPERATURE = 10.0
"""LERF's factor on the cosines (Kerr et al., ICCV 2023, "Querying LERF")."""

AUTO_FRACTION = 0.4
"""How far above 0.5, as a share of the peak's own height above 0.5, a pixel must lie to be in the auto mask.

Settled once, by `benchmarks/auto_fraction.py` on four labelled scenes.
"""

# LangSplat averages over 30 x 30 pixels, on LERF-OVS photos that are about 730 rows high.
_WINDOW_PER_ROW = 30 / 730

# A row shorter than this points nowhere: an average of no features at all, or of features that cancel out.
_SHORTEST_EVIDENCE = 1e-6


def relevancy(embeddings: Tensor, positives: Tensor, negatives: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """LERF's relevancy: the pairwise softmax against each negative, and of those the minimum.

    For an embedding `e`, prompt `p` and negatives `n` it is `min_n exp(t e.p) / (exp(t e.p) + exp(t e.n))`
    (LERF, "Querying LERF"). That softmax of two is `sigmoid(t (e.p - e.n))`, and the minimum is taken by the negative
    with the highest cosine, so no tensor with a negative and a prompt axis is ever made.

    Args:
        embeddings: float [..., D], unit rows (pixels, masks or Gaussians). A row with NaN or without length has no
            evidence for anything.
        positives: float [Q, D], unit rows, one per prompt.
        negatives: float [Nn, D], unit rows, at least one.
        temperature: factor on the cosines; `TextCache.temperature` has the one that belongs to an encoder.

    Returns:
        float32 [Q, ...] in 0..1 on the embeddings' device. Above 0.5 exactly where the prompt beats every negative
        (up to float32 rounding), and 0 where there is no evidence.

    Raises:
        UserError: there is no negative to compare with.
    """
    if negatives.shape[0] == 0:
        raise UserError("Relevancy needs at least one negative phrase to compare with: name some with the query.")
    rows = embeddings.float()
    strongest_negative = (rows @ negatives.to(rows).mT).amax(-1, keepdim=True)  # [..., 1]
    margins = rows @ positives.to(rows).mT - strongest_negative  # [..., Q]
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)  # [..., 1]
    # A NaN fails every comparison, so this finds rows with NaN as well as short ones.
    evidence = (length > _SHORTEST_EVIDENCE) & (length < torch.inf)
    values = torch.where(evidence, torch.sigmoid(temperature * margins), 0.0)
    return values.movedim(-1, 0).contiguous()


def smoothing_window(height: int) -> int:
    """Side in pixels of the box that `smooth` averages over: odd, at least 3, 31 for a photo of 730 rows."""
    return max(3, 2 * int(height * _WINDOW_PER_ROW / 2) + 1)


def smooth(maps: Tensor) -> Tensor:
    """Mean of each map and its own box mean, which removes specks and keeps edges (LangSplat's evaluation).

    The window grows with the image, so that the same photo at half the size gives the same picture. At the border
    the mean is over the pixels that exist.

    Args:
        maps: float [..., H, W], raw relevancy.

    Returns:
        float [..., H, W].
    """
    height, width = maps.shape[-2:]
    if maps.numel() == 0:
        return maps.clone()
    side = smoothing_window(height)
    flat = maps.reshape(-1, 1, height, width)
    # The box and the number of pixels in it both factor into rows and columns, so two passes of 1-D means are
    # exact and cost 2 * side instead of side^2 per pixel.
    for kernel, padding in (((1, side), (0, side // 2)), ((side, 1), (side // 2, 0))):
        flat = F.avg_pool2d(flat, kernel, stride=1, padding=padding, count_include_pad=False)
    return (maps + flat.reshape(maps.shape)) / 2


def choose_level(maps: Tensor, level: str = "auto", levels: Sequence[str] = ()) -> tuple[int, ...]:
    """For each prompt the level that answers it: the given one, or that with the highest raw peak.

    Args:
        maps: float [Q, L, ...], raw relevancy of pixels or Gaussians, levels coarse to fine.
        level: name of a level, or "auto" for the highest peak, of equals the coarsest.
        levels: the L names.

    Returns:
        Q indices into the level axis.

    Raises:
        UserError: there is no level of that name.
    """
    if level == "auto":
        flat = maps.flatten(2)
        return tuple(flat.amax(-1).argmax(-1).tolist()) if flat.shape[-1] else (0,) * len(maps)
    if level not in levels:
        raise UserError(f"There is no level {level!r}: this scene has {', '.join(levels)}, or take 'auto'.")
    return (tuple(levels).index(level),) * len(maps)


def auto_threshold(peak: float, fraction: float = AUTO_FRACTION) -> float:
    """The relevancy that a place must exceed: `0.5 + fraction * max(peak - 0.5, 0)`.

    Where the peak is at most 0.5 nothing exceeds it, so a prompt for something absent selects nothing.

    Args:
        peak: highest (smoothed) relevancy of the map or of the Gaussians, 0..1.
        fraction: 0 keeps everything that beats the negatives, 1 keeps nothing but the peak.
    """
    return 0.5 + fraction * max(peak - 0.5, 0.0)


def resolve_threshold(peak: float, threshold: Threshold) -> float:
    """The number that `threshold` stands for on a map with this (smoothed) peak; a number stands for itself.

    Raises:
        UserError: the threshold is a number outside 0..1, or a word that is not "auto".
    """
    if threshold == "auto":
        return auto_threshold(peak)
    if not isinstance(threshold, (int, float)) or not 0.0 <= threshold <= 1.0:
        raise UserError(f"The threshold {threshold!r} is neither 'auto' nor a relevancy between 0 and 1.")
    return float(threshold)


def mask_of(relevancy_map: Tensor, threshold: Threshold = "auto") -> Tensor:
    """Where a prompt is: the pixels whose smoothed raw relevancy is above the threshold.

    Args:
        relevancy_map: float [H, W], raw relevancy of one prompt at one level; it is smoothed here.
        threshold: "auto" (see `auto_threshold`, with the smoothed map's peak) or a number in 0..1, taken as it is.

    Returns:
        bool [H, W]; with "auto" empty where the smoothed peak is not above 0.5.

    Raises:
        UserError: the threshold is a number outside 0..1.
    """
    return mask_of_smoothed(smooth(relevancy_map), threshold)


def mask_of_smoothed(smoothed: Tensor, threshold: Threshold = "auto") -> Tensor:
    """The same as `mask_of`, on a map that `smooth` has been applied to already. float [H, W] -> bool [H, W]."""
    peak = float(smoothed.max()) if smoothed.numel() else 0.0
    return smoothed > resolve_threshold(peak, threshold)
