"""Evaluations as one HTML file that can be sent to somebody: one run's, or several runs' side by side.

The page holds its pictures and styles in itself and asks for nothing from anywhere (see `page`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.charts import Axis, Series, line_chart
from lang_splat_ns.evaluation.comparison import (
    average_lines,
    common_units,
    confusion_matrix,
    restricted,
    shared_mistakes,
)
from lang_splat_ns.evaluation.page import number, percent, write_page
from lang_splat_ns.evaluation.pictures import UnitPictures, to_uint8, turbo
from lang_splat_ns.evaluation.scores import LanguageScores, Row, threshold_curve
from lang_splat_ns.evaluation.shown_pictures import choose_pictures

MEGABYTES = 12.0
"""What pictures may take on a page: mail programs take files of some 20 MB."""

_HEAD_FIGURES = (
    ("language_miou", "mean IoU", "overlap of found and true masks"),
    ("language_localization", "localisation", "peaks that lie on the prompt"),
    ("language_absent_rejection", "absent rejected", "absent prompts that find nothing"),
    ("language_miou_3d", "mean IoU in 3D", "overlap of the selected Gaussians' silhouette"),
)
_COUNTS = ("language_prompts_scored", "language_prompts_total")


@dataclass(frozen=True)
class RunReport:
    """All that a page tells of one run.

    Attributes:
        name: what the page calls the run; different for every run of a page.
        scores: summary and table.
        pictures: the units that may be shown, in the order of the evaluation (see `unit_pictures`); may be empty.
        figures: further numbers, such as psnr or seconds per query, by the name to show.
        facts: how the numbers came about: encoder, segmenter, versions, hardware. Shown as they are.
    """

    name: str
    scores: LanguageScores
    pictures: Sequence[UnitPictures] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Head:
    """One of the large figures: its name, what it means, and each run's value as a share or None."""

    name: str
    note: str
    shares: tuple[float | None, ...]


def write_report(path: Path, title: str, runs: Sequence[RunReport], megabytes: float = MEGABYTES) -> None:
    """Write a self-contained HTML page, atomically.

    With several runs all scores are over the units that every run scored, and the page says which were left out.

    Args:
        path: file to write.
        title: heading of the page.
        runs: the runs, at least one.
        megabytes: what the pictures may take, in 10^6 bytes; those beyond are left out, and the page says so.

    Raises:
        UserError: the runs scored no unit in common, or two have one name.
        OSError: the file cannot be written.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(
            f"Two runs of a report have the same name, so nobody could tell them apart: {', '.join(names)}."
        )
    units = common_units({run.name: run.scores.table for run in runs})
    shared = [restricted(run.scores, units) for run in runs]
    tables = [scores.table for scores in shared]
    means, by_prompt, by_frame = average_lines(tables)
    pictures = choose_pictures([run.pictures for run in runs], units, round(megabytes * 1e6))
    write_page(
        path,
        "report.html.j2",
        title=title,
        runs=names,
        left_out=_left_out(runs, len(units)),
        unit_count=len(units),
        head=_head(shared),
        counts=[_count(run.scores.summary) for run in runs],
        others=_others(shared, runs),
        curve=_curve(names, tables),
        averages={"prompt": [*means, *by_prompt], "photo": by_frame},
        pictures=pictures,
        ramp=_turbo_gradient(),
        mistakes=shared_mistakes(tables),
        matrices={name: confusion_matrix(table) for name, table in zip(names, tables, strict=True)},
        tables={name: _unit_table(scores) for name, scores in zip(names, shared, strict=True) if scores.table},
        unscored={run.name: reasons for run in runs if (reasons := _unscored(run.scores.table))},
        facts=_facts(runs),
    )


def _left_out(runs: Sequence[RunReport], common: int) -> dict[str, int]:
    """How many units of each run's own are not compared, because another run did not score them; runs without none."""
    counts = {run.name: sum(row["scored"] for row in run.scores.table) - common for run in runs}
    return {name: count for name, count in counts.items() if count}


def _head(shared: Sequence[LanguageScores]) -> list[_Head]:
    found = [
        _Head(name, note, tuple(scores.summary.get(key) for scores in shared)) for key, name, note in _HEAD_FIGURES
    ]
    return [one for one in found if any(share is not None for share in one.shares)]


def _count(summary: Mapping[str, float]) -> tuple[int, int] | None:
    """How many prompts the encoder can represent, and all, of the run's own."""
    return (int(summary[_COUNTS[0]]), int(summary[_COUNTS[1]])) if _COUNTS[1] in summary else None


def _others(shared: Sequence[LanguageScores], runs: Sequence[RunReport]) -> dict[str, list[str | None]]:
    """Name of a figure -> its value of each run, None where a run has none."""
    columns: list[dict[str, str]] = []
    for scores, run in zip(shared, runs, strict=True):
        shown = {key for key, _, _ in _HEAD_FIGURES} | set(_COUNTS)
        # A single level is what the head tells already.
        shown |= {f"language_miou_{level}" for level in scores.levels if len(scores.levels) == 1}
        rest = {_spelt_out(key): percent(value) for key, value in scores.summary.items() if key not in shown}
        columns.append(rest | {name: number(value) for name, value in run.figures.items()})
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [column.get(name) for column in columns] for name in names}


def _spelt_out(key: str) -> str:
    names = {"language_acc25_3d": "IoU in 3D at least 0.25", "language_acc50_3d": "IoU in 3D at least 0.5"}
    prefix = "language_miou_"
    return f"mean IoU, {key.removeprefix(prefix)} only" if key.startswith(prefix) else names.get(key, key)


def _curve(names: Sequence[str], tables: Sequence[Sequence[Row]]) -> str | None:
    curves = [threshold_curve(table) for table in tables]
    series = [
        Series(name, curve["thresholds"], curve["miou"]) for name, curve in zip(names, curves, strict=True) if curve
    ]
    if not series:
        return None
    best = max(max(one.y) for one in series)
    across, up = Axis("threshold, the same for every prompt"), Axis("mean IoU", percent=True, low=0.0, high=best or 1.0)
    return line_chart(series, across, up, "Mean IoU over the threshold")


def _unit_table(scores: LanguageScores) -> dict[str, Any]:
    # Levels in the order of the field, as far as the units were read at them.
    read = {level for row in scores.table for level in row.get("iou_by_level", ())}
    return {"rows": scores.table, "levels": [level for level in scores.levels if level in read]}


def _unscored(table: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """(prompt, reason) -> the frames concerned, so that a refused prompt is told once and not once per frame."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in table:
        if not row["scored"]:
            found.setdefault((row["prompt"], row["reason"]), []).append(row["frame"])
    return found


def _facts(runs: Sequence[RunReport]) -> dict[str, dict[str, str]]:
    """What each run has of its own by its name, and under "" what is the same for all."""
    every = [{str(key): str(value) for key, value in run.facts.items()} for run in runs]
    same = {key: value for key, value in every[0].items() if all(facts.get(key) == value for facts in every)}
    own = {
        run.name: {key: value for key, value in facts.items() if key not in same}
        for run, facts in zip(runs, every, strict=True)
    }
    return {name: facts for name, facts in (own | {"": same}).items() if facts}


def _turbo_gradient() -> str:
    """CSS colour stops of the overlay's colours from 0.5 to 1."""
    return ", ".join(f"rgb({r} {g} {b})" for r, g, b in to_uint8(turbo(np.linspace(0.0, 1.0, 12))))
