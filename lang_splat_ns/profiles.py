"""Shorter schedules: the same training in fewer steps, for CPUs and for a first look."""

from __future__ import annotations

from typing import Any


def shorten(config: Any, geometry_steps: int, language_steps: int = 0) -> None:
    """Fit a splatting configuration into fewer steps, scaling every schedule that hangs on absolute steps.

    The README lists the same as flags, so that `ns-train` can be run with them.

    Args:
        config: a trainer configuration of 3dgs, langsplat or langsplat-lift; changed in place.
        geometry_steps: steps for colour and geometry, at least 60.
        language_steps: steps for the language part, where the method trains one.
    """
    model = config.pipeline.model
    config.max_num_iterations = geometry_steps + language_steps
    model.resolution_schedule = geometry_steps // 6
    model.sh_degree_interval = geometry_steps // 3
    model.warmup_length = geometry_steps // 6
    model.stop_split_at = geometry_steps * 2 // 3
    config.optimizers["means"]["scheduler"].max_steps = geometry_steps
    if language_steps:
        model.geometry_steps = geometry_steps
        # Few steps need long ones: the codes have to travel across the unit sphere all the same.
        config.optimizers["language_features"]["optimizer"].lr = 0.02
