"""Whether a second run with the same seed gives the same figures as the first, on a CPU to the last digit.

    python -m benchmarks.repeat --scenes demo --methods langsplat-lift

Takes the options of `benchmarks.run`, trains and scores those cells again in a folder of their own, and compares them
with the files of the first run. What measures time is not compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.command import start
from benchmarks.run import RESULTS, Matrix
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text
from lang_splat_ns.machine import facts_of_code, facts_of_machine

_TIMES = ("fps", "num_rays_per_sec")


@dataclass
class Repeat(Matrix):
    """Measure cells once more, and compare their figures with those of the first time."""

    def main(self) -> None:
        """Compare, show, write.

        Raises:
            UserError: figures differ, or a cell has not been measured yet.
        """
        content = {"differences": self.differences()} | facts_of_code() | facts_of_machine()
        CONSOLE.print_json(data=content)
        write_text(RESULTS / "repeat.json", json.dumps(content, indent=1) + "\n")
        if any(content["differences"].values()):
            raise UserError("Figures differ between two runs with one seed.")

    def differences(self) -> dict[str, dict[str, list[float | None]]]:
        """For each cell the figures that differ, [first, second]; none where the runs agree."""
        again = replace(self, work=self.work / "again", cache_dir=self.cache_dir or self.work / "cache")
        found = {}
        for first, second in zip(self.cells(), again.cells(), strict=True):
            file = self.file(first)
            if not file.is_file():
                raise UserError(f"{file}: not measured yet; run benchmarks.run with the same options first.")
            what = f"{first.method} on {first.scene.name}"
            CONSOLE.print(f"{what}; logs in {second.run_folder}", soft_wrap=True, markup=False)
            before, after = _figures(json.loads(file.read_text(encoding="utf-8"))), _figures(second.measure())
            found[f"{first.scene.name}/{first.name}"] = {
                key: [before.get(key), after.get(key)] for key in before | after if before.get(key) != after.get(key)
            }
        return found


def _figures(content: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in content["results"].items() if not key.startswith(_TIMES)}


if __name__ == "__main__":
    start(Repeat)
