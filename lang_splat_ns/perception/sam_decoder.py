"""A Segment Anything mask decoder for many point prompts on one image, with the work that prompts share done once.

The same function as the published decoder (Kirillov et al., Segment Anything, 2023, appendix A, "Lightweight mask
decoder"; Ravi et al., SAM 2, 2024, appendix C), rearranged. The stock decoder repeats the image for every prompt and
projects all its 4096 tokens to queries, keys and values in every layer. With only 7 prompt tokens and 8 heads it is
cheaper to carry the projection over to the prompt's side: `q (W k) = (q W) k`. What does not depend on the prompt, the
first layer's projections and the part that positions have in the others, is computed once. Only the photo's part of
the square is upscaled, and only for prompts whose predicted quality passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lang_splat_ns.perception.decoder_parts import Attention, Block, DecoderParts


@dataclass(frozen=True)
class ImageTokens:
    """An embedded image, ready for prompts.

    Attributes:
        tokens: [N, C], the image embedding with the "no mask prompt" embedding added.
        keys, values, queries: [heads, N, d], projections for the first layer.
        grid: rows and columns of tokens, N = rows * columns.
        fine: SAM 2's finer feature maps, [rows, columns, 4, C / 4] and [rows, columns, 4, 4, C / 8], added while
            upscaling; the factors of 2 of each side lie inside the token. None for SAM.
    """

    tokens: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor
    grid: tuple[int, int]
    fine: tuple[Tensor, Tensor] | None = None


class PointDecoder:
    """Decodes single foreground points on one image.

    Args:
        parts: the network's modules. They are not changed, and must not change afterwards.
    """

    def __init__(self, parts: DecoderParts) -> None:
        self._parts = parts
        # A transposed convolution with kernel 2 and stride 2 is a matrix product per token: [in, 4 * out].
        self._upscale = [_as_matrix(convolution) for convolution in parts.upscale]
        # Positions are the same for every image, so what becomes of them in the later layers is, too.
        self._placed = [
            (_placed(block.read.key, block.read.heads, parts), _placed(block.write.query, block.write.heads, parts))
            for block in parts.blocks[1:]
        ]
        self._placed_final = _placed(parts.final.key, parts.final.heads, parts)

    def prepare(self, embedding: Tensor, fine: tuple[Tensor, Tensor] | None = None) -> ImageTokens:
        """Image tokens from an image encoder's output.

        Args:
            embedding: [1, C, rows, columns].
            fine: for SAM 2, the feature maps [1, C / 4, 2 rows, 2 columns] and [1, C / 8, 4 rows, 4 columns].
        """
        parts = self._parts
        tokens = (embedding[0].flatten(1).T + parts.no_mask).contiguous()
        read, write = parts.blocks[0].read, parts.blocks[0].write
        return ImageTokens(
            tokens,
            keys=_by_heads(read.key(tokens + parts.position), read.heads),
            values=_by_heads(read.value(tokens), read.heads),
            queries=_by_heads(write.query(tokens + parts.position), write.heads),
            grid=(embedding.shape[-2], embedding.shape[-1]),
            fine=None if fine is None else (_inside_tokens(fine[0], 1), _inside_tokens(fine[1], 2)),
        )

    def decode(self, image: ImageTokens, points: Tensor, least: float, low: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Masks of the prompts of which any mask is rated above `least`, since drawing is a third of the work.

        Args:
            image: see `prepare`.
            points: float [B, 2], x and y in pixels of the network's square input.
            least: predicted IoU.
            low: height and width of the photo in the output, from the upper left corner; the rest is padding.

        Returns:
            Mask logits float32 [K, 3, *low] (subpart, part, whole) and their predicted IoU float32 [K, 3].
        """
        image_tokens, mask_tokens, quality = self.attend(image, points)
        good = (quality > least).any(dim=1)
        if not good.all():
            image_tokens, mask_tokens, quality = image_tokens[good], mask_tokens[good], quality[good]
        extent = (-(-low[0] // 4), -(-low[1] // 4))
        logits = self.draw(image, image_tokens, mask_tokens, extent)
        return logits[..., : low[0], : low[1]].float(), quality.float()

    def attend(self, image: ImageTokens, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the two-way transformer.

        Args:
            image: see `prepare`.
            points: see `decode`.

        Returns:
            Image tokens [B, N, C], the three mask tokens [B, 3, C] (subpart, part, whole), and their predicted IoU
            [B, 3].
        """
        parts = self._parts
        embedded = parts.embed_points(points).to(parts.tokens.dtype)
        prompt = torch.cat([parts.tokens.expand(len(points), -1, -1), embedded], dim=1)  # [B, T, C]
        tokens, image_tokens = _first_layer(parts.blocks[0], prompt, image)
        for block, placed in zip(parts.blocks[1:], self._placed, strict=True):
            tokens, image_tokens = _later_layer(block, tokens, prompt, image_tokens, placed)
        # The other tokens have done their work.
        wanted = [parts.quality_token, *parts.mask_tokens]
        tokens, prompt = tokens[:, wanted], prompt[:, wanted]
        seen = _read(parts.final, tokens + prompt, image_tokens, self._placed_final)
        tokens = parts.final_norm(tokens + seen)
        return image_tokens, tokens[:, 1:], parts.rate(tokens[:, 0])

    def draw(self, image: ImageTokens, image_tokens: Tensor, mask_tokens: Tensor, extent: tuple[int, int]) -> Tensor:
        """Mask logits at four times the token grid's resolution.

        Args:
            image: see `prepare`.
            image_tokens: [B, N, C], from `attend`.
            mask_tokens: [B, 3, C], from `attend`.
            extent: how many rows and columns of tokens, from the upper left corner, to draw.

        Returns:
            [B, 3, 4 * rows, 4 * columns].
        """
        rows, columns = extent
        x = image_tokens.unflatten(1, image.grid)[:, :rows, :columns].flatten(0, 2)  # [B * r * c, C]
        weight, bias = self._upscale[0]
        x = torch.addmm(bias, x, weight).unflatten(-1, (4, -1))  # [B * r * c, 4, C / 4]
        if image.fine is not None:
            x = _add_fine(x, image.fine[0][:rows, :columns])
        norm = self._parts.upscale_norm
        x = F.gelu(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
        weight, bias = self._upscale[1]
        x = torch.addmm(bias, x.flatten(0, 1), weight).reshape(len(x), 4, 4, len(bias) // 4)  # [B * r * c, 4, 4, C / 8]
        if image.fine is not None:
            x = _add_fine(x, image.fine[1][:rows, :columns])
        x = F.gelu(x).reshape(len(image_tokens), rows * columns * 16, len(bias) // 4)
        hyper = torch.stack([layer(mask_tokens[:, index]) for index, layer in enumerate(self._parts.hyper)], dim=1)
        logits = hyper @ x.transpose(1, 2)  # [B, 3, r * c * 16]
        # The two factors of 2 of each side lie inside the token: (row, column, y, x, finer y, finer x).
        logits = logits.reshape(len(x), 3, rows, columns, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return logits.reshape(len(x), 3, 4 * rows, 4 * columns)


def _first_layer(block: Block, prompt: Tensor, image: ImageTokens) -> tuple[Tensor, Tensor]:
    """Prompt tokens [B, T, C] and image tokens [B, N, C]; the image is the same for all prompts until its end."""
    tokens = block.norms[0](_among(block.among, prompt, prompt))
    batch, count = tokens.shape[:2]
    queries = _scaled(block.read.query(tokens + prompt), block.read.heads).transpose(0, 1).flatten(1, 2)
    seen = (queries @ image.keys.transpose(1, 2)).softmax(-1) @ image.values  # [h, B * T, d]
    seen = seen.unflatten(1, (batch, count)).permute(1, 2, 0, 3).flatten(2)
    tokens = block.norms[1](tokens + block.read.output(seen))
    tokens = block.norms[2](tokens + block.mlp(tokens))
    keys = _scaled(block.write.key(tokens + prompt), block.write.heads)
    logits = _times_shared(keys, image.queries.transpose(1, 2))  # [B, h, T, N]
    written = _write(block.write, logits, tokens, image.tokens.expand(batch, -1, -1))
    return tokens, block.norms[3](written)


def _later_layer(
    block: Block, tokens: Tensor, prompt: Tensor, image_tokens: Tensor, placed: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    tokens = block.norms[0](tokens + _among(block.among, tokens + prompt, tokens))
    tokens = block.norms[1](tokens + _read(block.read, tokens + prompt, image_tokens, placed[0]))
    tokens = block.norms[2](tokens + block.mlp(tokens))
    keys = _scaled(block.write.key(tokens + prompt), block.write.heads)
    logits = _logits(keys, block.write.query, image_tokens, placed[1])
    return tokens, block.norms[3](_write(block.write, logits, tokens, image_tokens))


def _among(attention: Attention, placed: Tensor, tokens: Tensor) -> Tensor:
    """Prompt tokens [B, T, C] look at one another."""
    query, key = (_split(layer(placed), attention.heads) for layer in (attention.query, attention.key))
    seen = F.scaled_dot_product_attention(query, key, _split(attention.value(tokens), attention.heads))
    return attention.output(seen.transpose(1, 2).flatten(2))


def _read(attention: Attention, queries: Tensor, image_tokens: Tensor, placed: Tensor) -> Tensor:
    """Prompt tokens look at the image: [B, T, C]."""
    share = _logits(_scaled(attention.query(queries), attention.heads), attention.key, image_tokens, placed).softmax(-1)
    seen = (share.flatten(1, 2) @ image_tokens).unflatten(1, share.shape[1:3])  # [B, h, T, C]
    value = attention.value.weight.unflatten(0, (attention.heads, -1))  # [h, d, C]
    # The shares sum to one, so the value projection's bias passes through unchanged.
    seen = (seen @ value.transpose(1, 2)).transpose(1, 2).flatten(2) + attention.value.bias
    return attention.output(seen)


def _write(attention: Attention, logits: Tensor, tokens: Tensor, image_tokens: Tensor) -> Tensor:
    """Image tokens [B, N, C] look at the prompt, by logits [B, h, T, N], and add what they see."""
    share = logits.softmax(dim=2).flatten(1, 2)  # [B, h * T, N]
    output = attention.output.weight.unflatten(1, (attention.heads, -1)).permute(1, 2, 0)  # [h, d, C]
    carried = _split(attention.value(tokens), attention.heads) @ output  # [B, h, T, C]
    # A token's shares sum to one in every head, so the bias may as well be spread over what they weigh.
    carried = carried + attention.output.bias / attention.heads
    return torch.baddbmm(image_tokens, share.transpose(1, 2), carried.flatten(1, 2))


def _logits(small: Tensor, projection: torch.nn.Linear, image_tokens: Tensor, placed: Tensor) -> Tensor:
    """Attention logits [B, h, T, N] between projected prompt tokens and image tokens that are not projected.

    `small` [B, h, T, d] is projected and scaled; `projection` is the linear layer meant for the image's side, and
    `placed` [h, d, N] what it makes of the positions, with its bias.
    """
    weight = projection.weight.unflatten(0, (small.shape[1], -1))  # [h, d, C]
    carried = (small @ weight).flatten(1, 2)  # [B, h * T, C]
    logits = _times_shared(small, placed)
    logits.flatten(1, 2).baddbmm_(carried, image_tokens.transpose(1, 2))
    return logits


def _times_shared(small: Tensor, shared: Tensor) -> Tensor:
    """[B, h, T, d] times what all prompts share, [h, d, N]: [B, h, T, N]. Plain broadcasting would copy the latter."""
    product = small.transpose(0, 1).flatten(1, 2) @ shared
    return product.unflatten(1, (len(small), small.shape[2])).transpose(0, 1).contiguous()


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, T, h * d] -> [B, h, T, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _scaled(x: Tensor, heads: int) -> Tensor:
    """The same, divided by the square root of d, as attention wants it on one of its sides."""
    x = _split(x, heads)
    return x / math.sqrt(x.shape[-1])


def _by_heads(x: Tensor, heads: int) -> Tensor:
    """[N, h * d] -> [h, N, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1).contiguous()


def _placed(projection: torch.nn.Linear, heads: int, parts: DecoderParts) -> Tensor:
    """What a projection makes of the image tokens' positions: [h, d, N]."""
    with torch.no_grad():
        return projection(parts.position).T.unflatten(0, (heads, -1)).contiguous()


def _as_matrix(convolution: torch.nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Weight [in, 4 * out] and bias [4 * out] of a transposed convolution with kernel 2 and stride 2."""
    weight, bias = convolution.weight.detach(), convolution.bias
    assert bias is not None
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1).contiguous(), bias.detach().repeat(4)


def _add_fine(x: Tensor, fine: Tensor) -> Tensor:
    """Add a feature map [r, c, ...] to what every prompt has at its tokens, [B * r * c, ...]."""
    return (x.unflatten(0, (-1, *fine.shape[:2])) + fine).flatten(0, 2)


def _inside_tokens(fine: Tensor, doublings: int) -> Tensor:
    """A finer feature map [1, C, rows * 2^k, columns * 2^k] as [rows, columns, 4, ..., C], with k fours."""
    rows, columns = (length >> doublings for length in fine.shape[-2:])
    x = fine[0].reshape(-1, rows, *[2] * doublings, columns, *[2] * doublings)
    inner = [axis for step in range(doublings) for axis in (2 + step, 3 + doublings + step)]
    return x.permute(1, 2 + doublings, *inner, 0).reshape(rows, columns, *[4] * doublings, -1).contiguous()
