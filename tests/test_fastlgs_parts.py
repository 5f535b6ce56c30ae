"""FastLGS's parts by themselves: codes, matching on drawn things, decoding, the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastlgs_ns.codes import least_distance, spread_codes
from fastlgs_ns.decode import nearest_objects, object_map
from fastlgs_ns.grid import make_grid
from fastlgs_ns.matching import Identities, from_views
from fastlgs_ns.sift_matching import link, look_at
from fastlgs_ns.targets import PaintedMasks
from fastlgs_ns.views import MaskedView, Views
from fastlgs_ns.walk import camera_distances, neighbours_before, walk


@pytest.mark.parametrize(("count", "dim"), [(2, 3), (4, 3), (12, 3), (100, 3), (12, 2), (60, 8)])
def test_codes_are_as_far_apart_as_the_dimension_allows(count: int, dim: int) -> None:
    codes = spread_codes(count, dim)
    assert np.allclose(np.linalg.norm(codes, axis=1), 1, atol=1e-5)
    assert np.array_equal(codes, spread_codes(count, dim)), "the same in every run"
    random = np.random.default_rng(0).normal(size=(count, dim))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    assert least_distance(codes) > 1.5 * least_distance(random)
    if dim == 3 and count > 2:
        # Fejes Toth's bound on the distance of the two nearest of n points on a sphere.
        angle = np.pi * count / (6 * (count - 2))
        assert least_distance(codes) > 0.85 * np.sqrt(4 - 1 / np.sin(angle) ** 2)


def test_few_objects_have_codes_too() -> None:
    assert spread_codes(0, 3).shape == (0, 3) and spread_codes(1, 3).shape == (1, 3)
    assert least_distance(spread_codes(1, 3)) == 2.0
    with pytest.raises(ValueError, match="at least 2"):
        spread_codes(3, 1)


def test_photos_are_gone_through_from_neighbour_to_neighbour() -> None:
    poses = np.tile(np.eye(4)[:3], (4, 1, 1))
    poses[:, 0, 3] = [0, 3, 1, 2]
    distances = camera_distances(poses)
    order = walk(distances)
    assert order == [0, 2, 3, 1]
    assert neighbours_before(order, distances, 2) == {0: [], 2: [0], 3: [2, 0], 1: [3, 2]}
    turned = poses.copy()
    turned[1, :, :3] = np.diag([-1, 1, -1])
    assert camera_distances(turned)[0, 1] > distances[0, 1]


RED, GREEN, BLUE = (200, 30, 30), (30, 180, 40), (40, 60, 220)


def drawn(*things: tuple[tuple[int, int, int], int]) -> MaskedView:
    """A photo with textured squares of (colour, column); their embeddings are their colours."""
    image = np.full((48, 200, 3), 255, np.uint8)
    labels = np.full((48, 200), -1, np.int32)
    for region, (colour, column) in enumerate(things):
        texture = np.random.default_rng(sum(colour)).integers(-25, 25, (32, 32, 1))
        image[8:40, column : column + 32] = np.clip(np.array(colour) + texture, 0, 255)
        labels[8:40, column : column + 32] = region
    rows = np.array([colour for colour, _ in things], np.float32).reshape(-1, 3)
    return MaskedView(image, labels[None], (rows / np.linalg.norm(rows, axis=1, keepdims=True),))


def drawn_views(*views: MaskedView) -> Views:
    poses = np.tile(np.eye(4)[:3], (len(views), 1, 1))
    poses[:, 0, 3] = np.arange(len(views))
    return Views(poses, 1, lambda view: views[view])


def test_masks_that_look_alike_are_one_object_and_new_things_begin_new_ones() -> None:
    looks = look_at(
        drawn_views(drawn((RED, 2), (GREEN, 60)), drawn((GREEN, 70), (RED, 10), (BLUE, 120)), drawn((BLUE, 100)))
    )
    assert [objects.tolist() for objects in link(looks, 0.5, 0.8)[0]] == [[0, 1], [1, 0, 2], [2]]
    assert [objects.tolist() for objects in link(looks, 0.5, 1.1)[0]] == [[0, 1], [2, 3, 4], [5]], "nothing is alike"


def test_keypoints_come_before_likeness_and_a_photo_has_an_object_once() -> None:
    twins = drawn((RED, 2), (RED, 90))
    looks = look_at(drawn_views(twins, drawn((RED, 8), (RED, 96), (RED, 150))))
    first, second = link(looks, 0.5, 0.8)[0]
    assert first.tolist() == [0, 1]
    assert sorted(second.tolist()) == [0, 1, 2]


def test_a_mask_without_embedding_is_compared_by_colour() -> None:
    views = [drawn((RED, 2), (GREEN, 60)), drawn((GREEN, 70), (RED, 10))]
    views[1].embeddings[0][:] = np.nan
    assert [objects.tolist() for objects in link(look_at(drawn_views(*views)), 0.5, 0.6)[0]] == [[0, 1], [1, 0]]


def test_objects_of_too_few_views_are_left_out() -> None:
    found = from_views([[np.array([0, 1]), np.array([2, 0]), np.array([2, 0, 3])]])
    kept = found.seen_often(2)
    assert kept.of_mask[0].tolist() == [0, -1, 1, 0, 1, 0, -1]
    assert kept.of_view(1, 0).tolist() == [1, 0]
    assert kept.number_of_objects(0) == 2
    nothing = from_views([[np.array([0]), np.array([1])]])
    assert nothing.seen_often(2).number_of_objects(0) == 2, "all there is is kept"


def test_nearest_code_if_it_is_near_enough() -> None:
    known = torch.eye(3)
    codes = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert nearest_objects(codes, known, 0.3).tolist() == [0, -1, 2, -1]
    assert nearest_objects(codes, known[:0], 0.3).tolist() == [-1] * 4


def test_borders_go_to_the_objects_beside_them_and_never_to_a_third_one() -> None:
    known = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 2**-0.5]])
    share = torch.linspace(-0.5, 1.5, 16).clamp(0, 1)[None, :, None].expand(12, -1, -1)
    codes = (1 - share) * known[0] + share * known[1]
    alpha = torch.ones(12, 16)
    alpha[:2] = 0.1
    objects = object_map(codes, alpha, known, 0.8)
    assert (objects[:2] == -1).all(), "what is not covered shows nothing"
    assert (objects[2:] != 2).all() and (objects[2:] >= 0).all()
    assert (objects[2:, :7] == 0).all() and (objects[2:, 9:] == 1).all()


def test_grid_and_painted_masks() -> None:
    identities = Identities((np.array([0, 1, 1, -1, 0]),), np.array([[2], [3]]))
    rows = torch.eye(5)
    rows[4] = torch.nan
    grid = make_grid(identities, [rows], [np.array([0.1, 0.2, 0.3, 0.4, 0.5])], code_dim=3, most_views=1)
    entries, owners = grid.level_entries(0)
    assert owners.tolist() == [0, 1]
    assert torch.equal(entries, rows[[0, 2]]), "the largest mask of each that has an embedding"
    assert grid.spacing(0) == pytest.approx(2.0, abs=1e-3)
    labels = torch.tensor([[[0, 1, 2, -1]]])
    target, valid = PaintedMasks(lambda index, height, width: labels, grid)(1, 1, 4)
    assert valid[0, :, 0, 0].tolist() == [True, False, True, False]
    assert torch.equal(target[0, 0, 0], grid.codes[1]) and torch.equal(target[0, 2, 0], grid.codes[0])
