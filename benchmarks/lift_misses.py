"""Why a lifted scene misses what it misses: each labelled unit, asked of the lift and of what it was made from.

python -m benchmarks.lift_misses --run desk=RUN/config.yml --run redkitchen=RUN/config.yml

Three ceilings tell where a miss comes from, each measured on the labelled photo itself: `masks`, the best of the
segmenter's masks for the label (an encoder that is never wrong); `words`, the label's own masks painted with what the
encoder says of them (a segmenter that is never wrong); and `oracle_2d`, segmenter and encoder together. A unit that
the lift does not localise is put down to the words if the encoder misses it even on the label's own mask, to the
masks if no mask covers half of it, to rivals if the encoder also takes another of the photo's masks for it, and to
the lift otherwise. `gained` and `lost` count units that only the lift, or only `oracle_2d`, localises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.named_runs import measure_runs
from benchmarks.oracle_2d import labelled_photos
from lang_splat_ns.evaluation.evaluator import LabelledFrame, evaluate
from lang_splat_ns.evaluation.metrics import iou
from lang_splat_ns.evaluation.oracle import OracleField
from lang_splat_ns.evaluation.scores import LanguageScores
from lang_splat_ns.perception.extract import Frame, FrameFeatures, extract, read
from lang_splat_ns.perception.segmenters import LabelMaps
from lang_splat_ns.plugin.runs import open_run

RESULTS = Path(__file__).parent / "results" / "lift_misses.json"
Unit = tuple[str, str]


def true_masks(frame: LabelledFrame, photo: Frame, encoder: Any) -> FrameFeatures:
    """A photo's labels as if a segmenter had found them, one layer per prompt, since labels may overlap."""
    names = [prompt for prompt, mask in frame.masks.items() if mask.any()]
    labels = np.stack([np.where(frame.masks[name], 0, -1) for name in names]).astype(np.int32)
    image = photo.load()
    embeddings = tuple(encoder.embed_regions(image, layer, 1) for layer in labels)
    return FrameFeatures(LabelMaps(labels, tuple(names)), embeddings)


def by_unit(scores: LanguageScores) -> dict[Unit, dict[str, Any]]:
    """Rows of what is present and was asked, by frame and prompt."""
    return {(row["frame"], row["prompt"]): row for row in scores.table if row["present"] and row["scored"]}


def ask_true_masks(frames: list[tuple[LabelledFrame, Frame]], encoder: Any) -> dict[Unit, dict[str, Any]]:
    """What the encoder answers on the labels' own masks."""
    found = {}
    for frame, photo in frames:
        features = true_masks(frame, photo, encoder)
        field = OracleField(encoder, features.label_maps.levels, lambda _, features=features: features)
        found |= by_unit(evaluate(field, [frame], []))
    return found


def best_mask(truth: np.ndarray, labels: np.ndarray) -> float:
    """IoU of the best of all masks of all levels with a label."""
    best = 0.0
    for layer in labels:
        for label in np.unique(layer[truth & (layer >= 0)]):
            best = max(best, iou(layer == label, truth))
    return best


def cause(unit: dict[str, Any]) -> str:
    """What a missed localisation is put down to."""
    if unit["hit"]:
        return "found"
    if not unit["words_hit"]:
        return "words"
    if unit["best_mask"] < 0.5:
        return "masks"
    return "lift" if unit["oracle_2d_hit"] else "rivals"


def measure(config: Path) -> Iterator[dict[str, Any]]:
    """All units of one lifted run, and how often each cause applies."""
    run = open_run(config)
    spec, source = run.config.pipeline.datamanager, run.pipeline.datamanager.features
    encoder, segmenter = source.encoder, source.segmenter
    _, frames = labelled_photos(Path(spec.data))
    extract([photo for _, photo in frames], segmenter, encoder, source.store)
    features = {
        frame.name: read(photo, segmenter.segmenter_id, encoder.encoder_id, source.store) for frame, photo in frames
    }
    lifted = run.pipeline.evaluate_language()
    assert lifted is not None, "labelled frames have been found before"
    oracle = OracleField(encoder, source.levels, lambda camera: features[camera])
    asked = [LabelledFrame(frame.name, frame.name, frame.masks, frame.boxes) for frame, _ in frames]
    in_2d, in_words = by_unit(evaluate(oracle, asked, [])), ask_true_masks(frames, encoder)
    masks = {frame.name: frame.masks for frame, _ in frames}
    units = []
    for (name, prompt), row in by_unit(lifted).items():
        flat, words = in_2d[name, prompt], in_words[name, prompt]
        unit = {"frame": name, "prompt": prompt, "iou": row["iou"], "hit": row["hit"]}
        unit |= {"oracle_2d_iou": flat["iou"], "oracle_2d_hit": flat["hit"]}
        unit |= {"words_iou": words["iou"], "words_hit": words["hit"]}
        unit["best_mask"] = best_mask(masks[name][prompt], features[name].label_maps.labels)
        units.append(unit | {"cause": cause(unit)})
    yield {"encoder": encoder.encoder_id, "segmenter": segmenter.segmenter_id, **summary(units), "units": units}


def summary(units: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the units, the lift beside its ceilings."""

    def average(key: str) -> float:
        return round(float(np.mean([unit[key] for unit in units])), 4)

    return {
        "lift": {"miou": average("iou"), "localization": average("hit")},
        "oracle_2d": {"miou": average("oracle_2d_iou"), "localization": average("oracle_2d_hit")},
        "words": {"miou": average("words_iou"), "localization": average("words_hit")},
        "masks": {"miou": average("best_mask")},
        "gained": sum(unit["hit"] and not unit["oracle_2d_hit"] for unit in units),
        "lost": sum(unit["oracle_2d_hit"] and not unit["hit"] for unit in units),
        "causes": dict(Counter(unit["cause"] for unit in units)),
    }


if __name__ == "__main__":
    measure_runs("Tell why lifted, labelled runs miss what they miss.", "langsplat-lift", RESULTS, measure)
