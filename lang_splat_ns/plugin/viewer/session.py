"""What the panel wants to see, and what renders tell it. The only thing that the two share."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lang_splat_ns.language.field import LanguageField, Query, QueryMode

Mode = Literal["rgb", "relevancy", "mask", "isolate", "hide"]
MODES: tuple[Mode, ...] = get_args(Mode)
IN_3D: tuple[Mode, ...] = ("isolate", "hide")
"""Modes that draw some of the Gaussians, and so need some."""


@dataclass(frozen=True, eq=False)
class View:
    """What renders show. It never changes: another wish is another view.

    Attributes:
        query: prompts, or None.
        mode: what the picture shows of them.
        opacity: of the overlay, 0..1.
        query_mode: how prompts are answered, where the method has a choice; None is the run's own.
        picked: Gaussians that were clicked, bool [N], or None. They are the selection while there are any.
    """

    query: Query | None = None
    mode: Mode = "relevancy"
    opacity: float = 0.7
    query_mode: QueryMode | None = None
    picked: Tensor | None = None


@dataclass(frozen=True)
class Report:
    """What one render has found.

    Attributes:
        query: what it answered.
        peaks: each prompt's highest raw relevancy in the view.
        areas: each prompt's share of the view.
        seconds: what the answer took, beyond the render itself; with it where rays carry the answer along.
        count: Gaussians of the scene.
        selected: Gaussians of the selection, where it was drawn or lit.
        trouble: why there is no answer, in one sentence.
        scales: each prompt's scale, in nerfstudio's units, for a method that chooses one; else empty.
    """

    query: Query | None = None
    peaks: tuple[float, ...] = ()
    areas: tuple[float, ...] = ()
    seconds: float = 0.0
    count: int = 0
    selected: int | None = None
    trouble: str = ""
    scales: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Remembered:
    key: tuple[Any, ...]
    mask: Tensor


class Session:
    """Connects a panel with the renders of its viewer.

    Renders may be interrupted at any line, so each change is one assignment, and reports go through a queue that is
    written in C.

    Attributes:
        view: what is wanted.
        shown: what the last finished render has shown.
        reports: what renders have found, oldest first.
    """

    def __init__(self) -> None:
        self.view = self.shown = View()
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._selected: _Remembered | None = None

    def change(self, **values: Any) -> View:
        """Wish for something else; see `View`."""
        self.view = replace(self.view, **values)
        return self.view

    def selected(self, view: View, field: LanguageField, step: int, count: int) -> Tensor | None:
        """The Gaussians that were clicked, or else those that answer the prompts: bool [N], or None.

        Args:
            view: whose selection.
            field: answers the prompts.
            step: of the training; features change with it.
            count: number of Gaussians. A selection of as many Gaussians as there were once is none any more.
        """
        if view.picked is not None:
            return view.picked if len(view.picked) == count else None
        if view.query is None:
            return None
        key = (view.query, view.query_mode, step, count)
        last = self._selected
        if last is None or last.key != key:
            self._selected = last = _Remembered(key, field.select(view.query).mask.any(0))
        return last.mask


def session_of_this_render(session: Session | None) -> Session | None:
    """The session, where this thread renders for a viewer; nothing else may look as somebody's panel wants it to."""
    if session is None:
        return None
    from nerfstudio.viewer.render_state_machine import RenderStateMachine

    return session if isinstance(threading.current_thread(), RenderStateMachine) else None


def is_any(mask: Tensor | None) -> bool:
    """Whether there is a selection with something in it."""
    return mask is not None and bool(mask.any())


def drawn_in(mode: Mode, selected: Tensor | None) -> Tensor | None:
    """Gaussians that a mode draws: bool [N], or None for all. An empty selection is not drawn alone."""
    if selected is None or mode not in IN_3D or not is_any(selected):
        return None
    return selected if mode == "isolate" else torch.logical_not(selected)
