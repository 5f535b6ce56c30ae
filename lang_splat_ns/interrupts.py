"""Blocks that must run to their end although nerfstudio's viewer interrupts renders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep this thread's trace function out of a block; also a decorator.

    When the camera moves, nerfstudio's viewer stops the running render by an exception that its trace function raises
    at the next line of Python, whichever that is. At the end of a `with lock:` the lock then stays taken for ever, and
    inside the Python code that numba runs to call a compiled function it comes out as a SystemError, which ends the
    viewer's render thread. What takes a lock or calls compiled code in a render therefore belongs in such a block; the
    exception comes right after it.
    """
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)
