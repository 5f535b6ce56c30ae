"""Writes the tables of both READMEs from the JSON files in `results`, so that no figure is typed by hand.

python -m benchmarks.tables

Run it after a measurement; a test fails while a README and the results disagree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.cells import METHODS

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
SCENES = ("demo", "desk", "bear", "redkitchen")
"""In the order in which tables name them; others follow."""
_MARKS = "<!-- {}: python -m benchmarks.tables -->", "<!-- end of {} -->"


def written_into(text: str, tables: Mapping[str, Callable[[], str]], path: Path) -> str:
    """A README's text with each table between its marks."""
    for name, table in tables.items():
        start, end = (mark.format(name) for mark in _MARKS)
        block = f"{start}\n{table()}\n{end}"
        pattern = f"{re.escape(start)}.*?{re.escape(end)}"
        text, count = re.subn(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{path} must have the marks {start} and {end} exactly once")
    return text


def matrix_table() -> str:
    """Every measured cell of `run`, the best mean IoU of a scene in bold, and who has it."""
    head = "scene | method | mean IoU | localisation | in 3D | absent rejected | PSNR | minutes | MB"
    cells = [cell for cell in _cells() if "language_miou" in cell["results"]]
    best = {scene: max(one["results"]["language_miou"] for one in group) for scene, group in _by_scene(cells).items()}
    rows = [_matrix_row(cell, cell["results"]["language_miou"] == best[cell["scene"]]) for cell in cells]
    return f"{_table(head, rows)}\n\n{_winners(cells, best)}"


def lifts_table() -> str:
    """Every way to lift, beside the trained methods and the photos themselves, one row per scene."""
    scenes, others = _load("lift_variants")["scenes"], _load("fastlgs")["scenes"]
    misses = _load("lift_misses")["scenes"]
    lifts = [f"`{method}`" for method in next(iter(scenes.values()))["lift"]]
    head = " | ".join(["scene", "labels' masks", "photos alone", "`langsplat`", "`fastlgs`", *lifts])
    rows = []
    for name, scene in scenes.items():
        scores = [
            {f"language_{key}": value for key, value in misses[name]["words"].items()},
            scene["oracle_2d"],
            scene["langsplat"],
            others[name].get("on_the_gaussians_of_langsplat", others[name])["scores"],
            *(lift["scores"]["scalar"] for lift in scene["lift"].values()),
        ]
        cells = [f"{one['language_miou']:.2f} / {one['language_localization']:.2f}" for one in scores]
        rows.append(" | ".join([name, *cells]))
    return _table(head, rows)


def parts_table() -> str:
    """Each part beside its peer of the same run, and beside what the machine allows where that was measured."""
    raster, masks = _load("rasterizer_cpu")["scenes"][0], _load("mask_generator")
    suppression, lift, query = _load("mask_suppression"), _load("lift_speed"), _load("lift_query_cpu")
    poses, matching = _load("poses"), _load("fastlgs")["scenes"]["redkitchen"]["identities"]
    ours, plain = poses["lang-splat poses --backend colmap"], poses["plain pycolmap"]
    votes, sift = (matching[name]["seconds_per_100_photos"] for name in ("votes", "fastlgs"))
    forward, backward = raster["forward"], raster["backward"]
    rows = [
        ("rasterizer, forward", "rasterizer_cpu", "plain compiled loop", forward["times_plain_loop"], forward),
        ("rasterizer, backward", "rasterizer_cpu", "plain compiled loop", backward["times_plain_loop"], backward),
        (
            "mask generator",
            "mask_generator",
            "stock one",
            masks["times_faster"],
            {"share_of_limit": masks["network_share"]},
        ),
        ("mask suppression", "mask_suppression", "plain loop", suppression["times_faster"], {}),
        ("lift", "lift_speed", "30,000 steps of langsplat", lift["times_faster"], {}),
        ("query", "lift_query", "comparing blended features", query["times_faster_than_feature"], query),
        ("matching by votes", "fastlgs", "by SIFT, as published", sift / votes, {}),
        ("poses by COLMAP", "poses", "plain pycolmap", plain["seconds"] / ours["seconds"], {}),
    ]
    lines = [
        f"{part} | `{script}` | {peer} | {times:.3g} times | {limit.get('share_of_limit', '')}"
        for part, script, peer, times, limit in rows
    ]
    return _table("part | script | beside | faster | share of the limit", lines)


def ablations_table() -> str:
    """What each choice of langsplat-lift is worth: the change of mean IoU where it is made otherwise."""
    scenes = _load("ablations")["scenes"]
    names = _in_order(scenes)
    ours = {name: scenes[name][""]["ours"]["language_miou"] for name in names}
    rows = [" | ".join(["as it is", "", *(f"{ours[name]:.3f}" for name in names)])]
    for choice, variants in scenes[names[0]].items():
        for variant in variants if choice else ():
            found = [scenes[name].get(choice, {}).get(variant) for name in names]
            changes = [
                one["language_miou"] - ours[name] if one else None for name, one in zip(names, found, strict=True)
            ]
            rows.append(" | ".join([choice, variant, *("" if one is None else f"{one:+.3f}" for one in changes)]))
    return _table(" | ".join(["choice", "in its place", *names]), rows)


def scale_table() -> str:
    """How cost grows, one row per axis and part: seconds at both ends, and the fitted exponent."""
    axes = _load("scale_cpu")["axes"]
    rows = []
    for axis, found in axes.items():
        first, last = found["points"][0], found["points"][-1]
        for part, exponent in found["exponents"].items():
            seconds = (f"{point['seconds'][part]:.3g} s at {point['size']:,}" for point in (first, last))
            rows.append(" | ".join([axis, part, *seconds, f"{exponent}"]))
    return _table("grows with | part | from | to | exponent", rows)


TABLES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"matrix": matrix_table, "lifts": lifts_table},
    ROOT / "benchmarks" / "README.md": {"parts": parts_table, "ablations": ablations_table, "scale": scale_table},
}


