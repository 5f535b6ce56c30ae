"""Boxes around Gaussians, and what is left out of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lang_splat_ns.splatting.boxes import boxes_around, solid_pieces
from lang_splat_ns.splatting.gaussians import Gaussians
from lang_splat_ns.splatting.neighbours import nearest_neighbours

SIDES = np.array([2.0, 1.0, 0.4])


def gaussians(means: np.ndarray) -> Gaussians:
    count = len(means)
    return Gaussians(
        means=torch.from_numpy(means).float(),
        scales=torch.full((count, 3), float(np.log(0.01))),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        features_dc=torch.zeros(count, 3),
        features_rest=torch.zeros(count, 0, 3),
        opacities=torch.full((count, 1), 2.0),
    )


def brick(count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Points in a turned brick, and its axes as rows, the longest first."""
    points = (np.random.default_rng(0).random((count, 3)) - 0.5) * SIDES
    axes = Rotation.from_euler("xyz", [20, 30, 40], degrees=True).as_matrix().T
    return points @ axes + [1.0, 2.0, 3.0], axes


def test_boxes_ignore_floaters() -> None:
    points, axes = brick()
    generator = np.random.default_rng(1)
    lone = generator.uniform(-30, 30, (20, 3))
    clump = generator.normal([15.0, 0.0, 0.0], 0.02, (30, 3))
    boxes = boxes_around(gaussians(np.concatenate([points, lone, clump])))
    np.testing.assert_allclose(boxes.centre, [1.0, 2.0, 3.0], atol=0.03)
    np.testing.assert_allclose(boxes.half_sizes, SIDES / 2, rtol=0.1)
    np.testing.assert_allclose(np.abs(boxes.axes @ axes.T), np.eye(3), atol=0.06)
    assert np.linalg.det(boxes.axes) == pytest.approx(1.0)
    np.testing.assert_allclose([boxes.low, boxes.high], [points.min(0), points.max(0)], atol=0.2)


def test_things_of_similar_size_all_stay() -> None:
    points, _ = brick(1000)
    kept = solid_pieces(torch.from_numpy(np.concatenate([points, points + np.array([10.0, 0, 0])])), torch.ones(2000))
    assert kept[:1000].float().mean() > 0.97 and kept[1000:].float().mean() > 0.97


@pytest.mark.parametrize(
    "means", [[[1.0, 2.0, 3.0]], [[0.0, 0, 0], [1, 0, 0]], [[0.0, 0, 0]] * 50], ids=["1", "2", "same"]
)
def test_few_gaussians_have_boxes_too(means: list[list[float]]) -> None:
    boxes = boxes_around(gaussians(np.array(means)))
    assert np.isfinite(json_numbers(boxes.to_json())).all() and (boxes.half_sizes > 0).all()


def json_numbers(content: dict) -> np.ndarray:
    return np.concatenate([np.ravel(values) for part in content.values() for values in part.values()])


def test_neighbours_speak_by_opacity_and_only_if_known() -> None:
    means = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [9.0, 0, 0]])
    around = nearest_neighbours(means, torch.tensor([1.0, 1.0, 0.5, 1.0]), count=3)
    values, known = torch.tensor([0.9, 0.3, 0.6, 0.1]), torch.tensor([True, True, True, False])
    mean = around.mean(values, known)
    assert mean[0] == pytest.approx((0.9 + 0.3 + 0.5 * 0.6) / 2.5)
    # The last one knows nothing itself and is told by what is nearest, however far.
    assert mean[3] == pytest.approx((0.3 + 0.5 * 0.6) / 1.5)
    assert around.mean(values, torch.zeros(4, dtype=torch.bool)).tolist() == [0, 0, 0, 0]
    assert nearest_neighbours(torch.zeros(0, 3), torch.zeros(0)).mean(torch.zeros(2, 0), torch.zeros(2, 0)).shape == (
        2,
        0,
    )
