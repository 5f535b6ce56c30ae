"""What several runs have in common, and their figures over exactly that.

Methods are compared only over the units that all of them scored: a run whose encoder cannot represent a hard prompt
would otherwise look better than one that tries.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.confusion import Mistake, confusion, mistakes
from lang_splat_ns.evaluation.scores import LanguageScores, Row, averages, summarise

Unit = tuple[str, str]
"""A frame's name and a prompt."""


@dataclass(frozen=True)
class Average:
    """One line of a table of averages: what it is of, over how many units, and for each run IoU and localisation."""

    name: str
    units: int
    ious: tuple[float | None, ...]
    hits: tuple[float | None, ...]

    @property
    def best(self) -> float | None:
        """The highest IoU, or None where no run is better than another by a tenth of a percent."""
        ious = {iou for iou in self.ious if iou is not None}
        return max(ious) if ious and max(ious) - min(ious) >= 0.001 else None


@dataclass(frozen=True)
class SharedMistake:
    """One prompt that is found on another thing, by at least one run; `runs` has None for those that do not."""

    prompt: str
    thing: str
    runs: tuple[Mistake | None, ...]

    @property
    def worst(self) -> float:
        """The largest share of masks, of all runs."""
        return max(one.share for one in self.runs if one is not None)


def common_units(tables: Mapping[str, Sequence[Row]]) -> set[Unit]:
    """The units that every run scored.

    Args:
        tables: name of a run -> its `LanguageScores.table`.

    Raises:
        UserError: every run scored something, and yet no unit was scored by all.
    """
    scored = {name: {(row["frame"], row["prompt"]) for row in table if row["scored"]} for name, table in tables.items()}
    common = set.intersection(*scored.values()) if scored else set()
    if not common and scored and all(scored.values()):
        told = "; ".join(f"{name}: {_few({prompt for _, prompt in units})}" for name, units in scored.items())
        raise UserError(f"These runs scored no prompt in common, so there is nothing to compare ({told}).")
    return common


def restricted(scores: LanguageScores, units: Collection[Unit]) -> LanguageScores:
    """The scores over some units only, with a summary of those."""
    table = [row for row in scores.table if (row["frame"], row["prompt"]) in units]
    return LanguageScores(summarise(table), table, scores.levels)


def average_lines(tables: Sequence[Sequence[Row]]) -> tuple[list[Average], list[Average], list[Average]]:
    """Averages of runs over the same units: over everything, by prompt and by frame.

    Args:
        tables: one restricted table per run, in the order of the columns.
    """
    found = [averages(table) for table in tables]
    counts = _counts(tables[0] if tables else ())
    groups = {by: _names(found[0], f"by_{by}") if found else [] for by in ("prompt", "frame")}
    over = {
        "every question counts once (micro)": "micro",
        "every prompt counts once (macro)": "macro_prompts",
        "every photo counts once (macro)": "macro_frames",
    }
    total = sum(counts["prompt"].values())
    means = [
        Average(name, total, _column(found, "iou", key), _column(found, "localization", key))
        for name, key in over.items()
    ]
    by_prompt, by_frame = (
        [
            Average(
                name,
                counts[by][name],
                _column(found, "iou", f"by_{by}", name),
                _column(found, "localization", f"by_{by}", name),
            )
            for name in groups[by]
        ]
        for by in ("prompt", "frame")
    )
    return (means if total else []), by_prompt, by_frame


def shared_mistakes(tables: Sequence[Sequence[Row]], most: int = 12) -> list[SharedMistake]:
    """What is most often taken for what, over all runs; the worst first, at most so many."""
    found = [{(one.prompt, one.thing): one for one in mistakes(table)} for table in tables]
    pairs = dict.fromkeys(pair for run in found for pair in run)
    told = [SharedMistake(*pair, tuple(run.get(pair) for run in found)) for pair in pairs]
    return sorted(told, key=lambda one: one.worst, reverse=True)[:most]


def confusion_matrix(table: Sequence[Row]) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    """One run's confusion as the labelled things and, for each prompt, its share on each; None for a prompt without.

    Prompts stand in the order of the things, so that what is right lies on the diagonal, and absent ones at the end.
    """
    shares = confusion(table)
    things = list(dict.fromkeys(row["prompt"] for row in table if row["present"]))
    absent = list(dict.fromkeys(row["prompt"] for row in table if not row["present"]))
    rows: list[tuple[str, list[float | None]]] = []
    for prompt in [*things, *absent]:
        found = shares.get(prompt)
        rows.append((prompt, [None if found is None else found.get(thing, 0.0) for thing in things]))
    return things, rows


def _names(averages: Mapping[str, Any], by: str) -> list[str]:
    """What one run's averages are of; a prompt that is labelled by boxes only has no IoU."""
    return list(
        dict.fromkeys(name for block in ("iou", "localization") for name in averages.get(block, {}).get(by, ()))
    )


def _counts(table: Sequence[Row]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {"prompt": {}, "frame": {}}
    for row in table:
        for by, group in counts.items():
            group[row[by]] = group.get(row[by], 0) + (row["present"] and row["scored"])
    return counts


def _column(found: Sequence[Mapping[str, Any]], *keys: str) -> tuple[float | None, ...]:
    """The same place in every run's averages, None where a run has nothing there."""
    values = []
    for value in found:
        for key in keys:
            value = value.get(key, {}) if isinstance(value, Mapping) else {}
        values.append(None if isinstance(value, Mapping) else value)
    return tuple(values)


def _few(names: Collection[str], most: int = 5) -> str:
    shown = sorted(names)[:most]
    return ", ".join(shown) + (", ..." if len(names) > most else "")
