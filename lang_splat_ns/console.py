"""The suite's one console, and progress bars that also work where the output is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

CONSOLE = Console(width=None, highlight=False)
ERROR_CONSOLE = Console(stderr=True, highlight=False)

# Without a terminal a bar would fill a log file with control characters, so a plain line is printed this often.
PLAIN_INTERVAL_SECONDS = 15.0

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` while showing count, elapsed time and the time that is left.

    Args:
        items: what to iterate over.
        description: what is being done, in a few words.
        total: number of items, where `items` does not know its length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if CONSOLE.is_terminal:
        yield from _track_on_terminal(items, description, total)
    else:
        yield from _track_in_lines(items, description, total)


def _track_on_terminal(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _track_in_lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_SECONDS:
            last = now
            rate = (now - start) / done
            rest = f", {rate * (total - done):.0f} s left" if total else ""
            CONSOLE.print(f"{description}: {done}/{total or '?'}, {now - start:.0f} s{rest}")
    if done:
        CONSOLE.print(f"{description}: {done} done in {time.monotonic() - start:.1f} s")
