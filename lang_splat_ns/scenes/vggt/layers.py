"""The transformer layer of which the network's trunk and its camera head are made."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lang_splat_ns.scenes.vggt.rope import Rotation, rotate

MLP_RATIO = 4


def learned_tokens(*shape: int, size: float = 0.02) -> nn.Parameter:
    """Random tokens to be learned, of the given standard deviation."""
    # Uniform and not scaled afterwards: on the meta device torch imports its compiler for normal numbers and for
    # products, which takes 4 s.
    reach = size * 3**0.5
    return nn.Parameter(torch.empty(shape).uniform_(-reach, reach))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., out]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention, with normalized and rotated queries and keys where wanted."""

    def __init__(self, dim: int, heads: int, *, normalize: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if normalize else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if normalize else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """[B, N, dim] -> [B, N, dim]; `rotation` is for N positions."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, N, d] each
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        # Norms and rotations are computed in float32; the attention itself is worth half precision.
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP, each normalized before, scaled after and added to what came in.

    Args:
        dim: width of the tokens.
        heads: attention heads.
        normalize: whether queries and keys are normalized.
        scale: what the layer scales begin with.
        eps: of the layer norms.
    """

    def __init__(
        self, dim: int, heads: int, *, normalize: bool = False, scale: float = 0.01, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, normalize=normalize)
        self.ls1 = LayerScale(dim, scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, MLP_RATIO * dim)
        self.ls2 = LayerScale(dim, scale)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """[B, N, dim] -> [B, N, dim]."""
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))
