"""What the panel makes of a render: relevancy as light, masks, and the outline of what was clicked. Tensors only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lang_splat_ns.language.relevancy import Threshold, mask_of_smoothed, smooth

Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (255, 214, 10),
    (0, 200, 255),
    (255, 90, 200),
    (120, 235, 90),
    (255, 140, 40),
    (165, 120, 255),
    (255, 75, 75),
    (0, 220, 170),
)
"""Colours of the prompts, told apart on a subdued picture; the ninth prompt has the first one's again."""

PICKED: Color = (255, 255, 255)
"""Colour of what was clicked."""

OPAQUE = 0.3
"""Alpha below which a pixel is background: a feature blended from next to nothing still points somewhere."""


@dataclass(frozen=True)
class Found:
    """A query's answer in one view.

    Attributes:
        relevancy: smoothed relevancy of the chosen levels, 0 where there is background. [Q, H, W]
        masks: where each prompt is. bool [Q, H, W]
        peaks: each prompt's highest raw relevancy.
    """

    relevancy: Tensor
    masks: Tensor
    peaks: tuple[float, ...]

    @property
    def areas(self) -> tuple[float, ...]:
        """Each prompt's share of the view."""
        return tuple(self.masks.float().mean((-2, -1)).tolist())


def find(best: Tensor, alpha: Tensor, threshold: Threshold) -> Found:
    """Masks of a query, by the rules that scores follow too, except that background is never a part of them.

    Args:
        best: raw relevancy of the chosen levels. [Q, H, W]
        alpha: [H, W, 1]
        threshold: as in `relevancy.mask_of`.
    """
    raw = torch.where(alpha[..., 0] > OPAQUE, best, 0.0)
    smoothed = torch.where(alpha[..., 0] > OPAQUE, smooth(raw), 0.0)
    masks = torch.stack([mask_of_smoothed(one, threshold) for one in smoothed])
    return Found(smoothed, masks, tuple(raw.flatten(1).amax(1).tolist()))


def overlay(rgb: Tensor, found: Found, opacity: float) -> Tensor:
    """The render subdued, and over it each prompt's colour, the stronger the higher relevancy is.

    Relevancy is not stretched: 0.5 is invisible, 1 has the full opacity, and a faint answer looks faint.

    Args:
        rgb: [H, W, 3] in 0..1.
        found: what the query found there.
        opacity: of the highest relevancy, 0..1.
    """
    heat, which = found.relevancy.max(0)
    strength = ((heat - 0.5) * 2).clamp(0, 1)
    # Where a pixel belongs to no prompt, its relevancy is only hinted at.
    weight = torch.where(found.masks.any(0), strength.sqrt(), 0.3 * strength)
    colored = torch.lerp(subdued(rgb), _colors(rgb, len(found.masks))[which], (opacity * weight)[..., None])
    return _outlined(colored, found.masks)


def mask_picture(rgb: Tensor, found: Found, opacity: float) -> Tensor:
    """The render dark and grey but for what was found, which keeps its look under a tint.

    Args:
        rgb: [H, W, 3] in 0..1.
        found: what the query found there.
        opacity: 0 only darkens the rest, 1 also fills masks with their colour.
    """
    inside = found.masks.any(0)[..., None]
    which = torch.where(found.masks, found.relevancy, -1.0).argmax(0)
    tinted = torch.lerp(rgb, _colors(rgb, len(found.masks))[which], 0.6 * opacity)
    dark = torch.lerp(rgb, 0.35 * rgb.mean(-1, keepdim=True).expand_as(rgb), 0.4 + 0.6 * opacity)
    return _outlined(torch.where(inside, tinted, dark), found.masks)


def lit_up(rgb: Tensor, share: Tensor, rest: bool) -> Tensor:
    """The render with light on what was clicked, and a line around it.

    Args:
        rgb: [H, W, 3] in 0..1.
        share: how much of each pixel belongs to it, 0..1. [H, W, 1]
        rest: subdue everything else.
    """
    other = subdued(rgb) if rest else rgb
    bright = torch.lerp(rgb, torch.ones_like(rgb), 0.3)
    picture = torch.lerp(other, bright, share.clamp(0, 1))
    mask = share[..., 0] > 0.5
    return torch.where(edge(mask)[..., None], _as_tensor([PICKED], rgb)[0], picture)


def subdued(rgb: Tensor) -> Tensor:
    """A picture that leaves colours and light to what is drawn over it."""
    return 0.65 * torch.lerp(rgb, rgb.mean(-1, keepdim=True).expand_as(rgb), 0.6)


def edge(mask: Tensor) -> Tensor:
    """Pixels just outside a mask, one per 320 pixels of the picture's longer side: bool [..., H, W]."""
    reach = max(1, round(max(mask.shape[-2:]) / 320))
    grown = F.max_pool2d(mask.float().reshape(-1, 1, *mask.shape[-2:]), 2 * reach + 1, stride=1, padding=reach)
    return (grown.reshape(mask.shape) > 0) & ~mask


def _outlined(picture: Tensor, masks: Tensor) -> Tensor:
    for color, line in zip(_colors(picture, len(masks)), edge(masks), strict=True):
        picture = torch.where(line[..., None], color, picture)
    return picture


def _colors(like: Tensor, count: int) -> Tensor:
    return _as_tensor([PALETTE[index % len(PALETTE)] for index in range(count)], like)


def _as_tensor(colors: list[Color], like: Tensor) -> Tensor:
    return torch.tensor(colors, dtype=like.dtype, device=like.device) / 255
