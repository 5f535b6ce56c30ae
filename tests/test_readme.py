"""The README says what the committed measurements say."""

from __future__ import annotations

import re
import shlex
import sys
from typing import Any

import pytest

from benchmarks.readme_tables import README, written_into

TRAININGS = re.findall(r"^ns-train [^\n]*--data [^\n]*$", README.read_text(encoding="utf-8"), re.MULTILINE)


def test_scores_are_those_of_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert written_into(text) == text, "run python -m benchmarks.readme_tables"


@pytest.mark.parametrize("command", TRAININGS)
def test_commands_that_train_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nerfstudio.scripts import train

    caught: list[Any] = []
    monkeypatch.setattr(train, "main", caught.append)
    monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
    train.entrypoint()
    assert str(caught[0].data) == "scene"
