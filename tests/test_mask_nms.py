"""Mask suppression against a plain double loop written from the formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lang_splat_ns.perception.mask_nms import MaskNmsSettings, intersections, mask_nms, mask_scores
from lang_splat_ns.perception.mask_nms_reference import mask_nms_reference

SHARED = Path(__file__).resolve().parents[2] / "shared"


def check(masks: np.ndarray, scores: np.ndarray, options: MaskNmsSettings) -> list[int]:
    found = mask_nms(torch.from_numpy(masks), torch.from_numpy(scores), options).tolist()
    assert found == mask_nms_reference(masks, scores, options)
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 12), inner=st.sampled_from([0.2, 0.5, 0.9]))
def test_equals_the_double_loop(seed: int, count: int, inner: float) -> None:
    random = np.random.default_rng(seed)
    # Photos of every size, upright and lying.
    size = random.integers(9, 40, 2)
    masks = np.zeros((count, *size), dtype=bool)
    for mask in masks:
        top, left = random.integers(0, size - 4)
        mask[top : top + random.integers(1, size[0]), left : left + random.integers(1, size[1])] = True
        mask &= random.random(mask.shape) > random.choice([0.0, 0.1])
    # Few different values, so that ties occur.
    scores = random.choice([0.5, 0.72, 0.8, 0.9, 0.95], count).astype(np.float32)
    check(masks, scores, MaskNmsSettings(inner=inner))


def test_rules_one_by_one() -> None:
    masks = np.zeros((4, 20, 20), dtype=bool)
    masks[0, :10] = True
    masks[1, :9] = True  # IoU 0.9 with the first: a repetition.
    masks[2, 15:, 15:] = True
    masks[3, :8, :8] = True  # All of it inside the first, of which it is 0.32: nested.
    scores = np.array([0.9, 0.8, 0.7, 0.95], dtype=np.float32)
    # The third fails by its score. At `inner` 0.3 a nested mask stays if it fills more than 0.3 of its rival.
    assert check(masks, scores, MaskNmsSettings()) == [0]
    assert check(masks, scores, MaskNmsSettings(inner=0.3)) == [3, 0]
    assert check(masks, scores, MaskNmsSettings(inner=0.3, score=0.6, iou=0.95)) == [3, 0, 1, 2]


def test_no_mask_one_mask_and_an_empty_mask() -> None:
    assert check(np.zeros((0, 4, 4), dtype=bool), np.zeros(0, dtype=np.float32), MaskNmsSettings()) == []
    one, empty = np.ones((1, 4, 5), dtype=bool), np.zeros((2, 4, 5), dtype=bool)
    assert check(one, np.array([0.9], dtype=np.float32), MaskNmsSettings()) == [0]
    assert check(one, np.array([0.7], dtype=np.float32), MaskNmsSettings()) == []
    assert check(np.concatenate([one, empty]), np.array([0.8, 0.9, 0.75], np.float32), MaskNmsSettings()) == [1, 0, 2]


def test_intersections_across_tiles() -> None:
    masks = torch.rand(7, 150, 67, generator=torch.Generator().manual_seed(0)) > 0.5
    masks[3, 60:] = False
    flat = masks.flatten(1).double()
    assert torch.equal(intersections(masks).double(), flat @ flat.T)


@pytest.mark.parametrize("name", ["desk/images/input_0003.jpg", "bear/images/frame_00017.jpg"])
def test_equals_the_double_loop_on_a_photos_regions(name: str) -> None:
    """Regions of several granularities and their unions, which touch, nest and repeat as a network's masks do."""
    photo = SHARED / "scenes" / name
    if not photo.exists():
        pytest.skip(f"needs ../shared/scenes/{name}")
    import cv2

    from lang_splat_ns.perception.felzenszwalb import FelzenszwalbSegmenter

    image = cv2.resize(cv2.imread(str(photo)), None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    maps = FelzenszwalbSegmenter().segment(image[..., ::-1].astype(np.uint8))
    masks = np.concatenate([level == np.arange(level.max() + 1)[:, None, None] for level in maps.labels])[:120]
    random = np.random.default_rng(0)
    pairs = random.integers(0, len(masks), (40, 2))
    masks = np.concatenate([masks, masks[pairs[:, 0]] | masks[pairs[:, 1]]])
    scores = random.uniform(0.65, 1.0, len(masks)).astype(np.float32)
    kept = check(masks, scores, MaskNmsSettings())
    assert 10 < len(kept) < len(masks) - 10


def test_scores_are_products() -> None:
    scores = mask_scores(torch.tensor([0.9, 1.0]), torch.tensor([0.8, 0.5]))
    assert scores.tolist() == pytest.approx([0.72, 0.5])


def test_benchmark_of_the_suppression(tmp_path: Path) -> None:
    import json

    from benchmarks.mask_suppression import MaskSuppressionBenchmark

    out = tmp_path / "figures.json"
    MaskSuppressionBenchmark(masks=41, height=60, width=90, loop_masks=30, rounds=1, out=out).main()
    figures = json.loads(out.read_text())
    assert figures["promises"]["equal"]
    assert 0 < figures["kept_of_those_in_the_loop"][0] < 30
