"""Writes the README's tables from the JSON files in `results`, so that no figure is typed by hand.

python -m benchmarks.readme_tables

Run it after a measurement; a test fails while README and results disagree.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = Path(__file__).parent / "results"

_MARKS = "<!-- {}: python -m benchmarks.readme_tables -->", "<!-- end of {} -->"


def written_into(readme: str) -> str:
    """The README's text with each table between its marks."""
    for name, table in {"scores": scores_table, "lifts": lifts_table}.items():
        start, end = (mark.format(name) for mark in _MARKS)
        text = f"{start}\n{table()}\n{end}"
        pattern = f"{re.escape(start)}.*?{re.escape(end)}"
        readme, count = re.subn(pattern, lambda _, text=text: text, readme, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{README} must have the marks {start} and {end} exactly once")
    return readme


def scores_table() -> str:
    """Whole runs, from photos to scores, one row per measured scene."""
    head = "scene | method | networks | minutes | PSNR | mean IoU | in 2D | localisation | in 2D | absent rejected"
    rows = [_real_scene(name) for name in ("desk", "bear") if (RESULTS / f"{name}.json").is_file()]
    return _table(head, [_demo(), *rows])


def lifts_table() -> str:
    """Every way to lift, beside the trained methods and the photos themselves, one row per scene."""
    scenes, others = _load("lift_variants")["scenes"], _load("fastlgs")["scenes"]
    misses = _load("lift_misses")["scenes"]
    first = next(iter(scenes.values()))
    head = " | ".join(
        [
            "scene",
            "labels' masks",
            "photos alone",
            "`langsplat`",
            "`fastlgs`",
            *(f"`{method}`" for method in first["lift"]),
        ]
    )
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


def _table(head: str, rows: list[str]) -> str:
    ruler = " | ".join(["---"] * (head.count("|") + 1))
    return "\n".join(f"| {row} |" for row in [head, ruler, *rows])


def _demo() -> str:
    content = _load("demo")
    networks = f"`{content['segmenter']}`, `{content['encoder']}`"
    return _row(f"demo | `{content['method_name']}`", networks, content["seconds"], content["results"], {})


def _real_scene(name: str) -> str:
    content = _load(name)
    facts = content["facts"]
    networks = f"`{facts['segmenter']}`, `{facts['encoder'].split('/')[0]}`"
    seconds = sum(facts["seconds"].values())
    return _row(f"{name} | `langsplat`", networks, seconds, content["results"], content["oracle_2d"])


def _row(scene: str, networks: str, seconds: float, results: dict[str, Any], oracle: dict[str, Any]) -> str:
    def share(scores: dict[str, Any], key: str) -> str:
        return f"{scores[key]:.2f}" if key in scores else ""

    cells = [scene, networks, f"{seconds / 60:.1f}", f"{results['psnr']:.1f}"]
    for key in ("language_miou", "language_localization"):
        cells += [share(results, key), share(oracle, key)]
    return " | ".join([*cells, share(results, "language_absent_rejection")])


def _load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    README.write_text(written_into(README.read_text(encoding="utf-8")), encoding="utf-8")
