"""Where the automatic threshold should lie: mean IoU for several shares of the peak's height.

python -m benchmarks.auto_fraction --scene desk,mobile-sam,open_clip --run lang-splat-demo/.../config.yml --out F.json

`language.relevancy.AUTO_FRACTION` is settled by this, once, for all methods and scenes. A scene is a data set's folder
with labels, a segmenter and an encoder, which answer as in `oracle_2d`; a run is a trained one, which answers in 3D.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.oracle_2d import labelled_photos
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.evaluation.evaluator import UnitAnswer, evaluate
from lang_splat_ns.evaluation.metrics import iou
from lang_splat_ns.evaluation.oracle import OracleField
from lang_splat_ns.files import write_text
from lang_splat_ns.language.relevancy import auto_threshold
from lang_splat_ns.perception.encoders import make_encoder
from lang_splat_ns.perception.extract import extract, read, read_label_maps
from lang_splat_ns.perception.feature_store import open_store
from lang_splat_ns.perception.segmenters import make_segmenter
from lang_splat_ns.plugin.runs import open_run

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def miou(score: Callable[[Callable[[UnitAnswer], None]], object]) -> dict[str, float]:
    """Mean IoU over (labelled photo, prompt in it) for every fraction; `score` runs an evaluation with a callback."""
    scores: dict[float, list[float]] = {fraction: [] for fraction in FRACTIONS}

    def keep(answer: UnitAnswer) -> None:
        if answer.truth is not None:
            for fraction in FRACTIONS:
                found = answer.relevancy > auto_threshold(float(answer.relevancy.max()), fraction)
                scores[fraction].append(iou(found, answer.truth))

    score(keep)
    return {str(fraction): round(float(np.mean(values)), 4) for fraction, values in scores.items()}


def scene_miou(data: Path, segmenter_name: str, encoder_name: str, points: int, cache: Path | None) -> dict[str, float]:
    """Mean IoU of the 2D oracle, for every fraction."""
    _, pairs = labelled_photos(data)
    segmenter = make_segmenter(segmenter_name, points_per_side=points)
    encoder, store = make_encoder(encoder_name), open_store(data, cache)
    photos = [photo for _, photo in pairs]
    extract(photos, segmenter, encoder, store)
    ids = segmenter.segmenter_id, encoder.encoder_id
    levels = read_label_maps(photos[0], segmenter.segmenter_id, store).levels
    field = OracleField(encoder, levels, lambda photo: read(photo, *ids, store))
    return miou(lambda keep: evaluate(field, [frame for frame, _ in pairs], [], on_answer=keep))


def run_miou(config: Path) -> tuple[str, dict[str, float]]:
    """A trained run's data set and method, and its mean IoU for every fraction."""
    run = open_run(config)
    name = f"{Path(run.config.pipeline.datamanager.data).name}, {run.config.method_name}"
    return name, miou(lambda keep: run.pipeline.evaluate_language(on_answer=keep))


def main() -> None:
    """Measure every scene, show, write JSON if asked."""
    parser = argparse.ArgumentParser(description="Compare shares of the peak for the automatic threshold.")
    parser.add_argument("--scene", action="append", default=[], help="FOLDER,SEGMENTER,ENCODER; may be repeated")
    parser.add_argument("--run", action="append", type=Path, default=[], help="config.yml of a run; may be repeated")
    parser.add_argument("--points", type=int, default=16, help="point grid of the SAM family")
    parser.add_argument("--cache-dir", type=Path, help="feature cache; by default as in training")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    table = {}
    for scene in arguments.scene:
        folder, segmenter, encoder = scene.split(",")
        name = f"{Path(folder).resolve().name}, {segmenter}, {encoder}"
        table[name] = scene_miou(Path(folder), segmenter, encoder, arguments.points, arguments.cache_dir)
        CONSOLE.print(name, table[name])
    for config in arguments.run:
        name, row = run_miou(config)
        table[name] = row
        CONSOLE.print(name, table[name])
    mean = {str(f): round(float(np.mean([row[str(f)] for row in table.values()])), 4) for f in FRACTIONS}
    CONSOLE.print("mean", mean)
    if arguments.out is not None:
        content = {"points_per_side": arguments.points, "language_miou": table, "mean": mean}
        write_text(arguments.out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
