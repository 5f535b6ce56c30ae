"""The README says what the committed measurements say."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables import ROOT, TABLES, written_into

TRAININGS = re.findall(
    r"^ns-train [^\n]*--data [^\n]*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_figures_are_those_of_the_results(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert written_into(text, TABLES[path], path) == text, "run python -m benchmarks.tables"


@pytest.mark.parametrize("command", TRAININGS)
def test_commands_that_train_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nerfstudio.scripts import train

    caught: list[Any] = []
    monkeypatch.setattr(train, "main", caught.append)
    monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
    train.entrypoint()
    assert str(caught[0].data) == "scene"
