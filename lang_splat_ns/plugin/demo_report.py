"""The demo's HTML page: pictures of every held-out answer beside the photo and the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lang_splat_ns.evaluation.evaluator import UnitAnswer
from lang_splat_ns.evaluation.pictures import UnitPictures, unit_pictures
from lang_splat_ns.evaluation.report import write_report
from lang_splat_ns.evaluation.scores import LanguageScores
from lang_splat_ns.plugin.runs import Run

FRAMES_SHOWN = 2
"""Held-out views on the page: enough to see, and the file stays small enough to send."""


def write_demo_report(
    path: Path,
    scores: LanguageScores,
    answers: list[UnitAnswer],
    run: Run,
    metrics: dict[str, float],
    facts: dict[str, Any],
    title: str = "lang-splat demo",
) -> None:
    """Write the page; see `write_report`."""
    # The page shows the language scores at its head already.
    image_metrics = {name: value for name, value in metrics.items() if name not in scores.summary}
    write_report(path, title, scores, answer_pictures(run, answers), image_metrics, facts)


def answer_pictures(run: Run, answers: list[UnitAnswer]) -> list[UnitPictures]:
    """Pictures of the present prompts of the first held-out views."""
    photos = _photos(run)
    shown = list(dict.fromkeys(answer.frame.name for answer in answers))[:FRAMES_SHOWN]
    return [
        unit_pictures(answer, photos[answer.frame.name])
        for answer in answers
        if answer.frame.name in shown and answer.truth is not None
    ]


def _photos(run: Run) -> dict[str, np.ndarray]:
    manager = run.pipeline.datamanager
    names = [path.name for path in manager.eval_dataset.image_filenames]
    return {
        name: batch["image"][..., :3].cpu().numpy().astype(np.float32) / 255.0
        for name, batch in zip(names, manager.cached_eval, strict=True)
    }
