"""An evaluation as one HTML file that can be sent to somebody: figures, pictures, every unit, and the facts.

The page holds its pictures and styles in itself and asks for nothing from anywhere. Prompts and names are untrusted
text; the template engine escapes everything that is put into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template

from lang_splat_ns.evaluation.pictures import UnitPictures, data_uri, to_uint8, turbo
from lang_splat_ns.evaluation.scores import LanguageScores, Row
from lang_splat_ns.files import write_text

_TEMPLATE = Path(__file__).with_name("report.html.j2")

_HEAD_FIGURES = (
    ("language_miou", "mean IoU", "overlap of found and true masks"),
    ("language_localization", "localisation", "peaks that lie on the prompt"),
    ("language_absent_rejection", "absent rejected", "absent prompts that find nothing"),
)
_COUNTS = ("language_prompts_scored", "language_prompts_total")


@dataclass(frozen=True)
class _Figure:
    """One number with its name; `note` says what it means."""

    name: str
    value: str
    note: str = ""


def write_report(
    path: Path,
    title: str,
    scores: LanguageScores,
    pictures: Sequence[UnitPictures],
    metrics: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write a self-contained HTML page, atomically.

    Args:
        path: file to write.
        title: heading of the page.
        scores: summary and table.
        pictures: the units to show, in the order to show them (see `unit_pictures`); may be empty.
        metrics: further numbers for the head, such as psnr or seconds per query.
        facts: how the numbers came about: encoder, segmenter, versions, hardware. Shown as they are.

    Raises:
        OSError: the file cannot be written.
    """
    page = _template().render(
        title=title,
        head=_head_figures(scores.summary),
        others=[*_other_figures(scores.summary), *(_Figure(key, _number(value)) for key, value in metrics.items())],
        legend=_turbo_gradient(),
        present=[unit for unit in pictures if unit.row["present"]],
        absent=[unit for unit in pictures if not unit.row["present"]],
        rows=[row for row in scores.table if row["scored"]],
        unscored=_unscored(scores.table),
        levels=list(dict.fromkeys(level for row in scores.table for level in row.get("iou_by_level", ()))),
        facts={str(key): str(value) for key, value in facts.items()},
    )
    write_text(path, page)


def _head_figures(summary: Mapping[str, float]) -> list[_Figure]:
    figures = [
        _Figure(name, _percent(summary[key]), note) for key, name, note in _HEAD_FIGURES if summary.get(key) is not None
    ]
    if all(key in summary for key in _COUNTS):
        scored, total = (int(summary[key]) for key in _COUNTS)
        figures.append(_Figure("prompts scored", f"{scored} of {total}", "that the encoder can represent"))
    return figures


def _other_figures(summary: Mapping[str, float]) -> list[_Figure]:
    shown = {key for key, _, _ in _HEAD_FIGURES} | set(_COUNTS)
    prefix = "language_miou_"
    return [
        _Figure(f"mean IoU, {key.removeprefix(prefix)} only" if key.startswith(prefix) else key, _percent(value))
        for key, value in summary.items()
        if key not in shown
    ]


def _unscored(table: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """(prompt, reason) -> the frames concerned, so that a refused prompt is told once and not once per frame."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in table:
        if not row["scored"]:
            found.setdefault((row["prompt"], row["reason"]), []).append(row["frame"])
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u2009%"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _turbo_gradient() -> str:
    """CSS colour stops of the overlay's colours from 0.5 to 1."""
    return ", ".join(f"rgb({r} {g} {b})" for r, g, b in to_uint8(turbo(np.linspace(0.0, 1.0, 12))))


@cache
def _template() -> Template:
    # A misspelt name in the template is an error instead of a blank on the page.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "uri": data_uri}
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
