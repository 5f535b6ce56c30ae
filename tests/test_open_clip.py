"""open_clip's models on tiny random networks: plain, with text towers from the hub, SigLIP; and missing weights."""

from __future__ import annotations

import copy
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clips
import torch
from torch.nn import functional as F

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.clip_encoder import ClipEncoder
from lang_splat_ns.perception.crops import cut, region_boxes
from lang_splat_ns.perception.encoders import make_encoder
from lang_splat_ns.perception.open_clip_network import OpenClipNetwork, hub_tokenizer


def test_vectors_are_the_published_recipe() -> None:
    network = tiny_clips.open_clip_network()
    encoder = ClipEncoder("tiny", network.dim, lambda: network)
    assert (encoder.encoder_id, encoder.dim) == ("tiny crop/1", 16)
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    # More regions than one batch, of which one has no pixels.
    labels = random.integers(0, 70, (40, 60)).astype(np.int32)
    labels[labels == 3] = -1
    rows = encoder.embed_regions(image, labels, 70)
    assert rows.dtype == np.float32
    assert np.isnan(rows[3]).all()
    assert np.allclose(np.linalg.norm(np.delete(rows, 3, axis=0), axis=1), 1, atol=1e-5)
    # A region alone gives the same vector as in a batch.
    crop = cut(image, labels, 65, dict(region_boxes(labels, 70))[65], "black", 32)
    mean, std = (torch.tensor(values)[:, None, None] for values in (network.mean, network.std))
    with torch.inference_mode():
        pixels = (torch.from_numpy(crop).permute(2, 0, 1)[None] / 255 - mean) / std
        expected = F.normalize(network.model.encode_image(pixels), dim=-1)[0]
    np.testing.assert_allclose(rows[65], expected.numpy(), atol=1e-5)
    texts = encoder.embed_text(["a red mug", "stuff"])
    assert texts.shape == (2, 16)
    assert np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    assert encoder.embed_text([]).shape == (0, 16)
    with pytest.raises(KeyError, match="empty"):
        encoder.embed_text([" "])
    # The network begins with the scale that CLIP began with, 1 / 0.07.
    assert encoder.temperature == pytest.approx(1 / 0.7, rel=1e-5)


