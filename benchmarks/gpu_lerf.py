"""LERF's language field alone, at the sizes of its three configurations, without nerfstudio: torch suffices.

    python -m benchmarks.gpu_lerf --out benchmarks/results/gpu_lerf.json

Rays end at random places and are trained towards random vectors, which does for speed and memory; a batch has the
4,096 rays of LERF's trainings, and a query is answered for a photo of 994 x 738 pixels, the size of the desk's.
`--device cpu --tiny` runs all of it in seconds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu import check_device, facts
from benchmarks.gpu_clock import Clock, milliseconds
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.files import write_text
from lang_splat_ns.language.relevancy import relevancy
from lerf_ns.field import FieldShape, LerfField, Targets, blend, chunks, language_losses, settle_implementation
from lerf_ns.hash_grid import GridShape
from lerf_ns.scales import best_scales, candidate_scales

TWO = (GridShape(12, 16, 128), GridShape(12, 128, 512))
METHODS = {
    "lerf-lite": (FieldShape((GridShape(16, 16, 512),), 512), 12),
    "lerf": (FieldShape(TWO, 512), 24),
    "lerf-big": (FieldShape((GridShape(16, 16, 128), GridShape(16, 128, 512)), 768), 32),
}
TINY = {"tiny": (FieldShape((GridShape(3, 4, 16, log2_table=8),), 16, dino_dim=8, width=32), 4)}


@dataclass(frozen=True)
class Size:
    """How much is done: rays per step, steps, pixels per view, rays of the scale search, scales, places at a time."""

    rays: int = 4096
    steps: int = 200
    pixels: int = 994 * 738
    search_rays: int = 4096
    scales: int = 30
    chunk: int = 1 << 16


SMALL = Size(rays=32, steps=3, pixels=400, search_rays=50, scales=3, chunk=256)


def measure(shape: FieldShape, samples: int, size: Size, device: torch.device) -> dict[str, Any]:
    """Train a field for some steps and answer one prompt with it.

    Args:
        shape: of the field.
        samples: places per ray.
        size: how much is done.
        device: where.
    """
    torch.manual_seed(0)
    field = LerfField(shape, settle_implementation("tcnn", device)).to(device)
    optimizer = torch.optim.RAdam(field.parameters(), lr=1e-2, eps=1e-15, weight_decay=1e-9)
    for _ in range(3):
        _step(field, optimizer, samples, size, device)
    clock = Clock(device)
    for _ in range(size.steps):
        _step(field, optimizer, samples, size, device)
    seconds = clock.seconds()
    return {
        "implementation": settle_implementation("tcnn", device),
        "weights": sum(weight.numel() for weight in field.parameters()),
        "rays": size.rays,
        "samples": samples,
        "steps_per_second": round(size.steps / seconds, 2),
        **clock.memory(),
        "query_ms": milliseconds(lambda: _query(field, samples, size, device), device, 3),
        "query_pixels": size.pixels,
    }


def _step(field: LerfField, optimizer: torch.optim.Optimizer, samples: int, size: Size, device: torch.device) -> None:
    positions, weights = _rays(size.rays, samples, device)
    features = field.read(positions)
    clip = field.clip(features, torch.rand(len(features), 1, device=device)).unflatten(0, weights.shape)
    dino = blend(weights, field.dino(features).unflatten(0, weights.shape))
    vectors = F.normalize(torch.randn(size.rays, field.shape.clip_dim, device=device), dim=-1)
    targets = Targets(vectors, torch.randn(size.rays, field.shape.dino_dim, device=device))
    losses = language_losses(F.normalize(blend(weights, clip), dim=-1), dino, targets)
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


@torch.no_grad()
def _query(field: LerfField, samples: int, size: Size, device: torch.device) -> None:
    """The search of one prompt's scale, then its answer at every pixel."""
    texts = F.normalize(torch.randn(5, field.shape.clip_dim, device=device), dim=-1)

    def relevancy_at(scale: float, rays: int) -> Tensor:
        found = []
        for part in chunks(rays, max(1, size.chunk // samples)):
            positions, weights = _rays(part.stop - part.start, samples, device)
            features = field.read(positions)
            clip = field.clip(features, features.new_full((len(features), 1), scale)).unflatten(0, weights.shape)
            found.append(relevancy(F.normalize(blend(weights, clip), dim=-1), texts[:1], texts[1:]))
        return torch.cat(found, dim=-1)

    (scale,) = best_scales(lambda one: relevancy_at(one, size.search_rays), candidate_scales(1.5, size.scales))
    relevancy_at(scale, size.pixels)


def _rays(count: int, samples: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places [count * samples, 3] and weights [count, samples]."""
    return torch.rand(count * samples, 3, device=device) * 2 - 1, torch.rand(count, samples, device=device) / samples


def main(arguments: list[str] | None = None) -> None:
    """Measure all configurations, and write JSON if asked."""
    parser = argparse.ArgumentParser(description="Measure LERF's language field.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--tiny", action="store_true", help="as little as possible, to see that it runs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    device = check_device(options.device)
    result: dict[str, Any] = {"facts": facts(device)}
    for name, (shape, samples) in (TINY if options.tiny else METHODS).items():
        result[name] = measure(shape, samples, SMALL if options.tiny else Size(), device)
        CONSOLE.print(name, result[name])
        if options.out is not None:
            write_text(options.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
