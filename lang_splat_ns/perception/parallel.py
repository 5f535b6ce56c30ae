"""Independent pieces of work on a CPU's cores, one piece per core."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def map_on_cores(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`[function(item) for item in items]`, in inference mode, with one thread per core.

    By default torch splits every single operation over the cores and waits for all of them after each. As soon as
    another process wants a core too, that waiting takes most of the time: on two cores with a load of eight, a photo
    took MobileSAM 71 s that way and 22 s with whole pieces per thread. torch lets go of Python's lock while it
    computes, as OpenCV does, so plain threads suffice.
    """
    keep_freed_memory()
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2:
        with torch.inference_mode():
            return [function(item) for item in items]

    def piece(item: T) -> R:
        # Inference mode belongs to a thread, like the number of threads that the thread may use itself.
        with torch.inference_mode():
            return function(item)

    pool = ThreadPoolExecutor(min(threads, len(items)), initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(piece, items))
    finally:
        pool.shutdown(cancel_futures=True)
        # torch also remembers the number as the default for threads to come.
        torch.set_num_threads(threads)


@cache
def keep_freed_memory() -> None:
    """Have the C library keep freed blocks for the next operation instead of giving them back to the system.

    A network asks for the same tens of megabytes at every operation. By default each such block comes from the system
    and goes back to it, and the system fills its pages with zeros every time: 670,000 page faults and a quarter of
    MobileSAM's time for a photo on two cores. Only glibc has these switches; elsewhere nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # Names and numbers of malloc.h.
    mallopt(mmap_threshold, 2**31 - 1)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 100 << 20)
