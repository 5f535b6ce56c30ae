"""The README says what the committed measurements say."""

from __future__ import annotations

from benchmarks.readme_tables import README, written_into


def test_scores_are_those_of_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert written_into(text) == text, "run python -m benchmarks.readme_tables"
