"""Making nerfstudio's viewer show something new, at once and in full size."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from nerfstudio.viewer.render_state_machine import RenderAction, RenderStateMachine

from lang_splat_ns.interrupts import uninterrupted


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


@uninterrupted()
def offer_outputs(names: list[str]) -> None:
    """Tell nerfstudio's lists which outputs this thread's render has, where they have changed.

    nerfstudio does it too, but also chooses another output for its split screen then, and what follows from that is a
    small, blurred picture after each new prompt.
    """
    machine = threading.current_thread()
    if not isinstance(machine, RenderStateMachine) or not machine.output_keys:
        return
    panel = machine.viewer.control_panel
    if panel.layer_depth:
        # The viewer adds this one itself, to let the picture hide what is behind it.
        names = [*names, "gl_z_buf_depth"]
    if machine.output_keys == set(names):
        return
    for chooser in (panel._output_render, panel._split_output_render):
        chooser.set_options(names)
    # Where a chosen output is gone, its list has gone back to the first one.
    machine.viewer.output_type_changed = machine.viewer.output_split_type_changed = True
    machine.output_keys = set(names)


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
