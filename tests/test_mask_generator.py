"""The mask generator and its decoder, against the published ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from benchmarks.stock_masks import partners, stock_masks
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.decoder_parts import sam_parts
from lang_splat_ns.perception.full_size import (
    Enlargement,
    Masks,
    measure,
    paint,
    stability_scores,
    window_of,
)
from lang_splat_ns.perception.mask_generator import MaskGenerator, MaskSettings, cleaned
from lang_splat_ns.perception.promptable import Placement, resized
from lang_splat_ns.perception.sam import MobileSam, SamNetwork
from lang_splat_ns.perception.sam_decoder import PointDecoder
from lang_splat_ns.perception.segmenters import SAM_LEVELS, Segmenter, make_segmenter

SHARED = Path(__file__).resolve().parents[2] / "shared"
MOBILE_SAM = SHARED / "weights" / "mobile_sam.pt"
PHOTO = SHARED / "scenes" / "desk" / "images" / "input_0003.jpg"


def tiny_sam() -> Any:
    """A random model of segment_anything's own classes, with the published decoder and a small image encoder."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=256, patch_size=16, embed_dim=32, depth=1, num_heads=2, out_chans=32,
        norm_layer=torch.nn.LayerNorm, window_size=0,
    )  # fmt: skip
    prompts = PromptEncoder(embed_dim=32, image_embedding_size=(16, 16), input_image_size=(256, 256), mask_in_chans=4)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=4, mlp_dim=64)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, num_multimask_outputs=3)
    return Sam(encoder, prompts, decoder).eval()


def photo() -> np.ndarray:
    if not MOBILE_SAM.exists() or not PHOTO.exists():
        pytest.skip("needs ../shared/weights/mobile_sam.pt and ../shared/scenes/desk")
    import cv2

    return np.ascontiguousarray(cv2.imread(str(PHOTO))[..., ::-1]).astype(np.uint8)


@torch.inference_mode()
def test_shared_decoder_equals_the_published_one() -> None:
    sam, points = tiny_sam(), torch.rand(5, 2) * 256
    embedding = torch.randn(1, 32, 16, 16)
    sparse, dense = sam.prompt_encoder(points=(points[:, None], torch.ones(5, 1)), boxes=None, masks=None)
    expected, expected_quality = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    decoder = PointDecoder(sam_parts(sam))
    image = decoder.prepare(embedding)
    logits, quality = decoder.decode(image, points, -np.inf, (37, 50))
    torch.testing.assert_close(quality, expected_quality, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, expected[:, :, :37, :50], rtol=1e-4, atol=1e-4)
    # Only prompts that promise something are drawn.
    least = float(expected_quality.amax(dim=1).sort().values[2:4].mean())
    logits, quality = decoder.decode(image, points, least, (64, 64))
    good = expected_quality.amax(dim=1) > least
    assert int(good.sum()) == 2
    torch.testing.assert_close(logits, expected[good], rtol=1e-4, atol=1e-4)


