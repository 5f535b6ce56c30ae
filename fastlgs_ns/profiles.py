"""FastLGS in fewer steps: what `--preset cpu` means for it."""

from __future__ import annotations

from typing import Any

from lang_splat_ns.profiles import add_language_steps, shorten


def shorten_fastlgs(config: Any, geometry_steps: int = 900, language_steps: int = 200) -> None:
    """Fit fastlgs into a CPU's time.

    Args:
        config: a trainer configuration; changed in place.
        geometry_steps: steps for colour and geometry, at least 60; unused with init-from.
        language_steps: steps for the codes.
    """
    shorten(config, geometry_steps)
    add_language_steps(config, geometry_steps, language_steps)
    config.optimizers["object_codes"]["optimizer"].lr = 0.003
