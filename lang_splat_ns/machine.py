"""What a measurement ran on: processor, devices, and the versions that matter for speed and results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("numba", "torch", "nerfstudio", "gsplat", "numpy")


def facts_of_machine() -> dict[str, Any]:
    """Processor, cores, threads, the GPU where there is one, and the versions that matter for speed and results."""
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return {"machine": machine, "versions": {"python": platform.python_version()} | _versions()}


def commit() -> str | None:
    """The commit that this code is of, with "-dirty" where files were changed since; None outside a repository."""
    here = Path(__file__).resolve()
    # An installed copy may lie inside a repository of something else, to which it does not belong.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def facts_of_code() -> dict[str, Any]:
    """The commit that was measured, for a JSON file."""
    return {"commit": commit()}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
