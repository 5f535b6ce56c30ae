"""The command line of measurements on finished runs: `--run NAME=config.yml` for each scene, and one JSON for all."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.files import write_text
from lang_splat_ns.machine import facts_of_code, facts_of_machine

Measure = Callable[[Path], Iterator[dict[str, Any]]]
"""What was found on a run so far, whenever there is more of it, by the run's config.yml."""


def measure_runs(about: str, kind: str, out: Path, measure: Measure) -> None:
    """Measure every run that the command line names. The file is written whenever there is more to say.

    Args:
        about: what the command does.
        kind: which methods' runs it wants.
        out: JSON file, if the command line names none; what it says of other scenes stays.
        measure: measures one run.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--run", action="append", required=True, help=f"NAME=config.yml of a run of {kind}; repeatable")
    parser.add_argument("--out", type=Path, default=out, help="JSON file; what it says of other scenes stays")
    arguments = parser.parse_args()
    content = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {"scenes": {}}
    content |= {"facts": facts_of_code() | facts_of_machine()}
    for named in arguments.run:
        name, _, config = named.partition("=")
        CONSOLE.print(f"Scene {name}", markup=False)
        for found in measure(Path(config)):
            content["scenes"][name] = found
            write_text(arguments.out, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
