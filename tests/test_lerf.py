"""LERF's four methods through nerfstudio's own commands, on one tiny scene, without a GPU."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from runs import checkpoint_of

from lang_splat_ns.errors import UserError
from lang_splat_ns.plugin.runs import Run, frame_camera, open_run

METHODS = ("lerf", "lerf-lite", "lerf-big", "lerf-splat")


@pytest.fixture(scope="module")
def opened(lerf_runs: dict[str, Path]) -> dict[str, Run]:
    """The same runs, loaded as the viewer loads them."""
    return {method: open_run(folder / "config.yml") for method, folder in lerf_runs.items()}


@pytest.mark.parametrize("method", METHODS)
def test_checkpoints_are_safe_and_hold_no_frozen_network(lerf_runs: dict[str, Path], method: str) -> None:
    state = torch.load(checkpoint_of(lerf_runs[method]), weights_only=True)
    assert not [key for key in state["pipeline"] if "lpips" in key or "encoder." in key or "dino_head" in key]
    assert any(key.startswith("_model.language.field.grids.0.") for key in state["pipeline"])
    about = state["pipeline"]["_model._extra_state"]["language"]
    assert about["levels"] == ["scale"] and about["encoder_id"].startswith("colour-words")


@pytest.mark.parametrize("method", METHODS)
def test_ns_eval(lerf_runs: dict[str, Path], method: str, tmp_path: Path) -> None:
    from nerfstudio.scripts.eval import ComputePSNR

    ComputePSNR(load_config=lerf_runs[method] / "config.yml", output_path=tmp_path / "out.json").main()
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert results["psnr"] > 5
    assert results["language_prompts_total"] >= results["language_prompts_scored"] > 5
    assert 0 <= results["language_miou"] <= 1 and "language_miou_scale" in results
    assert ("language_miou_3d" in results) == (method == "lerf-splat")


@pytest.mark.parametrize("method", METHODS)
def test_ns_render(lerf_runs: dict[str, Path], method: str, tmp_path: Path) -> None:
    from nerfstudio.scripts.render import DatasetRender

    names = ["rgb", "depth", "features_pca", "relevancy_0", "composited_1"]
    DatasetRender(
        load_config=lerf_runs[method] / "config.yml", output_path=tmp_path, split="test", rendered_output_names=names
    ).main()
    for name in names:
        assert len(list((tmp_path / "test" / name).iterdir())) == 3


@pytest.mark.parametrize("method", METHODS)
def test_every_output_can_be_shown(opened: dict[str, Run], method: str) -> None:
    from nerfstudio.utils.colormaps import apply_colormap

    run = opened[method]
    outputs = run.pipeline.model.get_outputs_for_camera(frame_camera(run, None)[1])
    assert {"rgb", "depth", "accumulation", "features_pca", "relevancy_0", "composited_1"} <= set(outputs)
    for image in outputs.values():
        assert torch.isfinite(apply_colormap(image)).all()


@pytest.mark.parametrize("method", METHODS)
def test_viewing_opens_no_features(opened: dict[str, Run], method: str) -> None:
    manager = opened[method].pipeline.datamanager
    assert "features" not in vars(manager) and "train_pixels" not in vars(manager)


def test_queries_through_the_command(lerf_runs: dict[str, Path], tmp_path: Path) -> None:
    from lang_splat_ns.cli import main

    for method in ("lerf-lite", "lerf-splat"):
        out = tmp_path / method
        arguments = [
            "query",
            "--load-config",
            str(lerf_runs[method] / "config.yml"),
            "--text",
            "red; blue",
            "--out",
            str(out),
        ]
        assert main(arguments) in (0, None)
        content = json.loads((out / "query.json").read_text())
        assert content["method"] == method
        assert all(prompt["level"].startswith("scale ") for prompt in content["prompts"])


def test_other_sizes_than_the_checkpoints_are_named(lerf_runs: dict[str, Path], opened: dict[str, Run]) -> None:
    state = torch.load(checkpoint_of(lerf_runs["lerf-lite"]), weights_only=True)["pipeline"]
    model = opened["lerf-big"].pipeline.model
    own = {key.removeprefix("_model."): value for key, value in state.items() if key.startswith("_model.")}
    with pytest.raises(UserError, match=r"hashgrid-\*"):
        model.load_state_dict(own)
    with pytest.raises(UserError, match="another method"):
        model.load_state_dict({})


def test_runs_of_another_implementation(lerf_runs: dict[str, Path]) -> None:
    """A run that was trained in torch opens where tiny-cuda-nn would be taken; the other way needs tiny-cuda-nn."""
    model = open_run(lerf_runs["lerf-lite"] / "config.yml").pipeline.model
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.field.mlp_base.model[0].table.zero_()
    model.config.implementation, model.language = "tcnn", None
    model.load_state_dict(state)
    assert model.config.implementation == "torch"
    assert torch.equal(model.field.mlp_base.model[0].table, state["field.mlp_base.model.0.table"])
    state["_extra_state"]["language"]["implementation"] = "tcnn"
    with pytest.raises(UserError, match="tiny-cuda-nn, which is not here"):
        model.load_state_dict(state)


@pytest.mark.parametrize("method", METHODS)
def test_ns_train_help(method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from nerfstudio.scripts.train import entrypoint

    monkeypatch.setattr(sys, "argv", ["ns-train", method, "--help"])
    with pytest.raises(SystemExit) as caught:
        entrypoint()
    assert caught.value.code == 0
    assert "--pipeline.datamanager.tile-size-range" in capsys.readouterr().out


def test_no_device_is_named_in_code() -> None:
    import re

    import lerf_ns

    named = re.compile(r"""\.cuda\(|(to|device)\s*[(=]\s*["']cuda|["']cuda(:\d+)?["']\s*\)""")
    for path in Path(lerf_ns.__file__).parent.glob("*.py"):
        assert not named.search(path.read_text()), path
