"""Peak memory of perception for few and for many photos: it must not grow with the data set.

python -m benchmarks.perception_memory --out benchmarks/results/perception_memory.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lang_splat_ns.console import CONSOLE, track

WIDTH, HEIGHT = 160, 90
ALLOWED_GROWTH_MB = 300
ENCODER = "colour-words"


def write_data_set(folder: Path, count: int) -> None:
    """A nerfstudio data set of random small photos with cameras on a circle."""
    (folder / "images").mkdir(parents=True)
    frames: list[dict[str, Any]] = []
    for index in track(range(count), "Writing photos", unit="photos"):
        name = f"images/{index:05}.png"
        blocks = np.random.default_rng(index).integers(0, 256, (HEIGHT // 15, WIDTH // 16, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(15, axis=0).repeat(16, axis=1)).save(folder / name)
        pose = np.eye(4)
        pose[:2, 3] = np.cos(index), np.sin(index)
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    camera = {"fl_x": 150, "fl_y": 150, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    (folder / "transforms.json").write_text(json.dumps({**camera, "frames": frames}), encoding="utf-8")


def read_all(data: Path, segmenter: str) -> None:
    """What training does with the features, photo by photo."""
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.data.datasets.base_dataset import InputDataset

    from lang_splat_ns.plugin.frame_features import FrameFeatureSource, PerceptionSpec

    outputs = NerfstudioDataParserConfig(data=data, eval_mode="all").setup().get_dataparser_outputs("train")
    source = FrameFeatureSource(InputDataset(outputs), PerceptionSpec(ENCODER, segmenter), data, "cpu")
    for index in track(range(len(source.frames)), "Reading", unit="photos"):
        source.labels(index, HEIGHT, WIDTH)
        source.embeddings(index)


def measure(count: int, segmenter: str) -> dict[str, Any]:
    """Peak memory and time of extraction and of reading, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_data_set(data, count)
        build = ["lang_splat_ns.cli", "features", "--data", str(data), "--frames", "all", "--encoder", ENCODER]
        read = ["benchmarks.perception_memory", "--read", str(data)]
        networks = ["--segmenter", segmenter]
        result = {"photos": count, "extraction": _peak([*build, *networks]), "reading": _peak([*read, *networks])}
        records = list(data.glob(".lang_splat_cache/v*/*/*/*.npz"))
    assert len(records) == 2 * count, "the extraction was not complete"
    return result


def _peak(module_and_arguments: list[str]) -> dict[str, float]:
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *module_and_arguments], cwd=Path(__file__).parents[1])
    # Unlike RUSAGE_CHILDREN this is about one child alone.
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{module_and_arguments} failed"
    # Linux counts in units of 1,024 bytes.
    return {"peak_mb": round(usage.ru_maxrss * 1024 / 1e6), "seconds": round(time.monotonic() - start, 1)}


def run(few: int, many: int, segmenter: str) -> dict[str, Any]:
    """Both sizes, what many photos cost beyond few, and whether that keeps the promise."""
    from lang_splat_ns.plugin.frame_features import LABEL_MEMORY_BYTES

    sizes = [measure(count, segmenter) for count in (few, many)]
    growth = {part: sizes[1][part]["peak_mb"] - sizes[0][part]["peak_mb"] for part in ("extraction", "reading")}
    # The reader keeps label maps on purpose, up to a fixed size, since each is wanted again and again.
    bound = round(LABEL_MEMORY_BYTES / 1e6)
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "segmenter": segmenter,
        "encoder": ENCODER,
        "sizes": sizes,
        "growth_mb": growth,
        "allowed_growth_mb": {"extraction": ALLOWED_GROWTH_MB, "reading": ALLOWED_GROWTH_MB + bound},
        "promises": {
            "extraction_at_constant_memory": growth["extraction"] <= ALLOWED_GROWTH_MB,
            "reading_within_its_bound": growth["reading"] <= ALLOWED_GROWTH_MB + bound,
        },
    }


def main() -> None:
    """Measure, print, write JSON if asked; fails if a promise does not hold."""
    parser = argparse.ArgumentParser(description="Measure the memory that perception needs.")
    parser.add_argument("--few", type=int, default=50)
    parser.add_argument("--many", type=int, default=5000)
    parser.add_argument("--segmenter", default="felzenszwalb")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read is not None:
        read_all(arguments.read, arguments.segmenter)
        return
    result = run(arguments.few, arguments.many, arguments.segmenter)
    CONSOLE.print(result)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(result["promises"].values()) else 1)


if __name__ == "__main__":
    main()
