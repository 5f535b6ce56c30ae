"""How fast the CPU rasterizer is, beside its slow torch twin, a plain compiled loop, and the processor's limit.

    python -m benchmarks.rasterizer_cpu --out benchmarks/results/rasterizer_cpu.json

All contestants run in turns, round after round, and the best of their rounds counts: other programs on the machine
then disturb all of them alike. Two comparisons are made, forward and backward separately:

- against the plain loop: compositing only, from the same tile lists;
- against the torch twin: the whole call, from Gaussians to image, and from the image's gradient to the Gaussians'.

The unit is a million evaluations per second (Meval/s), one evaluation being one pixel of a tile by one entry of its
list. We visit only the rows of pixels that a splat can reach, which counts as evaluating the others too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import torch

from benchmarks.plain_loop import plain_backward, plain_forward
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.machine import facts_of_machine
from lang_splat_ns.splatting import simd
from lang_splat_ns.splatting.cpu_gradients import composite_backward
from lang_splat_ns.splatting.cpu_kernels import composite_forward, pack_splats
from lang_splat_ns.splatting.projection import project
from lang_splat_ns.splatting.rasterizer import rasterize
from lang_splat_ns.splatting.reference import rasterize_reference
from lang_splat_ns.splatting.tile_lists import TileLists, build_tile_lists

WIDTH, HEIGHT = 480, 270
CASES = ((20_000, 3), (20_000, 16), (100_000, 3), (100_000, 16))
MULTIPLY_ADDS = {"forward": (11, 1), "backward": (21, 2)}
"""Multiplications, additions and fused pairs of them that a row of 16 pixels takes, and each channel of it on top.

Comparisons, roundings, loads and stores are left out: they run beside the arithmetic. So what follows from these
numbers is a bound that no program doing the same sums can pass, not one that it would reach.
"""

Timings = dict[str, float]


def make_scene(count: int, channels: int) -> dict[str, torch.Tensor]:
    """A cloud that fills the view, its splats smaller the more there are."""
    rng = torch.Generator().manual_seed(0)
    size = -3.5 if count <= 20_000 else -4.2
    return {
        "means": torch.randn(count, 3, generator=rng) * torch.tensor([2.0, 1.2, 1.0]) + torch.tensor([0.0, 0.0, 4.0]),
        "quats": torch.randn(count, 4, generator=rng),
        "scales": torch.exp(torch.randn(count, 3, generator=rng) * 0.5 + size),
        "opacities": torch.rand(count, generator=rng) * 0.98 + 0.01,
        "colors": torch.rand(count, channels, generator=rng),
    }


def measure(count: int, channels: int, rounds: int, twin_rounds: int) -> dict[str, Any]:
    """One scene: best seconds of every contestant, rates and ratios."""
    splats = make_scene(count, channels)
    view = {
        "viewmat": torch.eye(4),
        "K": torch.tensor([[300.0, 0, WIDTH / 2], [0, 300, HEIGHT / 2], [0, 0, 1]]),
        "width": WIDTH,
        "height": HEIGHT,
    }
    loops, lists = compositing_contestants(splats, view)
    calls = {"call": lambda: whole_call(rasterize, splats, view)}
    twin = {"twin": lambda: whole_call(rasterize_reference, splats, view)}
    seconds: Timings = {}
    for turn in range(rounds + 1):
        chosen = loops | calls | (twin if turn <= twin_rounds else {})
        for name, contestant in chosen.items():
            for stage, value in contestant().items():
                key = f"{name}_{stage}"
                # The first turn compiles.
                seconds[key] = min(seconds.get(key, np.inf), value if turn else np.inf)
    return summarize(count, channels, seconds, lists)


def compositing_contestants(
    splats: dict[str, torch.Tensor], view: dict[str, Any]
) -> tuple[dict[str, Callable[[], Timings]], TileLists]:
    """Our loops and the plain ones, on the same projected splats and the same lists."""
    projection = project(splats["means"], splats["quats"], splats["scales"], **view)
    means2d, conics, depths, radii = (t.numpy() for t in projection[:4])
    opacities, colors = splats["opacities"].numpy(), splats["colors"].numpy()
    lists = build_tile_lists(means2d, conics, opacities, radii, depths, WIDTH, HEIGHT)
    background = np.zeros(colors.shape[1], np.float32)
    rng = np.random.default_rng(0)
    v_image = rng.standard_normal((HEIGHT, WIDTH, colors.shape[1]), np.float32)
    v_alpha = rng.standard_normal((HEIGHT, WIDTH), np.float32)

    def ours() -> Timings:
        start = time.perf_counter()
        packed = pack_splats(means2d, conics, opacities, radii)
        _, *drawn = composite_forward(packed, colors, background, *lists, WIDTH, HEIGHT)
        middle = time.perf_counter()
        composite_backward(packed, conics, opacities, colors, background, lists, drawn, v_image, v_alpha, False)
        return {"forward": middle - start, "backward": time.perf_counter() - middle}

    def plain() -> Timings:
        start = time.perf_counter()
        args = (means2d, conics, opacities, colors, lists.ids, lists.offsets)
        _, final_t, stop = plain_forward(*args, WIDTH, HEIGHT)
        middle = time.perf_counter()
        plain_backward(*args, final_t, stop, v_image, v_alpha, nb.get_num_threads())
        return {"forward": middle - start, "backward": time.perf_counter() - middle}

    return {"ours": ours, "plain": plain}, lists


def whole_call(function: Callable[..., Any], splats: dict[str, torch.Tensor], view: dict[str, Any]) -> Timings:
    """The public call with gradients for everything."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in splats.items()}
    start = time.perf_counter()
    image, alpha, _ = function(**leaves, **view)
    middle = time.perf_counter()
    torch.autograd.backward([image, alpha], [torch.ones_like(image), torch.ones_like(alpha)])
    return {"forward": middle - start, "backward": time.perf_counter() - middle}


