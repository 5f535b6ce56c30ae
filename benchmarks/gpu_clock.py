"""Seconds and memory of work on a device, which on CUDA runs behind the program's back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


class Clock:
    """Measures from its creation on.

    Args:
        device: where the work is done; on CUDA its peak memory is measured too.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._paused = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._start = self._now()

    def seconds(self) -> float:
        """Seconds so far, all work finished, without those spent in `pause`."""
        return self._now() - self._start - self._paused

    def pause(self, work: Callable[[], Any]) -> Any:
        """Do something that does not count, such as evaluating; returns what it returns."""
        before = self._now()
        result = work()
        self._paused += self._now() - before
        return result

    def memory(self) -> dict[str, float]:
        """torch's peak memory in GiB; nothing on a CPU, where torch does not count."""
        if self._device.type != "cuda":
            return {}
        return {"peak_memory_gib": round(torch.cuda.max_memory_allocated(self._device) / 2**30, 3)}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def milliseconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The median of `repeats` runs of `work`, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        clock = Clock(device)
        work()
        times.append(clock.seconds() * 1e3)
    return round(sorted(times)[len(times) // 2], 3)
