"""Every way to lift and to answer, on trained and labelled runs: accuracy, size and seconds.

python -m benchmarks.lift_variants --run demo=RUN/config.yml --run desk=RUN/config.yml

A run of `langsplat` gives geometry, cameras and the feature cache, so that all rows of a scene differ in nothing but
the lift and the query. Votes are counted once per scene, at the photos' own resolution. In the JSON, per scene: the
scores of `langsplat` itself and of `oracle_2d` from the same cache, and per lift method its seconds, its bytes per
Gaussian, its scores in both query modes with the scene's calibration (`language.calibration`), for `consensus` also
without it, and what the codebook costs: the difference to features that are not compressed (`consensus`: to eight
objects per Gaussian).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.named_runs import measure_runs
from benchmarks.oracle_2d import Oracle2D
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.evaluation.evaluator import LabelledFrame, evaluate
from lang_splat_ns.langsplat_lift.counting import count_here
from lang_splat_ns.langsplat_lift.field import LiftedField
from lang_splat_ns.langsplat_lift.lift import prepare_counting
from lang_splat_ns.language.codebook import Codebook, gaussian_scores
from lang_splat_ns.language.compression import compress
from lang_splat_ns.language.consensus import ConsensusSettings
from lang_splat_ns.language.features import Features, dense
from lang_splat_ns.language.field import Query, QueryMode
from lang_splat_ns.language.lifting import LiftMethod, LiftSettings, lift, stack_embeddings
from lang_splat_ns.plugin.frame_features import FrameFeatureSource
from lang_splat_ns.plugin.labelled_frames import labelled_frames, scene_labels
from lang_splat_ns.plugin.runs import Run, open_run
from lang_splat_ns.scenes.labels import SceneLabels
from lang_splat_ns.splatting.votes import Votes

RESULTS = Path(__file__).parent / "results" / "lift_variants.json"
METHODS: tuple[LiftMethod, ...] = ("consensus", "gated-median", "mean")
RANK = 96
"""Dimensions in which features are blended; what a scene's features span beyond them is less than its noise."""


@dataclass
class Scene:
    """What all variants of one run share."""

    run: Run
    source: FrameFeatureSource
    labels: SceneLabels
    frames: list[LabelledFrame]
    votes: Votes
    vote_seconds: float
    embeddings: tuple[Tensor, ...]

    def field(self, kind: type[LiftedField], codebooks: tuple[Codebook, ...], mode: QueryMode) -> LiftedField:
        """A field of this scene's Gaussians."""
        return kind(self.run.pipeline.model, codebooks, self.source.levels, mode)


class RawField(LiftedField):
    """The method's field without the scene's calibration."""

    def scores(self, query: Query) -> Tensor:
        """Raw relevancy of every Gaussian: [Q, L, N]."""
        return gaussian_scores(self._codebooks, *self._embedded(query), self._model.texts().temperature)

    def _calibrated(self, raw: Tensor, query: Query) -> Tensor:
        return raw


def uncompressed(levels: tuple[Features, ...]) -> type[LiftedField]:
    """The method's field whose mode `feature` blends features that no codebook has touched."""

    class UncompressedField(LiftedField):
        def _coordinates(self, level: int) -> tuple[Tensor, Tensor]:
            if level not in known:
                known[level] = _in_basis(levels[level])
            return known[level]

    known: dict[int, tuple[Tensor, Tensor]] = {}
    return UncompressedField


