"""LERF in a size for two CPU cores: what `--preset cpu` means for its methods."""

from __future__ import annotations

from typing import Any

from lang_splat_ns.profiles import add_language_steps, shorten

_LANGUAGE_RATE = 0.04
"""RAdam takes small steps in its first thousand; with LERF's own rate of 0.01 a short training gets nowhere."""


def shrink(config: Any, steps: int = 1500) -> None:
    """Fit lerf, lerf-lite or lerf-big into a CPU: fewer and smaller of everything, the same method.

    Args:
        config: a trainer configuration; changed in place.
        steps: how long it is trained.
    """
    config.max_num_iterations = steps
    manager, model = config.pipeline.datamanager, config.pipeline.model
    manager.train_num_rays_per_batch, manager.dino = 1024, "none"
    model.num_proposal_samples_per_ray = (64, 32)
    model.num_nerf_samples_per_ray = 24
    model.num_levels, model.log2_hashmap_size, model.max_res = 8, 16, 512
    model.hidden_dim = model.hidden_dim_color = 32
    model.use_appearance_embedding = False
    model.camera_optimizer.mode = "off"
    model.proposal_warmup = 200
    model.proposal_weights_anneal_max_num_iters = max(1, steps // 10)
    model.num_lerf_samples = 6
    model.search_rays = 2048
    _small_language(model)
    for group in ("fields", "lerf"):
        config.optimizers[group]["scheduler"].max_steps = steps
    config.optimizers["lerf"]["optimizer"].lr = _LANGUAGE_RATE
    config.optimizers["lerf"]["scheduler"].lr_final = _LANGUAGE_RATE / 10


def shrink_splat(config: Any, geometry_steps: int = 900, language_steps: int = 800) -> None:
    """Fit lerf-splat into a CPU.

    Args:
        config: a trainer configuration; changed in place.
        geometry_steps: steps for colour and geometry, at least 60.
        language_steps: steps for the language field.
    """
    shorten(config, geometry_steps)
    add_language_steps(config, geometry_steps, language_steps)
    model = config.pipeline.model
    config.pipeline.datamanager.dino = "none"
    model.language_decay_steps = language_steps
    _small_language(model)
    config.optimizers["lerf"]["optimizer"].lr = _LANGUAGE_RATE


def _small_language(model: Any) -> None:
    model.hashgrid_layers, model.hashgrid_resolutions, model.hashgrid_sizes = (8,), ((16, 256),), (15,)
    model.language_width, model.language_layers = 64, 2
    model.n_scales = 12
