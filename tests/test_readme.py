"""The README says what the committed measurements say."""

from __future__ import annotations

import copy
import re
import shlex
import sys
from typing import Any

import pytest

from benchmarks.readme_tables import README, written_into


def test_scores_are_those_of_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert written_into(text) == text, "run python -m benchmarks.readme_tables"


def command_of(method: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The configuration that the README's short schedule of a method stands for."""
    from nerfstudio.scripts import train

    (command,) = re.findall(
        rf"^ns-train ({method} [^\n]*--max-num-iterations.*?[^\\\\])$", README.read_text(), re.DOTALL | re.MULTILINE
    )
    caught: list[Any] = []
    monkeypatch.setattr(train, "main", caught.append)
    monkeypatch.setattr(sys, "argv", ["ns-train", *shlex.split(command.replace("\\\n", " "))])
    train.entrypoint()
    return caught[0]


def test_the_short_schedule_of_fastlgs_is_that_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlgs_ns.profiles import shorten_fastlgs
    from fastlgs_ns.specs import fastlgs

    written, expected = command_of("fastlgs", monkeypatch), copy.deepcopy(fastlgs.config)
    shorten_fastlgs(expected)
    assert written.pipeline.model == expected.pipeline.model
    assert written.max_num_iterations == expected.max_num_iterations
    assert written.optimizers == expected.optimizers


@pytest.mark.parametrize("method", ["lerf-lite", "lerf-splat"])
def test_short_schedules_of_lerf_are_those_of_the_code(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lerf_ns import specs
    from lerf_ns.profiles import shrink, shrink_splat

    caught = [command_of(method, monkeypatch)]
    expected: Any = copy.deepcopy(getattr(specs, method.replace("-", "_")).config)
    (shrink_splat if method == "lerf-splat" else shrink)(expected)
    assert caught[0].pipeline.model == expected.pipeline.model
    assert caught[0].max_num_iterations == expected.max_num_iterations
    assert caught[0].pipeline.datamanager.dino == expected.pipeline.datamanager.dino == "none"
    for group, optimizer in expected.optimizers.items():
        assert caught[0].optimizers[group] == optimizer, group