class ScriptedNetwork:
    """Answers every point with three nested squares around the nearest of four points, instead of a network."""

    device = torch.device("cpu")

    def place(self, height: int, width: int) -> Placement:
        scale = 1024 / max(height, width)
        return Placement((height, width), (round(height * scale), round(width * scale)), 1024, 256)

    def embed(self, image: np.ndarray) -> tuple[int, ...]:
        return image.shape

    def decode(
        self, embedded: Any, points: torch.Tensor, least: float, low: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, x = torch.arange(low[0]) + 0.5, torch.arange(low[1]) + 0.5
        centres = (points / 4 // 64) * 64 + 32
        distance = torch.maximum((y[:, None] - centres[:, 1, None, None]).abs(), (x - centres[:, 0, None, None]).abs())
        logits = torch.stack([(half - distance) * 10 for half in (8, 16, 28)], dim=1)
        return logits, torch.tensor([0.95, 0.9, 0.92]).expand(len(points), 3)


def test_generator_keeps_each_thing_once_per_level() -> None:
    generator = MaskGenerator(ScriptedNetwork(), MaskSettings(points_per_side=8), batch=5)
    # 1024 x 512 network pixels are 256 x 128 low-resolution ones, 4 x 2 cells of 64.
    proposals = generator.propose(np.zeros((256, 512, 3), dtype=np.uint8))
    maps = generator.label_maps(proposals)
    assert maps.counts == (8, 8, 8)
    assert maps.levels == SAM_LEVELS
    # A low-resolution pixel is two photo pixels wide.
    sides = {"whole": 4 * 28, "part": 4 * 16, "subpart": 4 * 8}
    for name, level in zip(maps.levels, maps.labels, strict=True):
        assert np.allclose(np.bincount(level[level >= 0]), sides[name] ** 2, rtol=0.1)
    kept = generator.masks(proposals)
    assert {name: len(masks) for name, masks in kept.items()} == dict.fromkeys(SAM_LEVELS, 8)
    for name, masks in kept.items():
        dense = masks.dense()
        assert dense.shape == (8, 256, 512)
        assert np.array_equal(dense.any(axis=0), maps.labels[SAM_LEVELS.index(name)] >= 0)
        assert np.array_equal(masks.areas, dense.sum(axis=(1, 2)))
    # Squares of different levels do not suppress one another by their boxes.
    assert len(generator.masks(proposals, pooled=True)["all"]) == 24


def test_generator_without_any_mask() -> None:
    generator = MaskGenerator(SamNetwork(tiny_sam()), MaskSettings(points_per_side=2, predicted_iou=2.0), batch=4)
    proposals = generator.propose(np.zeros((40, 30, 3), dtype=np.uint8))
    maps = generator.label_maps(proposals)
    assert maps.counts == (0, 0, 0)
    assert (maps.labels == -1).all()
    assert generator.masks(proposals, pooled=True)["all"].dense().shape == (0, 40, 30)


def test_grid_covers_the_photo() -> None:
    placement = Placement((50, 100), (100, 200), 200, 50)
    assert placement.grid(2).tolist() == [[50, 25], [150, 25], [50, 75], [150, 75]]
    assert placement.low == (25, 50)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(5, 120), width=st.integers(5, 120))
def test_enlarged_windows_equal_the_enlarged_whole(seed: int, height: int, width: int) -> None:
    """The stock code interpolates in two steps, to the square input and on to the photo; one step is meant here."""
    torch.manual_seed(seed)
    scale = 64 / max(height, width)
    placement = Placement((height, width), (max(1, round(height * scale)), max(1, round(width * scale))), 64, 16)
    logits = F.avg_pool2d(torch.randn(3, placement.low[0] + 2, placement.low[1] + 2), 3, stride=1) * 4 - 0.5
    enlarge = Enlargement(placement, torch.device("cpu"))
    whole = enlarge(logits, (slice(0, height), slice(0, width)))
    grid = torch.stack(
        torch.meshgrid(
            *((placement.positions(axis).float() + 0.5) / placement.low[axis] * 2 - 1 for axis in (0, 1)), indexing="ij"
        )[::-1],
        dim=-1,
    )
    expected = F.grid_sample(logits[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
    torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-4)
    window = enlarge.window(logits, -1.0)
    assert torch.equal(enlarge(logits, window), whole[:, window[0], window[1]])
    outside = whole.clone()
    outside[:, window[0], window[1]] = -2
    assert (outside <= -1).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), chunk=st.integers(1, 4))
def test_masks_are_measured_as_the_stock_code_does(seed: int, chunk: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mobile_sam.utils.amg import batched_mask_to_box

    torch.manual_seed(seed)
    placement = Placement((70, 90), (50, 64), 64, 16)
    logits = F.avg_pool2d(torch.randn(4, placement.low[0] + 2, placement.low[1] + 2), 3, stride=1) * 6 - 1
    enlarge = Enlargement(placement, torch.device("cpu"))
    boxes, stability = measure(logits, enlarge, chunk)
    whole = enlarge(logits, (slice(0, 70), slice(0, 90)))
    assert torch.equal(boxes, batched_mask_to_box(whole > 0))
    torch.testing.assert_close(stability, stability_scores(whole))


@settings(max_examples=100, deadline=None)
# Here the photo beside the mask is itself so small that it is filled, and the mask grows beyond its box.
@example(seed=904, share=0.375, min_area=36)
@given(seed=st.integers(0, 1000), share=st.floats(0.3, 0.7), min_area=st.integers(1, 40))
def test_specks_and_holes_go_as_in_the_stock_code(seed: int, share: float, min_area: int) -> None:
    from mobile_sam.utils.amg import remove_small_regions

    torch.manual_seed(seed)
    noise = F.avg_pool2d(torch.rand(1, 27, 33), 4, stride=1)[0]
    mask = (noise > noise.quantile(share)).numpy()
    left, right = sorted(np.random.default_rng(seed).integers(0, mask.shape[1], 2))
    mask[:, :left] = mask[:, right + 1 :] = False
    if not mask.any():
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]])
    crop, clean_box, untouched = cleaned(mask[window_of(box)], box, mask.shape, min_area)
    found = np.zeros_like(mask)
    found[window_of(clean_box)] = crop
    expected = remove_small_regions(remove_small_regions(mask, min_area, "holes")[0], min_area, "islands")[0]
    assert np.array_equal(found, expected)
    assert untouched == np.array_equal(mask, expected)
    assert crop.any(axis=0)[[0, -1]].all()
    assert crop.any(axis=1)[[0, -1]].all()


