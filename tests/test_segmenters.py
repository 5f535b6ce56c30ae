"""Segmenters by name, Felzenszwalb on a drawn scene, and the mask generator around SAM's networks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.felzenszwalb import FelzenszwalbSegmenter, dissolve_slivers, join_parts, join_shades
from lang_splat_ns.perception.mask_generator import MaskGenerator, MaskSettings, grid_points, remove_specks
from lang_splat_ns.perception.sam_decoder import PointDecoder
from lang_splat_ns.perception.segmenters import (
    SAM_LEVELS,
    LabelMaps,
    Segmenter,
    compact,
    default_segmenter,
    make_segmenter,
)

SHARED = Path(__file__).resolve().parents[2] / "shared"


class PlainSegmenter:
    """A plug-in without constructor arguments."""

    segmenter_id = "plain/1"

    def segment(self, image: np.ndarray) -> LabelMaps:
        return LabelMaps(np.zeros((1, *image.shape[:2]), dtype=np.int32), ("whole",))


class Unfinished:
    """A plug-in that does not keep the contract."""

    def segment(self, image: np.ndarray) -> None: ...


def test_default_depends_on_the_device_alone() -> None:
    assert default_segmenter("cuda") == default_segmenter("cuda:1") == "sam"
    assert default_segmenter("cpu") == "mobile-sam"


def test_unknown_name_lists_names_and_near_ones() -> None:
    with pytest.raises(
        UserError, match=r"unknown segmenter 'mobilesam'; did you mean mobile-sam.*LANG_SPLAT_SEGMENTERS"
    ):
        make_segmenter("mobilesam")


def test_plug_in_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_SEGMENTERS", f"plain={__name__}:PlainSegmenter, sam={__name__}:PlainSegmenter")
    assert make_segmenter("plain").segmenter_id == "plain/1"
    # Whoever sets the variable means it, also for a built-in name.
    assert make_segmenter("sam", device="cuda").segmenter_id == "plain/1"


def test_plug_in_by_entry_point_does_not_replace_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    group = "lang_splat_ns.segmenters"
    points = [EntryPoint(name, f"{__name__}:PlainSegmenter", group) for name in ("installed", "felzenszwalb")]
    monkeypatch.setattr("lang_splat_ns.perception.registry.entry_points", lambda group: points)
    assert make_segmenter("installed").segmenter_id == "plain/1"
    assert isinstance(make_segmenter("felzenszwalb"), FelzenszwalbSegmenter)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("broken", "each item must read name=module:Class"),
        ("x=no.such.module:Thing", "cannot import segmenter 'x'"),
        (f"x={__name__}:Nothing", "cannot import segmenter 'x'"),
        (f"x={__name__}:Unfinished", "lacks segmenter_id"),
    ],
)
def test_bad_plug_in_is_a_users_error(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    monkeypatch.setenv("LANG_SPLAT_SEGMENTERS", value)
    with pytest.raises(UserError, match=message):
        make_segmenter("x")


def test_missing_weights_fail_in_one_line_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANG_SPLAT_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "user"))
    with pytest.raises(UserError) as caught:
        make_segmenter("sam")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("sam_vit_h_4b8939.pth", str(tmp_path), "lang-splat weights fetch sam-vit-h", "felzenszwalb"):
        assert part in message


def test_points_per_side_is_checked() -> None:
    with pytest.raises(UserError, match="at least 1"):
        make_segmenter("felzenszwalb", points_per_side=0)


def test_registries_import_nothing_heavy() -> None:
    heavy = ("torch", "skimage", "cv2", "open_clip", "matplotlib", "scipy", "mobile_sam", "nerfstudio")
    code = (
        "import sys, lang_splat_ns.perception.encoders, lang_splat_ns.perception.segmenters;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_label_maps_check_themselves() -> None:
    labels = np.array([[[0, 2]], [[-1, -1]]], dtype=np.int32)
    assert LabelMaps(labels, ("whole", "part")).counts == (3, 0)
    with pytest.raises(ValueError, match="int32"):
        LabelMaps(labels.astype(np.int64), ("whole", "part"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="start at -1"):
        LabelMaps(labels - 1, ("whole", "part"))


@given(st.lists(st.integers(-3, 5), min_size=1, max_size=30))
def test_compact_renumbers_without_gaps(values: list[int]) -> None:
    labels = np.array(values)
    found = compact(labels[None])[0]
    assert found.dtype == np.int32
    assert ((found == -1) == (labels < 0)).all()
    assert sorted(set(found[found >= 0])) == list(range(len(set(labels[labels >= 0]))))
    for value in set(labels[labels >= 0]):
        assert len(set(found[labels == value])) == 1


# ---- Felzenszwalb ----


def shaded_scene(height: int = 120, width: int = 160) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Three shaded balls on a plain floor: uint8 [H, W, 3] and their masks."""
    y, x = np.mgrid[:height, :width].astype(float)
    image = np.full((height, width, 3), (196.0, 190.0, 180.0)) * (0.9 + 0.1 * x / width)[..., None]
    masks = {}
    colours = {"red": (220, 30, 30), "green": (20, 160, 40), "blue": (40, 60, 220)}
    for index, (name, colour) in enumerate(colours.items()):
        u, v = (x - 32 - 48 * index) / 18, (y - 60) / 18
        masks[name] = u**2 + v**2 < 1
        height_of = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
        light = 0.35 + 0.65 * np.clip(0.7 * height_of - 0.5 * u - 0.5 * v, 0, 1)
        image = np.where(masks[name][..., None], np.array(colour) * light[..., None] ** (1 / 2.2), image)
    return image.astype(np.uint8), masks


