"""Parts of the tracker: reading feature maps between their cells, correlations, and embeddings of places."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sample(maps: Tensor, places: Tensor, padding: str = "border") -> Tensor:
    """Read feature maps bilinearly.

    Args:
        maps: [F, C, H, W].
        places: x and y, the middle of the first cell being (0, 0). [F, N, 2]
        padding: what lies outside, "border" or "zeros".

    Returns:
        [F, N, C].
    """
    # A map of one cell has no extent to divide by.
    extent = places.new_tensor([max(maps.shape[-1] - 1, 1), max(maps.shape[-2] - 1, 1)])
    grid = (2 * places / extent - 1)[:, :, None]  # [F, N, 1, 2]
    read = F.grid_sample(maps, grid, mode="bilinear", padding_mode=padding, align_corners=True)
    return read[..., 0].transpose(1, 2)


class Correlations:
    """Likeness of tracked points' features to the feature maps around them, on several scales.

    Args:
        maps: [F, C, H, W].
        levels: scales, each half as fine as the one before.
        radius: a window of 2 radius + 1 cells is read on each.
        points_chunk_size: points that are read at a time, which bounds the memory.
    """

    def __init__(self, maps: Tensor, levels: int, radius: int, points_chunk_size: int = 256) -> None:
        self._pyramid = [maps]
        for _ in range(levels - 1):
            self._pyramid.append(F.avg_pool2d(self._pyramid[-1], 2))
        self._points_chunk_size = points_chunk_size
        steps = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
        # The window is read column by column, which the weights that follow expect.
        self._window = torch.cartesian_prod(steps, steps)  # [(2 r + 1)^2, 2]

    def read(self, features: Tensor, places: Tensor) -> Tensor:
        """[F, N, levels * (2 r + 1)^2] for features [F, N, C] at places [F, N, 2] in cells of the finest scale."""
        parts = [
            torch.cat([self._read(level, *part) for level in range(len(self._pyramid))], dim=-1)
            for part in zip(
                features.split(self._points_chunk_size, 1), places.split(self._points_chunk_size, 1), strict=True
            )
        ]
        return torch.cat(parts, dim=1)

    def _read(self, level: int, features: Tensor, places: Tensor) -> Tensor:
        # Reading features and comparing them is the same as comparing all and reading that, in far less memory.
        around = (places / 2**level)[:, :, None] + self._window  # [F, N, (2 r + 1)^2, 2]
        read = sample(self._pyramid[level], around.flatten(1, 2), "zeros").unflatten(1, around.shape[1:3])
        return torch.einsum("fnwc,fnc->fnw", read, features) / features.shape[-1] ** 0.5


def embed_shifts(shifts: Tensor, channels: int) -> Tensor:
    """Sines and cosines, in turn, of shifts [..., 2] in cells: [..., 2 * channels]."""
    frequencies = torch.arange(0, channels, 2, device=shifts.device, dtype=torch.float32) * (1000.0 / channels)
    angles = shifts[..., None] * frequencies  # [..., 2, channels / 2]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def embed_grid(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of each cell's position, x before y (Vaswani et al. 2017): [1, channels, H, W]."""
    quarter = channels // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def waves(count: int) -> Tensor:
        angles = torch.arange(count, dtype=torch.float64)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1).float()

    across, down = waves(width).expand(height, -1, -1), waves(height)[:, None].expand(-1, width, -1)
    return torch.cat([across, down], dim=-1).permute(2, 0, 1)[None].to(device)