def test_a_hole_that_opens_to_the_rest_of_the_photo_stays() -> None:
    crop = np.ones((30, 30), dtype=bool)
    crop[:4, :4] = False
    inside, at_corner = (np.array([first, first, first + 29, first + 29]) for first in (50, 0))
    assert cleaned(crop, inside, (100, 100), min_area=20)[2]
    filled, box, _ = cleaned(crop, at_corner, (100, 100), min_area=20)
    assert filled.all() and np.array_equal(box, at_corner)


def test_painting_closes_up_where_a_mask_is_hidden() -> None:
    boxes = np.array([[0, 0, 3, 3], [1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 0, 0]])
    crops = tuple(np.ones((box[3] - box[1] + 1, box[2] - box[0] + 1), dtype=bool) for box in boxes)
    masks = Masks((4, 5), boxes, crops, np.ones(4, dtype=np.float32), np.ones(4, dtype=np.float32))
    expected = np.array([[2, 0, 0, 0, -1], [0, 1, 1, 0, -1], [0, 1, 1, 0, -1], [0, 0, 0, 0, -1]])
    assert np.array_equal(paint(masks, np.arange(4)), expected)
    assert (paint(masks, np.arange(0)) == -1).all()


def test_photos_are_resized_as_pillow_does() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(resized(image, (20, 30)), image)
    assert resized(image, (40, 15)).shape == (40, 15, 3)


def test_masks_equal_the_stock_generators_on_a_photo() -> None:
    image, options = photo(), MaskSettings(points_per_side=5)
    sam = MobileSam.build(MOBILE_SAM)
    stock = stock_masks("mobile_sam", sam, image, options)
    generator = MaskGenerator(SamNetwork(sam), options, batch=2)
    proposals = generator.propose(image)
    ours = generator.masks(proposals) | generator.masks(proposals, pooled=True)
    for name, theirs in stock.masks.items():
        mine = ours[name].dense()
        assert len(theirs) >= 5, name
        assert partners(theirs, mine) >= 0.95 * len(theirs), name
        assert partners(mine, theirs) >= 0.95 * len(mine), name


def test_benchmark_of_the_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its smallest form: random weights, four points, both generators."""
    import json

    from benchmarks import mask_generator as benchmark

    monkeypatch.setattr(benchmark, "RANDOM_SIZE", (90, 120))
    out = tmp_path / "figures.json"
    benchmark.MaskGeneratorBenchmark(random_weights=True, device="cpu", points=2, photos=1, out=out).main()
    figures = json.loads(out.read_text())
    assert 0 < figures["network_share"] <= 1
    assert figures["stock_seconds_per_image"] > 0
    assert set(figures["partners"]) == {"all", *SAM_LEVELS}
    assert figures["photos"][0]["size"] == [90, 120]


def test_mobile_sam_as_a_segmenter() -> None:
    # The penguin fills the middle of this crop.
    image = photo()[100:360, 580:840]
    segmenter = make_segmenter("mobile-sam", points_per_side=3, weights=MOBILE_SAM)
    assert isinstance(segmenter, Segmenter)
    assert "6dbb90523a35330f" in segmenter.segmenter_id
    assert "points=3 " in segmenter.segmenter_id
    maps = segmenter.segment(image)
    share = [(level == level[150, 120]).mean() for level in maps.labels if level[150, 120] >= 0]
    assert any(0.15 < value < 0.8 for value in share)


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "mobile_sam.pt")
    segmenter = make_segmenter("mobile-sam", weights=tmp_path / "mobile_sam.pt")
    with pytest.raises(UserError, match="does not fit the model vit_t"):
        segmenter.segment(np.zeros((8, 8, 3), dtype=np.uint8))
