"""Dense encoders: MaskCLIP's change against a network with its attention replaced, pooling against a loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clips
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import dense_encoder
from lang_splat_ns.perception.dense_encoder import DenseEncoder, pool
from lang_splat_ns.perception.encoders import Encoder, RegionTask, embed_many, make_encoder

SAVERS: dict[str, Callable[[Path], Path]] = {
    "clip": tiny_clips.save_clip,
    "chinese-clip": tiny_clips.save_chinese_clip,
    "metaclip2": tiny_clips.save_metaclip2,
}


def self_attention_only(attention: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a transformers attention give every token its own value."""

    def own_value(hidden_states: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, None]:
        return attention.out_proj(attention.v_proj(hidden_states)), None

    monkeypatch.setattr(attention, "forward", own_value)


@pytest.mark.parametrize("kind", SAVERS)
def test_patches_of_transformers_models(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = make_encoder(f"{kind}:{SAVERS[kind](tmp_path / kind)}")
    pixels = torch.randn(1, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    found = encoder.network.encode_patches(pixels)
    assert found.shape == (1, 5, 3, 16)
    vision = encoder.network.model.vision_model
    self_attention_only(vision.encoder.layers[-1].self_attn, monkeypatch)
    tokens = vision(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    expected = encoder.network.model.visual_projection(vision.post_layernorm(tokens))
    torch.testing.assert_close(found, expected.reshape(1, 5, 3, 16), atol=1e-5, rtol=1e-4)


def test_patches_of_open_clip_models(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_clips.open_clip_network()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = network.encode_patches(pixels)
    assert found.shape == (2, 4, 4, 16)
    visual = network.model.visual
    last = visual.transformer.resblocks[-1]

    def own_value(q_x: torch.Tensor, **_: object) -> torch.Tensor:
        # Each token alone in a sequence can attend to nothing but itself.
        alone = q_x.reshape(-1, 1, q_x.shape[-1])
        return last.attn(alone, alone, alone, need_weights=False)[0].reshape(q_x.shape)

    monkeypatch.setattr(last, "attention", own_value)
    monkeypatch.setattr(visual, "output_tokens", True)
    # This class projects the class token alone, so the patches are taken before that.
    tokens = visual(pixels)[1]
    torch.testing.assert_close(found.flatten(1, 2), tokens @ visual.proj, atol=1e-5, rtol=1e-4)
    # Another grid of patches stretches the positions.
    assert network.encode_patches(torch.zeros(1, 3, 16, 48)).shape == (1, 2, 6, 16)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 4), columns=st.integers(1, 5), height=st.integers(1, 13))
def test_pooling_is_the_mean_over_pixels(seed: int, rows: int, columns: int, height: int) -> None:
    random = np.random.default_rng(seed)
    features = random.normal(size=(rows, columns, 6)).astype(np.float32)
    labels = random.integers(-1, 4, (height, 11)).astype(np.int32)
    found = pool(features, labels, 5)
    for region in range(5):
        places = np.argwhere(labels == region)
        if not len(places):
            assert np.isnan(found[region]).all()
            continue
        mean = np.mean([features[y * rows // height, x * columns // 11] for y, x in places], axis=0, dtype=np.float64)
        np.testing.assert_allclose(found[region], mean / np.linalg.norm(mean), atol=1e-4)


def test_a_dense_encoder_of_another_encoders_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_encoder, "LONG_SIDE", 48)
    inner: Any = make_encoder(f"chinese-clip:{tiny_clips.save_chinese_clip(tmp_path / 'm')}")
    encoder = make_encoder(f"dense:chinese-clip:{tmp_path / 'm'}", templates="phrase")
    assert isinstance(encoder, Encoder) and isinstance(encoder, DenseEncoder)
    assert encoder.encoder_id.startswith("dense/1 side=48 chinese-clip:m@")
    assert encoder.negatives == inner.negatives and encoder.temperature == inner.temperature
    np.testing.assert_array_equal(encoder.embed_text(["杯子"]), inner.embed_text(["杯子"]))
    # 64 x 96 pixels become 32 x 48, which is 4 x 6 patches.
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    halves = np.repeat(np.repeat([[0, 1]], 48, axis=1), 64, axis=0).astype(np.int32)
    features = encoder._features(image)
    assert features.shape == (4, 6, 16)
    rows = encoder.embed_regions(image, halves, 3)
    expected = F.normalize(torch.from_numpy(features[:, :3].reshape(-1, 16)).mean(dim=0), dim=0)
    np.testing.assert_allclose(rows[0], expected, atol=1e-5)
    assert np.isnan(rows[2]).all()
    looks: list[int] = []
    monkeypatch.setattr(encoder, "_features", lambda image: (looks.append(len(image)), features)[1])
    tasks = [RegionTask(image, halves, 3), RegionTask(image, 1 - halves, 2), RegionTask(image[:32], halves[:32], 2)]
    assert [len(rows) for rows in embed_many(encoder, tasks)] == [3, 2, 2]
    # The levels of one photo share its feature map.
    assert looks == [64, 32]


def test_networks_without_patches_in_the_space_of_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="take one of the CLIP encoders"):
        make_encoder("dense:colour-words")
    encoder = make_encoder(f"dense:siglip2:{tiny_clips.save_siglip(tmp_path / 'm')}")
    with pytest.raises(UserError, match="SiglipModel pools its patches by attention"):
        encoder.embed_regions(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.int32), 1)
    with pytest.raises(UserError, match="no choice of crops"):
        make_encoder("dense", crops="black")
