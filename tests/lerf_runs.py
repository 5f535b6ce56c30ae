"""Tiny LERF trainings through nerfstudio's own entry point, in this process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from lerf_ns import specs
from lerf_ns.profiles import shrink, shrink_splat

METHODS = {"lerf": specs.lerf, "lerf-lite": specs.lerf_lite, "lerf-big": specs.lerf_big}


def lerf_config(scene: Path, out: Path, method: str = "lerf-lite", steps: int = 20) -> Any:
    """A configuration of LERF on nerfacto that trains in seconds."""
    config: Any = copy.deepcopy(METHODS[method].config)
    shrink(config, steps)
    config.pipeline.datamanager.train_num_rays_per_batch = 128
    config.pipeline.model.num_proposal_samples_per_ray = (12, 8)
    config.pipeline.model.num_nerf_samples_per_ray = 8
    if method != "lerf-lite":
        model = config.pipeline.model
        model.hashgrid_layers, model.hashgrid_resolutions, model.hashgrid_sizes = (3, 3), ((16, 32), (32, 64)), (10, 10)
    return _tiny(config, scene, out)


def lerf_splat_config(scene: Path, out: Path, geometry: int = 60, language: int = 20) -> Any:
    """A lerf-splat configuration that trains in seconds."""
    config: Any = copy.deepcopy(specs.lerf_splat.config)
    shrink_splat(config, geometry, language)
    config.pipeline.model.language_pixels = 576
    return _tiny(config, scene, out)


def _tiny(config: Any, scene: Path, out: Path) -> Any:
    config.output_dir, config.experiment_name, config.vis = out, "tiny", "tensorboard"
    config.timestamp = "run"
    config.steps_per_eval_image = config.steps_per_eval_all_images = 10**6
    config.pipeline.datamanager.data = scene
    config.pipeline.datamanager.encoder = "colour-words"
    config.pipeline.datamanager.dino = "none"
    config.pipeline.datamanager.cache_dir = out / "cache"
    config.pipeline.model.queries = ("red", "sky blue")
    config.pipeline.model.n_scales = 4
    return config
