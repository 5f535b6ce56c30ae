"""Tiny trainings through nerfstudio's own entry point, in this process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from nerfstudio.scripts.train import main as ns_train

from lang_splat_ns import specs
from lang_splat_ns.profiles import shorten


def langsplat_config(scene: Path, out: Path, geometry: int = 60, language: int = 40) -> Any:
    """A langsplat configuration that trains in seconds."""
    config: Any = copy.deepcopy(specs.langsplat.config)
    shorten(config, geometry, language)
    config.pipeline.model.autoencoder_epochs = 3
    return _tiny(config, scene, out)


def lift_config(scene: Path, out: Path, geometry: int = 60) -> Any:
    """A langsplat-lift configuration that trains in seconds."""
    config: Any = copy.deepcopy(specs.langsplat_lift.config)
    shorten(config, geometry)
    return _tiny(config, scene, out)


def _tiny(config: Any, scene: Path, out: Path) -> Any:
    config.output_dir, config.experiment_name, config.vis = out, "tiny", "tensorboard"
    config.timestamp = "run"
    config.steps_per_eval_image = config.steps_per_eval_all_images = 10**6
    config.pipeline.datamanager.data = scene
    config.pipeline.datamanager.segmenter = "felzenszwalb"
    config.pipeline.datamanager.encoder = "colour-words"
    config.pipeline.datamanager.cache_dir = out / "cache"
    config.pipeline.model.queries = ("red",)
    return config


def train(config: Any) -> Path:
    """Run ns-train; returns the run's folder."""
    ns_train(config)
    return config.get_base_dir()


def checkpoint_of(run: Path) -> Path:
    """The run's only checkpoint."""
    (path,) = (run / "nerfstudio_models").iterdir()
    return path