def _in_basis(features: Features) -> tuple[Tensor, Tensor]:
    """Unit coefficients [N, R] of features in an orthonormal basis [R, D]; blending and cosines are the same in it."""
    rows = dense(features)
    sample = features.entries if isinstance(features, Codebook) else rows[:: max(1, len(rows) // 8192)]
    _, sizes, directions = torch.linalg.svd(sample, full_matrices=False)
    basis = directions[: min(int((sizes > 1e-4 * sizes[0]).sum()), RANK)]
    return F.normalize(rows @ basis.T, dim=-1), basis


def open_scene(config: Path) -> Scene:
    """Load a run, count votes, read embeddings."""
    run = open_run(config)
    manager, source = run.pipeline.datamanager, run.pipeline.datamanager.features
    labels = scene_labels(manager)
    assert labels is not None, "only labelled scenes can be compared"
    start = time.perf_counter()
    cameras = manager.train_camera_copy()
    cameras.rescale_output_resolution(1 / manager.config.camera_res_scale_factor)
    votes = count_here(prepare_counting(run.pipeline.model, source, cameras, top_k=None))
    seconds = time.perf_counter() - start
    embeddings = stack_embeddings(votes, source.embeddings)
    return Scene(run, source, labels, labelled_frames(manager, labels), votes, seconds, embeddings)


def measure(scene: Scene, method: LiftMethod) -> dict[str, Any]:
    """All query modes of one lift method."""
    start = time.perf_counter()
    features = lift(scene.votes, scene.embeddings, LiftSettings(method))
    books = tuple(one if isinstance(one, Codebook) else compress(one) for one in features)
    seconds = time.perf_counter() - start
    if method == "consensus":
        features = lift(scene.votes, scene.embeddings, LiftSettings(consensus=ConsensusSettings(places=8)))
    variants: dict[str, tuple[type[LiftedField], QueryMode]] = {
        "scalar": (LiftedField, "scalar"),
        "feature": (LiftedField, "feature"),
        "feature, uncompressed": (uncompressed(features), "feature"),
    }
    if method == "consensus":
        variants |= {"scalar, raw": (RawField, "scalar"), "feature, raw": (RawField, "feature")}
    scores = {name: score(scene, scene.field(kind, books, mode)) for name, (kind, mode) in variants.items()}
    loss = scores["feature, uncompressed"]["language_miou"] - scores["feature"]["language_miou"]
    return {
        "lift_seconds": round(seconds, 2),
        "bytes_per_gaussian": sum(book.bytes_per_gaussian for book in books),
        "entries": [len(book.entries) for book in books],
        "codebook_costs_miou": round(loss, 4),
        "scores": scores,
    }


def score(scene: Scene, field: LiftedField) -> dict[str, float]:
    """The public keys for one field."""
    result = _rounded(evaluate(field, scene.frames, scene.labels.absent).summary)
    CONSOLE.print({key: result[key] for key in ("language_miou", "language_localization") if key in result})
    return result


def oracle(run: Run) -> dict[str, float]:
    """Scores of the same masks and encoder on the held-out photos themselves."""
    spec = run.config.pipeline.datamanager
    return _rounded(
        Oracle2D(
            Path(spec.data),
            segmenter=spec.segmenter,
            encoder=spec.encoder,
            crops=spec.crops,
            prompt_templates=spec.prompt_templates,
            points_per_side=spec.points_per_side,
            cache_dir=spec.cache_dir,
        )
        .main()
        .summary
    )


def _rounded(summary: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in summary.items()}


def measure_scene(config: Path) -> Iterator[dict[str, Any]]:
    """Everything about one run, after each method, since a scene takes minutes."""
    scene = open_scene(config)
    trained = scene.run.pipeline.evaluate_language()
    assert trained is not None, "the labels have been found before"
    found: dict[str, Any] = {
        "gaussians": len(scene.votes),
        "training_views": len(scene.votes.views),
        "encoder": scene.source.encoder.encoder_id,
        "votes_seconds": round(scene.vote_seconds, 2),
        "langsplat": _rounded(trained.summary),
        "oracle_2d": oracle(scene.run),
        "lift": {},
    }
    for method in METHODS:
        found["lift"][method] = measure(scene, method)
        yield found


if __name__ == "__main__":
    about = "Compare lift methods and query modes on trained, labelled runs."
    measure_runs(about, "langsplat", RESULTS, measure_scene)
