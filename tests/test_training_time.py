"""How long a training took, and which commit measured it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lang_splat_ns import machine
from lang_splat_ns.plugin import training_time
from lang_splat_ns.plugin.training_time import TrainingClock, training_seconds


def test_a_continued_training_counts_from_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(training_time.time, "monotonic", lambda: now[0])
    first = TrainingClock()
    now[0] += 30
    first.write(tmp_path / "first", 9)
    assert training_seconds(tmp_path / "first") == 30

    second = TrainingClock()
    second.continue_from(tmp_path / "first", 9)
    now[0] += 12
    second.write(tmp_path / "second", 19)
    assert training_seconds(tmp_path / "second") == 42

    third = TrainingClock()
    third.continue_from(tmp_path / "first", 4)  # From an earlier checkpoint, whose time nobody wrote down.
    third.write(tmp_path / "third", 14)
    assert training_seconds(tmp_path / "third") is None


@pytest.mark.parametrize("content", ["", "[]", '{"seconds": "soon"}', '{"seconds": null, "step": 1}'])
def test_a_torn_file_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / training_time.TRAINING_FILE).write_text(content, encoding="utf-8")
    assert training_seconds(tmp_path) is None


def test_the_commit_is_this_repositorys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = machine.commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", found)
    # A copy that is installed beside some repository's own files belongs to none.
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    assert machine.commit() is None
