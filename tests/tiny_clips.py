"""Tiny random models of the real classes, with real tokenizers over a few characters, saved as published ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lang_splat_ns.perception.open_clip_network import OpenClipNetwork

CHINESE = "红绿蓝黄色的杯子球物体东西材料纹理一张照片特写局部这里有。"
LETTERS = "abcdefghijklmnopqrstuvwxyz."
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
OPEN_CLIP_VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}


def open_clip_network() -> OpenClipNetwork:
    """open_clip's own class with random weights: 32 pixels, 16 dimensions."""
    import open_clip
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    text = CLIPTextCfg(context_length=77, vocab_size=49408, width=32, heads=2, layers=1)
    model = open_clip.CLIP(16, CLIPVisionCfg(**OPEN_CLIP_VISION), text)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return OpenClipNetwork(model, open_clip.get_tokenizer("ViT-B-16"), mean, std)


def save_clip(folder: Path) -> Path:
    """OpenAI's CLIP, with a byte-pair tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = CLIPConfig(
        text_config={**TEXT, **ends, "vocab_size": 80, "max_position_embeddings": 77},
        vision_config=VISION,
        projection_dim=16,
    )
    return _save(folder, CLIPModel, config, _clip_tokenizer())


def save_chinese_clip(folder: Path) -> Path:
    """Chinese-CLIP, with BERT's tokenizer of Chinese characters."""
    from transformers import BertTokenizer, ChineseCLIPConfig, ChineseCLIPModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(CHINESE + LETTERS)]
    config = ChineseCLIPConfig(
        text_config={**TEXT, "vocab_size": len(words), "max_position_embeddings": 60},
        vision_config=VISION,
        projection_dim=16,
    )
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    return _save(folder, ChineseCLIPModel, config, tokenizer)


def save_siglip(folder: Path, *, flexible: bool = False) -> Path:
    """SigLIP as SigLIP 2's fixed sizes are stored, or its NaFlex form, with SigLIP 2's tokenizer."""
    from transformers import Siglip2Config, Siglip2Model, Siglip2Tokenizer, SiglipConfig, SiglipModel

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *dict.fromkeys(CHINESE + LETTERS)]
    text = {**TEXT, "hidden_size": 32, "vocab_size": len(words), "max_position_embeddings": 64, "projection_size": 32}
    text |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    vision = VISION
    if flexible:
        vision = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
    config = (Siglip2Config if flexible else SiglipConfig)(text_config=text, vision_config=vision)
    tokenizer = Siglip2Tokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    return _save(folder, Siglip2Model if flexible else SiglipModel, config, tokenizer)


def save_metaclip2(folder: Path) -> Path:
    """MetaCLIP 2, with XLM-RoBERTa's tokenizer."""
    from transformers import MetaClip2Config, MetaClip2Model

    tokenizer = xlm_tokenizer()
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = MetaClip2Config(
        text_config={**TEXT, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config=VISION,
        projection_dim=16,
    )
    return _save(folder, MetaClip2Model, config, tokenizer)


def xlm_tokenizer() -> Any:
    """XLM-RoBERTa's tokenizer over a few characters."""
    from transformers import XLMRobertaTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", *dict.fromkeys(CHINESE + LETTERS)]
    return XLMRobertaTokenizer(vocab=[(word, -float(index)) for index, word in enumerate(words)])


def nllb_tokenizer() -> Any:
    """NLLB's tokenizer over a few characters: it puts the language in front of the text."""
    from transformers import NllbTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", *dict.fromkeys(CHINESE + LETTERS)]
    return NllbTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    pieces = [piece + end for piece in LETTERS for end in ("", "</w>")]
    words = {word: index for index, word in enumerate(["<unk>", "<|startoftext|>", "<|endoftext|>", *pieces])}
    return CLIPTokenizer(vocab=words, merges=[])


def _save(folder: Path, model: Any, config: Any, tokenizer: Any) -> Path:
    from transformers import CLIPImageProcessor

    torch.manual_seed(0)
    made = model(config)
    # The classes' own beginnings are so small that all texts would look alike.
    for matrix in (parameter for parameter in made.parameters() if parameter.ndim > 1):
        torch.nn.init.normal_(matrix, std=0.2)
    # A scale that is not what the class begins with, so that reading it is seen.
    torch.nn.init.constant_(made.logit_scale, torch.tensor(112.0).log().item())
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
    return folder