@pytest.fixture
def tiny_tower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, Any, Any], Path]:
    """Makes a published open_clip model tiny, with a text tower from a folder; returns random weights for it."""

    def shrink(name: str, config: Any, tokenizer: Any) -> Path:
        import open_clip
        from open_clip import factory

        folder = tmp_path / name
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        small = copy.deepcopy(factory._MODEL_CONFIGS[name])
        small["embed_dim"], small["vision_cfg"] = 16, dict(tiny_clips.OPEN_CLIP_VISION)
        small["text_cfg"] |= {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, small)
        torch.manual_seed(0)
        torch.save(open_clip.create_model(name, pretrained_hf=False).state_dict(), tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    return shrink


def test_multilingual_clip_reads_chinese_and_english(tiny_tower: Callable[[str, Any, Any], Path]) -> None:
    from transformers import XLMRobertaConfig

    tokenizer = tiny_clips.xlm_tokenizer()
    config = XLMRobertaConfig(**tiny_clips.TEXT, vocab_size=len(tokenizer), max_position_embeddings=90)
    weights = tiny_tower("xlm-roberta-base-ViT-B-32", config, tokenizer)
    encoder = make_encoder("multilingual-clip", weights=weights)
    assert encoder.encoder_id.startswith("open_clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k@")
    same = make_encoder("open_clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", weights=weights)
    assert same.encoder_id == encoder.encoder_id and encoder.dim == 16
    texts = ["红色的杯子", "a red cup"]
    rows = encoder.embed_text(texts)
    tokens = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        expected = F.normalize(encoder.network.model.encode_text(tokens), dim=-1)  # type: ignore[attr-defined]
    np.testing.assert_allclose(rows, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.embed_text(texts[:1]), rows[:1], atol=1e-5)
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert np.linalg.norm(encoder.embed_regions(image, np.zeros((20, 20), np.int32), 1)) == pytest.approx(1, abs=1e-5)


def test_nllb_tower_is_told_the_language_of_each_text(tiny_tower: Callable[[str, Any, Any], Path]) -> None:
    from transformers import M2M100Config

    tokenizer = tiny_clips.nllb_tokenizer()
    config = M2M100Config(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=90,
    )  # fmt: skip
    encoder = make_encoder("open_clip:nllb-clip-base/v1", weights=tiny_tower("nllb-clip-base", config, tokenizer))
    assert encoder.embed_text(["红色的杯子", "a red cup"]).shape == (2, 16)
    read = encoder.network._tokenizer(["红杯子", "cup"])  # type: ignore[attr-defined]
    languages = tokenizer.convert_ids_to_tokens(read[:, 0].tolist())
    assert languages == ["zho_Hans", "eng_Latn"]


def test_siglip_of_open_clip() -> None:
    from open_clip import timm_model

    if timm_model.timm is None:
        pytest.skip("needs timm 1.0 or newer")
    import open_clip
    from open_clip.model import CustomTextCLIP

    config = open_clip.get_model_config("ViT-B-16-SigLIP2")
    assert config is not None
    text = {**config["text_cfg"], "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    vision = {**config["vision_cfg"], "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map"}
    model = CustomTextCLIP(192, vision, text, init_logit_bias=-10, init_logit_scale=float(np.log(112)))
    network = OpenClipNetwork(model, lambda texts: torch.ones(len(texts), 64, dtype=torch.long), (0.5,) * 3, (0.5,) * 3)
    encoder = ClipEncoder("siglip", network.dim, lambda: network)
    assert encoder.temperature == pytest.approx(11.2, rel=1e-5)
    image = np.zeros((30, 20, 3), dtype=np.uint8)
    assert encoder.embed_regions(image, np.zeros((30, 20), np.int32), 1).shape == (1, 192)


def test_a_missing_timm_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import timm_model

    monkeypatch.setattr(timm_model, "timm", None)
    with pytest.raises(UserError, match=r"needs timm 1\.0 or newer.*siglip2") as caught:
        make_encoder("open_clip:ViT-B-16-SigLIP2/webli")
    assert "\n" not in str(caught.value)


def test_tokenizers_clean_texts_as_their_model_wants(tmp_path: Path) -> None:
    tiny_clips.xlm_tokenizer().save_pretrained(tmp_path)
    plain = hub_tokenizer(tmp_path, {"context_length": 20})
    canonical = hub_tokenizer(tmp_path, {"context_length": 20, "tokenizer_kwargs": {"clean": "canonicalize"}})
    assert plain(["Red cup."]).shape == (1, 20)
    assert not torch.equal(plain(["Red, cup."]), plain(["red cup"]))
    assert torch.equal(canonical(["Red, cup."]), canonical(["red cup"]))


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("name", ["open_clip", "multilingual-clip", "chinese-clip", "siglip2:google/siglip2-large"])
def test_weights_that_cannot_be_had_fail_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool, name: str
) -> None:
    from huggingface_hub import constants

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("LANG_SPLAT_OFFLINE", "1" if offline else "0")
    with pytest.raises(UserError) as caught:
        make_encoder(name)
    message = str(caught.value)
    assert "\n" not in message
    reason = "LANG_SPLAT_OFFLINE is set" if offline else "no route"
    parts = {
        "open_clip": ("ViT-B-16/laion2b_s34b_b88k", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
        "multilingual-clip": ("open_clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k",),
        "chinese-clip": ("fetch chinese-clip`", "OFA-Sys/chinese-clip-vit-base-patch16"),
    }.get(name, (f"fetch {name}`", "google/siglip2-large"))
    for part in (*parts, "lang-splat weights fetch", "colour-words", reason, str(tmp_path)):
        assert part in message
