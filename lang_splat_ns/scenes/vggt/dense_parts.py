"""Parts of the dense prediction head: residual convolutions, fusion of two scales, position embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_POSITION_BASE = 100.0
_POSITION_WEIGHT = 0.1


class ResidualConvolutions(nn.Module):
    """Two convolutions added to the rectified input.

    DPT as published adds the input itself. VGGT was trained with a rectification in place, which also changed what is
    added; the checkpoint's weights expect that.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[F, features, h, w] -> the same shape."""
        x = F.relu(x)
        return x + self.conv2(F.relu(self.conv1(x)))


class Fusion(nn.Module):
    """Adds a finer scale to what has been fused so far, and enlarges the sum.

    Args:
        features: channels.
        finer: whether there is anything to add; not so at the coarsest scale, where the fusion begins.
    """

    def __init__(self, features: int, *, finer: bool = True) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if finer:
            self.resConfUnit1 = ResidualConvolutions(features)
        self.resConfUnit2 = ResidualConvolutions(features)

    def forward(self, x: Tensor, size: tuple[int, int], finer: Tensor | None = None) -> Tensor:
        """[F, features, h, w] (twice) -> [F, features, *size]."""
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        return self.out_conv(enlarge(self.resConfUnit2(x), size))


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation in which the outermost pixels' centres stay on each other."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def add_position(x: Tensor, aspect: float) -> Tensor:
    """Add a little of a sine and cosine embedding of each cell's position to a feature map.

    Args:
        x: [F, channels, h, w], channels a multiple of 4.
        aspect: width by height of the photo, whose half diagonal has length 1.
    """
    channels, height, width = x.shape[1:]
    diagonal = (aspect**2 + 1) ** 0.5
    across = _waves(_cells(width, aspect / diagonal), channels // 2, x.device)  # [w, channels / 2]
    down = _waves(_cells(height, 1 / diagonal), channels // 2, x.device)  # [h, channels / 2]
    grid = torch.cat([across.expand(height, -1, -1), down[:, None].expand(-1, width, -1)], dim=-1)
    return x + _POSITION_WEIGHT * grid.permute(2, 0, 1).to(x.dtype)


def _cells(count: int, half: float) -> Tensor:
    """Centres of equal cells that together reach from -half to half."""
    outermost = half * (count - 1) / count
    return torch.linspace(-outermost, outermost, count, dtype=torch.float64)


def _waves(places: Tensor, channels: int, device: torch.device) -> Tensor:
    """Sines, then cosines, of falling frequency: [..., channels]."""
    frequencies = _POSITION_BASE ** (-torch.arange(channels // 2, dtype=torch.float64) / (channels / 2))
    angles = places[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float().to(device)
