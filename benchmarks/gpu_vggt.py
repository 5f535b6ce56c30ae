"""VGGT at full size with random weights, in half precision, beside its authors' figures; torch suffices.

    python -m benchmarks.gpu_vggt --out benchmarks/results/gpu_vggt.json

The authors' figures are those of the aggregator alone on an H100 with Flash Attention 3, which torch does not bring;
so the aggregator is measured alone too, and then the network with its camera, depth and point heads. Frames are 518
pixels wide. `--device cpu --tiny` runs all of it in seconds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_clock import Clock
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.files import write_text
from lang_splat_ns.scenes.vggt import VGGT, VGGTConfig
from lang_splat_ns.scenes.vggt.model import half_precision
from lang_splat_ns.scenes.vggt.weights import prepare

PUBLISHED = {1: (0.04, 1.88), 10: (0.14, 3.63), 50: (1.04, 11.41), 100: (3.12, 21.15)}
"""Frames -> seconds and GB of the aggregator, as its authors state them."""

HEIGHT, WIDTH = 336, 518


def measure(device: torch.device, tiny: bool = False, height: int = HEIGHT, width: int = WIDTH) -> list[dict[str, Any]]:
    """Seconds and peak memory per part and number of frames; a part that the memory does not hold says so."""
    config = VGGTConfig.tiny() if tiny else VGGTConfig(track=False)
    alone = replace(config, camera=False, depth_map=False, points=False)
    rows = []
    for part, sizes in (("aggregator", alone), ("network", config)):
        with torch.device(device):
            model = VGGT(sizes)
        model = prepare(model, device)
        for frames in (1, 2) if tiny else PUBLISHED:
            row: dict[str, Any] = {"part": part, "frames": frames, "height": height, "width": width}
            try:
                row |= _time(model, frames, height, width, device)
            except torch.OutOfMemoryError:
                row["error"] = "out of memory"
            if not tiny:
                row["published_seconds"], row["published_gb"] = PUBLISHED[frames]
            rows.append(row)
        del model
    return rows


@torch.inference_mode()
def _time(model: VGGT, frames: int, height: int, width: int, device: torch.device, repeats: int = 3) -> dict[str, Any]:
    images = torch.rand(1, frames, 3, height, width, device=device)

    def work() -> None:
        if model.camera_head is not None:
            model(images)
            return
        with half_precision(device):
            model.aggregator(images, model.config.dense_layers)

    work()
    clock, times = Clock(device), []
    for _ in range(repeats):
        one = Clock(device)
        work()
        times.append(one.seconds())
    return {"seconds": round(sorted(times)[repeats // 2], 4), **clock.memory()}


def main(arguments: list[str] | None = None) -> None:
    """Measure, show each row, and write JSON if asked."""
    from benchmarks.gpu import check_device, facts

    parser = argparse.ArgumentParser(description="Measure VGGT with random weights.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--height", type=int, default=HEIGHT, help="of the frames, a multiple of 14")
    parser.add_argument("--tiny", action="store_true", help="as little as possible, to see that it runs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    device = check_device(options.device)
    shape = (28, 42) if options.tiny else (options.height, WIDTH)
    result = {"facts": facts(device), "vggt": measure(device, options.tiny, *shape)}
    for row in result["vggt"]:
        CONSOLE.print(row)
    if options.out is not None:
        write_text(options.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
