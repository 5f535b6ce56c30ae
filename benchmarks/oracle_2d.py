"""Scores a segmenter and an encoder on the labelled photos themselves, without any 3D: the ceiling for every method.

python -m benchmarks.oracle_2d --data DATA --segmenter mobile-sam --encoder open_clip --out oracle.json
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from benchmarks.command import start
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.evaluator import LabelledFrame, UnitAnswer, evaluate
from lang_splat_ns.evaluation.oracle import OracleField, shrink
from lang_splat_ns.evaluation.pictures import UnitPictures, unit_pictures
from lang_splat_ns.evaluation.report import RunReport, write_report
from lang_splat_ns.evaluation.scores import LanguageScores
from lang_splat_ns.files import write_text
from lang_splat_ns.language.field import Level
from lang_splat_ns.language.relevancy import Threshold
from lang_splat_ns.perception.encoders import DEFAULT_ENCODER, make_encoder
from lang_splat_ns.perception.extract import Frame, extract, read, read_label_maps
from lang_splat_ns.perception.feature_store import open_store
from lang_splat_ns.perception.segmenters import default_segmenter, make_segmenter
from lang_splat_ns.plugin.datamanager import SplatDataManagerConfig
from lang_splat_ns.plugin.frame_features import make_frames
from lang_splat_ns.plugin.labelled_frames import labelled_frames, scene_labels
from lang_splat_ns.scenes.labels import PromptLanguage, SceneLabels


@dataclass
class Oracle2D:
    """Score a segmenter and an encoder on the labelled photos themselves, without any 3D."""

    data: Path
    """Data set folder in nerfstudio's format, with a folder `label`."""
    segmenter: str | None = None
    """Name of the segmenter; by default the device's."""
    encoder: str = DEFAULT_ENCODER
    """Name of the encoder."""
    crops: str | None = None
    """How masks are cut out for the encoder, for example black+context:0.5."""
    prompt_templates: Literal["phrase", "ensemble"] | None = None
    """What prompts are put into before they are embedded."""
    points_per_side: int | None = None
    """Point grid of the SAM family."""
    downscale: float = 1.0
    """Make photos and labels smaller by this factor first."""
    level: Level = "auto"
    """Level that answers: auto, or a name."""
    threshold: Threshold = "auto"
    """Relevancy that a pixel must exceed: auto, or a number in 0..1."""
    prompt_language: PromptLanguage = "en"
    """Ask the labels' own prompts, or their Chinese translations."""
    cache_dir: Path | None = None
    """Where label maps and embeddings are kept; by default as in training."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the networks run."""
    out: Path | None = None
    """Write scores and facts to this JSON file."""
    report: Path | None = None
    """Write an HTML page with pictures to this file."""

    def main(self) -> LanguageScores:
        """Extract what is missing, evaluate, print and write; returns the scores."""
        labels, pairs = labelled_photos(self.data, self.downscale)
        segmenter_name = self.segmenter or default_segmenter(self.device)
        segmenter = make_segmenter(segmenter_name, device=self.device, points_per_side=self.points_per_side)
        encoder = make_encoder(self.encoder, device=self.device, crops=self.crops, templates=self.prompt_templates)
        store = open_store(self.data, self.cache_dir)
        photos = [photo for _, photo in pairs]
        start = time.perf_counter()
        extract(photos, segmenter, encoder, store)
        extraction_seconds = time.perf_counter() - start

        levels = read_label_maps(photos[0], segmenter.segmenter_id, store).levels
        field = OracleField(
            encoder, levels, lambda photo: read(photo, segmenter.segmenter_id, encoder.encoder_id, store)
        )
        pictures: list[UnitPictures] = []
        scores = evaluate(
            field,
            [frame for frame, _ in pairs],
            labels.absent,
            level=self.level,
            threshold=self.threshold,
            translations=labels.in_language(self.prompt_language, self.data),
            on_answer=(lambda answer: pictures.append(_picture(answer))) if self.report else None,
        )
        facts: dict[str, Any] = {
            "protocol": "2D oracle: labelled photos, no 3D",
            "data": self.data.resolve().name,
            "segmenter": segmenter.segmenter_id,
            "encoder": encoder.encoder_id,
            "frames": len(photos),
            "downscale": self.downscale,
            "level": self.level,
            "threshold": self.threshold,
            "prompt language": self.prompt_language,
            "prompt templates": self.prompt_templates or "phrase",
            "device": self.device,
            "extraction seconds (0 where cached)": round(extraction_seconds, 1),
        }
        self._publish(scores, facts, pictures)
        return scores

    def _publish(self, scores: LanguageScores, facts: dict[str, Any], pictures: list[UnitPictures]) -> None:
        for key, value in scores.summary.items():
            CONSOLE.print(f"{key:36s} {value:.4f}")
        if self.out is not None:
            content = {"facts": facts, **json.loads(scores.to_json())}
            write_text(self.out, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        if self.report is not None:
            report = RunReport("2D oracle", scores, pictures, facts=facts)
            write_report(self.report, f"2D oracle on {facts['data']}", [report])
            CONSOLE.print(f"Report: {self.report}")


def labelled_photos(data: Path, downscale: float = 1.0) -> tuple[SceneLabels, list[tuple[LabelledFrame, Frame]]]:
    """The evaluation photos that have labels, each with its labels at the same size, both undistorted.

    Raises:
        UserError: the data set has no labels, or none of its evaluation photos is labelled.
    """
    if not (data / "transforms.json").is_file():
        raise UserError(f"{data} is no nerfstudio data set: it has no transforms.json.")
    # Downscale factor 1 keeps the parser from choosing smaller copies of the photos by itself.
    parser = NerfstudioDataParserConfig(data=data, downscale_factor=1, load_3D_points=False)
    manager = SplatDataManagerConfig(data=data, dataparser=parser).setup(device="cpu", test_mode="val")
    labels = scene_labels(manager)
    if labels is None:
        raise UserError(f"{data} has no folder 'label', so there is nothing to compare with.")
    outputs = manager.eval_dataset._dataparser_outputs
    photos = {photo.name: photo for photo in make_frames(outputs.image_filenames, outputs.cameras)}
    frames = labelled_frames(manager, labels)
    if not frames:
        raise UserError(f"No evaluation photo of {data} has a label file of the same name.")
    return labels, [shrink(frame, photos[frame.name], downscale) for frame in frames]


def _picture(answer: UnitAnswer) -> UnitPictures:
    return unit_pictures(answer, answer.frame.camera.load().astype(np.float32) / 255)


if __name__ == "__main__":
    start(Oracle2D)
