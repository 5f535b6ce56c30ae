"""`langsplat-lift` through nerfstudio's own commands, on one tiny scene, without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import checkpoint_of, lift_config, train

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.plugin.runs import open_run


def test_training_ends_with_a_lifted_checkpoint(lifted: Path) -> None:
    state = torch.load(checkpoint_of(lifted), weights_only=True)
    model = {key.removeprefix("_model."): value for key, value in state["pipeline"].items()}
    count = len(model["gauss_params.means"])
    assert state["step"] == 239
    assert model["language_index"].shape[:2] == (count, 3)
    per_gaussian = [model[name].nbytes / count for name in ("language_index", "language_weights")]
    assert sum(per_gaussian) <= 16


def test_ns_eval_reports_scores_in_2d_and_3d(lifted: Path, tmp_path: Path) -> None:
    from nerfstudio.scripts.eval import ComputePSNR

    ComputePSNR(load_config=lifted / "config.yml", output_path=tmp_path / "out.json").main()
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert results["language_miou"] > 0.2
    assert 0 < results["language_miou_3d"] <= 1
    assert 0 < results["language_acc25_3d"] <= 1


def test_renders_answer_in_both_modes(lifted: Path) -> None:
    opened = open_run(lifted / "config.yml")
    camera, model = opened.pipeline.datamanager.eval_dataset.cameras[:1], opened.pipeline.model
    outputs = model.get_outputs_for_camera(camera)
    assert {"rgb", "depth", "features_pca", "relevancy_0", "composited_0"} <= set(outputs)
    query = Query(("red", "sky blue"))
    maps = [model.language_field(mode).relevancy(camera, query) for mode in ("scalar", "feature")]
    for answer in maps:
        assert answer.values.shape == (2, 3, *outputs["rgb"].shape[:2])
        assert 0 <= float(answer.values.min()) and float(answer.values.max()) <= 1 + 1e-5
    # They are different sums, but where a single thing fills a pixel they say the same.
    same = (maps[0].values > 0.5) == (maps[1].values > 0.5)
    assert same.float().mean() > 0.9


def test_scalar_answers_are_the_blended_scores_of_the_gaussians(lifted: Path) -> None:
    opened = open_run(lifted / "config.yml")
    camera, model = opened.pipeline.datamanager.eval_dataset.cameras[:1], opened.pipeline.model
    field, query = model.language_field("scalar"), Query(("red", "green"))
    scores = field.scores(query)  # [Q, L, N]
    blended, _ = model.blend(camera, scores.flatten(0, 1).T)
    expected = blended.reshape(*blended.shape[:2], 2, 3).permute(2, 3, 0, 1)
    assert torch.allclose(field.relevancy(camera, query).values, expected, atol=1e-6)


def test_a_selection_is_drawn_alone(lifted: Path) -> None:
    opened = open_run(lifted / "config.yml")
    camera, model = opened.pipeline.datamanager.eval_dataset.cameras[:1], opened.pipeline.model
    field = model.language_field()
    selection = field.select(Query(("sky blue",)))
    assert 0 < selection.mask.sum() < model.num_points
    nothing = torch.zeros_like(selection.mask)
    alpha, empty = field.silhouettes(camera, torch.cat([selection.mask, nothing]))
    assert alpha.max() > 0.5 and empty.max() == 0


def test_given_gaussians_are_lifted_without_a_step(lifted: Path, tiny_scene: Path, tmp_path: Path) -> None:
    config = lift_config(tiny_scene, tmp_path)
    config.pipeline.model.init_from = lifted / "config.yml"
    again = train(config)
    states = [torch.load(checkpoint_of(run), weights_only=True) for run in (lifted, again)]
    assert states[1]["step"] == 0
    for key, value in states[0]["pipeline"].items():
        if "gauss_params" in key or "language_entries" in key:
            assert torch.allclose(states[1]["pipeline"][key], value, atol=1e-5), key


def test_an_earlier_checkpoint_says_what_to_do(
    tiny_scene: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from lang_splat_ns.langsplat_lift import lift

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lift, "lift_model", interrupted)
    config = lift_config(tiny_scene, tmp_path)
    with pytest.raises(SystemExit):
        train(config)
    run = config.get_base_dir()
    assert torch.load(checkpoint_of(run), weights_only=True)["step"] == 59, "geometry is kept"
    model = open_run(run / "config.yml").pipeline.model
    assert "rgb" in model.get_outputs_for_camera(
        open_run(run / "config.yml").pipeline.datamanager.eval_dataset.cameras[:1]
    )
    offer = f"lang-splat lift --load-config {run}/config.yml"
    capsys.readouterr()
    open_run(run / "config.yml")
    assert offer in capsys.readouterr().out, "opening it tells"
    with pytest.raises(UserError, match=f"not lifted yet.*lang-splat lift --load-config {run}/config.yml"):
        model.language_field()


def test_more_steps_drop_the_language_and_lift_anew(lifted: Path, tiny_scene: Path, tmp_path: Path) -> None:
    config = lift_config(tiny_scene, tmp_path)
    config.load_dir, config.max_num_iterations = lifted / "nerfstudio_models", 3
    model = open_run(train(config) / "config.yml").pipeline.model
    assert len(model.language_index) == model.num_points
    assert model.language_field().select(Query(("sky blue",))).mask.any()


def test_votes_are_read_and_not_counted_again(
    lifted: Path, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lang_splat_ns.langsplat_lift import lift

    opened = open_run(lifted / "config.yml")
    manager, model = opened.pipeline.datamanager, opened.pipeline.model
    before = model.language_index.clone()
    monkeypatch.setattr(lift, "prepare_counting", lambda *arguments: pytest.fail("views were counted again"))
    lift.lift_model(model, manager, lifted)
    assert torch.equal(model.language_index, before)
