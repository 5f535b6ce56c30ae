"""Interrupting a render at any line, as nerfstudio's viewer does when the camera moves."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException


def visits_of(work: Any, within: str = "") -> list[int]:
    """The first and the last visit of every place in `work`, as numbers counted over all lines that run, from 1.

    Only places in files whose path contains `within` are listed.

    The last one counts too: the end of a `with` block is another visit of its first line.
    """
    first: dict[tuple[str, int], int] = {}
    last: dict[tuple[str, int], int] = {}
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            place = (frame.f_code.co_filename, frame.f_lineno)
            first.setdefault(place, count)
            last[place] = count
        return trace

    traced(trace, work)
    return sorted({seen[place] for seen in (first, last) for place in seen if within in place[0]})


def interrupted_at(visit: int, work: Any) -> str:
    """Name of the exception that comes out of `work` when its line number `visit` is interrupted."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == visit:
                raise IOChangeException
        return trace

    try:
        traced(trace, work)
    except BaseException as error:
        return type(error).__name__
    return "nothing"


def traced(trace: Any, work: Any) -> None:
    """Run `work` under a trace function, as the viewer's render thread does."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
