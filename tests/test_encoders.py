"""Encoders by name, CLIP's crops and vectors on a tiny random network, and a real plug-in."""

from __future__ import annotations

import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.crops import region_crops
from lang_splat_ns.perception.encoders import Encoder, check_texts, make_encoder
from lang_splat_ns.perception.open_clip_encoder import ClipNetwork, OpenClipEncoder

SHARED = Path(__file__).resolve().parents[2] / "shared"


class DeviceEncoder:
    """A plug-in that asks for the device and the weights."""

    encoder_id, dim, negatives = "device/1", 2, ("thing",)

    def __init__(self, device: str, weights: Path | None = None) -> None:
        self.device, self.weights = device, weights

    def embed_regions(self, image: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
        return np.tile(np.array([1, 0], np.float32), (count, 1))

    def embed_text(self, texts: list[str]) -> np.ndarray:
        return np.tile(np.array([1, 0], np.float32), (len(texts), 1))


def test_plug_in_gets_the_arguments_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_ENCODERS", f"mine={__name__}:DeviceEncoder")
    encoder = make_encoder("mine", device="cuda:1", weights=Path("w.pt"))
    assert isinstance(encoder, DeviceEncoder)
    assert isinstance(encoder, Encoder)
    assert (encoder.device, encoder.weights) == ("cuda:1", Path("w.pt"))


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"'colour-word'; did you mean colour-words.*LANG_SPLAT_ENCODERS="):
        make_encoder("colour-word")
    with pytest.raises(UserError, match="open_clip has no 'ViT-B-16/laion2b'; write open_clip:MODEL/TAG"):
        make_encoder("open_clip:ViT-B-16/laion2b")


@pytest.mark.parametrize("offline", [True, False])
def test_clip_without_weights_fails_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool) -> None:
    from huggingface_hub import constants

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("LANG_SPLAT_OFFLINE", "1" if offline else "0")
    with pytest.raises(UserError) as caught:
        make_encoder("open_clip")
    message = str(caught.value)
    assert "\n" not in message
    reason = "LANG_SPLAT_OFFLINE is set" if offline else "no route"
    for part in ("ViT-B-16/laion2b_s34b_b88k", "lang-splat weights fetch", "colour-words", reason):
        assert part in message


def test_empty_prompts_are_refused() -> None:
    assert check_texts([" red "]) == ["red"]
    for text in ("", " \t"):
        with pytest.raises(KeyError, match="empty"):
            check_texts(["red", text])


def test_crops_are_tight_black_square() -> None:
    image = np.full((20, 30, 3), 200, dtype=np.uint8)
    labels = np.full((20, 30), -1, dtype=np.int32)
    labels[4:8, 10:26] = 2
    labels[5, 12] = -1
    (region, crop), *others = list(region_crops(image, labels, 4, 16))
    assert (region, others) == (2, [])
    assert crop.shape == (16, 16, 3)
    # The box is 16 wide and 4 high: it fills the middle four rows, and the rest is black.
    assert (crop[6:10].max(axis=2) == 200).sum() == 63
    assert crop[:6].max() == crop[10:].max() == 0
    assert crop[7, 2].max() == 0


def tiny_clip() -> ClipNetwork:
    """open_clip's own class with random weights: 32 pixels, 16 dimensions."""
    import open_clip
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg=CLIPVisionCfg(image_size=32, layers=1, width=32, patch_size=8, head_width=16),
        text_cfg=CLIPTextCfg(context_length=77, vocab_size=49408, width=32, heads=2, layers=1),
    ).eval()
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return ClipNetwork(model, open_clip.get_tokenizer("ViT-B-16"), tuple(mean), tuple(std))


def test_clip_on_a_tiny_network() -> None:
    network = tiny_clip()
    encoder = OpenClipEncoder(network=network, encoder_id="tiny")
    assert (encoder.encoder_id, encoder.dim) == ("tiny", 16)
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    # More regions than one batch, of which one has no pixels.
    labels = random.integers(0, 70, (40, 60)).astype(np.int32)
    labels[labels == 3] = -1
    rows = encoder.embed_regions(image, labels, 70)
    assert rows.dtype == np.float32
    assert np.isnan(rows[3]).all()
    assert np.allclose(np.linalg.norm(np.delete(rows, 3, axis=0), axis=1), 1, atol=1e-5)
    # A region alone gives the same vector as in a batch, and the published recipe.
    crop = dict(region_crops(image, labels, 70, 32))[65]
    pixels = (torch.from_numpy(crop).permute(2, 0, 1)[None] / 255 - torch.tensor(network.mean)[:, None, None]) / (
        torch.tensor(network.std)[:, None, None]
    )
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(network.model.encode_image(pixels), dim=-1)[0]
    np.testing.assert_allclose(rows[65], expected.numpy(), atol=1e-5)
    texts = encoder.embed_text(["a red mug", "stuff"])
    assert texts.shape == (2, 16)
    assert np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    assert encoder.embed_text([]).shape == (0, 16)
    with pytest.raises(KeyError, match="empty"):
        encoder.embed_text([" "])


def test_real_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SHARED / "encoders"
    if not (folder / "yolo_world_encoder.py").exists():
        pytest.skip("needs ../shared/encoders")
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("LANG_SPLAT_ENCODERS", "yolo-world=yolo_world_encoder:YoloWorldEncoder")
    monkeypatch.syspath_prepend(str(folder))
    # Nothing may be written beside a plug-in that lies in a folder for reading.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    encoder = make_encoder("yolo-world")
    assert isinstance(encoder, Encoder)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    labels = np.zeros((64, 96), dtype=np.int32)
    labels[:, 48:] = 2
    rows = encoder.embed_regions(image, labels, 3)
    assert rows.shape == (3, 512)
    assert np.isnan(rows[1]).all()
    assert np.allclose(np.linalg.norm(rows[[0, 2]], axis=1), 1, atol=1e-4)
    assert encoder.embed_text(["mouse", "object"]).shape == (2, 512)
    with pytest.raises(KeyError, match="no known noun"):
        encoder.embed_text(["qwzx"])
