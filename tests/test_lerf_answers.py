"""LERF's answers against slow ones, along rays and on Gaussians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lang_splat_ns.errors import NotSplatError, UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.plugin.prompts import composite
from lang_splat_ns.plugin.runs import Run, frame_camera, open_run
from lerf_ns.scales import candidate_scales


@pytest.fixture(scope="module")
def opened(lerf_lite: Path, lerf_splat: Path) -> dict[str, Run]:
    """A run of each kind, loaded as the viewer loads it."""
    return {"lerf-lite": open_run(lerf_lite / "config.yml"), "lerf-splat": open_run(lerf_splat / "config.yml")}


@pytest.mark.parametrize("method", ["lerf-lite", "lerf-splat"])
def test_composited_shows_each_prompts_own_relevancy(opened: dict[str, Run], method: str) -> None:
    """LERF's own composited view takes the first prompt's mask for all of them."""
    run = opened[method]
    model = run.pipeline.model
    outputs = model.get_outputs_for_camera(frame_camera(run, None)[1])
    first, second = (outputs[f"relevancy_{index}"] for index in range(2))
    assert not torch.allclose(first, second)
    for index, relevancy in enumerate((first, second)):
        assert torch.allclose(outputs[f"composited_{index}"], composite(outputs["rgb"], relevancy[..., 0]))


def slow_answer(model: Any, camera: Any, query: Query) -> tuple[np.ndarray, list[float]]:
    """LERF's query with nothing left out: every scale rendered for every pixel."""
    from lang_splat_ns.language.relevancy import relevancy

    texts, field = model.texts(), model.require_language().field
    rays = model.collider(camera.generate_rays(camera_indices=0, keep_shape=True).flatten())
    with torch.no_grad():
        surface = model.trace(rays)
        weights, best = torch.topk(surface.weights[..., 0], model.config.num_lerf_samples, dim=-1)
        positions = surface.samples.frustums.get_positions().gather(1, best[..., None].expand(-1, -1, 3))
        maps = []
        for scale in candidate_scales(model.config.max_scale, model.config.n_scales):
            vectors = field.clip(field.read(positions.reshape(-1, 3)), torch.full((best.numel(), 1), scale))
            shown = (weights[..., None] * vectors.reshape(*best.shape, -1)).sum(1)
            shown = shown / shown.norm(dim=-1, keepdim=True)
            maps.append(relevancy(shown, texts.embed(query.positives), texts.negatives(), texts.temperature))
    stacked = torch.stack(maps)  # [S, Q, R]
    chosen = stacked.amax(-1).argmax(0)
    values = torch.stack([stacked[scale, prompt] for prompt, scale in enumerate(chosen)])
    scales = candidate_scales(model.config.max_scale, model.config.n_scales)
    return values.numpy(), [scales[index] for index in chosen]


def test_an_answer_is_the_slow_one_in_parts_of_any_size(
    opened: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, query = opened["lerf-lite"], Query(("red", "sky blue", "green"))
    model, camera = run.pipeline.model, frame_camera(run, None)[1]
    expected, scales = slow_answer(model, camera, query)
    monkeypatch.setattr(model.config, "search_rays", 10**9)
    for rays, places in ((1 << 15, 1 << 16), (1000, 700)):
        monkeypatch.setattr(model.config, "eval_num_rays_per_chunk", rays)
        monkeypatch.setattr(model.config, "language_chunk", places)
        maps = model.language_field().relevancy(camera, query)
        assert maps.levels == ("scale",) and maps.values.shape[:2] == (3, 1)
        assert maps.scales == pytest.approx(scales)
        assert np.allclose(maps.values.reshape(3, -1).numpy(), expected, atol=1e-4)


def test_a_coarse_search_asks_few_rays(opened: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened["lerf-lite"]
    model, camera = run.pipeline.model, frame_camera(run, None)[1]
    monkeypatch.setattr(model.config, "search_rays", 100)
    heads: list[int] = []
    field = model.require_language().field
    original = field.clip
    monkeypatch.setattr(
        field, "clip", lambda features, scales: heads.append(len(features)) or original(features, scales)
    )
    model.language_field().relevancy(camera, Query(("red",)))
    pixels, samples = 72 * 128, model.config.num_lerf_samples
    # The search, one full answer, and one place per ray for the features' colours.
    assert sum(heads) <= (model.config.n_scales * 101 + pixels) * samples + pixels


def test_nerfacto_has_nothing_to_select(opened: dict[str, Run]) -> None:
    field = opened["lerf-lite"].pipeline.model.language_field()
    with pytest.raises(NotSplatError, match="lerf-splat"):
        field.select(Query(("red",)))
    with pytest.raises(NotSplatError, match="lerf-splat"):
        field.silhouettes(None, torch.zeros(1, 1, dtype=torch.bool))
    with pytest.raises(UserError, match="no level 'whole'"):
        field.relevancy(None, Query(("red",), level="whole"))


def test_splat_answers_in_both_modes_and_selects(opened: dict[str, Run]) -> None:
    run, query = opened["lerf-splat"], Query(("red", "sky blue"))
    model, camera = run.pipeline.model, frame_camera(run, None)[1]
    for mode in ("scalar", "feature"):
        maps = model.language_field(mode).relevancy(camera, query)
        assert maps.values.shape == (2, 1, 72, 128) and len(maps.scales or ()) == 2
        assert 0 <= float(maps.values.min()) and float(maps.values.max()) <= 1 + 1e-5
    field = model.language_field()
    selection = field.select(query)
    assert selection.scores.shape == selection.mask.shape == (2, model.num_points)
    assert field.silhouettes(camera, torch.ones_like(selection.mask)).max() > 0.5
    # A scene's scale is looked for once, and every further camera blends what is remembered.
    assert field._ask(query) is field._ask(query)


def test_splat_scores_are_the_fields_own(opened: dict[str, Run]) -> None:
    from lang_splat_ns.language.relevancy import relevancy

    model, query = opened["lerf-splat"].pipeline.model, Query(("red",))
    field, texts, part = model.language_field(), model.texts(), model.require_language().field
    (scale,) = field._ask(query).scales
    with torch.no_grad():
        vectors = part.clip(part.read(model.means), torch.full((model.num_points, 1), scale))
    expected = relevancy(vectors, texts.embed(query.positives), texts.negatives(), texts.temperature)
    assert torch.allclose(field.scores(query)[:, 0], expected, atol=1e-6)
