"""Poses of photos whose poses are known and forgotten: ours beside plain pycolmap, in one run.

    python -m benchmarks.poses --data ../shared/scenes/desk --out benchmarks/results/poses.json

Both get nothing but the photos, and are compared with the data set's own transforms.json.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import start
from benchmarks.pose_errors import compare, read_poses
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.files import write_text
from lang_splat_ns.machine import facts_of_machine
from lang_splat_ns.scenes.colmap import read_model
from lang_splat_ns.scenes.posed_scene import OPENGL
from lang_splat_ns.scenes.posing import Posing, make_request


@dataclass
class PosesBenchmark:
    """Pose a data set's photos anew and compare."""

    data: Path
    """Nerfstudio data set whose poses are taken for true."""
    out: Path | None = None
    """JSON file to write."""

    def main(self) -> None:
        """Pose twice, compare, write."""
        true = read_poses(self.data / "transforms.json")
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copytree(self.data / "images", folder / "photos")
            plain, plain_seconds = _plain(folder / "photos", folder / "plain")
            start = time.perf_counter()
            Posing(make_request(folder / "photos", backend="colmap")).run(folder / "ours")
            seconds = time.perf_counter() - start
            ours = read_poses(folder / "ours" / "transforms.json")
        result: dict[str, Any] = {
            "facts": facts_of_machine(),
            "data": self.data.resolve().name,
            "photos": len(true),
            "load_before": round(load, 1),
            "load_after": round(os.getloadavg()[0], 1),
            "lang-splat poses --backend colmap": _summary(ours, true, seconds),
            "plain pycolmap": _summary(plain, true, plain_seconds),
        }
        CONSOLE.print(result)
        if self.out is not None:
            write_text(self.out, json.dumps(result, indent=2) + "\n")


def _plain(photos: Path, out: Path) -> tuple[dict[str, NDArray[np.float64]], float]:
    """pycolmap with its own defaults, as its documentation shows it; nothing is undistorted or written."""
    import pycolmap

    # Its log has a line for every step of every photo.
    pycolmap.logging.minloglevel = 2
    out.mkdir()
    start = time.perf_counter()
    pycolmap.extract_features(out / "database.db", photos)
    pycolmap.match_exhaustive(out / "database.db")
    models = pycolmap.incremental_mapping(out / "database.db", photos, out)
    seconds = time.perf_counter() - start
    largest = max(models, key=lambda number: models[number].num_reg_images())
    scene = read_model(out / str(largest), photos)
    poses = np.linalg.inv(scene.world_to_camera) @ OPENGL
    return {path.stem: pose for path, pose in zip(scene.images, poses, strict=True)}, seconds


def _summary(
    found: dict[str, NDArray[np.float64]], true: dict[str, NDArray[np.float64]], seconds: float
) -> dict[str, Any]:
    errors = asdict(compare(found, true))
    return {key: round(value, 4) for key, value in errors.items()} | {"seconds": round(seconds, 1)}


if __name__ == "__main__":
    start(PosesBenchmark)
