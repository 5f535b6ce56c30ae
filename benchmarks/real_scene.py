"""Trains langsplat on a data set with labels, the way the README does without a GPU, and scores it beside its ceiling.

python -m benchmarks.real_scene --data DATA --segmenter mobile-sam --encoder open_clip --out real_scene.json

What is in the JSON: held-out image quality and the PSNR that a photo's own mean colour would reach, the language scores
of `ns-eval`, the scores of the same masks and encoder on the held-out photos themselves (`oracle_2d`), and how long
each part took.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.machine import facts_of_machine
from benchmarks.oracle_2d import Oracle2D
from lang_splat_ns.console import CONSOLE, ERROR_CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.report import write_report
from lang_splat_ns.files import write_text
from lang_splat_ns.perception.encoders import DEFAULT_ENCODER
from lang_splat_ns.plugin.run_report import report_on
from lang_splat_ns.plugin.runs import Run, open_run
from lang_splat_ns.profiles import shorten


@dataclass
class RealScene:
    """Train langsplat on labelled photos and score it beside the 2D ceiling of its masks and encoder."""

    data: Path
    """Data set folder in nerfstudio's format, with a folder `label`."""
    work: Path = Path("real-scene")
    """Folder for the run, the report and, unless cache_dir says otherwise, the feature cache."""
    segmenter: str = "mobile-sam"
    """Name of the segmenter."""
    encoder: str = DEFAULT_ENCODER
    """Name of the encoder."""
    points_per_side: int = 16
    """Point grid of the SAM family."""
    geometry_steps: int = 1800
    """Steps for colour and geometry."""
    language_steps: int = 600
    """Steps for language."""
    scale: float = 0.5
    """Training resolution as a share of the photos'."""
    cache_dir: Path | None = None
    """Feature cache; what is in it already is not computed, and its time is missing from the JSON."""
    out: Path | None = None
    """Write everything to this JSON file."""

    def main(self) -> None:
        """Look at the photos, train, evaluate, compare, write."""
        cache = self.cache_dir or self.work / "cache"
        seconds: dict[str, float] = {}
        config = self._config(cache)
        start = time.perf_counter()
        config.pipeline.datamanager.setup(device="cpu", test_mode="val").features.prepare()
        seconds["perception"] = time.perf_counter() - start
        start = time.perf_counter()
        run = open_run(_train(config))
        seconds["training"] = time.perf_counter() - start
        start = time.perf_counter()
        image_metrics = run.pipeline.image_metrics()
        report = report_on(run, "langsplat", image_metrics)
        seconds["evaluation"] = time.perf_counter() - start
        image_metrics["psnr_of_mean_colour"] = mean_colour_psnr(run)
        content = {
            "facts": self._facts(run) | {"seconds": {name: round(value, 1) for name, value in seconds.items()}},
            "results": image_metrics | report.scores.summary,
            "oracle_2d": self._oracle(cache),
        }
        scene = self.data.resolve().name
        write_report(self.work / "report.html", f"langsplat on {scene}", [report])
        self._publish(content)

    def _config(self, cache: Path) -> Any:
        from lang_splat_ns.specs import langsplat

        config: Any = copy.deepcopy(langsplat.config)
        shorten(config, self.geometry_steps, self.language_steps)
        config.output_dir, config.experiment_name, config.vis = self.work / "outputs", "real-scene", "tensorboard"
        config.steps_per_eval_image = config.steps_per_eval_all_images = config.max_num_iterations + 1
        manager = config.pipeline.datamanager
        manager.data, manager.encoder, manager.segmenter = self.data, self.encoder, self.segmenter
        manager.points_per_side, manager.cache_dir = self.points_per_side, cache
        manager.camera_res_scale_factor = self.scale
        return config

    def _facts(self, run: Run) -> dict[str, Any]:
        source = run.config.pipeline.datamanager
        manager = run.pipeline.datamanager
        return facts_of_machine() | {
            "data": self.data.resolve().name,
            "training_photos": len(manager.train_dataset),
            "held_out_photos": len(manager.eval_dataset),
            "segmenter": self.segmenter,
            "points_per_side": source.points_per_side,
            "encoder": run.pipeline.model.language_field().encoder.encoder_id,
            "geometry_steps": self.geometry_steps,
            "language_steps": self.language_steps,
            "scale": self.scale,
            "gaussians": run.pipeline.model.num_points,
        }

    def _oracle(self, cache: Path) -> dict[str, float]:
        oracle = Oracle2D(
            self.data,
            segmenter=self.segmenter,
            encoder=self.encoder,
            points_per_side=self.points_per_side,
            cache_dir=cache,
            device="cpu",
        )
        return oracle.main().summary

    def _publish(self, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2) + "\n"
        CONSOLE.print(text, markup=False)
        if self.out is not None:
            write_text(self.out, text)


def _train(config: Any) -> Path:
    from nerfstudio.scripts.train import main as train

    train(config)
    return config.get_base_dir() / "config.yml"


def mean_colour_psnr(run: Run) -> float:
    """Mean PSNR in dB of the held-out photos against images of nothing but their own mean colour."""
    values = []
    for batch in run.pipeline.datamanager.cached_eval:
        photo = batch["image"][..., :3].float() / 255.0
        error = (photo - photo.mean(dim=(0, 1))).square().mean()
        values.append(float(-10 * torch.log10(error)))
    return float(np.mean(values))


if __name__ == "__main__":
    try:
        tyro.cli(RealScene).main()
    except UserError as error:
        ERROR_CONSOLE.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)
