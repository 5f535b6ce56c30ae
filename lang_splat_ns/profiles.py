"""Shorter schedules: the same training in fewer steps, for CPUs and for a first look."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass
from typing import Any

CPU_GEOMETRY_STEPS, CPU_LANGUAGE_STEPS = 1800, 600
"""The splatting methods' steps with `--preset cpu`."""


def take_cpu_preset(config: Any) -> None:
    """Put the values of `--preset cpu` wherever a configuration still has its method's own default.

    The method's model configuration says what they are, in `fit_cpu(config)`.

    Args:
        config: a trainer configuration of a method that `ns-train` knows; changed in place.
    """
    from nerfstudio.configs.method_configs import all_methods

    default: Any = copy.deepcopy(all_methods[config.method_name])
    if hasattr(default.pipeline.model, "init_from"):
        # Given Gaussians need no steps.
        default.pipeline.model.init_from = config.pipeline.model.init_from
    fitted: Any = copy.deepcopy(default)
    fitted.pipeline.model.fit_cpu(fitted)
    for name in ("max_num_iterations", "pipeline", "optimizers"):
        # A copy, since tyro puts parts of the method's own default into what it makes.
        mine = copy.deepcopy(getattr(config, name))
        setattr(config, name, _taken(mine, getattr(default, name), getattr(fitted, name)))


def _taken(mine: Any, default: Any, fitted: Any) -> Any:
    """`fitted` where mine is the default; inside of dataclasses and dictionaries entry by entry."""
    if default == fitted:
        return mine
    if is_dataclass(default) and type(mine) is type(default):
        for part in fields(default):
            values = (getattr(each, part.name) for each in (mine, default, fitted))
            setattr(mine, part.name, _taken(*values))
        return mine
    if isinstance(default, dict) and isinstance(mine, dict):
        return mine | {key: _taken(mine[key], default[key], fitted[key]) for key in default if key in mine}
    return fitted if mine == default else mine


def shorten(config: Any, geometry_steps: int, language_steps: int = 0) -> None:
    """Fit a splatting configuration into fewer steps, scaling every schedule that hangs on absolute steps.

    Args:
        config: a trainer configuration of 3dgs, langsplat or langsplat-lift; changed in place.
        geometry_steps: steps for colour and geometry, at least 60.
        language_steps: steps for the language part, where the method trains one.
    """
    model = config.pipeline.model
    config.max_num_iterations = geometry_steps
    model.resolution_schedule = geometry_steps // 6
    model.sh_degree_interval = geometry_steps // 3
    model.warmup_length = geometry_steps // 6
    model.stop_split_at = geometry_steps * 2 // 3
    config.optimizers["means"]["scheduler"].max_steps = geometry_steps
    if language_steps:
        add_language_steps(config, geometry_steps, language_steps)
        # Few steps need long ones: the codes have to travel across the unit sphere all the same.
        config.optimizers["language_features"]["optimizer"].lr = 0.02


def add_language_steps(config: Any, geometry_steps: int, language_steps: int) -> None:
    """Let a phase of language follow that of geometry, which given Gaussians do not have."""
    config.pipeline.model.geometry_steps = geometry_steps
    config.max_num_iterations = language_steps + (geometry_steps if config.pipeline.model.init_from is None else 0)
