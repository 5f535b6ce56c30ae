"""LERF without a GPU, from photos to scores: trains with the preset `cpu`, scores, and times queries.

    python -m benchmarks.lerf lerf-lite --data lang-splat-demo/scene --encoder colour-words
    python -m benchmarks.lerf lerf-splat --data scene --init-from RUN/config.yml
    python -m benchmarks.lerf --load-config RUN/config.yml         # a finished run of any method, to compare with

Each call writes one entry, named by its scene and its method, into the JSON. Where cores are shared the clock on the
wall says little, so that processor time stands beside it.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from benchmarks.command import start
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.text import refused_texts
from lang_splat_ns.machine import facts_of_machine
from lang_splat_ns.perception.encoders import DEFAULT_ENCODER
from lang_splat_ns.plugin.runs import Run, frame_camera, open_run

RESULTS = Path(__file__).parent / "results" / "lerf.json"
_QUESTIONS = 5


@dataclass
class Clock:
    """Seconds of named parts, on the wall and of the processor (this process, its threads and its children)."""

    seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        wall, spent = time.perf_counter(), _processor_seconds()
        yield
        self.seconds[name] = {
            "wall": round(time.perf_counter() - wall, 2),
            "processor": round(_processor_seconds() - spent, 2),
        }

    def total(self, *names: str) -> dict[str, float]:
        """Minutes of some parts together."""
        return {kind: round(sum(self.seconds[name][kind] for name in names) / 60, 2) for kind in ("wall", "processor")}


def _processor_seconds() -> float:
    return sum(os.times()[:4])


@dataclass
class Lerf:
    """Train a LERF method with the preset for CPUs, or open a finished run; score it and time its queries."""

    method: Annotated[Literal["lerf", "lerf-lite", "lerf-big", "lerf-splat"], tyro.conf.Positional] = "lerf-lite"
    """What is trained."""
    data: Path | None = None
    """Data set folder in nerfstudio's format, with a folder `label`."""
    load_config: Path | None = None
    """config.yml of a finished run, which is scored in place of training one."""
    encoder: str = DEFAULT_ENCODER
    """Name of the encoder."""
    init_from: Path | None = None
    """A finished splatting run, whose geometry lerf-splat takes."""
    scale: float = 1.0
    """Training resolution as a share of the photos'."""
    tile_size_range: tuple[float, float] = (0.05, 0.5)
    """Sides of the smallest and largest tile, as shares of the photo's height."""
    tile_sizes: int = 7
    """Number of tile sizes."""
    tile_stride: float = 0.5
    """Share of a tile's side between neighbouring tiles."""
    steps: int | None = None
    """Train less than the preset says: for timing queries alone."""
    work: Path = Path("lerf-benchmark")
    """Folder for the run and, unless cache_dir says otherwise, the cache."""
    cache_dir: Path | None = None
    """Feature cache; what is in it already is not computed, and its time is missing."""
    prompts: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "orange")
    """Words that are asked for the clock, one more than once; those of the labels serve as well."""
    out: Path = RESULTS
    """JSON file whose entry of this scene and method is written."""

    def main(self) -> None:
        """Train, score, ask, write."""
        clock, content = Clock(), {}
        if self.load_config is None:
            config = self._config()
            with clock.part("pyramids"):
                config.pipeline.datamanager.setup(device="cpu", test_mode="val").features.prepare()
            with clock.part("training"):
                path = _train(config)
            content["minutes"] = clock.total("pyramids", "training")
        else:
            path = self.load_config
        run = open_run(path)
        with clock.part("scoring"):
            image_metrics = run.pipeline.image_metrics()
            scores = run.pipeline.evaluate_language()
        if scores is None:
            raise UserError(f"{self.data}: no label folder, so there is nothing to score.")
        content |= {"results": {name: round(value, 4) for name, value in (image_metrics | scores.summary).items()}}
        content["query"] = _ask(run, self._words(run))
        self._publish(run, content | {"seconds": clock.seconds} | self._facts(run))

    def _config(self) -> Any:
        from lerf_ns import specs

        if self.data is None:
            raise UserError("Give --data to train, or --load-config for a finished run.")
        config: Any = copy.deepcopy(getattr(specs, self.method.replace("-", "_")).config)
        if self.init_from is not None:
            config.pipeline.model.init_from = self.init_from
        config.pipeline.model.fit_cpu(config)
        config.output_dir, config.experiment_name, config.vis = self.work / "outputs", "lerf", "tensorboard"
        manager = config.pipeline.datamanager
        manager.data, manager.encoder, manager.camera_res_scale_factor = self.data, self.encoder, self.scale
        manager.cache_dir = self.cache_dir or self.work / "cache"
        manager.tile_size_range, manager.tile_sizes = self.tile_size_range, self.tile_sizes
        manager.tile_stride = self.tile_stride
        config.max_num_iterations = self.steps or config.max_num_iterations
        config.steps_per_eval_image = config.steps_per_eval_all_images = config.max_num_iterations + 1
        return config

    def _words(self, run: Run) -> list[str]:
        """Words that the encoder knows."""
        refused = refused_texts(run.pipeline.model.texts().encoder, self.prompts)
        return [text for text in self.prompts if text not in refused]

    def _facts(self, run: Run) -> dict[str, Any]:
        manager, config = run.pipeline.datamanager, run.config
        facts: dict[str, Any] = {
            "training_photos": len(manager.train_dataset),
            "held_out_photos": len(manager.eval_dataset),
            "encoder": run.pipeline.model.language_field().encoder.encoder_id,
            "steps": config.max_num_iterations,
            "geometry": "trained" if getattr(config.pipeline.model, "init_from", None) is None else "init-from",
        }
        for name in ("tile_size_range", "tile_sizes", "tile_stride"):
            if hasattr(config.pipeline.datamanager, name):
                facts[name] = getattr(config.pipeline.datamanager, name)
        return facts | {"load": round(os.getloadavg()[0], 1)}

    def _publish(self, run: Run, entry: dict[str, Any]) -> None:
        whole = json.loads(self.out.read_text(encoding="utf-8")) if self.out.exists() else {"scenes": {}}
        scene = Path(str(run.config.pipeline.datamanager.data)).resolve().name
        name = run.config.method_name
        whole["scenes"].setdefault(scene, {})[name] = entry
        text = json.dumps(facts_of_machine() | whole, indent=2) + "\n"
        CONSOLE.print_json(data={scene: {name: entry}})
        write_text(self.out, text)


def _train(config: Any) -> Path:
    from nerfstudio.scripts.train import main as train

    train(config)
    return config.get_base_dir() / "config.yml"


def _ask(run: Run, words: list[str]) -> dict[str, Any]:
    """Median seconds of a prompt that was never asked, and of the same prompt from another camera."""
    field, cameras = run.pipeline.model.language_field(), [frame_camera(run, None)[1]]
    field.relevancy(cameras[0], Query((words[0],)))
    found: dict[str, list[dict[str, float]]] = {"new_prompt": [], "same_prompt": []}
    for word in words[1 : 1 + _QUESTIONS]:
        for kind, seconds in found.items():
            clock = Clock()
            with clock.part(kind):
                field.relevancy(cameras[0], Query((word,)))
            seconds.append(clock.seconds[kind])
    height, width = (int(getattr(cameras[0], side)[0, 0]) for side in ("height", "width"))
    medians = {
        kind: {name: round(float(np.median([each[name] for each in seconds])), 3) for name in seconds[0]}
        for kind, seconds in found.items()
    }
    return medians | {"width": width, "height": height, "prompts": len(words) - 1}


if __name__ == "__main__":
    start(Lerf)
