"""Writes the README's table of scores from the JSON files in `results`, so that no figure is typed by hand.

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

_MARKS = "<!-- scores: python -m benchmarks.readme_tables -->", "<!-- end of scores -->"
_HEAD = (
    "| scene | method | networks | minutes | PSNR | mean IoU | in 2D | localisation | in 2D | absent rejected |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def scores_table() -> str:
    """The table in Markdown, one row per measured scene."""
    rows = [_real_scene(name) for name in ("desk", "bear") if (RESULTS / f"{name}.json").is_file()]
    return "\n".join([*_HEAD, _demo(), *rows])


def written_into(readme: str) -> str:
    """The README's text with the table between its marks."""
    start, end = (re.escape(mark) for mark in _MARKS)
    table = f"{_MARKS[0]}\n{scores_table()}\n{_MARKS[1]}"
    text, count = re.subn(f"{start}.*?{end}", lambda _: table, readme, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{README} must have the marks {_MARKS} exactly once")
    return text


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
    return "| " + " | ".join([*cells, share(results, "language_absent_rejection")]) + " |"


def _load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    README.write_text(written_into(README.read_text(encoding="utf-8")), encoding="utf-8")
