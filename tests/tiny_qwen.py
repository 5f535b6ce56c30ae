"""A tiny random Qwen3-VL with a tokenizer of bytes, saved as the published ones are."""

from __future__ import annotations

from pathlib import Path

import torch

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16,
    "num_key_value_heads": 1, "max_position_embeddings": 4096, "rope_parameters": ROPE,
}  # fmt: skip
VISION = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 8, "out_hidden_size": 32,
    "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
}  # fmt: skip


def save_qwen(folder: Path) -> Path:
    """Model, processor and chat template in `folder`."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        Qwen2Tokenizer,
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    letters = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=letters, merges=[], additional_special_tokens=list(SPECIAL))
    ids = {
        key: tokenizer.convert_tokens_to_ids(token)
        for key, token in zip(
            ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
            SPECIAL[2:],
            strict=True,
        )
    }
    torch.manual_seed(0)
    config = Qwen3VLConfig(text_config={**TEXT, "vocab_size": len(tokenizer)}, vision_config=VISION, **ids)
    model = Qwen3VLForConditionalGeneration(config)
    for matrix in (parameter for parameter in model.parameters() if parameter.ndim > 1):
        torch.nn.init.normal_(matrix, std=0.2)
    model.save_pretrained(folder)
    pixels = Qwen2VLImageProcessor(patch_size=8, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64})
    Qwen3VLProcessor(pixels, tokenizer, Qwen3VLVideoProcessor(patch_size=8), chat_template=TEMPLATE).save_pretrained(
        folder
    )
    return folder