def _cells() -> list[dict[str, Any]]:
    """The matrix' files, scenes and methods in their order."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS / "matrix").glob("*/*.json")]
    scenes = _in_order({cell["scene"] for cell in found})
    return sorted(
        found, key=lambda cell: (scenes.index(cell["scene"]), METHODS.index(cell["method"]), cell["encoder"] or "")
    )


def _by_scene(cells: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(cell["scene"], []).append(cell)
    return groups


def _matrix_row(cell: dict[str, Any], is_best: bool) -> str:
    results = cell["results"]
    shares = [
        f"{results[key]:.2f}" if key in results else ""
        for key in ("language_miou", "language_localization", "language_miou_3d", "language_absent_rejection")
    ]
    if is_best:
        shares[0] = f"**{shares[0]}**"
    minutes = cell["costs"]["training"]["processor_seconds"] / 60
    costs = [f"{results['psnr']:.1f}", f"{minutes:.1f}", f"{cell['checkpoint_mb']:.0f}"]
    return " | ".join([cell["scene"], f"`{cell['method']}`", *shares, *costs])


def _winners(cells: list[dict[str, Any]], best: dict[str, float]) -> str:
    """Who has the highest mean IoU on how many scenes."""
    won: dict[str, list[str]] = {}
    for cell in cells:
        if cell["results"]["language_miou"] == best[cell["scene"]]:
            won.setdefault(cell["method"], []).append(cell["scene"])
    parts = [
        f"`{method}` on {', '.join(scenes)}" for method, scenes in sorted(won.items(), key=lambda one: -len(one[1]))
    ]
    return f"The highest mean IoU: {'; '.join(parts)}."


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (SCENES.index(name) if name in SCENES else len(SCENES), name))


def _table(head: str, rows: list[str]) -> str:
    ruler = " | ".join(["---"] * (head.count("|") + 1))
    return "\n".join(f"| {row} |" for row in [head, ruler, *rows])


def _load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    for readme, tables in TABLES.items():
        readme.write_text(written_into(readme.read_text(encoding="utf-8"), tables, readme), encoding="utf-8")
