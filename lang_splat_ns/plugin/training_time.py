"""How long a training took, in a small file beside the checkpoints.

Checkpoints hold no times, so that two equal trainings leave equal ones.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from lang_splat_ns.files import write_text

TRAINING_FILE = "training.json"


class TrainingClock:
    """Seconds since a training began, with those of the trainings that it continues.

    Looking at photos (segmenting, embedding) counts, as far as the cache did not have it.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._before: float | None = 0.0

    def continue_from(self, run_dir: Path, step: int) -> None:
        """Add what another training took up to its last checkpoint; unknown where it did not say."""
        seconds, last = _read(run_dir)
        self._before = seconds if last == step else None

    def write(self, run_dir: Path, step: int) -> None:
        """Write down how long it took to the checkpoint of a step, if all of it is known."""
        if self._before is not None:
            seconds = round(self._before + time.monotonic() - self._start, 1)
            write_text(run_dir / TRAINING_FILE, json.dumps({"step": step, "seconds": seconds}) + "\n")


def training_seconds(run_dir: Path) -> float | None:
    """Seconds that a run took until its last checkpoint, or None for a run that did not write it down."""
    return _read(run_dir)[0]


def _read(run_dir: Path) -> tuple[float | None, int | None]:
    try:
        content = json.loads((run_dir / TRAINING_FILE).read_text(encoding="utf-8"))
        return float(content["seconds"]), int(content["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
