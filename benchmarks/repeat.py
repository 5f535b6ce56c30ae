"""Whether a second run with the same seed gives the same figures as the first, on a CPU to the last digit.

    python -m benchmarks.repeat --scenes demo --methods 3dgs langsplat-lift

Takes the options of `benchmarks.run`, trains and scores those cells again in a folder of their own, and compares them
with the files of the first run. What measures time is not compared.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import tyro

from benchmarks.machine import facts_of_code, facts_of_machine
from benchmarks.run import RESULTS, Matrix
from lang_splat_ns.console import CONSOLE, ERROR_CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text

_TIMES = ("fps", "num_rays_per_sec")


def repeat(matrix: Matrix) -> dict[str, dict[str, list[float | None]]]:
    """For each cell the figures that differ: [first, second], and none where the runs agree.

    Raises:
        UserError: a cell has not been measured yet.
    """
    again = replace(matrix, work=matrix.work / "again", cache_dir=matrix.cache_dir or matrix.work / "cache")
    found = {}
    for first, second in zip(matrix.cells(), again.cells(), strict=True):
        file = matrix.file(first)
        if not file.is_file():
            raise UserError(f"{file}: not measured yet; run benchmarks.run with the same options first.")
        CONSOLE.print(
            f"{first.method} on {first.scene.name}; logs in {second.run_folder}", soft_wrap=True, markup=False
        )
        before, after = _figures(json.loads(file.read_text(encoding="utf-8"))), _figures(second.measure())
        found[f"{first.scene.name}/{first.name}"] = {
            key: [before.get(key), after.get(key)] for key in before | after if before.get(key) != after.get(key)
        }
    return found


def _figures(content: dict[str, dict[str, float]]) -> dict[str, float]:
    return {key: value for key, value in content["results"].items() if not key.startswith(_TIMES)}


def main() -> None:
    """Compare, show, write; exit with 1 where figures differ."""
    found = repeat(tyro.cli(Matrix))
    content = {"differences": found} | facts_of_code() | facts_of_machine()
    CONSOLE.print_json(data=content)
    write_text(RESULTS / "repeat.json", json.dumps(content, indent=1) + "\n")
    if any(found.values()):
        raise UserError("Figures differ between two runs with one seed.")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        ERROR_CONSOLE.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)
