"""Photos to patch tokens: DINOv2 (Oquab et al. 2023) with registers (Darcet et al. 2024), or one convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lang_splat_ns.scenes.vggt.config import VGGTConfig
from lang_splat_ns.scenes.vggt.layers import Block, learned_tokens


class PatchConvolution(nn.Module):
    """One linear map of each patch."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.embed_dim, config.patch_size, config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[F, 3, H, W] -> [F, rows * columns, C]."""
        return self.proj(images).flatten(2).transpose(1, 2)


class DinoPatches(nn.Module):
    """A vision transformer without its head.

    Args:
        config: sizes. The stored position embedding is for square photos of `image_size`.
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self._patch_size, dim = config.patch_size, config.embed_dim
        self._side = config.image_size // config.patch_size
        self.patch_embed = PatchConvolution(config)
        self.cls_token = learned_tokens(1, 1, dim)
        self.pos_embed = learned_tokens(1, 1 + self._side**2, dim)
        self.register_tokens = learned_tokens(1, config.dino_register_tokens, dim)
        # Only DINOv2's own training masks patches; the tensor is in its checkpoints all the same.
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.dino_heads, scale=1.0, eps=1e-6) for _ in range(config.dino_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """[F, 3, H, W] -> [F, rows * columns, C]."""
        count, registers = len(images), self.register_tokens.shape[1]
        rows, columns = (side // self._patch_size for side in images.shape[-2:])
        position = self.pos_embed.float()
        tokens = self.patch_embed(images) + self._place(position[:, 1:], rows, columns)
        first = (self.cls_token + position[:, :1]).expand(count, -1, -1)
        tokens = torch.cat([first, self.register_tokens.expand(count, -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 1 + registers :]

    def _place(self, position: Tensor, rows: int, columns: int) -> Tensor:
        """The position embedding of the patches, interpolated where their grid is not the stored one."""
        if (rows, columns) == (self._side, self._side):
            return position
        grid = position.unflatten(1, (self._side, self._side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True)
        return grid.flatten(2).transpose(1, 2)


def make_patch_embedding(config: VGGTConfig) -> nn.Module:
    """The patch embedding that the configuration names."""
    return DinoPatches(config) if config.patch_embed == "dino" else PatchConvolution(config)
