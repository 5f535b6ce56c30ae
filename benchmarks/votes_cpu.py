"""How long the votes of one view take on the CPU, beside plain rasterization of the same view.

    python -m benchmarks.votes_cpu --out benchmarks/results/votes_cpu.json

The scene is that of the rasterizer's benchmark: a random cloud that fills the view. The label maps are three levels
of slanted patches, each finer than the one before, with pixels that no mask owns. All contestants run in turns, and
the best of their rounds counts. A list entry is one splat in one tile.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb
import torch

from benchmarks.rasterizer_cpu import HEIGHT, WIDTH, make_scene
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.machine import facts_of_machine
from lang_splat_ns.splatting.rasterizer import rasterize
from lang_splat_ns.splatting.view_votes import view_votes, votes_by_gradient

PATCHES = (4, 9, 18)
"""Masks along the image's width at each level; with the rows of them, the finest level has 330, more than SAM finds."""

SLOW_ROUNDS = 1
"""Turns of the gradient's route, which takes some sixty times as long on a CPU."""


def make_labels() -> tuple[torch.Tensor, list[int]]:
    """Label maps int32 [L, H, W], and the number of masks of each level."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    maps, counts = [], []
    for columns in PATCHES:
        edge = WIDTH // columns
        across, down = (x + y // 3) // edge, (y + x // 4) // edge
        labels = across + (across.max() + 1) * down
        labels[labels % 7 == 6] = -1
        counts.append(int(labels.max()) + 1)
        maps.append(labels)
    return torch.stack(maps).int(), counts


def measure(splat_count: int, rounds: int) -> dict[str, Any]:
    """Best seconds of every contestant on one scene, and what follows from them."""
    splats = make_scene(splat_count, 3)
    colors = splats.pop("colors")
    camera = {"viewmat": torch.eye(4), "K": torch.tensor([[300.0, 0, WIDTH / 2], [0, 300, HEIGHT / 2], [0, 0, 1]])}
    labels, counts = make_labels()
    contestants: dict[str, Callable[[], Any]] = {
        "forward": lambda: rasterize(**splats, colors=colors, **camera, width=WIDTH, height=HEIGHT),
        "votes": lambda: view_votes(**splats, **camera, labels=labels, counts=counts),
        "votes_by_gradient": lambda: votes_by_gradient(**splats, **camera, labels=labels, counts=counts),
    }
    seconds, results = dict.fromkeys(contestants, float("inf")), {}
    for turn in range(rounds + 1):
        for name, contestant in contestants.items():
            if name == "votes_by_gradient" and turn > SLOW_ROUNDS:
                continue
            start = time.perf_counter()
            results[name] = contestant()
            # The first turn compiles.
            if turn > 0:
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    entries = len(results["forward"][2]["flatten_ids"])
    return {
        "splats": splat_count,
        "width": WIDTH,
        "height": HEIGHT,
        "masks": counts,
        "list_entries": entries,
        "votes_stored": sum(matrix.nnz for matrix in results["votes"].levels),
        "milliseconds": {name: round(1e3 * value, 2) for name, value in seconds.items()},
        "million_entries_per_s": {name: round(entries / value / 1e6, 3) for name, value in seconds.items()},
        "times_forward": round(seconds["votes"] / seconds["forward"], 2),
        "times_faster_than_gradient": round(seconds["votes_by_gradient"] / seconds["votes"], 1),
    }


def main() -> None:
    """Measure, show the result, write JSON if asked."""
    parser = argparse.ArgumentParser(description="Measure votes on the CPU.")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each contestant, at least 1")
    parser.add_argument("--splats", type=int, default=100_000, help="size of the scene")
    arguments = parser.parse_args()
    result = facts_of_machine() | {"numba_threads": nb.get_num_threads()}
    result |= measure(arguments.splats, max(1, arguments.rounds))
    CONSOLE.print_json(data=result)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
