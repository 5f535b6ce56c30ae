"""Checkpoints that are whole, load with `weights_only=True`, and name what is wrong when they do not."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from lang_splat_ns.compat import plain_numbers
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_atomically

_NAME = re.compile(r"step-(\d{9})\.ckpt")
_TORN = (RuntimeError, EOFError, OSError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint in one step, so that a reader finds the whole file or none.

    The unfinished file lies beside the checkpoint folder, because nerfstudio takes every name inside it for a
    checkpoint.

    Raises:
        UserError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    state = plain_numbers(state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save(state, file), temporary_folder=path.parent.parent)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be saved ({error}); earlier checkpoints are kept.") from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises:
        UserError: the file is missing, torn, or holds more than tensors and plain Python.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _TORN as error:
        raise UserError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]}).") from error
    if not isinstance(state, dict) or "pipeline" not in state or "step" not in state:
        raise UserError(f"{path}: not a nerfstudio checkpoint.")
    return state


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, newest first."""
    found = (_NAME.fullmatch(entry.name) for entry in folder.iterdir()) if folder.is_dir() else ()
    return sorted((int(match[1]) for match in found if match), reverse=True)


def newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a folder that can be read; a torn one is skipped with a warning.

    Raises:
        UserError: there is none.
    """
    for step in steps(folder):
        path = folder / f"step-{step:09d}.ckpt"
        try:
            return path, load(path)
        except UserError as error:
            CONSOLE.print(f"[yellow]Skipped: {error}[/yellow]")
    raise UserError(
        f"{folder}: no readable checkpoint (step-*.ckpt); --load-dir wants a run's nerfstudio_models folder."
    )
