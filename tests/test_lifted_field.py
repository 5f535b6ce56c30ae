"""Answers from codebooks, beside the same answers computed the long way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.lift_query import RandomScene, random_camera, random_codebook
from lang_splat_ns.errors import UserError
from lang_splat_ns.langsplat_lift.field import LiftedField, principal_colors
from lang_splat_ns.language.calibration import calibrate
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.relevancy import relevancy

CPU = torch.device("cpu")
COUNT, WIDTH, HEIGHT = 400, 40, 30
LEVELS = ("whole", "part")
QUERY = Query(("mug", "lamp"))


@pytest.fixture(scope="module")
def scene() -> RandomScene:
    return RandomScene(COUNT, WIDTH, HEIGHT, CPU)


def make_field(scene: RandomScene, mode: str) -> LiftedField:
    return LiftedField(scene, [random_codebook(COUNT, CPU, seed) for seed in range(2)], LEVELS, mode)  # type: ignore[arg-type]


def texts_of(scene: RandomScene, query: Query) -> tuple[torch.Tensor, torch.Tensor]:
    return scene.texts().embed(query.positives), scene.texts().negatives(query.negatives)


def test_scalar_blends_the_relevancy_of_each_gaussian(scene: RandomScene) -> None:
    camera = random_camera(np.random.default_rng(0), CPU)
    maps = make_field(scene, "scalar").relevancy(camera, QUERY)
    positives, negatives = texts_of(scene, QUERY)
    calibration = calibrate([random_codebook(COUNT, CPU, seed) for seed in range(2)], positives, negatives)
    for level in range(2):
        book = random_codebook(COUNT, CPU, level)
        # Gaussian by Gaussian: the weighted mean of its entries' relevancy.
        index, weights = book.mixture()
        of_entries = calibration.lower(relevancy(book.entries, positives, negatives))  # [Q, K]
        scores = (of_entries[:, index] * weights).sum(-1)  # [Q, N]
        expected, _ = scene.blend(camera, calibration.lift_floor(scores).T)
        assert torch.allclose(maps.values[:, level], expected.permute(2, 0, 1), atol=1e-5)


def test_feature_composites_all_channels_and_compares_then(scene: RandomScene) -> None:
    camera = random_camera(np.random.default_rng(1), CPU)
    maps = make_field(scene, "feature").relevancy(camera, QUERY)
    positives, negatives = texts_of(scene, QUERY)
    calibration = calibrate([random_codebook(COUNT, CPU, seed) for seed in range(2)], positives, negatives)
    for level in range(2):
        features = random_codebook(COUNT, CPU, level).rows(slice(None))  # [N, 512]
        image, alpha = scene.blend(camera, features)
        expected = calibration(relevancy(torch.nn.functional.normalize(image, dim=-1), positives, negatives))
        hit = alpha[..., 0] > 0.01
        assert hit.float().mean() > 0.5
        assert torch.allclose(maps.values[:, level][:, hit], expected[:, hit], atol=1e-4)
        assert (maps.values[:, level][:, alpha[..., 0] == 0] <= 0.5).all()


def test_a_named_level_answers_and_an_unknown_one_is_told(scene: RandomScene) -> None:
    camera, field = random_camera(np.random.default_rng(0), CPU), make_field(scene, "scalar")
    assert field.relevancy(camera, Query(("mug",), level="part")).chosen == (1,)
    for ask in (field.select, lambda query: field.relevancy(camera, query)):
        with pytest.raises(UserError, match=r"no level 'handle'.*whole, part"):
            ask(Query(("mug",), level="handle"))


def test_the_next_query_does_not_get_the_last_ones_answer(scene: RandomScene) -> None:
    camera, field = random_camera(np.random.default_rng(0), CPU), make_field(scene, "scalar")
    fresh = [make_field(scene, "scalar").relevancy(camera, Query((text,))).values for text in ("mug", "lamp")]
    for turn in (0, 1, 0):
        assert torch.equal(field.relevancy(camera, Query((("mug", "lamp")[turn],))).values, fresh[turn])


def test_a_gaussian_of_no_known_entry_is_part_of_no_object(scene: RandomScene) -> None:
    book = random_codebook(COUNT, CPU, 0)
    some = int(book.index[0, 0])
    book.entries[some] = 0
    field = LiftedField(scene, [book], LEVELS[:1], "scalar", of_objects=True)
    objects = field.objects("whole")
    assert objects is not None
    unknown = book.index[:, 0] == some
    assert (objects[unknown] == -1).all()
    assert torch.equal(objects[~unknown], book.index[~unknown, 0].long())
    assert make_field(scene, "scalar").objects("whole") is None


def test_colours_are_stable_and_unknown_is_grey() -> None:
    entries = torch.nn.functional.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    entries[2] = 0
    colors = principal_colors(entries)
    assert colors.shape == (6, 3) and (colors >= 0).all() and (colors <= 1).all()
    assert torch.equal(colors[2], torch.full((3,), 0.5))
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    assert torch.allclose(principal_colors(entries[order]), colors[order], atol=1e-4)
    assert torch.equal(principal_colors(torch.zeros(1, 16)), torch.full((1, 3), 0.5))
