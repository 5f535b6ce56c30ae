"""`lang-splat doctor`: what is installed here, what works, and where things lie."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "lang-splat-ns",
    "nerfstudio",
    "gsplat",
    "torch",
    "torchvision",
    "numpy",
    "numba",
    "open_clip_torch",
    "viser",
)


@dataclass
class Doctor:
    """Print versions, devices, encoders and segmenters with their weights, and the health of a cache."""

    data: Path | None = None
    """Data set whose feature cache is looked at; by default only the user's cache."""

    def run(self) -> None:
        """Print everything that a bug report needs."""
        from lang_splat_ns.perception.encoders import ENCODERS
        from lang_splat_ns.perception.rerankers import RERANKERS
        from lang_splat_ns.perception.segmenters import SEGMENTERS

        _section("Versions")
        _line("python", f"{platform.python_version()} on {platform.platform()}")
        for package in PACKAGES:
            _line(package, _version(package))
        _section("Devices")
        _print_devices()
        _section("Perception")
        _line("encoders", ", ".join(ENCODERS.names()))
        _line("segmenters", ", ".join(SEGMENTERS.names()))
        _line("rerankers", ", ".join(RERANKERS.names()))
        print_weights()
        _section("Feature cache")
        _print_cache(self.data)


def print_weights() -> None:
    """One line per set of weights: its name and its file, or how to get it."""
    from lang_splat_ns.perception.weights import ls

    for row in ls():
        name, path = row["name"], row["path"]
        _line(str(name), str(path) if path else f"not here: lang-splat weights fetch {name} ({row['licence']})")


def _print_devices() -> None:
    import torch

    from lang_splat_ns.compat import warn_about_gsplat

    if torch.cuda.is_available():
        _line("cuda", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
        _line("rasterizer", "gsplat, compiled on first use where no wheel matches")
        warn_about_gsplat()
    else:
        _line("cuda", "none; everything runs on the CPU")
        _line("rasterizer", f"ours, {torch.get_num_threads()} threads; gsplat's kernels are neither built nor loaded")


def _print_cache(data: Path | None) -> None:
    from lang_splat_ns.perception.feature_store import open_store
    from lang_splat_ns.perception.store_care import health

    if data is None:
        _line("root", "give --data to look at a data set's cache")
        return
    store = open_store(data)
    state = health(store)
    _line("root", str(store.root))
    if store.below is not None:
        _line("also read", str(store.below.root))
    _line("writable", "yes" if state.writable else "no: give another folder with --cache-dir")
    for stage, (records, size) in state.stages.items():
        _line(stage, f"{records} records, {size / 1e6:.1f} MB")
    _line("set aside", str(len(state.set_aside)))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _section(title: str) -> None:
    from lang_splat_ns.console import CONSOLE

    CONSOLE.print(f"\n[bold]{title}[/bold]")


def _line(name: str, value: str) -> None:
    from lang_splat_ns.console import CONSOLE

    CONSOLE.print(f"  {name:<18} {value}", markup=False, soft_wrap=True)
