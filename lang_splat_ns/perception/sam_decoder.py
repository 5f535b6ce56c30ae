"""SAM's mask decoder for many point prompts on one image, with the work that prompts share done once.

The same function as the published decoder (Kirillov et al., Segment Anything, 2023, appendix A, "Lightweight mask
decoder"), rearranged. The stock decoder repeats the image for every prompt and projects all its 4096 tokens to
queries, keys and values in every layer. With only 7 prompt tokens and 8 heads it is cheaper to carry the projection
over to the prompt's side: `q (W k) = (q W) k`. In the first layer the image tokens are the same for all prompts,
so they are projected once per image. Only the share of the image that is not padding is upscaled, and only for
prompts whose predicted quality passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ImageTokens:
    """An embedded image, ready for prompts.

    Attributes:
        tokens: float [N, C], the image embedding with SAM's "no mask prompt" embedding added.
        position: float [N, C], positional encoding.
        grid: rows and columns of tokens, N = rows * columns.
        first_keys, first_values, first_queries: float [heads, N, d], projections of the first layer.
    """

    tokens: Tensor
    position: Tensor
    grid: tuple[int, int]
    first_keys: Tensor
    first_values: Tensor
    first_queries: Tensor


class PointDecoder:
    """Decodes single foreground points on one image.

    Args:
        sam: a model of `segment_anything` or of a package with the same modules (MobileSAM). It is not changed.
    """

    def __init__(self, sam: Any) -> None:
        self._prompts = sam.prompt_encoder
        self._decoder = sam.mask_decoder
        first, second, third = (self._decoder.output_upscaling[i] for i in (0, 1, 3))
        # A transposed convolution with kernel 2 and stride 2 is a matrix product per token: [in, 4 * out].
        self._up_first = _as_matrix(first)
        self._norm = second
        self._up_second = _as_matrix(third)

    def prepare(self, embedding: Tensor) -> ImageTokens:
        """Image tokens from the image encoder's output, float [1, C, rows, columns]."""
        first = self._decoder.transformer.layers[0]
        rows, columns = embedding.shape[-2:]
        no_mask = self._prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        tokens = (embedding + no_mask)[0].flatten(1).T.contiguous()
        position = self._prompts.get_dense_pe()[0].flatten(1).T.contiguous()
        read, write = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        return ImageTokens(
            tokens,
            position,
            (rows, columns),
            first_keys=_by_heads(read.k_proj(tokens + position), read.num_heads),
            first_values=_by_heads(read.v_proj(tokens), read.num_heads),
            first_queries=_by_heads(write.q_proj(tokens + position), write.num_heads),
        )

    def attend(self, image: ImageTokens, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the two-way transformer.

        Args:
            image: see `prepare`.
            points: float [B, 2], x and y in pixels of the network's square input.

        Returns:
            Image tokens float [B, N, C], the three mask tokens float [B, 3, C] (subpart, part, whole), and their
            predicted IoU float [B, 3].
        """
        transformer = self._decoder.transformer
        prompt = self._prompt_tokens(points)
        tokens, image_tokens = self._first_layer(transformer.layers[0], prompt, image)
        for layer in transformer.layers[1:]:
            tokens, image_tokens = self._later_layer(layer, tokens, prompt, image_tokens, image.position)
        final = transformer.final_attn_token_to_image
        tokens = transformer.norm_final_attn(tokens + _read(final, tokens + prompt, image_tokens, image.position))
        # Token 0 predicts quality; token 1 is the single-mask output, which is not for ambiguous prompts.
        return image_tokens, tokens[:, 2:5], self._decoder.iou_prediction_head(tokens[:, 0])[:, 1:4]

    def draw(self, image_tokens: Tensor, mask_tokens: Tensor, grid: tuple[int, int], rows: int) -> Tensor:
        """Mask logits at four times the token grid's resolution.

        Args:
            image_tokens: float [B, N, C], from `attend`.
            mask_tokens: float [B, 3, C], from `attend`.
            grid: rows and columns of tokens.
            rows: how many rows of tokens, from the top, to draw; the rest is padding.

        Returns:
            float [B, 3, 4 * rows, 4 * columns].
        """
        batch, columns = len(image_tokens), grid[1]
        x = image_tokens[:, : rows * columns]
        weight, bias = self._up_first
        x = (x @ weight).unflatten(-1, (4, -1)) + bias  # [B, n, 4, C / 4]
        x = F.gelu(F.layer_norm(x, x.shape[-1:], self._norm.weight, self._norm.bias, self._norm.eps))
        weight, bias = self._up_second
        x = F.gelu((x @ weight).unflatten(-1, (4, -1)) + bias)  # [B, n, 4, 4, C / 8]
        hyper = [self._decoder.output_hypernetworks_mlps[i + 1](mask_tokens[:, i]) for i in range(3)]
        logits = x.flatten(1, 3) @ torch.stack(hyper, dim=-1)  # [B, n * 16, 3]
        # The two factors of 2 of each side lie inside the token: (row, column, y, x, finer y, finer x, mask).
        logits = logits.reshape(batch, rows, columns, 2, 2, 2, 2, 3).permute(0, 7, 1, 3, 5, 2, 4, 6)
        return logits.reshape(batch, 3, 4 * rows, 4 * columns)

    def _prompt_tokens(self, points: Tensor) -> Tensor:
        decoder = self._decoder
        label = torch.ones(len(points), 1, device=points.device)
        sparse, _ = self._prompts(points=(points[:, None], label), boxes=None, masks=None)
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        return torch.cat([output.expand(len(points), -1, -1), sparse], dim=1)  # [B, 7, C]

    def _first_layer(self, layer: Any, prompt: Tensor, image: ImageTokens) -> tuple[Tensor, Tensor]:
        tokens = layer.norm1(layer.self_attn(q=prompt, k=prompt, v=prompt))
        read, write = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        batch, count = tokens.shape[:2]
        queries = _by_heads((read.q_proj(tokens + prompt)).flatten(0, 1), read.num_heads)  # [h, B * T, d]
        logits = queries @ image.first_keys.transpose(1, 2) / math.sqrt(queries.shape[-1])
        seen = (logits.softmax(-1) @ image.first_values).transpose(0, 1).reshape(batch, count, -1)
        tokens = layer.norm2(tokens + read.out_proj(seen))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        keys = _by_heads(write.k_proj(tokens + prompt).flatten(0, 1), write.num_heads)
        logits = keys @ image.first_queries.transpose(1, 2) / math.sqrt(keys.shape[-1])  # [h, B * T, N]
        logits = logits.unflatten(1, (batch, count)).transpose(0, 1)  # [B, h, T, N]
        return tokens, layer.norm4(image.tokens + _spread(write, logits, tokens))

    def _later_layer(
        self, layer: Any, tokens: Tensor, prompt: Tensor, image_tokens: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        placed = tokens + prompt
        tokens = layer.norm1(tokens + layer.self_attn(q=placed, k=placed, v=tokens))
        seen = _read(layer.cross_attn_token_to_image, tokens + prompt, image_tokens, position)
        tokens = layer.norm2(tokens + seen)
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        write = layer.cross_attn_image_to_token
        logits = _logits(write.k_proj(tokens + prompt), write.q_proj, write.num_heads, image_tokens, position)
        return tokens, layer.norm4(image_tokens + _spread(write, logits, tokens))


def _by_heads(x: Tensor, heads: int) -> Tensor:
    """[n, heads * d] -> [heads, n, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)


def _as_matrix(convolution: Any) -> tuple[Tensor, Tensor]:
    """Weight [in, 4 * out] and bias [out] of a transposed convolution with kernel 2 and stride 2."""
    weight = convolution.weight.detach()  # [in, out, 2, 2]
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1).contiguous(), convolution.bias.detach()


