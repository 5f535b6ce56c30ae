"""Every way to lift and to answer, on trained and labelled runs: accuracy, size and seconds.

python -m benchmarks.lift_variants --run demo=RUN/config.yml --run desk=RUN/config.yml --out lift_variants.json

A run of `langsplat` gives geometry, cameras and the feature cache, so that all rows of a scene differ in nothing but
the lift and the query. Votes are counted once per scene, at the photos' own resolution. In the JSON, per scene: the
scores of `langsplat` itself and of `oracle_2d` from the same cache, and per lift method its seconds, its bytes per
Gaussian, its scores in both query modes with the scene's calibration (`language.calibration`), for `consensus` also
without it, and what the codebook costs: the difference to features that are not compressed (`consensus`: to eight
objects per Gaussian).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import facts_of_machine
from benchmarks.oracle_2d import Oracle2D
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import NotSplatError
from lang_splat_ns.evaluation.evaluator import LabelledFrame, evaluate
from lang_splat_ns.files import write_text
from lang_splat_ns.language.calibration import calibrate, splat_scores
from lang_splat_ns.language.codebook import Codebook, compress, gaussian_scores
from lang_splat_ns.language.consensus import ConsensusSettings
from lang_splat_ns.language.features import Features, dense
from lang_splat_ns.language.field import Query, RelevancyMaps, Selection
from lang_splat_ns.language.lifting import LiftMethod, LiftSettings, lift, stack_embeddings
from lang_splat_ns.language.relevancy import choose_level, relevancy
from lang_splat_ns.language.text import TextCache
from lang_splat_ns.plugin.frame_features import FrameFeatureSource
from lang_splat_ns.plugin.labelled_frames import labelled_frames, scene_labels
from lang_splat_ns.plugin.runs import Run, open_run
from lang_splat_ns.scenes.labels import SceneLabels
from lang_splat_ns.splatting.view_votes import view_votes
from lang_splat_ns.splatting.votes import Votes, accumulate

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

    def draw(self, camera: Any, channels: Tensor) -> Tensor:
        """Blended channels: [N, C] -> [H, W, C]."""
        with torch.no_grad():
            return self.run.pipeline.model.splat(camera, with_color=False, extra=channels.contiguous())[0]


class LiftedField:
    """The `LanguageField` of lifted features in one of the query modes, for measuring.

    Args:
        scene: geometry and encoder.
        levels: features per level.
        mode: "scalar" blends relevancy, "feature" compares blended features.
        codebooks: where the scene's calibration comes from; None leaves relevancy raw.
    """

    def __init__(
        self, scene: Scene, levels: tuple[Features, ...], mode: str, codebooks: tuple[Codebook, ...] | None
    ) -> None:
        self._scene, self._features, self._mode, self._codebooks = scene, levels, mode, codebooks
        self._texts = TextCache(scene.source.encoder)
        self.encoder, self.levels = scene.source.encoder, scene.source.levels
        if mode == "feature":
            self._bases, self._coefficients = zip(*(_in_basis(one) for one in levels), strict=True)

    def relevancy(self, camera: Any, query: Query) -> RelevancyMaps:
        """Maps of one view; see `LanguageField.relevancy`."""
        texts = self._texts.embed(query.positives), self._texts.negatives(query.negatives)
        values = self._scalar(camera, *texts) if self._mode == "scalar" else self._feature(camera, *texts)
        return RelevancyMaps(values, choose_level(values, query.level, self.levels), self.levels)

    def select(self, query: Query) -> Selection:
        """Not compared here."""
        raise NotSplatError("the comparison is about maps; lang-splat eval scores selections")

    def silhouettes(self, camera: Any, masks: Tensor) -> Tensor:
        """Not compared here."""
        raise NotSplatError("the comparison is about maps; lang-splat eval scores selections")

    def _scalar(self, camera: Any, positives: Tensor, negatives: Tensor) -> Tensor:
        answer = gaussian_scores if self._codebooks is None else splat_scores
        scores = answer(self._features, positives, negatives, self._texts.temperature)  # pyright: ignore[reportArgumentType]
        image = self._scene.draw(camera, scores.flatten(0, 1).T)
        return image.permute(2, 0, 1).reshape(*scores.shape[:2], *image.shape[:2])

    def _feature(self, camera: Any, positives: Tensor, negatives: Tensor) -> Tensor:
        temperature, maps = self._texts.temperature, []
        blended = self._scene.draw(camera, torch.cat(self._coefficients, dim=1))
        sizes = [part.shape[1] for part in self._coefficients]
        for basis, image in zip(self._bases, blended.split(sizes, dim=-1), strict=True):
            hit = image.norm(dim=-1, keepdim=True) > 1e-4
            rows = F.normalize(image, dim=-1) * hit
            maps.append(relevancy(rows, positives @ basis.T, negatives @ basis.T, temperature))
        values = torch.stack(maps, dim=1)
        return (
            values if self._codebooks is None else calibrate(self._codebooks, positives, negatives, temperature)(values)
        )


def _in_basis(features: Features) -> tuple[Tensor, Tensor]:
    """An orthonormal basis [R, D] and unit coefficients [N, R] of features; blending and cosines are the same in it."""
    rows = dense(features)
    sample = features.entries if isinstance(features, Codebook) else rows[:: max(1, len(rows) // 8192)]
    _, sizes, directions = torch.linalg.svd(sample, full_matrices=False)
    basis = directions[: min(int((sizes > 1e-4 * sizes[0]).sum()), RANK)]
    return basis, F.normalize(rows @ basis.T, dim=-1)


def open_scene(config: Path) -> Scene:
    """Load a run, count votes, read embeddings."""
    run = open_run(config)
    manager, source = run.pipeline.datamanager, run.pipeline.datamanager.features
    labels = scene_labels(manager)
    assert labels is not None, "only labelled scenes can be compared"
    start = time.perf_counter()
    votes = count_votes(run, source)
    seconds = time.perf_counter() - start
    embeddings = stack_embeddings(votes, source.embeddings)
    return Scene(run, source, labels, labelled_frames(manager, labels), votes, seconds, embeddings)


def count_votes(run: Run, source: FrameFeatureSource) -> Votes:
    """Votes of all training views, at the photos' own resolution."""
    model = run.pipeline.model
    cameras = run.pipeline.datamanager.train_camera_copy()
    chosen = {name: tensor.detach() for name, tensor in model.gaussians().tensors().items()}
    geometry = chosen["means"], chosen["quats"], chosen["scales"].exp(), chosen["opacities"].sigmoid().squeeze(-1)

    def stream():
        for view in range(len(cameras)):
            viewmat, intrinsics, width, height = model._view(cameras[view : view + 1])
            labels = torch.from_numpy(source._label_maps(view).labels).int().contiguous()
            rows, columns = labels.shape[-2:]
            scale = intrinsics.new_tensor([[columns / width], [rows / height], [1.0]])
            counts = [len(level) for level in source.embeddings(view)]
            mode = model.config.rasterize_mode
            yield view, view_votes(*geometry, viewmat.detach(), intrinsics * scale, labels, counts, rasterize_mode=mode)

    return accumulate(stream())


