"""What a report tells of one finished run: scores with pictures, speed, sizes, and how it came about."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib import metadata
from statistics import median
from typing import Any

import torch
from rich.filesize import decimal

from lang_splat_ns.console import duration
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.evaluator import UnitAnswer
from lang_splat_ns.evaluation.pictures import UnitPictures, unit_pictures
from lang_splat_ns.evaluation.protocols import PROTOCOLS
from lang_splat_ns.evaluation.report import RunReport
from lang_splat_ns.evaluation.scores import LanguageScores
from lang_splat_ns.language.field import Query
from lang_splat_ns.machine import commit, facts_of_machine
from lang_splat_ns.plugin import checkpoints
from lang_splat_ns.plugin.labelled_frames import data_folder
from lang_splat_ns.plugin.runs import Run
from lang_splat_ns.plugin.training_time import training_seconds

PICTURE_SIDE = 480
"""Longest side in pixels: two pictures beside each other fill a phone at its own resolution."""
ASKED_AGAIN, ASKING_SECONDS = 5, 10.0
"""A query is timed this often, or as often as fits into so many seconds."""
_IMAGE_METRICS = {"psnr": "PSNR in dB", "ssim": "SSIM", "lpips": "LPIPS"}


def report_on(run: Run, name: str, image_metrics: Mapping[str, float], max_side: int = PICTURE_SIDE) -> RunReport:
    """Score a run by the protocol `held-out`, and collect what a report shows of it.

    Args:
        run: the run.
        name: what the report calls it.
        image_metrics: what `run.pipeline.image_metrics` gave, or nothing.
        max_side: longest side of the pictures in pixels.

    Raises:
        UserError: there are no labels beside the run's data, or none of its evaluation photos is labelled.
    """
    manager = run.pipeline.datamanager
    index = {path.name: number for number, path in enumerate(manager.eval_dataset.image_filenames)}
    pictures: list[UnitPictures] = []

    def keep(answer: UnitAnswer) -> None:
        photo = manager.eval_photo(index[answer.frame.name]).numpy()
        pictures.append(unit_pictures(answer, photo, max_side))

    scores = run.pipeline.evaluate_language(on_answer=keep, protocol=PROTOCOLS["held-out"])
    if scores is None:
        raise UserError(f"{data_folder(manager)}: no labelled evaluation photo, so there is nothing to score.")
    return RunReport(name, scores, pictures, _figures(run, scores, image_metrics), facts_of(run, scores))


def query_seconds(run: Run, text: str) -> float:
    """Median seconds from one prompt, whose embedding is known, to its relevancy in one evaluation photo."""
    field, camera = run.pipeline.model.language_field(), run.pipeline.datamanager.eval_camera_copy()[0:1]
    taken: list[float] = []
    with torch.no_grad():
        while len(taken) <= ASKED_AGAIN and sum(taken) < ASKING_SECONDS:
            start = time.perf_counter()
            # Copying to the CPU waits for a GPU to be done.
            field.relevancy(camera, Query((text,))).values.cpu()
            taken.append(time.perf_counter() - start)
    # The first one may still compile or fill a cache.
    return median(taken[1:] or taken)


def facts_of(run: Run, scores: LanguageScores) -> dict[str, Any]:
    """How a run's scores came about, by the name to show."""
    config, manager = run.config, run.pipeline.datamanager
    machine = facts_of_machine()
    source = config.pipeline.datamanager
    trained = {path.resolve() for path in manager.train_dataset.image_filenames}
    held_out = [path for path in manager.eval_dataset.image_filenames if path.resolve() not in trained]
    labelled = dict.fromkeys(row["frame"] for row in scores.table)
    unseen = {path.name for path in held_out} & labelled.keys()
    segmenter = getattr(source, "segmenter", None) or "the device's default"
    return {
        "run": str(run.checkpoint.parent.parent / "config.yml"),
        "method": config.method_name,
        "checkpoint": f"step {checkpoints.steps(run.checkpoint.parent)[0]}",
        "scene": data_folder(manager).resolve().name,
        "photos trained on": len(trained),
        "labelled photos": f"{', '.join(labelled)} ({len(unseen)} of {len(labelled)} unseen in training)",
        "size of photos": f"{source.camera_res_scale_factor:g} of the files'",
        "segmenter": segmenter if hasattr(source, "segmenter") else "none, tiles of the photos",
        "encoder": run.pipeline.model.language_field().encoder.encoder_id,
        "protocol": "held-out",
        "prompts asked in": source.prompt_language,
        "scored on": _in_words(machine["machine"]),
        "lang-splat-ns": " ".join(filter(None, (metadata.version("lang-splat-ns"), commit()))),
        "versions": ", ".join(f"{package} {version}" for package, version in machine["versions"].items()),
    }


def _in_words(machine: Mapping[str, Any]) -> str:
    cores = f"{machine['processor']}, {machine['cores']} cores"
    # What else the machine did makes queries slower, and readers ought to know.
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (f"{machine['gpu']}, {cores}" if "gpu" in machine else cores) + load


def _figures(run: Run, scores: LanguageScores, image_metrics: Mapping[str, float]) -> dict[str, Any]:
    model, asked = run.pipeline.model, [row["text"] for row in scores.table if row["scored"]]
    figures: dict[str, Any] = {
        name: round(image_metrics[key], 3) for key, name in _IMAGE_METRICS.items() if key in image_metrics
    }
    if asked:
        figures["one question about one photo"] = duration(query_seconds(run, asked[0]))
    if (seconds := training_seconds(run.checkpoint.parent.parent)) is not None:
        figures["training"] = duration(seconds)
    if hasattr(model, "num_points"):
        figures["Gaussians"] = int(model.num_points)
    tensors = (value for value in model.state_dict().values() if isinstance(value, torch.Tensor))
    figures["numbers in the model"] = sum(tensor.numel() for tensor in tensors)
    figures["checkpoint, with what a resume needs"] = decimal(run.checkpoint.stat().st_size)
    return figures
