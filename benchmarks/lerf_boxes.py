"""Scores where a segmenter and an encoder point on LERF's labelled views: localisation in 2D, without any 3D.

The views are renders of trained scenes, three or four a scene, which is too few to score a scene in 3D with; they say
whether the peak of a prompt's relevancy lies in one of its boxes when the encoder sees the view itself.

python -m benchmarks.lerf_boxes --data lerf_eval --encoder open_clip --out benchmarks/results/lerf_boxes.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.command import start
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.evaluator import LabelledFrame, evaluate
from lang_splat_ns.evaluation.oracle import OracleField
from lang_splat_ns.evaluation.scores import LanguageScores
from lang_splat_ns.files import write_text
from lang_splat_ns.machine import facts_of_machine
from lang_splat_ns.perception.encoders import DEFAULT_ENCODER, make_encoder
from lang_splat_ns.perception.extract import Frame, extract, read, read_label_maps
from lang_splat_ns.perception.feature_store import content_key, open_store
from lang_splat_ns.perception.segmenters import default_segmenter, make_segmenter
from lang_splat_ns.scenes.labels import read_labels

SHOWN = ("frame", "prompt", "scored", "reason", "level", "peak", "peak_at", "hit")


@dataclass
class LerfBoxes:
    """Score where a segmenter and an encoder point on LERF's labelled views, without any 3D."""

    data: Path
    """Folder with a folder per scene: queries.json and the views, N_rgb.png."""
    encoder: str = DEFAULT_ENCODER
    """Name of the encoder."""
    segmenter: str | None = None
    """Name of the segmenter; by default the device's."""
    crops: str | None = None
    """How masks are cut out for the encoder, for example black+context:0.5."""
    points_per_side: int | None = None
    """Point grid of the SAM family."""
    cache_dir: Path | None = None
    """Where label maps and embeddings are kept; by default as in training."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the networks run."""
    out: Path | None = None
    """Write scores and facts to this JSON file."""

    def main(self) -> dict[str, Any]:
        """Extract what is missing, evaluate, print and write; returns what is written."""
        scenes = {folder.name: labelled_views(folder) for folder in sorted(self.data.iterdir()) if folder.is_dir()}
        if not scenes:
            raise UserError(f"{self.data}: no folders of scenes in it.")
        name = self.segmenter or default_segmenter(self.device)
        segmenter = make_segmenter(name, device=self.device, points_per_side=self.points_per_side)
        encoder = make_encoder(self.encoder, device=self.device, crops=self.crops)
        store = open_store(self.data, self.cache_dir)
        photos = [view.camera for views in scenes.values() for view in views]
        start = time.perf_counter()
        extract(photos, segmenter, encoder, store)
        seconds = time.perf_counter() - start
        field = OracleField(
            encoder,
            read_label_maps(photos[0], segmenter.segmenter_id, store).levels,
            lambda photo: read(photo, segmenter.segmenter_id, encoder.encoder_id, store),
        )
        found = {scene: describe(views, evaluate(field, views, ())) for scene, views in scenes.items()}
        content = {
            "what": "2D localisation on LERF's labelled views (renders, no 3D): does the relevancy peak lie in a box",
            "segmenter": segmenter.segmenter_id,
            "encoder": encoder.encoder_id,
            "views": len(photos),
            "extraction_seconds": round(seconds, 1),
            **facts_of_machine(),
            "together": together(list(found.values())),
            "scenes": found,
        }
        for scene, of_scene in [*found.items(), ("together", content["together"])]:
            figures = {key: value for key, value in of_scene.items() if key != "table"}
            CONSOLE.print(f"{scene:14} {figures}", soft_wrap=True, highlight=False)
        if self.out is not None:
            write_text(self.out, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return content


def labelled_views(scene: Path) -> list[LabelledFrame]:
    """The labelled views of a scene's folder, whose cameras are the photos that the oracle looks at.

    Raises:
        UserError: the folder has no labels, or a view is missing.
    """
    labels = read_labels(scene)
    if labels is None:
        raise UserError(f"{scene}: no labels in it.")
    views = []
    for frame in labels.frames.values():
        path = scene / frame.name
        if not path.is_file():
            raise UserError(f"{path}: missing, although it is labelled.")
        photo = Frame(f"{scene.name}/{frame.name}", content_key(path, {}), partial(_load, path))
        boxes = {prompt: frame.box_masks(prompt) for prompt in frame.boxes}
        masks = {prompt: frame.mask(prompt) for prompt in frame.outlined}
        views.append(LabelledFrame(frame.name, photo, masks, boxes))
    return views


def describe(views: Sequence[LabelledFrame], scores: LanguageScores) -> dict[str, Any]:
    """Figures of a scene and its table. `by_chance`: how often a pixel drawn at random would hit."""
    boxes = {(view.name, prompt): np.any(masks, axis=0) for view in views for prompt, masks in view.boxes.items()}
    asked = [row for row in scores.table if "hit" in row]
    chance = [boxes[row["frame"], row["prompt"]].mean() for row in asked]
    return {
        "localization": scores.summary.get("language_localization"),
        "by_chance": float(np.mean(chance)) if chance else None,
        "units_scored": len(asked),
        "units": len(scores.table),
        "prompts_scored": int(scores.summary["language_prompts_scored"]),
        "prompts": int(scores.summary["language_prompts_total"]),
        "boxes": sum(len(masks) for view in views for masks in view.boxes.values()),
        "table": [{key: row[key] for key in SHOWN if key in row} for row in scores.table],
    }


def together(scenes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All scenes: over their units, and as the mean of the scenes, which is what papers print."""
    hits = [row["hit"] for scene in scenes for row in scene["table"] if "hit" in row]
    means = [scene["localization"] for scene in scenes if scene["localization"] is not None]
    weights = [(scene["by_chance"], scene["units_scored"]) for scene in scenes if scene["by_chance"] is not None]
    return {
        "localization_over_units": float(np.mean(hits)) if hits else None,
        "localization_over_scenes": float(np.mean(means)) if means else None,
        "by_chance": sum(share * units for share, units in weights) / sum(units for _, units in weights)
        if weights
        else None,
        **{key: sum(scene[key] for scene in scenes) for key in ("units_scored", "units", "boxes")},
    }


def _load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    start(LerfBoxes)