def summarize(count: int, channels: int, seconds: Timings, lists: TileLists) -> dict[str, Any]:
    """Rates and ratios of one scene."""
    entries = lists.ids.size
    rows = int(((lists.rows >> 4).astype(np.int64) - (lists.rows & 15) + 1).sum())
    result: dict[str, Any] = {"splats": count, "channels": channels, "width": WIDTH, "height": HEIGHT}
    result |= {"list_entries": entries, "rows_per_entry": round(rows / entries, 2)}
    result["milliseconds"] = {name: round(1e3 * value, 2) for name, value in seconds.items()}
    for stage in ("forward", "backward"):
        ours, plain = seconds[f"ours_{stage}"], seconds[f"plain_{stage}"]
        result[stage] = {
            "ours_meval_per_s": round(entries * 256 / ours / 1e6),
            "ours_visited_meval_per_s": round(rows * 16 / ours / 1e6),
            "plain_meval_per_s": round(entries * 256 / plain / 1e6),
            "times_plain_loop": round(plain / ours, 1),
            "times_torch_twin": round(seconds[f"twin_{stage}"] / seconds[f"call_{stage}"], 1),
        }
    return result


@nb.njit(parallel=True)
def _multiply_add(parts, repeats):
    """Independent chains of fused multiply-adds on every thread: the most that the processor can do."""
    results = np.zeros(parts, np.float32)
    for part in nb.prange(parts):
        a = simd.fill(np.float32(part))
        b, c, d, e, f, g, h = a + 1.0, a + 2.0, a + 3.0, a + 4.0, a + 5.0, a + 6.0, a + 7.0
        for _ in range(repeats):
            a, b, c, d = a * 0.5 + 1.0, b * 0.5 + 1.0, c * 0.5 + 1.0, d * 0.5 + 1.0
            e, f, g, h = e * 0.5 + 1.0, f * 0.5 + 1.0, g * 0.5 + 1.0, h * 0.5 + 1.0
        results[part] = simd.total(a + b + c + d + e + f + g + h)
    return results


def arithmetic_limit() -> float:
    """Fused multiply-adds on rows of 16 per second, all threads together."""
    parts, repeats, best = nb.get_num_threads(), 2_000_000, np.inf
    for _ in range(6):
        start = time.perf_counter()
        _multiply_add(parts, repeats)
        best = min(best, time.perf_counter() - start)
    return parts * repeats * 8 / best


def run(rounds: int, twin_rounds: int, cases: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """All scenes, and whether the rasterizer keeps what it promises."""
    scenes = [measure(*case, rounds, twin_rounds) for case in cases]
    rows_per_second = arithmetic_limit()
    for scene in scenes:
        for stage, (fixed, per_channel) in MULTIPLY_ADDS.items():
            limit = rows_per_second / (fixed + per_channel * scene["channels"]) * 16 / 1e6
            scene[stage]["limit_visited_meval_per_s"] = round(limit)
            scene[stage]["share_of_limit"] = round(scene[stage]["ours_visited_meval_per_s"] / limit, 2)
    stages = [scene[stage] for scene in scenes for stage in ("forward", "backward")]
    return {
        **facts_of_machine(),
        "numba_threads": nb.get_num_threads(),
        "multiply_adds_per_s": round(rows_per_second * 16),
        "scenes": scenes,
        "promises": {
            "at_least_10_times_torch_twin": min(stage["times_torch_twin"] for stage in stages) >= 10,
            "at_least_3_times_plain_loop": min(stage["times_plain_loop"] for stage in stages) >= 3,
            "above_1500_meval_per_s_forward": min(s["forward"]["ours_meval_per_s"] for s in scenes) > 1500,
        },
    }


def main() -> None:
    """Measure, show a table, write JSON if asked."""
    parser = argparse.ArgumentParser(description="Measure the CPU rasterizer.")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each contestant")
    parser.add_argument("--twin-rounds", type=int, default=2, help="turns of the torch twin, which is slow")
    parser.add_argument("--small", action="store_true", help="the 20,000 splats only; the twin needs 4 GB for 100,000")
    arguments = parser.parse_args()
    cases = tuple(case for case in CASES if case[0] <= 20_000) if arguments.small else CASES
    result = run(arguments.rounds, arguments.twin_rounds, cases)
    for scene in result["scenes"]:
        for stage in ("forward", "backward"):
            CONSOLE.print(f"{scene['splats']:>7} x {scene['channels']:<3} {stage:<9}", scene[stage])
    CONSOLE.print(result["promises"])
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
