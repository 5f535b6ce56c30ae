"""transformers' CLIPs by name, on tiny random models of the real classes, saved and loaded like published ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clips
import torch
from torch.nn import functional as F

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import hub_clip_encoders
from lang_splat_ns.perception.crops import cut, region_boxes
from lang_splat_ns.perception.encoders import (
    CHINESE_NEGATIVES,
    LERF_NEGATIVES,
    Encoder,
    RegionTask,
    embed_many,
    make_encoder,
    photos_at_once,
)
from lang_splat_ns.perception.hub_clip_network import patchify
from lang_splat_ns.perception.prompt_templates import sentences

SAVERS: dict[str, Callable[[Path], Path]] = {
    "clip": tiny_clips.save_clip,
    "chinese-clip": tiny_clips.save_chinese_clip,
    "siglip2": tiny_clips.save_siglip,
    "siglip2-naflex": lambda folder: tiny_clips.save_siglip(folder, flexible=True),
    "metaclip2": tiny_clips.save_metaclip2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One saved model per kind."""
    root = tmp_path_factory.mktemp("models")
    return {kind: save(root / kind) for kind, save in SAVERS.items()}


def build(folders: dict[str, Path], kind: str, **options: Any) -> Any:
    return make_encoder(f"{kind.removesuffix('-naflex')}:{folders[kind]}", **options)


