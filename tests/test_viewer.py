"""What nerfstudio's viewer does to a model: it interrupts renders at any line, and shows what people type."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from lang_splat_ns.plugin.viewer_panel import PromptBoxes, as_plain_markdown

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.text import TextCache
from lang_splat_ns.plugin.prompts import Prompts
from lang_splat_ns.plugin.runs import Run, frame_camera, open_run


class KnowsTwo:
    """An encoder of two words, without a network."""

    encoder_id = "knows-two"
    dim = 2
    negatives = ("thing",)

    def embed_text(self, texts: Any) -> np.ndarray:
        """One direction per known word."""
        known = {"sun": (1.0, 0.0), "moon": (0.0, 1.0), "thing": (0.6, 0.8)}
        for text in texts:
            if text not in known:
                raise KeyError(f"{text!r} is unknown")
        return np.array([known[text] for text in texts], np.float32)


def test_half_typed_text_keeps_the_last_answer() -> None:
    prompts = Prompts(lambda: TextCache(KnowsTwo()), ())  # type: ignore[arg-type]
    assert prompts.submit("su", "") == "'su' is unknown" and prompts.query is None
    assert prompts.submit("sun", "") == "" and prompts.query == Query(("sun",))
    assert prompts.submit("sun; mo", "thing; x") == "'mo' is unknown\n'x' is unknown"
    assert prompts.query == Query(("sun",), ("thing",))
    assert prompts.submit("mo", "") == "'mo' is unknown" and prompts.query == Query(("sun",), ("thing",))
    assert prompts.submit(" ; ", "") != "" and prompts.query is not None
    assert prompts.submit("  ", "sun") == "" and prompts.query is None


def test_an_encoder_that_breaks_its_promises_is_found_before_a_render() -> None:
    class NoNegatives(KnowsTwo):
        negatives = ()

    prompts = Prompts(lambda: TextCache(NoNegatives()), ("sun",))  # type: ignore[arg-type]
    assert "negative" in prompts.recheck() and prompts.query is None
    assert "negative" in prompts.submit("sun", "") and prompts.query is None
    assert prompts.submit("sun", "thing") == "" and prompts.query is not None


def test_queries_without_their_encoder_are_dropped() -> None:
    def missing() -> TextCache:
        raise UserError("no such encoder")

    prompts = Prompts(missing, ("sun",))
    assert prompts.recheck() == "no such encoder" and prompts.query is None
    assert prompts.submit("sun", "") == "no such encoder" and prompts.query is None


def test_status_says_which_output_answers_what() -> None:
    waiting = [""]
    boxes = PromptBoxes(Prompts(lambda: TextCache(KnowsTwo()), ("moon", "y")), lambda: waiting[0])  # type: ignore[arg-type]
    assert boxes.recheck() == "'y' is unknown"
    assert boxes.positives.value == "moon; y" and boxes.status.read() == "relevancy_0: moon\n'y' is unknown"
    boxes.positives.value = "x; moon; sun"
    waiting[0] = "Wait."
    boxes.positives.cb_hook(boxes.positives)
    assert boxes.status.read() == "relevancy_0: moon\nrelevancy_1: sun\n'x' is unknown\nWait."
    boxes.positives.value = ""
    boxes.positives.cb_hook(boxes.positives)
    assert boxes.status.read() == ""


def test_typed_text_cannot_be_markup() -> None:
    shown = as_plain_markdown("{alert(1)} <b>x</b>  **y** [z](u)\n\n1. 红色\n")
    assert not set(shown) & set("{}<>*[]()._`\"'")
    assert shown.endswith("\n\n1&#46; 红色")


@pytest.fixture(scope="module")
def opened(run: Path) -> Run:
    """The finished run, opened."""
    return open_run(run / "config.yml")


class Interruption(Exception):
    """What the viewer raises in a render, by a trace function."""


def test_a_render_may_be_interrupted_at_any_line(opened: Run) -> None:
    model = opened.pipeline.model
    _, camera = frame_camera(opened, None)
    camera.rescale_output_resolution(0.25)
    assert model.prompts.submit("red", "") == ""
    expected = model.get_outputs_for_camera(camera)
    visits = _visits(lambda: model.get_outputs_for_camera(camera))
    assert len(visits) > 200
    ends: list[str] = []

    def interrupt_everywhere() -> None:
        for visit in visits:
            ends.append(_interrupted_at(visit, lambda: model.get_outputs_for_camera(camera)))

    # In a thread of its own, as in the viewer: a lock that stays taken would otherwise stop the tests for ever.
    thread = threading.Thread(target=interrupt_everywhere, daemon=True)
    thread.start()
    thread.join(timeout=240)
    assert not thread.is_alive(), f"a lock stays taken after an interruption at line {visits[len(ends) - 1]}"
    assert set(ends) == {"Interruption"}
    again = model.get_outputs_for_camera(camera)
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def _visits(work: Any) -> list[int]:
    """The first and the last visit of every place in `work`, as numbers counted over all lines that run, from 1.

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

    _traced(trace, work)
    return sorted({*first.values(), *last.values()})


def _interrupted_at(visit: int, work: Any) -> str:
    """Name of the exception that comes out of `work` when its line number `visit` is interrupted."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == visit:
                raise Interruption
        return trace

    try:
        _traced(trace, work)
    except BaseException as error:
        return type(error).__name__
    return "nothing"


def _traced(trace: Any, work: Any) -> None:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)


def test_viewer_finds_the_boxes_in_order(opened: Run) -> None:
    from nerfstudio.viewer.utils import parse_object
    from nerfstudio.viewer.viewer_elements import ViewerElement

    found = parse_object(opened.pipeline, ViewerElement, "Custom Elements")
    assert [element.name for _, element in found] == ["Prompts", "Negatives", "Status"]
    assert {path.count("/") for path, _ in found} == {1}, "directly in the folder that nerfstudio makes"


def test_guard_hides_the_trace_function_and_puts_it_back() -> None:
    from lang_splat_ns.interrupts import uninterrupted

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        return trace

    def look(fails: bool) -> None:
        with uninterrupted():
            assert sys.gettrace() is None
            if fails:
                raise ValueError
        assert sys.gettrace() is trace

    def work() -> None:
        look(fails=False)
        with pytest.raises(ValueError):
            look(fails=True)
        assert sys.gettrace() is trace

    _traced(trace, work)