def _logits(small: Tensor, projection: Any, heads: int, image_tokens: Tensor, position: Tensor) -> Tensor:
    """Attention logits [B, heads, T, N] between projected prompt tokens and image tokens that are not projected.

    `small` [B, T, heads * d] is projected already; `projection` is the linear layer meant for the image's side.
    """
    small = small.unflatten(-1, (heads, -1))  # [B, T, h, d]
    weight = projection.weight.unflatten(0, (heads, -1))  # [h, d, C]
    carried = torch.einsum("bthd,hdc->bhtc", small, weight).flatten(1, 2)  # [B, h * T, C]
    bias = torch.einsum("bthd,hd->bht", small, projection.bias.unflatten(0, (heads, -1))).flatten(1, 2)
    logits = torch.baddbmm(carried @ position.T, carried, image_tokens.transpose(1, 2)) + bias[..., None]
    return (logits / math.sqrt(small.shape[-1])).unflatten(1, (heads, -1))


def _read(attention: Any, queries: Tensor, image_tokens: Tensor, position: Tensor) -> Tensor:
    """Prompt tokens look at the image: float [B, T, C]."""
    heads = attention.num_heads
    share = _logits(attention.q_proj(queries), attention.k_proj, heads, image_tokens, position).softmax(-1)
    seen = (share.flatten(1, 2) @ image_tokens).unflatten(1, (heads, -1))  # [B, h, T, C]
    value = attention.v_proj.weight.unflatten(0, (heads, -1))  # [h, d, C]
    # The shares sum to one, so the value projection's bias passes through unchanged.
    seen = torch.einsum("bhtc,hdc->bthd", seen, value).flatten(2) + attention.v_proj.bias
    return attention.out_proj(seen)


def _spread(attention: Any, logits: Tensor, tokens: Tensor) -> Tensor:
    """Image tokens look at the prompt: float [B, N, C], from logits [B, heads, T, N]."""
    heads = attention.num_heads
    share = logits.softmax(dim=2).flatten(1, 2)  # [B, h * T, N]
    values = attention.v_proj(tokens).unflatten(-1, (heads, -1))  # [B, T, h, d]
    output = attention.out_proj.weight.unflatten(1, (heads, -1))  # [C, h, d]
    carried = torch.einsum("bthd,chd->bhtc", values, output).flatten(1, 2)  # [B, h * T, C]
    return torch.baddbmm(attention.out_proj.bias, share.transpose(1, 2), carried)
