"""The few shims that nerfstudio 1.1.5 needs. Importing this module applies nothing; `apply` does, once."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from typing import Any

import numpy as np
import torch

from lang_splat_ns.console import CONSOLE


def apply() -> None:
    """Make nerfstudio's checkpoints readable on torch >= 2.6.

    nerfstudio saves numpy numbers inside its learning-rate schedulers, and torch >= 2.6 refuses numpy globals
    unless they are allowed by name. These four only rebuild numbers, so `weights_only=True` stays in force.
    """
    scalar_makers = [getattr(module, "scalar", None) for module in _multiarray_modules()]
    allowed = [maker for maker in scalar_makers if maker is not None]
    torch.serialization.add_safe_globals([*allowed, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType])


def plain_numbers(value: Any) -> Any:
    """Replace numpy numbers in nested dicts, lists and tuples by equal Python numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_numbers(item) for item in value)
    return value


def warn_about_gsplat() -> None:
    """Say so once when the installed gsplat has the known opacity-reset fault (1.5.3, its issue 797)."""
    version = importlib.metadata.version("gsplat")
    if version.startswith("1.5.3"):
        CONSOLE.print("[yellow]gsplat 1.5.3 never resets opacities (gsplat issue 797); use 1.4.0 or 1.5.2.[/yellow]")


@cache
def gsplat_wants_two_radii() -> bool:
    """True where gsplat's strategies expect a radius per image axis, [C, N, 2]: those of 1.5 and later do."""
    try:
        version = importlib.metadata.version("gsplat")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in version.split(".")[:2]) >= (1, 5)


def _multiarray_modules() -> list[Any]:
    # numpy 1.x and 2.x keep the same function under two spellings, and a file may carry either.
    modules = []
    for name in ("numpy.core.multiarray", "numpy._core.multiarray"):
        try:
            modules.append(__import__(name, fromlist=["scalar"]))
        except ImportError:
            continue
    return modules
