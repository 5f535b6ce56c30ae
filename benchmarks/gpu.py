"""What the library does on a GPU, without nerfstudio: torch, gsplat, numpy and pillow suffice, scipy for the training.

    lang-splat demo --scene-only --out scene
    python -m benchmarks.gpu --data scene --out benchmarks/results/gpu.json

Four parts, each building on the one before: the rasterizer against its plain torch twin, the geometry training of
`3dgs`, the feature training of `langsplat` on the Gaussians that it leaves, and queries of the result. `--features`
takes the feature store (`.lang_splat_cache`) that a training of `langsplat` on the same photos has left, perhaps on a
CPU; without it label maps and embeddings are random, which does for speed and memory. `--device cpu --tiny` runs all
of it in seconds. What needs no scene is measured apart: `benchmarks.gpu_lerf`, `benchmarks.gpu_vggt`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_features import AUTOENCODER_EPOCHS, FeatureTraining, random_labelled_photos, read_labelled_photos
from benchmarks.gpu_geometry import GeometryTraining
from benchmarks.gpu_parity import compare
from benchmarks.gpu_query import time_queries
from benchmarks.posed_photos import read_posed_photos
from lang_splat_ns.console import CONSOLE, ERROR_CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text


@dataclass(frozen=True)
class Size:
    """How much of everything is done."""

    parity_splats: int
    parity_width: int
    parity_height: int
    geometry_steps: int
    feature_steps: int
    autoencoder_epochs: int
    query_repeats: int


FULL = Size(5000, 320, 192, 7000, 2000, AUTOENCODER_EPOCHS, 20)
TINY = Size(150, 40, 32, 120, 10, 2, 1)


def run(data: Path, features: Path | None, device: torch.device, size: Size) -> Iterator[dict[str, Any]]:
    """Do all parts; yields the result so far after each, so that a fault in a later one costs nothing.

    Raises:
        UserError: the data set or the features cannot be read.
    """
    photos = read_posed_photos(data, device)
    source = read_labelled_photos(photos.train, features) if features is not None else None
    result: dict[str, Any] = {"facts": facts(device), "data": data.resolve().name}
    result["parity"] = compare(device, size.parity_splats, size.parity_width, size.parity_height)
    yield result
    geometry = GeometryTraining(photos, size.geometry_steps)
    result["geometry"] = geometry.run()
    yield result
    source = source or random_labelled_photos(photos.train)
    training = FeatureTraining(geometry.gaussians(), source, size.autoencoder_epochs)
    result["features"] = training.run(size.feature_steps)
    yield result
    result["query"] = time_queries(training, photos.held_out[0], size.query_repeats)
    yield result


def facts(device: torch.device) -> dict[str, Any]:
    """Where and with what it was measured."""
    found = {"device": device.type, "python": platform.python_version(), "torch": torch.__version__}
    found |= {name: _version(name) for name in ("gsplat", "numpy", "lang-splat-ns")}
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return found | {"gpu": torch.cuda.get_device_name(device), "capability": capability, "cuda": torch.version.cuda}
    return found | {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}


def check_device(name: str) -> torch.device:
    """The torch device.

    Raises:
        UserError: there is no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is no name of a torch device; say cuda, cuda:1 or cpu.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch {torch.__version__} finds no such GPU; --device cpu runs anywhere.")
    return device


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure rasterizer, trainings and queries on a GPU.")
    parser.add_argument("--data", type=Path, required=True, help="data set in nerfstudio's format, without distortion")
    parser.add_argument("--features", type=Path, help="feature store of the same photos; random features without it")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--geometry-steps", type=int, help=f"steps of geometry, {FULL.geometry_steps} by default")
    parser.add_argument("--feature-steps", type=int, help=f"steps of features, {FULL.feature_steps} by default")
    parser.add_argument("--tiny", action="store_true", help="as little as possible of everything, to see that it runs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(arguments)


def _size(options: argparse.Namespace) -> Size:
    wanted = {"geometry_steps": options.geometry_steps, "feature_steps": options.feature_steps}
    given = {name: steps for name, steps in wanted.items() if steps is not None}
    for name, steps in given.items():
        if steps < 10:
            raise UserError(f"--{name.replace('_', '-')} {steps}: at least 10 steps are needed to measure anything.")
    return replace(TINY if options.tiny else FULL, **given)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show each part, write JSON if asked; a mistake ends with one line and exit code 1."""
    options = _parse(arguments)
    try:
        device, shown = check_device(options.device), set()
        for result in run(options.data, options.features, device, _size(options)):
            for part in [part for part in result if part not in shown]:
                CONSOLE.print(part, _brief(result[part]))
            shown = set(result)
            if options.out is not None:
                write_text(options.out, json.dumps(result, indent=2) + "\n")
    except UserError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(f"this part needs {error.name}, which is not installed here: {error}")


def _brief(content: Any) -> Any:
    """A part without its table of cases, which is for the file."""
    return {key: value for key, value in content.items() if key != "cases"} if isinstance(content, dict) else content


def _fail(message: str) -> None:
    ERROR_CONSOLE.print(f"error: {message}", markup=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
