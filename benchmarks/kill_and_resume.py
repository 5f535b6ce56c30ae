"""Kills an extraction at random moments and runs it again: nothing is lost or done twice, and the result is the same.

python -m benchmarks.kill_and_resume --kills 20 --out benchmarks/results/kill_and_resume.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.perception.encoders import make_encoder
from lang_splat_ns.perception.extract import Frame, extract
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.segmenters import make_segmenter
from lang_splat_ns.perception.store_care import health, verify

WIDTH, HEIGHT = 160, 120
Stamps = dict[str, tuple[int, int]]


def work(root: Path, photos: int, segmenter_name: str) -> None:
    """What a killed process does: extract generated photos into a store, with a line of output for each record."""

    def photo(index: int) -> np.ndarray:
        blocks = np.random.default_rng(index).integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3), dtype=np.uint8)
        return blocks.repeat(20, axis=0).repeat(20, axis=1)

    def tell(lacking: Sequence[Frame], what: str, total: int) -> Iterator[Frame]:
        for frame in lacking:
            yield frame
            sys.stdout.write(what + "\n")
            sys.stdout.flush()

    frames = [Frame(str(index), f"photo-{index}", lambda index=index: photo(index)) for index in range(photos)]
    extract(frames, make_segmenter(segmenter_name), make_encoder("colour-words"), FeatureStore(root), tell)


def run(kills: int, photos: int, segmenter: str, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Kill as often as asked, finish, and compare with a run that nothing disturbed.

    Args:
        kills: SIGKILLs, at moments spread at random over the work.
        photos: number of photos.
        segmenter: name of a segmenter.
        folder: an empty folder to work in.
        seed: of the moments.
    """
    start, rng = time.monotonic(), random.Random(seed)
    calm, store = FeatureStore(folder / "calm"), FeatureStore(folder / "killed")
    command = [sys.executable, "-m", "benchmarks.kill_and_resume", "--photos", str(photos), "--segmenter", segmenter]
    pause = _let_work([*command, "--work", str(calm.root)])
    # A moment is a number of records and a part of the time that one takes, so that load elsewhere changes nothing.
    moments = sorted(rng.sample(range(1, int(2 * photos * 0.95)), kills))
    stamps: Stamps = {}
    progress: list[int] = []
    done_twice: set[str] = set()
    for moment in moments:
        _let_work([*command, "--work", str(store.root)], max(0, moment - len(stamps)), rng.uniform(0, pause))
        done_twice |= _rewritten(stamps, store)
        stamps = _stamps(store)
        progress.append(len(stamps))
    _let_work([*command, "--work", str(store.root)])
    done_twice |= _rewritten(stamps, store)
    return {
        "photos": photos,
        "segmenter": segmenter,
        "kills": kills,
        "records_at_each_kill": progress,
        "kills_in_the_middle_of_writing": len(health(store).unfinished),
        "whole_records_computed_twice": len(done_twice),
        "broken_records": len(verify(store)[1]) + len(health(store).set_aside),
        "records": len(_stamps(store)),
        "byte_equal": _contents(store) == _contents(calm),
        "seconds": round(time.monotonic() - start, 1),
    }


def _let_work(command: list[str], records: int | None = None, then_seconds: float = 0.0) -> float:
    """Let a process work to its end, or kill it some time after so many records; returns the mean time for one."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        times = [time.monotonic() for _ in itertools.islice(process.stdout, records)]
        if records is not None:
            time.sleep(then_seconds)
            process.kill()
        # What is still in the pipe is read, so that a process that may end is not kept from it.
        process.communicate()
    assert records is not None or process.returncode == 0, "the worker failed"
    return (times[-1] - times[0]) / len(times) if times else 0.0


def _stamps(store: FeatureStore) -> Stamps:
    files = sorted(store.versioned.rglob("*.npz"))
    return {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in files}


def _rewritten(earlier: Stamps, store: FeatureStore) -> set[str]:
    now = _stamps(store)
    return {name for name, stamp in earlier.items() if now.get(name) != stamp}


def _contents(store: FeatureStore) -> dict[str, bytes]:
    files = sorted(store.versioned.rglob("*.npz"))
    return {str(file.relative_to(store.root)): file.read_bytes() for file in files}


def main() -> None:
    """Measure, print, write JSON if asked; fails if a promise does not hold."""
    parser = argparse.ArgumentParser(description="Kill an extraction at random moments and resume it.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--segmenter", default="felzenszwalb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments.work, arguments.photos, arguments.segmenter)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = run(arguments.kills, arguments.photos, arguments.segmenter, Path(folder), arguments.seed)
    kept = result["byte_equal"] and not result["whole_records_computed_twice"] and not result["broken_records"]
    result["promises"] = {"byte_equal_and_nothing_done_twice": kept}
    CONSOLE.print(result)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
