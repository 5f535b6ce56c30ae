"""Crops against what their definitions say, and how several of them are named."""

from __future__ import annotations

import numpy as np
import pytest

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.crops import CropPlan, cut, region_boxes

H, W, SIDE = 20, 30, 16


def one_region() -> tuple[np.ndarray, np.ndarray]:
    """A wide region with a hole, on a photo that is bright everywhere."""
    image = np.full((H, W, 3), 200, dtype=np.uint8)
    labels = np.full((H, W), -1, dtype=np.int32)
    labels[4:8, 10:26] = 2
    labels[5, 12] = -1
    return image, labels


def test_boxes_of_regions_with_pixels() -> None:
    _, labels = one_region()
    assert list(region_boxes(labels, 4)) == [(2, (slice(4, 8), slice(10, 26)))]


def test_black_is_tight_black_square() -> None:
    image, labels = one_region()
    crop = cut(image, labels, 2, (slice(4, 8), slice(10, 26)), "black", SIDE)
    assert crop.shape == (SIDE, SIDE, 3) and crop.dtype == np.uint8
    # The box is 16 wide and 4 high: it fills the middle four rows, and the rest is black.
    assert (crop[6:10].max(axis=2) == 200).sum() == 63
    assert crop[:6].max() == crop[10:].max() == 0
    assert crop[7, 2].max() == 0


def numbered() -> np.ndarray:
    """A photo whose pixels tell where they are."""
    rows, columns = np.mgrid[:H, :W]
    return np.stack([rows * 10, columns * 8, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def test_context_is_the_photo_half_as_far_again_and_its_border_repeats() -> None:
    labels = np.full((H, W), -1, dtype=np.int32)
    labels[2:12, 20:28] = 0
    # The box's longer side is 10, so the window is 15 rows from -1 and 15 columns from 16, two beyond the right border.
    crop = cut(numbered(), labels, 0, (slice(2, 12), slice(20, 28)), "context", 15)
    rows, columns = np.clip(np.arange(-1, 14), 0, H - 1), np.clip(np.arange(16, 31), 0, W - 1)
    np.testing.assert_array_equal(crop, numbered()[rows][:, columns])


def test_blur_is_sharp_inside_and_soft_outside() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    labels = np.full((40, 40), -1, dtype=np.int32)
    labels[4:36, 12:28] = 1
    labels[10:20, 30:34] = 0
    crop = cut(image, labels, 1, (slice(4, 36), slice(12, 28)), "blur", 32).astype(int)
    window = image[4:36, 4:36].astype(int)
    assert np.array_equal(crop[:, 8:24], window[:, 8:24])
    outside = np.r_[0:8, 24:32]
    assert crop[:, outside].std() < 0.3 * window[:, outside].std()
    assert crop[:, outside].mean() == pytest.approx(window[:, outside].mean(), abs=8)


@pytest.mark.parametrize("kind", ["black", "blur", "context"])
def test_a_region_of_one_pixel_in_the_corner(kind: str) -> None:
    labels = np.full((H, W), -1, dtype=np.int32)
    labels[0, 0] = 0
    image = np.full((H, W, 3), 90, dtype=np.uint8)
    crop = cut(image, labels, 0, (slice(0, 1), slice(0, 1)), kind, SIDE)  # type: ignore[arg-type]
    assert crop.shape == (SIDE, SIDE, 3) and (crop == 90).all()


def test_plans_are_read_and_named() -> None:
    assert CropPlan.parse("black") == CropPlan() == CropPlan.parse(" black:3 ")
    assert CropPlan().name == "crop/1"
    plan = CropPlan.parse("black + context:0.5")
    assert (plan.kinds, plan.weights) == (("black", "context"), (1.0, 0.5))
    assert plan.name == "crop/1 black:1+context:0.5"
    assert CropPlan.parse("blur").name == "crop/1 blur:1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blck", "unknown crop 'blck'; join black, blur, context"),
        ("black+black", "a crop comes twice"),
        ("", "unknown crop ''"),
        ("black:0", "the weight '0' is no positive number"),
        ("black:", "the weight '' is no positive number"),
        ("black:inf+blur", "the weight 'inf'"),
        ("black+blur:nan", "the weight 'nan'"),
    ],
)
def test_plans_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CropPlan.parse(text)
