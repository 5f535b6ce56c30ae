"""How long a prompt takes on a lifted scene: text by codebook, and the scores splatted; and the same by features.

    python -m benchmarks.lift_query --out benchmarks/results/lift_query_cpu.json
    python -m benchmarks.lift_query --device cuda --out benchmarks/results/lift_query_cuda.json

A cloud of random Gaussians with random codebooks of three levels is asked from random cameras, another prompt each
time; texts are embedded beforehand. Beside them stands what no query that renders can be faster than: the same picture
with channels that are ready. On CUDA the unit of measurement is the GPU's own events. torch, gsplat and numpy
suffice.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import check_device, facts
from benchmarks.gpu_query import RandomWords
from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.files import write_text
from lang_splat_ns.langsplat_lift.field import LiftedField
from lang_splat_ns.language.codebook import Codebook
from lang_splat_ns.language.field import Query, QueryMode
from lang_splat_ns.language.text import TextCache
from lang_splat_ns.splatting.rasterizer import rasterize

SIZES = {"cpu": (100_000, 480, 270), "cuda": (1_000_000, 1440, 1080)}
"""Gaussians, width and height in pixels."""

DIM, ENTRIES, LEVELS = 512, 256, ("whole", "part", "subpart")
PROMPTS = 50


class RandomScene:
    """What `LiftedField` asks of its model, on a cloud that fills the view, its splats smaller the more there are."""

    def __init__(self, count: int, width: int, height: int, device: torch.device) -> None:
        rng = torch.Generator().manual_seed(0)
        size = math.log(0.015 * (100_000 / count) ** (1 / 3))
        geometry = (
            torch.randn(count, 3, generator=rng) * torch.tensor([2.0, 1.2, 1.0]) + torch.tensor([0.0, 0.0, 4.0]),
            torch.randn(count, 4, generator=rng),
            torch.exp(torch.randn(count, 3, generator=rng) * 0.5 + size),
            torch.rand(count, generator=rng) * 0.98 + 0.01,
        )
        self.gaussians = [tensor.to(device) for tensor in geometry]
        focal = width * 0.625
        self.intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], device=device)
        self._size = width, height
        self._texts = TextCache(RandomWords(DIM))

    def texts(self) -> TextCache:
        """Random words."""
        return self._texts

    def neighbours(self) -> None:
        """Nobody has looked."""

    def blend(self, camera: Tensor, values: Tensor, only: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The values as a camera [4, 4] sees them."""
        assert only is None, "nothing is left out here"
        with torch.no_grad():
            return rasterize(*self.gaussians, values, camera, self.intrinsics, *self._size)[:2]


def random_codebook(count: int, device: torch.device, seed: int) -> Codebook:
    """Two entries per Gaussian out of 256."""
    rng = torch.Generator().manual_seed(seed)
    entries = torch.nn.functional.normalize(torch.randn(ENTRIES, DIM, generator=rng), dim=-1)
    index = torch.randint(0, ENTRIES, (count, 2), generator=rng, dtype=torch.int16)
    weights = torch.randint(0, 128, (count, 1), generator=rng, dtype=torch.uint8)
    return Codebook(entries, index, weights).to(device)


def random_camera(rng: np.random.Generator, device: torch.device) -> Tensor:
    """A world-to-camera transform close to the cloud's front."""
    angle = rng.uniform(-0.3, 0.3)
    view = torch.eye(4)
    view[0, 0] = view[2, 2] = math.cos(angle)
    view[0, 2], view[2, 0] = math.sin(angle), -math.sin(angle)
    view[:3, 3] = torch.from_numpy(rng.uniform(-0.3, 0.3, 3)).float()
    return view.to(device)


def measure(device: torch.device, mode: QueryMode, repeats: int) -> dict[str, float]:
    """Milliseconds from a cached text to three maps: median, 95th percentile and worst."""
    count, width, height = SIZES[device.type]
    scene = RandomScene(count, width, height, device)
    field = LiftedField(scene, [random_codebook(count, device, seed) for seed in range(3)], LEVELS, mode)
    queries = [Query((f"prompt {i}",)) for i in range(PROMPTS)]
    scene.texts().embed([query.positives[0] for query in queries])
    return _timed(lambda camera, turn: field.relevancy(camera, queries[turn % PROMPTS]), device, repeats, mode)


def measure_render(device: torch.device, repeats: int) -> dict[str, float]:
    """Milliseconds of drawing as many channels as one prompt in the mode scalar has: colours, and a score per level."""
    count, width, height = SIZES[device.type]
    scene = RandomScene(count, width, height, device)
    channels = torch.rand(count, 3 + len(LEVELS), device=device)
    return _timed(lambda camera, _: scene.blend(camera, channels), device, repeats, "drawing alone")


def _timed(work: Callable[[Tensor, int], Any], device: torch.device, repeats: int, what: str) -> dict[str, float]:
    """Milliseconds of work by camera and turn: median, 95th percentile and worst."""
    rng = np.random.default_rng(0)
    times = []
    for turn in track(range(repeats + 3), f"Asking, {what}", unit="queries"):
        camera = random_camera(rng, device)
        # The first ones compile kernels and fill caches.
        taken = _milliseconds(lambda camera=camera, turn=turn: work(camera, turn), device)
        times += [taken] if turn >= 3 else []
    median, late = np.percentile(times, [50, 95])
    return {"median_ms": round(float(median), 3), "p95_ms": round(float(late), 3), "worst_ms": round(max(times), 3)}


def _milliseconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    before.record()
    work()
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after)


def main(arguments: list[str] | None = None) -> None:
    """Measure both modes, show them, and write JSON if asked."""
    parser = argparse.ArgumentParser(description="Time prompts on a lifted scene.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=200, help="camera and prompt pairs in the mode scalar")
    parser.add_argument("--feature-repeats", type=int, default=10, help="the same in the mode feature")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    device = check_device(options.device)
    count, width, height = SIZES[device.type]
    result: dict[str, Any] = {"facts": facts(device), "gaussians": count, "width": width, "height": height}
    result |= {"levels": len(LEVELS), "entries": ENTRIES, "repeats": options.repeats}
    result["scalar"] = measure(device, "scalar", options.repeats)
    result["feature"] = measure(device, "feature", options.feature_repeats)
    result["drawing"] = measure_render(device, options.repeats)
    medians = {name: result[name]["median_ms"] for name in ("scalar", "feature", "drawing")}
    result["times_faster_than_feature"] = round(medians["feature"] / medians["scalar"], 1)
    result["share_of_limit"] = round(medians["drawing"] / medians["scalar"], 2)
    CONSOLE.print(result)
    if options.out is not None:
        write_text(options.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
