"""The trunk: patch tokens of all frames, mixed within each frame and across all frames in turn (section 3.2)."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lang_splat_ns.scenes.vggt.config import VGGTConfig
from lang_splat_ns.scenes.vggt.layers import Block, learned_tokens
from lang_splat_ns.scenes.vggt.patch_embedding import make_patch_embedding
from lang_splat_ns.scenes.vggt.rope import rotation_of_frame

# The means and deviations of ImageNet, with which DINOv2 was trained.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Aggregator(nn.Module):
    """Alternates attention within frames and across frames.

    Every frame has a camera token and register tokens before its patches. The first frame, whose camera defines the
    world, has its own; all others share one set.

    Args:
        config: sizes.

    Attributes:
        special_tokens: tokens per frame before the patches.
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim, heads = config.embed_dim, config.num_heads
        self.config = config
        self.special_tokens = 1 + config.register_tokens
        self.patch_embed = make_patch_embedding(config)
        self.frame_blocks = nn.ModuleList(Block(dim, heads, normalize=True) for _ in range(config.depth))
        self.global_blocks = nn.ModuleList(Block(dim, heads, normalize=True) for _ in range(config.depth))
        self.camera_token = learned_tokens(1, 2, 1, dim, size=1e-6)
        self.register_token = learned_tokens(1, 2, config.register_tokens, dim, size=1e-6)

    def forward(self, images: Tensor, layers: Collection[int] | None = None) -> dict[int, Tensor]:
        """Tokens of the wanted layers.

        Args:
            images: [B, S, 3, H, W] in 0..1, sides multiples of the patch size.
            layers: which layers' tokens are wanted; the last by default. Only these are kept.

        Returns:
            Layer -> tokens [B, S, P, 2 C], a frame's layer beside a global one. P is `special_tokens` and then the
            patches, row by row.
        """
        batch, frames = images.shape[:2]
        wanted = {self.config.depth - 1} if layers is None else set(layers)
        rows, columns = (side // self.config.patch_size for side in images.shape[-2:])
        local = rotation_of_frame(
            rows, columns, self.special_tokens, self.config.embed_dim // self.config.num_heads, images.device
        )
        everywhere = local.repeat(frames)
        x = self._tokens(images)  # [B * S, P, C]
        kept: dict[int, Tensor] = {}
        for layer in range(max(wanted) + 1):
            x = self.frame_blocks[layer](x, local)
            within = x if layer in wanted else None
            x = self.global_blocks[layer](x.reshape(batch, -1, x.shape[-1]), everywhere).reshape(x.shape)
            if within is not None:
                kept[layer] = torch.cat([within, x], dim=-1).unflatten(0, (batch, frames))
        return kept

    def _tokens(self, images: Tensor) -> Tensor:
        batch, frames = images.shape[:2]
        mean, deviation = (images.new_tensor(value).reshape(3, 1, 1) for value in (MEAN, DEVIATION))
        patches = self.patch_embed(((images - mean) / deviation).flatten(0, 1))
        special = torch.cat([self.camera_token, self.register_token], dim=2)  # [1, 2, special_tokens, C]
        special = torch.cat([special[:, :1], special[:, 1:].expand(-1, frames - 1, -1, -1)], dim=1)
        special = special.expand(batch, -1, -1, -1).flatten(0, 1)
        return torch.cat([special, patches], dim=1)
