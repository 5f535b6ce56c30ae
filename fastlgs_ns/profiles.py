"""FastLGS in fewer steps, for CPUs. The README lists the same as flags, so that `ns-train` can be run with them."""

from __future__ import annotations

from typing import Any

from lang_splat_ns.profiles import shorten


def shorten_fastlgs(config: Any, geometry_steps: int = 900, language_steps: int = 200) -> None:
    """Fit fastlgs into a CPU's time.

    Args:
        config: a trainer configuration; changed in place.
        geometry_steps: steps for colour and geometry, at least 60; unused with init-from.
        language_steps: steps for the codes.
    """
    shorten(config, geometry_steps)
    model = config.pipeline.model
    model.geometry_steps = geometry_steps
    config.max_num_iterations = language_steps + (geometry_steps if model.init_from is None else 0)
    config.optimizers["object_codes"]["optimizer"].lr = 0.003
