"""Rotary position embedding in two dimensions (Su et al. 2021; Heo et al. 2024).

The channels of a head are halved. Pairs of channels in the first half are turned by angles that grow with the token's
row, those in the second half with its column, so that products of queries and keys depend on relative positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 100.0
"""The slowest pair turns about this many times slower than the fastest, which turns by 1 rad per patch."""


class Rotation(NamedTuple):
    """Angles' cosines and sines per token and channel, float32 [N, head_dim] each."""

    cos: Tensor
    sin: Tensor

    def repeat(self, times: int) -> Rotation:
        """The same tokens several times over: [times * N, head_dim]."""
        return Rotation(self.cos.repeat(times, 1), self.sin.repeat(times, 1))


def rotation_of_frame(rows: int, columns: int, special: int, head_dim: int, device: torch.device) -> Rotation:
    """The rotation of one frame's tokens.

    Args:
        rows, columns: of patches. Their positions begin with 1.
        special: tokens before the patches, which lie at position 0 and are not turned.
        head_dim: channels per attention head, a multiple of 4.
        device: where the result lies.
    """
    quarter = head_dim // 4
    frequencies = BASE ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    places = torch.cartesian_prod(
        torch.arange(1, rows + 1, device=device), torch.arange(1, columns + 1, device=device)
    )  # [rows * columns, 2]
    places = torch.cat([places.new_zeros(special, 2), places])
    angles = places[:, :, None] * frequencies  # [N, 2, quarter]
    angles = torch.cat([angles, angles], dim=-1).flatten(1)  # [N, head_dim]
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys [..., N, head_dim]; the answer is float32."""
    # A pair's channels lie a quarter of the head apart.
    first, second, third, fourth = x.chunk(4, dim=-1)
    turned = torch.cat([-second, first, -fourth, third], dim=-1)
    return x * rotation.cos + turned * rotation.sin
