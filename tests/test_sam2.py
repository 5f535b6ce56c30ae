"""SAM 2 as a segmenter, on tiny random models of transformers' own classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sam2 import SIDE, tiny_sam2, tiny_sam2_video

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import hub, weights
from lang_splat_ns.perception.mask_generator import MaskGenerator, MaskSettings
from lang_splat_ns.perception.sam2 import Sam2Network, Sam2Segmenter, load_model, square_pixels
from lang_splat_ns.perception.segmenters import SAM_LEVELS, SEGMENTERS, make_segmenter

NAMES = ("sam2", "sam2-large", "sam2-base-plus", "sam2-small", "sam2-tiny")


def photo(height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The form of the published repositories: a video model, of which the image model is a part."""
    path = tmp_path_factory.mktemp("sam2")
    tiny_sam2_video().save_pretrained(path)
    return path


@torch.inference_mode()
def test_shared_decoder_equals_the_models_own() -> None:
    model = tiny_sam2()
    network, points = Sam2Network(model), torch.rand(5, 2) * SIDE
    label = torch.ones(1, 5, 1, dtype=torch.int)
    pixels = square_pixels(photo(), SIDE, torch.device("cpu"))
    expected = model(pixel_values=pixels, input_points=points[None, :, None], input_labels=label)
    logits, quality = network.decode(network.embed(photo()), points, -1.0, (32, 32))
    assert expected.pred_masks.abs().mean() > 0.1
    torch.testing.assert_close(logits, expected.pred_masks[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(quality, expected.iou_scores[0], rtol=1e-4, atol=1e-5)
    upper, _ = network.decode(network.embed(photo()), points, -1.0, (9, 14))
    torch.testing.assert_close(upper, expected.pred_masks[0][..., :9, :14], rtol=1e-4, atol=1e-4)


def test_the_photo_fills_the_square() -> None:
    placement = Sam2Network(tiny_sam2()).place(60, 80)
    assert (placement.inner, placement.low) == ((SIDE, SIDE), (32, 32))
    assert placement.grid(2).tolist() == [[32, 32], [96, 32], [32, 96], [96, 96]]


def test_photos_go_in_as_the_packages_own_processor_sends_them() -> None:
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

    expected = Sam2ImageProcessor()(images=photo(), return_tensors="pt")["pixel_values"]
    found = square_pixels(photo(), 1024, torch.device("cpu"))
    # Its bilinear filter and Pillow's round differently, by one step of 255.
    assert (found - expected).abs().max() <= 1.01 / 255 / 0.224


def test_generator_on_sam2() -> None:
    options = MaskSettings(points_per_side=3, predicted_iou=0.0, stability=0.0, min_area=1)
    maps = MaskGenerator(Sam2Network(tiny_sam2()), options, batch=4).generate(photo())
    assert maps.levels == SAM_LEVELS
    assert maps.labels.shape == (3, 60, 80)


def test_from_a_folder_of_the_published_form(folder: Path) -> None:
    segmenter = make_segmenter(f"sam2:{folder}", points_per_side=2)
    assert segmenter.segmenter_id.startswith(f"sam2:{folder.name}@{hub.digest_of(folder)[:16]}/")
    assert "points=2 " in segmenter.segmenter_id
    assert segmenter.segment(photo()).labels.shape == (3, 60, 80)
    assert make_segmenter("sam2-tiny", weights=folder, points_per_side=2).segmenter_id == segmenter.segmenter_id
    video = tiny_sam2_video().state_dict()
    image = load_model("Sam2Model", folder, "cpu").state_dict()
    assert image.keys() < video.keys()
    assert all(torch.equal(image[name], video[name]) for name in image)


def test_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"is a clip, and no SAM 2; use the segmenter felzenszwalb"):
        make_segmenter(f"sam2:{tmp_path}")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="does not hold the weights of a Sam2Model"):
        make_segmenter(f"sam2:{tmp_path}").segment(photo())


@pytest.mark.parametrize("name", NAMES)
def test_missing_weights_fail_in_one_line_before_any_work(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LANG_SPLAT_OFFLINE", "1")
    monkeypatch.setattr(hub, "cached_model", lambda repository: None)
    with pytest.raises(UserError) as caught:
        make_segmenter(name)
    message = str(caught.value)
    assert "\n" not in message
    model = SEGMENTERS.load(name)
    for part in (model.address, "cache", f"lang-splat weights fetch {model.name}", "felzenszwalb", "OFFLINE is set"):
        assert part in message


def test_weights_are_listed_and_fetched_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(NAMES) <= set(weights.hub_models())
    monkeypatch.setattr(Sam2Segmenter, "address", str(folder))
    rows = {row["name"]: row for row in weights.ls()}
    assert rows["sam2"]["path"] == str(folder)
    assert rows["sam2-tiny"]["url"] == "facebook/sam2.1-hiera-tiny"
    assert rows["sam2-tiny"]["licence"] == "Apache-2.0"
    assert weights.fetch("sam2") == folder
