"""`ns-train METHOD --preset cpu`: one flag for a schedule that two cores finish in minutes."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from nerfstudio.configs.method_configs import all_methods

METHODS = ("3dgs", "langsplat", "langsplat-lift", "fastlgs", "lerf", "lerf-lite", "lerf-big", "lerf-splat")


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The configuration that ns-train would train with."""
    from nerfstudio.scripts import train

    caught: list[Any] = []
    monkeypatch.setattr(train, "main", caught.append)
    monkeypatch.setattr(sys, "argv", ["ns-train", *arguments])
    train.entrypoint()
    return caught[0]


@pytest.mark.parametrize("method", METHODS)
def test_one_flag_is_the_schedule_for_cpus(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = copy.deepcopy(all_methods[method])
    config, expected = parsed(monkeypatch, method, "--preset", "cpu"), copy.deepcopy(before)
    expected.pipeline.model.fit_cpu(expected)
    assert config.max_num_iterations == expected.max_num_iterations <= 2400
    assert config.pipeline.model == expected.pipeline.model != before.pipeline.model
    assert config.pipeline.datamanager == expected.pipeline.datamanager
    assert config.optimizers == expected.optimizers
    assert all_methods[method] == before, "other trainings of this process have the method's own defaults"


def test_what_is_given_beside_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("--max-num-iterations", "900", "--pipeline.datamanager.points-per-side", "8")
    more = ("--optimizers.means.scheduler.max-steps", "700", "--pipeline.model.warmup-length", "77")
    config = parsed(monkeypatch, "langsplat", "--preset", "cpu", *given, *more)
    assert config.max_num_iterations == 900 and config.pipeline.datamanager.points_per_side == 8
    assert config.optimizers["means"]["scheduler"].max_steps == 700
    assert config.pipeline.model.warmup_length == 77 and config.pipeline.model.stop_split_at == 1200
    assert config.optimizers["language_features"]["optimizer"].lr == 0.02


@pytest.mark.parametrize(("method", "steps"), [("langsplat", 600), ("lerf-splat", 800), ("fastlgs", 200)])
def test_given_gaussians_need_no_steps(method: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parsed(monkeypatch, method, "--preset", "cpu", "--pipeline.model.init-from", "scene.ply")
    assert config.max_num_iterations == steps and config.pipeline.model.init_from == Path("scene.ply")


def test_without_it_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parsed(monkeypatch, "lerf-splat")
    assert config.max_num_iterations == 60_000
    assert config.pipeline.model == all_methods["lerf-splat"].pipeline.model


def test_a_runs_config_holds_the_values_and_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = parsed(monkeypatch, "lerf-lite", "--preset", "cpu", "--output-dir", str(tmp_path), "--data", str(tmp_path))
    config.timestamp = "run"
    config.pipeline.model.num_lerf_samples = all_methods["lerf-lite"].pipeline.model.num_lerf_samples
    config.save_config()
    read: Any = yaml.load((config.get_base_dir() / "config.yml").read_text(), Loader=yaml.Loader)
    assert read.preset == "cpu" and read.max_num_iterations == 1500
    assert read.pipeline.model == config.pipeline.model
