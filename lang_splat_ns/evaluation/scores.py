"""What an evaluation found: one row per unit, and the summary that follows from the rows."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lang_splat_ns.evaluation.metrics import mean
from lang_splat_ns.evaluation.threshold_curve import CURVE_THRESHOLDS

Row = dict[str, Any]


@dataclass(frozen=True)
class LanguageScores:
    """The scores of one field on one data set.

    Attributes:
        summary: the public keys (see `summarise`).
        table: one row per unit, that is per labelled frame and prompt. Every row has

            - `frame`, `prompt` (as the label names it), `text` (as it was asked, for example translated),
            - `present`: whether the frame shows the prompt; false for the pairs that must stay empty,
            - `scored`, and `reason`: why it was not scored, or None.

            A scored row also has `level` (chosen), `scale` (only of a scale-continuous field), `peak` (highest
            smoothed raw relevancy) and `peak_at` ([x, y] in pixels), `threshold` (the number that applied),
            `area` (share of the frame's pixels in the mask), `mask_on` (prompt -> share of the mask that lies on what
            is labelled so) and `peak_on` (the prompts on whose things the peak lies). Of those the present ones have
            `iou`, `iou_by_level`, `gt_area` (absent where there are boxes only), `iou_at` (at each of
            `CURVE_THRESHOLDS`, where the protocol has such a curve), `hit` (absent where there are no boxes), with a
            closed list `recall` (share of the labelled pixels that are found), and `iou_3d` (of the selected Gaussians'
            silhouette, absent without Gaussians); the others have `rejected`. A protocol that scores Gaussians alone
            leaves all but `iou_3d` out.
        levels: the field's levels, coarse to fine.
    """

    summary: dict[str, float]
    table: list[Row]
    levels: tuple[str, ...]

    def to_json(self) -> str:
        """Summary, levels, averages, curve (where there is one) and table as JSON without any NaN or infinity."""
        content: dict[str, Any] = {"summary": self.summary, "levels": list(self.levels)}
        content["averages"] = averages(self.table)
        if (curve := threshold_curve(self.table)) is not None:
            content["curve"] = curve
        content["table"] = self.table
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def summarise(table: Sequence[Row], prompts: Collection[str] | None = None) -> dict[str, float]:
    """The public scores of a table. A key that does not apply is left out.

    Args:
        table: rows of `LanguageScores.table`, also as read back from JSON.
        prompts: count only these label prompts. Methods are comparable only over prompts that all of them scored.

    Returns:
        `language_miou`: mean IoU over the units; `language_miou_<level>`: the same with that level everywhere;
        `language_accuracy`: with a closed list, mean over frames of the share of labelled pixels that answer with
        their own class; `language_localization`: share of units whose peak lies in a box;
        `language_absent_rejection`: share of (frame, absent prompt) pairs with an empty mask; `language_miou_3d`,
        `language_acc25_3d` and `language_acc50_3d`: mean IoU of the silhouettes of the selected Gaussians, and share
        of at least 0.25 and 0.5; `language_prompts_scored` and `language_prompts_total`: distinct prompts that are
        present in some frame.
    """
    rows = _counted(table, prompts)
    present = [row for row in rows if row["present"]]
    scored = [row for row in present if row["scored"]]
    absent = [row for row in rows if row["scored"] and not row["present"]]
    levels = dict.fromkeys(level for row in scored for level in row.get("iou_by_level", ()))
    shares = {
        "language_miou": mean([row["iou"] for row in scored if "iou" in row]),
        **{
            f"language_miou_{level}": mean([row["iou_by_level"][level] for row in scored if "iou_by_level" in row])
            for level in levels
        },
        "language_accuracy": mean(_accuracies(scored)),
        "language_localization": mean([row["hit"] for row in scored if "hit" in row]),
        "language_absent_rejection": mean([row["rejected"] for row in absent]),
        "language_miou_3d": mean([row["iou_3d"] for row in scored if "iou_3d" in row]),
        "language_acc25_3d": mean([row["iou_3d"] >= 0.25 for row in scored if "iou_3d" in row]),
        "language_acc50_3d": mean([row["iou_3d"] >= 0.5 for row in scored if "iou_3d" in row]),
        "language_prompts_scored": float(len({row["prompt"] for row in scored})),
        "language_prompts_total": float(len({row["prompt"] for row in present})),
    }
    return {key: value for key, value in shares.items() if value is not None}


_AVERAGED = {"iou": "iou", "localization": "hit", "iou_3d": "iou_3d"}
"""What averages are called, and which key of a row they are of."""


def averages(table: Sequence[Row], prompts: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """Averages of a table's units by prompt and by frame, since papers disagree on what they average over.

    Args:
        table: as in `summarise`.
        prompts: as in `summarise`.

    Returns:
        For `iou`, `localization` and `iou_3d`, as far as they were scored: `micro` (mean over the units, which is what
        `summarise` gives), `macro_prompts` (mean over the prompts of each prompt's mean), `macro_frames` (mean over
        the frames of each frame's mean), and those means themselves as `by_prompt` and `by_frame`.
    """
    present = [row for row in _counted(table, prompts) if row["present"] and row["scored"]]
    found = {name: _averages_of([row for row in present if key in row], key) for name, key in _AVERAGED.items()}
    return {name: block for name, block in found.items() if block}


def threshold_curve(table: Sequence[Row], prompts: Collection[str] | None = None) -> dict[str, list[float]] | None:
    """Mean IoU over the units at other thresholds than the one that was asked for.

    Args:
        table: as in `summarise`.
        prompts: as in `summarise`.

    Returns:
        `thresholds`, on the protocol's own scale, and `miou` at each; None where the protocol has no such curve.
    """
    rows = [row["iou_at"] for row in _counted(table, prompts) if "iou_at" in row]
    if not rows:
        return None
    return {
        "thresholds": list(CURVE_THRESHOLDS),
        "miou": [float(np.mean(column)) for column in zip(*rows, strict=True)],
    }


def _counted(table: Sequence[Row], prompts: Collection[str] | None) -> list[Row]:
    return [row for row in table if prompts is None or row["prompt"] in prompts]


def _averages_of(rows: Sequence[Row], key: str) -> dict[str, Any]:
    if not rows:
        return {}
    groups = {name: _means(rows, name, key) for name in ("prompt", "frame")}
    return {
        "micro": mean([row[key] for row in rows]),
        "macro_prompts": mean(list(groups["prompt"].values())),
        "macro_frames": mean(list(groups["frame"].values())),
        "by_prompt": groups["prompt"],
        "by_frame": groups["frame"],
    }


def _means(rows: Sequence[Row], by: str, key: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row[by], []).append(row[key])
    return {name: float(np.mean(group)) for name, group in values.items()}


def _accuracies(scored: Sequence[Row]) -> list[float]:
    """Of each frame that was read with a closed list the share of labelled pixels that answer with their own class.

    3D-OVS counts a pixel without a label as a miss; its photos are labelled all over, so that it makes no difference.
    """
    frames: dict[str, list[Row]] = {}
    for row in scored:
        if "recall" in row:
            frames.setdefault(row["frame"], []).append(row)
    return [
        sum(row["recall"] * row["gt_area"] for row in rows) / sum(row["gt_area"] for row in rows)
        for rows in frames.values()
    ]
