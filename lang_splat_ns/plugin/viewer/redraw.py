"""Making nerfstudio's viewer show something new, at once and in full size."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from nerfstudio.viewer.render_state_machine import RenderAction


def redraw(viewer: Any) -> None:
    """Render for every connected browser.

    nerfstudio's own way treats a change like a move of the camera: a small picture, and the full one after two pauses
    of 0.2 seconds. A "step" asks for the full one right away.
    """
    if not viewer.ready:
        return
    viewer.last_move_time = time.time()
    for number, client in viewer.viser_server.get_clients().items():
        machine = viewer.render_statemachines.get(number)
        try:
            state = viewer.get_camera_state(client)
        except AssertionError:
            # A browser that has just connected has not said yet where its camera is; it will be drawn for when it does.
            continue
        if machine is not None:
            machine.action(RenderAction("step", state))


def show_picture(viewer: Any, keep: tuple[str, ...] = ()) -> None:
    """Choose the output `rgb`, in which the panel draws, unless one is chosen whose name begins with one of `keep`."""
    chooser = getattr(viewer.control_panel, "_output_render", None)
    if chooser is None or chooser.value in ("rgb", "not set") or chooser.value.startswith(keep or ("rgb",)):
        return
    chooser.value = "rgb"


@contextlib.contextmanager
def evaluating(viewer: Any, model: Any) -> Iterator[None]:
    """Keep a training from stepping, and the model in evaluation mode."""
    # Training gives way to a camera that has just moved, and to nothing else; without this we could wait long for
    # the lock.
    viewer.last_move_time = time.time()
    with viewer.train_lock if viewer.train_lock is not None else contextlib.nullcontext(), torch.no_grad():
        was_training = model.training
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)
