"""The transformer that updates tracks: along time, and across points by way of a few virtual tracks.

After CoTracker (Karaev et al. 2023): attention between all points would cost too much, so that the points write into
virtual tracks, these exchange what they have, and the points read from them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lang_splat_ns.scenes.vggt.layers import MLP_RATIO, Mlp, learned_tokens

HEADS = 8
LAYERS = 6
VIRTUAL_TRACKS = 64


class SelfBlock(nn.Module):
    """Self-attention and MLP. The attention is added to the normalized input, as VGGT's weights expect."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, MLP_RATIO * dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, dim] -> [B, N, dim]."""
        x = self.norm1(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """The same, reading from other tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.cross_attn = nn.MultiheadAttention(dim, HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, MLP_RATIO * dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, N, dim] and [B, M, dim] -> [B, N, dim]."""
        x, context = self.norm1(x), self.norm_context(context)
        x = x + self.cross_attn(x, context, context, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TrackTransformer(nn.Module):
    """Updates of tracks.

    Args:
        size_in: channels of a point at one time.
        dim: width.
        size_out: channels of an update.
    """

    def __init__(self, size_in: int, dim: int, size_out: int) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(size_in)
        self.input_transform = nn.Linear(size_in, dim)
        # The checkpoint spells it so.
        self.virual_tracks = learned_tokens(1, VIRTUAL_TRACKS, 1, dim, size=1.0)
        self.time_blocks = nn.ModuleList(SelfBlock(dim) for _ in range(LAYERS))
        self.space_virtual_blocks = nn.ModuleList(SelfBlock(dim) for _ in range(LAYERS))
        self.space_point2virtual_blocks = nn.ModuleList(CrossBlock(dim) for _ in range(LAYERS))
        self.space_virtual2point_blocks = nn.ModuleList(CrossBlock(dim) for _ in range(LAYERS))
        self.output_norm = nn.LayerNorm(dim)
        self.flow_head = nn.Linear(dim, size_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, S, size_in] -> [B, N, S, size_out], with N points and S frames."""
        batch, points, frames = x.shape[:3]
        start = self.input_transform(self.input_norm(x))
        x = torch.cat([start, self.virual_tracks.expand(batch, -1, frames, -1)], dim=1)
        layers = zip(
            self.time_blocks,
            self.space_virtual2point_blocks,
            self.space_virtual_blocks,
            self.space_point2virtual_blocks,
            strict=True,
        )
        for along_time, write, exchange, read in layers:
            x = along_time(x.flatten(0, 1)).unflatten(0, (batch, -1))
            x = x.transpose(1, 2).flatten(0, 1)  # [B * S, N + virtual, dim]
            real, virtual = x[:, :points], x[:, points:]
            virtual = exchange(write(virtual, real))
            x = torch.cat([read(real, virtual), virtual], dim=1)
            x = x.unflatten(0, (batch, frames)).transpose(1, 2)
        return self.flow_head(self.output_norm(start + x[:, :points]))
