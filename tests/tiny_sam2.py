"""Random SAM 2 models of transformers' own classes, small enough for tests."""

from __future__ import annotations

from typing import Any

import torch

SIDE = 128
"""Side of the square input; the low-resolution output has 32."""
_WIDTH = 128


def _vision() -> Any:
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 2, 4],
        window_size_per_stage=[8, 4, 4, 2],
        global_attention_blocks=[3],
    )
    return Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=_WIDTH,
    )


def _decoder() -> dict[str, int]:
    return {"hidden_size": _WIDTH, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32}


def tiny_sam2() -> Any:
    """A random `Sam2Model`."""
    from transformers import Sam2Config, Sam2MaskDecoderConfig, Sam2Model, Sam2PromptEncoderConfig

    torch.manual_seed(0)
    config = Sam2Config(
        vision_config=_vision(),
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=_WIDTH, image_size=SIDE, patch_size=16),
        mask_decoder_config=Sam2MaskDecoderConfig(**_decoder()),
    )
    return _stirred(Sam2Model(config))


def tiny_sam2_video() -> Any:
    """A random `Sam2VideoModel`."""
    from transformers import Sam2VideoConfig, Sam2VideoMaskDecoderConfig, Sam2VideoModel, Sam2VideoPromptEncoderConfig

    torch.manual_seed(0)
    config = Sam2VideoConfig(
        vision_config=_vision(),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=_WIDTH, image_size=SIDE, patch_size=16),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(**_decoder()),
        image_size=SIDE,
        memory_attention_hidden_size=_WIDTH,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=_WIDTH,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=_WIDTH,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=_WIDTH,
        memory_fuser_intermediate_dim=64,
    )
    return _stirred(Sam2VideoModel(config))


def _stirred(model: Any) -> Any:
    """The model with parameters large enough to matter; transformers starts them so small that all answers agree."""
    for name, parameter in model.named_parameters():
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=max(fan_in, 1) ** -0.5)
    return model.eval().requires_grad_(False)