def measure(scene: Scene, method: LiftMethod) -> dict[str, Any]:
    """All query modes of one lift method."""
    start = time.perf_counter()
    features = lift(scene.votes, scene.embeddings, LiftSettings(method))
    books = tuple(one if isinstance(one, Codebook) else compress(one) for one in features)
    seconds = time.perf_counter() - start
    if method == "consensus":
        features = lift(scene.votes, scene.embeddings, LiftSettings(consensus=ConsensusSettings(places=8)))
    variants: dict[str, tuple[Any, str, Any]] = {
        "scalar": (books, "scalar", books),
        "feature": (books, "feature", books),
        "feature, uncompressed": (features, "feature", books),
    }
    if method == "consensus":
        variants |= {"scalar, raw": (books, "scalar", None), "feature, raw": (books, "feature", None)}
    scores = {name: score(scene, LiftedField(scene, *variant)) for name, variant in variants.items()}
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
    result = _rounded(evaluate(field, scene.frames, scene.labels.absent).summary)  # pyright: ignore[reportArgumentType]
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


def measure_scene(config: Path, found: dict[str, Any], publish: Callable[[], None]) -> None:
    """Everything about one run, into `found`; `publish` is called after each method, since a scene takes minutes."""
    scene = open_scene(config)
    trained = scene.run.pipeline.evaluate_language()
    assert trained is not None, "the labels have been found before"
    found |= {
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
        publish()


def main() -> None:
    """Measure every run, write JSON after each method."""
    parser = argparse.ArgumentParser(description="Compare lift methods and query modes on trained, labelled runs.")
    parser.add_argument("--run", action="append", required=True, help="NAME=config.yml of a langsplat run; repeatable")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    content: dict[str, Any] = {"facts": facts_of_machine(), "scenes": {}}
    for named in arguments.run:
        name, _, config = named.partition("=")
        CONSOLE.print(f"Scene {name}", markup=False)
        found = content["scenes"].setdefault(name, {})
        measure_scene(Path(config), found, lambda: write_text(arguments.out, json.dumps(content, indent=2) + "\n"))


if __name__ == "__main__":
    main()