def test_a_shaded_ball_is_one_region() -> None:
    image, masks = shaded_scene()
    maps = FelzenszwalbSegmenter().segment(image)
    assert maps.levels == SAM_LEVELS
    assert maps.labels.shape == (3, *image.shape[:2])
    assert maps.labels.min() == 0
    for level in maps.labels[:2]:
        for name, mask in masks.items():
            region = level == np.bincount(level[mask]).argmax()
            assert (region & mask).sum() / (region | mask).sum() > 0.8, name


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(3, 40), width=st.integers(3, 40))
def test_felzenszwalb_labels_every_pixel_without_gaps(seed: int, height: int, width: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    maps = make_segmenter("felzenszwalb").segment(image)
    for level, count in zip(maps.labels, maps.counts, strict=True):
        assert np.array_equal(np.unique(level), np.arange(count))


def test_slivers_go_to_their_neighbours() -> None:
    labels = np.zeros((10, 12), dtype=np.int32)
    labels[:, 6:] = 2
    labels[:, 5] = 1
    assert set(np.unique(dissolve_slivers(labels))) == {0, 1}


def test_sides_of_a_box_are_one_part_and_two_parts_one_whole() -> None:
    labels = np.zeros((80, 120), dtype=np.int32)
    labels[12:28, 20:30], labels[12:28, 30:38] = 1, 2
    image = np.full((80, 120, 3), 190, dtype=np.uint8)
    image[labels == 1], image[labels == 2] = (40, 60, 220), (22, 33, 130)
    assert join_shades(labels, image).max() == 1
    # Two colours are two parts; what they share of their outline makes them one whole.
    image[labels == 2] = (230, 220, 40)
    assert join_shades(labels, image).max() == 2
    assert join_parts(labels).max() == 1


# ---- SAM ----


def tiny_sam() -> Any:
    """A random model of segment_anything's own classes, with the published decoder and a small image encoder."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    # The low resolution is 256 for 1024 pixels; this one has the same ratio of 4 and is read with that in mind.
    encoder = ImageEncoderViT(
        img_size=1024, patch_size=64, embed_dim=32, depth=1, num_heads=2, out_chans=32,
        norm_layer=torch.nn.LayerNorm, window_size=0,
    )  # fmt: skip
    prompts = PromptEncoder(embed_dim=32, image_embedding_size=(16, 16), input_image_size=(1024, 1024), mask_in_chans=4)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=4, mlp_dim=64)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, num_multimask_outputs=3)
    return Sam(encoder, prompts, decoder).eval()


@torch.inference_mode()
def test_shared_decoder_equals_the_published_one() -> None:
    sam, points = tiny_sam(), torch.rand(5, 2) * 1024
    embedding = torch.randn(1, 32, 16, 16)
    sparse, dense = sam.prompt_encoder(points=(points[:, None], torch.ones(5, 1)), boxes=None, masks=None)
    expected, expected_quality = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    decoder = PointDecoder(sam)
    image = decoder.prepare(embedding)
    tokens, mask_tokens, quality = decoder.attend(image, points)
    torch.testing.assert_close(quality, expected_quality, rtol=1e-4, atol=1e-5)
    drawn = decoder.draw(tokens, mask_tokens, image.grid, rows=9)
    torch.testing.assert_close(drawn, expected[:, :, :36], rtol=1e-4, atol=1e-4)


class ScriptedDecoder:
    """Answers every point with three nested squares around it, instead of a network."""

    def prepare(self, embedding: torch.Tensor) -> Any:
        return type("Tokens", (), {"grid": (64, 64)})()

    def attend(self, image: Any, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        quality = torch.tensor([0.95, 0.9, 0.92]).expand(len(points), 3)
        return points, points, quality

    def draw(self, tokens: torch.Tensor, masks: torch.Tensor, grid: tuple[int, int], rows: int) -> torch.Tensor:
        axis_y, axis_x = torch.arange(4 * rows) + 0.5, torch.arange(4 * grid[1]) + 0.5
        # The nearest of four cells of the photo, so that all points of a cell name the same masks.
        centres = (tokens / 4 // 64) * 64 + 32
        distance = torch.maximum(
            (axis_y[:, None] - centres[:, 1, None, None]).abs(), (axis_x - centres[:, 0, None, None]).abs()
        )
        return torch.stack([(half - distance) * 10 for half in (8, 16, 28)], dim=1)


def test_generator_keeps_each_thing_once_per_level(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = MaskGenerator(tiny_sam(), MaskSettings(points_per_side=8), batch=5)
    monkeypatch.setattr(generator, "_decoder", ScriptedDecoder())
    maps = generator.generate(np.zeros((256, 512, 3), dtype=np.uint8))
    # 1024 x 512 network pixels are 256 x 128 low-resolution ones, 4 x 2 cells of 64.
    assert maps.counts == (8, 8, 8)
    assert maps.levels == SAM_LEVELS
    sizes = [np.bincount(level[level >= 0]) for level in maps.labels]
    # A low-resolution pixel is two photo pixels wide.
    for size, half in zip(sizes, (28, 16, 8), strict=True):
        assert np.allclose(size, (2 * 2 * half) ** 2, rtol=0.1)


def test_generator_without_any_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = MaskGenerator(tiny_sam(), MaskSettings(points_per_side=2, predicted_iou=2.0), batch=4)
    maps = generator.generate(np.zeros((40, 30, 3), dtype=np.uint8))
    assert maps.counts == (0, 0, 0)
    assert (maps.labels == -1).all()


def test_grid_covers_the_photo() -> None:
    points = grid_points(2, (100, 200))
    assert points.tolist() == [[50, 25], [150, 25], [50, 75], [150, 75]]


def test_specks_and_holes_go() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:25, 5:25] = True
    mask[10:12, 10:12] = False
    mask[30:32, 30:32] = True
    cleaned = remove_specks(mask, min_area=20)
    assert cleaned[5:25, 5:25].all()
    assert cleaned.sum() == 400
    assert not remove_specks(np.zeros((4, 4), dtype=bool), 10).any()


def test_mobile_sam_on_a_photo() -> None:
    weights = SHARED / "weights" / "mobile_sam.pt"
    photo = SHARED / "scenes" / "desk" / "images" / "input_0003.jpg"
    if not weights.exists() or not photo.exists():
        pytest.skip("needs ../shared/weights/mobile_sam.pt and ../shared/scenes/desk")
    import cv2

    picture = cv2.imread(str(photo))
    image = np.ascontiguousarray(picture[100:360, 580:840, ::-1]).astype(np.uint8)
    segmenter = make_segmenter("mobile-sam", points_per_side=3, weights=weights)
    assert isinstance(segmenter, Segmenter)
    assert "6dbb90523a35330f" in segmenter.segmenter_id
    assert "points=3 " in segmenter.segmenter_id
    maps = segmenter.segment(image)
    # The penguin fills the middle of this crop; at some level its mask does too.
    share = [(level == level[150, 120]).mean() for level in maps.labels if level[150, 120] >= 0]
    assert any(0.15 < value < 0.8 for value in share)


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "mobile_sam.pt")
    segmenter = make_segmenter("mobile-sam", weights=tmp_path / "mobile_sam.pt")
    with pytest.raises(UserError, match="does not fit the model vit_t"):
        segmenter.segment(np.zeros((8, 8, 3), dtype=np.uint8))
