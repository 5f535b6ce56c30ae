"""Structural similarity in plain torch, for machines without `pytorch_msssim`, which nerfstudio uses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity of images [H, W, C] in 0..1, at least 11 pixels wide and high (Wang et al. 2004).

    Equal to `pytorch_msssim.ssim(..., data_range=1)`: Gaussian window of 11 pixels, inside the image only.
    """
    x, y = first.movedim(-1, 0), second.movedim(-1, 0)  # [C, H, W]
    mean_x, mean_y, xx, yy, xy = (_blur(maps) for maps in (x, y, x * x, y * y, x * y))
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return ((2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1) * structure).mean()


def _blur(maps: Tensor) -> Tensor:
    """Gaussian blur of [C, H, W] without padding, rows and columns separately."""
    channels = len(maps)
    offsets = torch.arange(_WINDOW, device=maps.device, dtype=maps.dtype) - _WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    rows = (window / window.sum()).expand(channels, 1, 1, -1)
    # One group per channel, since the kernels for one channel alone are many times slower.
    return F.conv2d(F.conv2d(maps[None], rows, groups=channels), rows.mT, groups=channels)[0]
