"""What each choice of langsplat-lift is worth: one changed at a time, on trained and labelled runs.

python -m benchmarks.ablations --run demo=RUN/config.yml --run desk=RUN/config.yml

A run of `langsplat` or `langsplat-lift` gives geometry, masks and embeddings; votes are counted once per scene. Ways
to lift, and scores by features in place of scalars, are compared by `lift_variants`. How a mask is cut out for its
encoder (`--pipeline.datamanager.crops`) matters to CLIP alone, so that it takes runs with its weights to compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.lift_variants import RawField, Scene, open_scene, score
from benchmarks.named_runs import measure_runs
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.langsplat_lift.field import LiftedField
from lang_splat_ns.language.codebook import Codebook
from lang_splat_ns.language.compression import compress
from lang_splat_ns.language.consensus import ConsensusSettings
from lang_splat_ns.language.features import Features
from lang_splat_ns.language.lifting import LiftSettings, lift

RESULTS = Path(__file__).parent / "results" / "ablations.json"
OURS = ConsensusSettings()
CONSENSUS: dict[str, dict[str, ConsensusSettings]] = {
    "objects per Gaussian": {"1": replace(OURS, places=1), "8": replace(OURS, places=8)},
    "weight of a Gaussian's main object": {"as its votes": replace(OURS, sharpness=1.0)},
    "pixels in no mask": {"ignored": replace(OURS, silence=0.0), "count fully": replace(OURS, silence=1.0)},
    "objects of few views": {"believed like others": replace(OURS, prior=0.0)},
    "views that agree": {"half": replace(OURS, agreement=0.5), "nine of ten": replace(OURS, agreement=0.9)},
    "faint glimpses": {"count": replace(OURS, glimpse=0.0)},
    "masks that others contradict": {"count": replace(OURS, consistent=0.0)},
}
"""By the choice: other values than ours."""
SIZES = (16, 64, 256, 1024)
"""Entries of a codebook of averaged features; objects have as many as there are objects."""

Scores = dict[str, float]


def measure(config: Path) -> Iterator[dict[str, dict[str, Scores]]]:
    """Scores by choice and variant; ours is the choice ""."""
    found: dict[str, dict[str, Scores]] = {}
    for choice, variant, scores in _variants(open_scene(config)):
        CONSOLE.print(f"{choice or 'ours'}: {variant}", markup=False)
        kept = ("language_miou", "language_localization", "language_miou_3d")
        found.setdefault(choice, {})[variant] = {key: scores[key] for key in kept if key in scores}
        yield found


def _variants(scene: Scene) -> Iterator[tuple[str, str, Scores]]:
    """(choice, variant, scores) of everything that is tried on a scene."""
    books = _objects(scene, OURS)
    ours = score(scene, scene.field(LiftedField, books, "scalar"))
    yield "", "ours", ours
    for level in scene.source.levels:
        yield "level", f"always {level}", {"language_miou": ours[f"language_miou_{level}"]}
    yield "what a scene's other objects get", "ignored", score(scene, scene.field(RawField, books, "scalar"))
    for choice, variants in CONSENSUS.items():
        for name, settings in variants.items():
            yield choice, name, score(scene, scene.field(LiftedField, _objects(scene, settings), "scalar"))
    averages = lift(scene.votes, scene.embeddings, LiftSettings("mean"))
    for size in SIZES:
        books = tuple(compress(one, size) for one in averages)
        yield "entries, where features are averaged", str(size), score(scene, scene.field(LiftedField, books, "scalar"))


def _objects(scene: Scene, settings: ConsensusSettings) -> tuple[Codebook, ...]:
    lifted: tuple[Features, ...] = lift(scene.votes, scene.embeddings, LiftSettings(consensus=settings))
    books = tuple(one for one in lifted if isinstance(one, Codebook))
    assert len(books) == len(lifted), "consensus makes codebooks"
    return books


if __name__ == "__main__":
    kind = "langsplat or langsplat-lift"
    measure_runs("Change one choice of langsplat-lift at a time.", kind, RESULTS, measure)