def photo(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    labels = np.arange(60)[None].repeat(40, axis=0).astype(np.int32) // 15
    labels[:3] = -1
    return image, labels


@pytest.mark.parametrize("kind", SAVERS)
def test_vectors_are_the_models_own(folders: dict[str, Path], kind: str) -> None:
    encoder = build(folders, kind)
    assert isinstance(encoder, Encoder)
    image, labels = photo()
    rows = encoder.embed_regions(image, labels, 5)
    assert rows.shape == (5, encoder.dim) and rows.dtype == np.float32
    assert np.isnan(rows[4]).all()
    boxes = dict(region_boxes(labels, 5))
    crop = torch.from_numpy(cut(image, labels, 2, boxes[2], "black", 32)).permute(2, 0, 1)[None] / 255
    pixels = (crop - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    model = encoder.network.model
    if kind == "siglip2-naflex":
        from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

        patches = convert_image_to_patches(pixels[0], 8)[None]
        assert torch.equal(patchify(pixels, 8), patches)
        answer = model.get_image_features(
            patches, pixel_attention_mask=torch.ones(1, 16), spatial_shapes=torch.tensor([[4, 4]])
        )
    else:
        answer = model.get_image_features(pixel_values=pixels)
    np.testing.assert_allclose(rows[2], F.normalize(answer.pooler_output, dim=-1)[0].detach(), atol=1e-5)


@pytest.mark.parametrize("kind", SAVERS)
def test_texts_do_not_depend_on_their_neighbours(folders: dict[str, Path], kind: str) -> None:
    encoder = build(folders, kind)
    text = "红色的杯子" if kind != "clip" else "red cup"
    alone = encoder.embed_text([text])
    together = encoder.embed_text([text, "a much longer text with many letters in it", "b"])
    np.testing.assert_allclose(together[0], alone[0], atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert abs(together[0] @ together[1]) < 0.9999
    assert encoder.embed_text([]).shape == (0, encoder.dim)
    # Far more tokens than any tower reads are cut, not refused.
    assert np.isfinite(encoder.embed_text([text * 40])).all()
    with pytest.raises(KeyError, match="empty"):
        encoder.embed_text(["  "])


def test_siglip_reads_small_letters_filled_up_to_64_and_unmasked(folders: dict[str, Path]) -> None:
    encoder = build(folders, "siglip2")
    tokenizer = encoder.network._tokenizer
    tokens = tokenizer("red cup", add_special_tokens=True)["input_ids"]
    filled = torch.tensor([tokens + [tokenizer.pad_token_id] * (64 - len(tokens))])
    expected = F.normalize(encoder.network.model.get_text_features(input_ids=filled).pooler_output, dim=-1)
    np.testing.assert_allclose(encoder.embed_text(["Red CUP"]), expected.detach(), atol=1e-5)


@pytest.mark.parametrize("kind", SAVERS)
def test_each_knows_its_negatives_temperature_and_id(folders: dict[str, Path], kind: str) -> None:
    encoder = build(folders, kind)
    assert encoder.negatives == (CHINESE_NEGATIVES if kind == "chinese-clip" else LERF_NEGATIVES)
    assert encoder.temperature == pytest.approx(11.2)
    base = kind.removesuffix("-naflex")
    assert encoder.encoder_id.startswith(f"{base}:{kind}@") and encoder.encoder_id.endswith(" crop/1")
    # The same weights elsewhere are the same encoder; other weights are not.
    assert build(folders, kind, templates="ensemble").encoder_id == encoder.encoder_id
    assert make_encoder(base, weights=folders[kind]).encoder_id == encoder.encoder_id
    assert encoder.dim == encoder.network.dim


def test_a_model_of_another_family_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a chinese_clip, and the encoder siglip2 is for siglip and siglip2"):
        make_encoder(f"siglip2:{folders['chinese-clip']}")
    with pytest.raises(UserError, match="no folder with a model"):
        make_encoder(f"clip:{tmp_path / 'nothing'}")
    with pytest.raises(UserError, match="colour-words has no choice of variant"):
        make_encoder("colour-words:red")


def test_broken_files_are_named_in_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folders["clip"], broken)
    (broken / "model.safetensors").write_bytes(b"torn")
    encoder = make_encoder(f"clip:{broken}")
    with pytest.raises(UserError, match="broken cannot be loaded") as caught:
        encoder.embed_text(["cup"])
    assert "\n" not in str(caught.value)


def test_batches_run_across_label_maps_and_photos(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build(folders, "clip", crops="black+blur:2+context:0.5")
    tasks = [RegionTask(*photo(seed), 5) for seed in range(6)]
    sizes: list[int] = []
    encode = encoder.network.encode_images
    monkeypatch.setattr(encoder.network, "encode_images", lambda pixels: (sizes.append(len(pixels)), encode(pixels))[1])
    together = embed_many(encoder, tasks)
    # 6 photos x 4 regions x 3 crops.
    assert sizes == [32, 32, 8]
    for task, rows in zip(tasks, together, strict=True):
        assert np.isnan(rows[4]).all()
        np.testing.assert_allclose(rows, encoder.embed_regions(task.image, task.labels, 5), atol=1e-5)
    assert photos_at_once(encoder) == 1


def test_fused_crops_are_the_weighted_mean_made_unit(folders: dict[str, Path]) -> None:
    kinds = {"black": 1.0, "blur": 2.0, "context": 0.5}
    image, labels = photo()
    single = {kind: build(folders, "clip", crops=kind) for kind in kinds}
    mean = sum(weight * single[kind].embed_regions(image, labels, 4) for kind, weight in kinds.items())
    fused = build(folders, "clip", crops="black+blur:2+context:0.5")
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(fused.embed_regions(image, labels, 4), expected, atol=1e-5)
    ids = {encoder.encoder_id for encoder in (*single.values(), fused)}
    assert len(ids) == 4
    assert fused.encoder_id.endswith("crop/1 black:1+blur:2+context:0.5")


def test_threads_that_cut_crops_ahead_change_nothing(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build(folders, "clip")
    tasks = [RegionTask(*photo(seed), 5) for seed in range(3)]
    expected = embed_many(encoder, tasks)
    # As on a GPU, but with the network where it is.
    batches = encoder._batches
    monkeypatch.setattr(encoder, "_kind", "cuda")
    ahead = list(batches(tasks))
    monkeypatch.setattr(encoder, "_kind", "cpu")
    assert [len(crops) for _, crops in ahead] == [12]
    monkeypatch.setattr(encoder, "_batches", lambda tasks: iter(ahead))
    for found, rows in zip(embed_many(encoder, tasks), expected, strict=True):
        np.testing.assert_array_equal(found, rows)


def test_ensembles_average_sentences_in_the_prompts_language(folders: dict[str, Path]) -> None:
    encoder, plain = build(folders, "chinese-clip", templates="ensemble"), build(folders, "chinese-clip")
    for text, other in (("红色的杯子", "照片"), ("a cup", "photo")):
        asked = sentences(text, "ensemble")
        assert len(asked) > 3 and asked[0] == text
        assert all(text in sentence for sentence in asked) and any(other in sentence for sentence in asked)
        mean = plain.embed_text(asked).mean(axis=0)
        np.testing.assert_allclose(encoder.embed_text([text])[0], mean / np.linalg.norm(mean), atol=1e-5)
    with pytest.raises(UserError, match="phrase or ensemble"):
        build(folders, "clip", templates="poem")


def test_weights_fetch_and_ls_know_them(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lang_splat_ns.perception.weights import fetch, ls

    monkeypatch.setattr(hub_clip_encoders.ChineseClipEncoder, "address", str(folders["chinese-clip"]))
    assert fetch("chinese-clip") == folders["chinese-clip"]
    assert fetch(f"clip:{folders['clip']}") == folders["clip"]
    rows = {row["name"]: row for row in ls()}
    assert {"clip", "chinese-clip", "siglip2", "metaclip2", "open_clip", "multilingual-clip"} <= set(rows)
    assert rows["chinese-clip"]["path"] == str(folders["chinese-clip"])
    assert rows["metaclip2"]["licence"] == "CC-BY-NC-4.0"
