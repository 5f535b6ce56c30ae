"""Tiny trainings of fastlgs on finished Gaussians."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from runs import lift_config

from fastlgs_ns import specs
from fastlgs_ns.profiles import shorten_fastlgs


def fastlgs_config(scene: Path, out: Path, start: Path, steps: int = 6) -> Any:
    """A fastlgs configuration that trains in seconds on the Gaussians of another tiny run, with that run's cache.

    Args:
        scene: the tiny scene.
        out: where the run goes.
        start: folder of the run whose Gaussians are taken, as `runs.lift_config` lays it out.
        steps: of the codes.
    """
    config: Any = copy.deepcopy(specs.fastlgs.config)
    model = lift_config(scene, out)
    for name in ("output_dir", "experiment_name", "vis", "timestamp", "steps_per_eval_image"):
        setattr(config, name, getattr(model, name))
    config.steps_per_eval_all_images = model.steps_per_eval_all_images
    manager = config.pipeline.datamanager
    manager.data, manager.segmenter, manager.encoder = scene, "felzenszwalb", "colour-words"
    manager.cache_dir = start.parents[2] / "cache"
    config.pipeline.model.init_from = start / "config.yml"
    shorten_fastlgs(config, 60, steps)
    config.pipeline.model.queries = ("red",)
    return config
