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


@pytest.mark.parametrize("method", ["lerf-lite", "lerf-splat"])
def test_short_schedules_of_lerf_are_those_of_the_code(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nerfstudio.scripts import train

    from lerf_ns import specs
    from lerf_ns.profiles import shrink, shrink_splat

    (command,) = re.findall(
        rf"^ns-train ({method} [^\n]*--max-num-iterations.*?[^\\\\])$", README.read_text(), re.DOTALL | re.MULTILINE
    )
    caught: list[Any] = []
    monkeypatch.setattr(train, "main", caught.append)
    monkeypatch.setattr(sys, "argv", ["ns-train", *shlex.split(command.replace("\\\n", " "))])
    train.entrypoint()
    expected: Any = copy.deepcopy(getattr(specs, method.replace("-", "_")).config)
    (shrink_splat if method == "lerf-splat" else shrink)(expected)
    assert caught[0].pipeline.model == expected.pipeline.model
    assert caught[0].max_num_iterations == expected.max_num_iterations
    assert caught[0].pipeline.datamanager.dino == expected.pipeline.datamanager.dino == "none"
    for group, optimizer in expected.optimizers.items():
        assert caught[0].optimizers[group] == optimizer, group
