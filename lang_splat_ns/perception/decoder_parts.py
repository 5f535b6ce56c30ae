"""The pieces of a Segment Anything mask decoder under one set of names.

SAM (`segment_anything`, MobileSAM) and SAM 2 (`transformers`) have the same decoder in different wrappings. What tells
them apart is said here, so that `sam_decoder` has to be written once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Attention:
    """Projections of a multi-head attention.

    Attributes:
        query, key, value: linear layers C -> heads * d.
        output: linear layer heads * d -> C.
        heads: number of heads.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    heads: int


@dataclass(frozen=True)
class Block:
    """One layer of the two-way transformer.

    Attributes:
        among: prompt tokens look at one another.
        read: prompt tokens look at the image.
        write: the image looks at the prompt tokens.
        mlp: of the prompt tokens.
        norms: after each of the four steps `among`, `read`, `mlp`, `write`.
    """

    among: Attention
    read: Attention
    write: Attention
    mlp: Callable[[Tensor], Tensor]
    norms: tuple[nn.LayerNorm, nn.LayerNorm, nn.LayerNorm, nn.LayerNorm]


@dataclass(frozen=True)
class DecoderParts:
    """A mask decoder, and what of the prompt encoder a single point needs.

    Attributes:
        embed_points: float [B, 2] in pixels of the network's input -> prompt tokens [B, 2, C].
        position: [N, C], positional encoding of the image tokens.
        no_mask: [C], embedding that stands for "no mask prompt".
        tokens: [K, C], the learned tokens that go before the prompt's.
        quality_token: index of the token that predicts the masks' IoU.
        mask_tokens: indices of the tokens of subpart, part and whole.
        blocks: layers of the transformer.
        final: last look of the prompt tokens at the image, and its norm.
        upscale: the two transposed convolutions with kernel and stride 2.
        upscale_norm: over channels, after the first of them.
        hyper: mask token -> weights of the upscaled channels, for subpart, part and whole.
        rate: quality token -> predicted IoU of subpart, part and whole, [B, 3].
    """

    embed_points: Callable[[Tensor], Tensor]
    position: Tensor
    no_mask: Tensor
    tokens: Tensor
    quality_token: int
    mask_tokens: tuple[int, int, int]
    blocks: tuple[Block, ...]
    final: Attention
    final_norm: nn.LayerNorm
    upscale: tuple[nn.ConvTranspose2d, nn.ConvTranspose2d]
    upscale_norm: Any
    hyper: tuple[Callable[[Tensor], Tensor], ...]
    rate: Callable[[Tensor], Tensor]


def sam_parts(sam: Any) -> DecoderParts:
    """Parts of a model of `segment_anything`, or of a package with the same modules, such as `mobile_sam`."""
    prompts, decoder, transformer = sam.prompt_encoder, sam.mask_decoder, sam.mask_decoder.transformer

    def embed_points(points: Tensor) -> Tensor:
        label = torch.ones(len(points), 1, device=points.device)
        return prompts(points=(points[:, None], label), boxes=None, masks=None)[0]

    def attention(module: Any) -> Attention:
        return Attention(module.q_proj, module.k_proj, module.v_proj, module.out_proj, module.num_heads)

    blocks = tuple(
        Block(
            attention(layer.self_attn),
            attention(layer.cross_attn_token_to_image),
            attention(layer.cross_attn_image_to_token),
            layer.mlp,
            (layer.norm1, layer.norm2, layer.norm3, layer.norm4),
        )
        for layer in transformer.layers
    )
    return DecoderParts(
        embed_points=embed_points,
        position=prompts.get_dense_pe()[0].flatten(1).T,
        no_mask=prompts.no_mask_embed.weight[0],
        tokens=torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]),
        quality_token=0,
        # The first mask token is the single-mask output, which is not for ambiguous prompts.
        mask_tokens=(2, 3, 4),
        blocks=blocks,
        final=attention(transformer.final_attn_token_to_image),
        final_norm=transformer.norm_final_attn,
        upscale=(decoder.output_upscaling[0], decoder.output_upscaling[3]),
        upscale_norm=decoder.output_upscaling[1],
        hyper=tuple(decoder.output_hypernetworks_mlps[1:]),
        rate=lambda token: decoder.iou_prediction_head(token)[:, 1:],
    )


def sam2_parts(model: Any) -> DecoderParts:
    """Parts of a `transformers.Sam2Model`."""
    decoder, transformer = model.mask_decoder, model.mask_decoder.transformer

    def embed_points(points: Tensor) -> Tensor:
        label = torch.ones(1, len(points), 1, dtype=torch.int, device=points.device)
        return model.get_prompt_embeddings(input_points=points[None, :, None], input_labels=label)[0][0]

    def attention(module: Any) -> Attention:
        return Attention(module.q_proj, module.k_proj, module.v_proj, module.o_proj, module.num_attention_heads)

    blocks = tuple(
        Block(
            attention(layer.self_attn),
            attention(layer.cross_attn_token_to_image),
            attention(layer.cross_attn_image_to_token),
            layer.mlp,
            (layer.layer_norm1, layer.layer_norm2, layer.layer_norm3, layer.layer_norm4),
        )
        for layer in transformer.layers
    )
    return DecoderParts(
        embed_points=embed_points,
        position=model.get_image_wide_positional_embeddings()[0].flatten(1).T,
        no_mask=model.prompt_encoder.no_mask_embed.weight[0],
        # SAM 2 has one token more: whether there is anything at all.
        tokens=torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]),
        quality_token=1,
        mask_tokens=(3, 4, 5),
        blocks=blocks,
        final=attention(transformer.final_attn_token_to_image),
        final_norm=transformer.layer_norm_final_attn,
        upscale=(decoder.upscale_conv1, decoder.upscale_conv2),
        upscale_norm=decoder.upscale_layer_norm,
        hyper=tuple(decoder.output_hypernetworks_mlps[1:]),
        rate=lambda token: decoder.iou_prediction_head(token)[:, 1:],
    )
