"""The suite's one console, and progress bars that also work where the output is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

CONSOLE = Console(width=None, highlight=False)
ERROR_CONSOLE = Console(stderr=True, highlight=False)

# Without a terminal a bar would fill a log file with control characters, so a plain line is printed this often.
PLAIN_INTERVAL_SECONDS = 15.0
# What rich estimates the time that is left from. Its own 30 seconds see no two photos where each takes a minute.
SPEED_PERIOD_SECONDS = 600.0

T = TypeVar("T")


def track(items: Iterable[T], description: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Yield `items` while showing count, rate, elapsed time and the time that is left.

    Args:
        items: what to iterate over.
        description: what is being done, in a few words.
        total: number of items, where `items` does not know its length.
        unit: what one item is, in the plural, for the rate.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if CONSOLE.is_terminal:
        yield from _track_on_terminal(items, description, total, unit)
    else:
        yield from _track_in_lines(items, description, total, unit)


def duration(seconds: float) -> str:
    """A length of time as people say it: 0.045 s, 1.2 s, 95 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class _Rate(ProgressColumn):
    """Items per second since the start: a photo can take a minute, for which an average over seconds has no value."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task.completed, task.elapsed or 0.0, task.fields["unit"]))


def _track_on_terminal(items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE, speed_estimate_period=SPEED_PERIOD_SECONDS) as progress:
        task = progress.add_task(description, total=total, unit=unit)
        for item in items:
            yield item
            progress.advance(task)


def _track_in_lines(items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_SECONDS:
            last = now
            taken = now - start
            rest = f", {duration(taken / done * (total - done))} left" if total else ""
            CONSOLE.print(f"{description}: {done}/{total or '?'}, {_rate(done, taken, unit)}, {duration(taken)}{rest}")
    if done:
        taken = time.monotonic() - start
        CONSOLE.print(f"{description}: {done} done in {duration(taken)} ({_rate(done, taken, unit)})")


def _rate(done: float, seconds: float, unit: str) -> str:
    if not done or not seconds:
        return ""
    rate = done / seconds
    return f"{rate:,.0f} {unit}/s" if rate >= 100 else f"{rate:.3g} {unit}/s"
