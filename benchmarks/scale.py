"""How the cost of rendering, lifting and asking grows with Gaussians, photos, prompts and resolution.

    python -m benchmarks.scale                                  # a CPU
    python -m benchmarks.scale --device cuda --out scale_cuda.json

One of the four is changed at a time, on a cloud with objects in it. For each part of the work an exponent is fitted: 1
is cost in proportion, 0 is no growth. Sizes that would not fit into memory are left out and named. Beside the JSON a
page shows the curves. torch, numpy, scipy and, on CUDA, gsplat suffice; the page takes matplotlib and jinja2 too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import check_device, facts
from benchmarks.gpu_clock import milliseconds
from benchmarks.scale_scene import Load, ScaleScene, peak_memory_mb
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.files import write_text
from lang_splat_ns.machine import facts_of_code

RESULTS = Path(__file__).parent / "results"
BASE = {"cpu": Load(100_000, 10, 1, 480), "cuda": Load(1_000_000, 40, 1, 1440)}
AXES: dict[str, tuple[int, ...]] = {
    "gaussians": (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 5_000_000),
    "photos": (5, 10, 20, 40, 80, 160),
    "prompts": (1, 3, 10, 30, 100, 300, 1000),
    "width": (240, 480, 960, 1920),
}
REPEATS = 3
PARTS = {
    "gaussians": ("render", "query", "scores", "votes", "consensus"),
    "photos": ("votes", "consensus"),
    "prompts": ("query", "scores"),
    "width": ("render", "query", "votes"),
}
"""What an axis has something to do with."""


def measure(load: Load, parts: tuple[str, ...], device: torch.device) -> dict[str, float]:
    """Seconds of each part under one load."""
    scene = ScaleScene(load, device)
    works = {"render": scene.render, "query": scene.ask, "scores": scene.score}
    with torch.no_grad():
        found = {name: milliseconds(work, device, REPEATS) / 1e3 for name, work in works.items() if name in parts}
        if "votes" in parts:
            lifted = scene.lift()
            found |= {name: lifted[name] for name in parts if name in lifted}
    return {name: round(seconds, 5) for name, seconds in found.items()}


def exponent(sizes: list[int], seconds: list[float]) -> float | None:
    """Slope of log seconds over log size, over the larger half of the sizes; None for fewer than three."""
    half = max(3, (len(sizes) + 1) // 2)
    if len(sizes) < 3:
        return None
    return round(float(np.polyfit(np.log(sizes[-half:]), np.log(seconds[-half:]), 1)[0]), 2)


def measure_axis(axis: str, base: Load, device: torch.device, limit: int) -> dict[str, Any]:
    """One axis: points and exponents; sizes above `limit`, or beyond memory, are left out."""
    points, left_out, parts = [], [], PARTS[axis]
    for size in (size for size in AXES[axis] if size <= limit):
        if (
            axis == "gaussians"
            and points
            and not _fits(size / points[-1]["size"], points[-1]["peak_memory_mb"], device)
        ):
            left_out.append(size)
            continue
        seconds = measure(replace(base, **{axis: size}), parts, device)
        gc.collect()
        points.append({"size": size, "seconds": seconds, "peak_memory_mb": round(peak_memory_mb(device))})
        CONSOLE.print(f"{axis} {size:,}: {_shares(seconds)}", markup=False)
    sizes = [point["size"] for point in points]
    exponents = {part: exponent(sizes, [point["seconds"][part] for point in points]) for part in parts}
    CONSOLE.print(f"{axis}: exponents {exponents}", markup=False)
    return {"points": points, "exponents": exponents, "left_out": left_out}


def _shares(seconds: dict[str, float]) -> str:
    """Where the time goes."""
    total = sum(seconds.values())
    return ", ".join(f"{name} {value:.3g} s ({value / total:.0%})" for name, value in seconds.items())


def _fits(times: float, used_mb: float, device: torch.device) -> bool:
    """Whether that many times the memory is there."""
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
    else:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return times * used_mb * 1e6 < 0.7 * whole


def main(arguments: list[str] | None = None) -> None:
    """Measure all axes; the JSON is written after each."""
    parser = argparse.ArgumentParser(description="Measure how cost grows.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--axis", choices=AXES, action="append", help="measure this axis alone; repeatable")
    parser.add_argument("--limit", type=int, default=max(AXES["gaussians"]), help="leave out sizes above it")
    parser.add_argument("--out", type=Path, help="JSON file; axes in it that are not measured stay")
    options = parser.parse_args(arguments)
    device = check_device(options.device)
    out = options.out or RESULTS / f"scale_{device.type}.json"
    content = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    content |= {"facts": facts(device), "base": asdict(BASE[device.type])} | facts_of_code()
    for axis in options.axis or AXES:
        found = measure_axis(axis, BASE[device.type], device, options.limit)
        content.setdefault("axes", {})[axis] = found | {"load": round(os.getloadavg()[0], 1)}
        write_text(out, json.dumps(content, indent=1) + "\n")
    if find_spec("matplotlib") and find_spec("jinja2"):
        draw(content, out.with_suffix(".html"))
        CONSOLE.print(f"Curves: {out.with_suffix('.html')}", markup=False)


def draw(content: dict[str, Any], page: Path) -> None:
    """Write a page with a chart per axis, both of its axes logarithmic, so that an exponent is a slope."""
    from lang_splat_ns.evaluation.charts import Axis, Series, line_chart
    from lang_splat_ns.evaluation.page import write_page

    charts = []
    for axis, found in content["axes"].items():
        sizes = [point["size"] for point in found["points"]]
        series = [
            Series(f"{part}, exponent {slope}", sizes, [point["seconds"][part] for point in found["points"]])
            for part, slope in found["exponents"].items()
        ]
        chart = line_chart(series, Axis(axis, log=True), Axis("seconds", log=True), f"Seconds by {axis}")
        others = ", ".join(f"{value:,} {name}" for name, value in content["base"].items() if name != axis)
        charts.append((f"By {axis}", f"The rest: {others}.", chart))
    facts = {name: value for name, value in content["facts"].items() if value is not None}
    write_page(page, "charts.html.j2", title="How cost grows", charts=charts, facts=facts)


if __name__ == "__main__":
    main()
