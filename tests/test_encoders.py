"""Encoders by name: what each is offered, what is refused, and a real plug-in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.encoders import Encoder, RegionTask, check_texts, embed_many, make_encoder, photos_at_once

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


def test_choices_that_an_encoder_does_not_have_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_ENCODERS", f"mine={__name__}:DeviceEncoder")
    with pytest.raises(UserError, match=r"mine has no choice of crops, so 'black\+blur' cannot be met"):
        make_encoder("mine", crops="black+blur")
    with pytest.raises(UserError, match=r"colour-words has no choice of templates"):
        make_encoder("colour-words", templates="ensemble")
    with pytest.raises(UserError, match=r"mine has no choice of variant"):
        make_encoder("mine:large")


def test_plug_ins_may_embed_several_label_maps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int32)
    tasks = [RegionTask(image, labels, 1), RegionTask(image, labels, 3)]
    encoder = DeviceEncoder("cpu")
    assert [len(rows) for rows in embed_many(encoder, tasks)] == [1, 3]
    assert photos_at_once(encoder) == 1
    monkeypatch.setattr(DeviceEncoder, "embed_many", lambda self, tasks: iter(["all", "at once"]), raising=False)
    monkeypatch.setattr(DeviceEncoder, "photos_at_once", 5, raising=False)
    assert embed_many(encoder, tasks) == ["all", "at once"]
    assert photos_at_once(encoder) == 5


def test_empty_prompts_are_refused() -> None:
    assert check_texts([" red "]) == ["red"]
    for text in ("", " \t"):
        with pytest.raises(KeyError, match="empty"):
            check_texts(["red", text])


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
