"""What a browser says to nerfstudio's viewer and hears from it, as far as tests need it."""

from __future__ import annotations

import html
import http.client
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec
from websockets.sync.client import connect

LEVEL = (0.5**0.5, -(0.5**0.5), 0.0, 0.0)
"""Quaternion (w, x, y, z) of a camera with OpenCV's axes that looks along the world's y, with z up."""


def fetch_page(port: int) -> tuple[int, bytes]:
    """Status and content of the viewer's page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    answer = connection.getresponse()
    return answer.status, answer.read()


def listens(host: str, port: int) -> bool:
    """True if somebody accepts connections at this address."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


class ViewerClient:
    """One connected browser. It speaks viser's protocol: messages as dicts in msgpack, in both directions.

    Attributes:
        elements: the newest state of every labelled input, by its label.
        texts: the newest content of every text block, by its id.
        images: number of renders received.
        image: the newest of them, a JPEG.
    """

    def __init__(self, port: int) -> None:
        self.elements: dict[str, dict[str, Any]] = {}
        self.texts: dict[str, str] = {}
        self.images = 0
        self.image = b""
        # A socket of our own keeps the environment's proxy out of it.
        own = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._connection = connect(f"ws://127.0.0.1:{port}", sock=own, max_size=None)

    def __enter__(self) -> ViewerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def look(self, shift: float = 0.0) -> None:
        """Look along the floor, 2 units above it, `shift` units beside the origin."""
        self._send(
            "ViewerCameraMessage",
            wxyz=LEVEL, position=(shift, 0.0, 2.0), look_at=(shift, 1.0, 2.0), up_direction=(0.0, 0.0, 1.0),
            fov=1.2, aspect=1.5,
        )  # fmt: skip

    def set(self, label: str, value: Any) -> None:
        """Type into a text box, or choose from a list."""
        self._send("GuiUpdateMessage", id=self.elements[label]["id"], updates={"value": value})

    def press(self, label: str, button: str | bool = True) -> None:
        """Press a button, or one of a row of them."""
        self._send("GuiUpdateMessage", id=self.elements[label]["id"], updates={"value": button})

    def click(self, x: float, y: float) -> None:
        """Click into the view, at shares of its width and height."""
        self._send(
            "ScenePointerMessage", event_type="click", ray_origin=(0.0, 0.0, 2.0), ray_direction=(0.0, 1.0, 0.0),
            screen_pos=((x, y),),
        )  # fmt: skip

    def says(self, *parts: str) -> bool:
        """True if one of the panel's texts shows all of these; its markup is read as a browser does."""
        return any(all(part in html.unescape(text) for part in parts) for text in self.texts.values())

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 90.0) -> None:
        """Listen until a condition holds; `what` names it in the error."""
        end = time.monotonic() + seconds
        while not condition():
            try:
                messages = msgspec.msgpack.decode(self._connection.recv(timeout=max(end - time.monotonic(), 0.0)))
            except TimeoutError:
                raise AssertionError(f"the viewer did not show {what} within {seconds:.0f} s") from None
            for message in messages:
                self._hear(message)

    def hear(self) -> None:
        """Take in what has come meanwhile."""
        while True:
            try:
                messages = msgspec.msgpack.decode(self._connection.recv(timeout=0.0))
            except TimeoutError:
                return
            for message in messages:
                self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "BackgroundImageMessage":
            self.images += 1
            self.image = message["rgb_bytes"]
        elif kind == "GuiUpdateMessage":
            if "markdown" in message["updates"]:
                self.texts[message["id"]] = message["updates"]["markdown"]
            for element in self.elements.values():
                if element["id"] == message["id"]:
                    element.update(message["updates"])
        elif "label" in message and "id" in message:
            self.elements[message["label"]] = message

    def _send(self, kind: str, **content: Any) -> None:
        self._connection.send(msgspec.msgpack.encode({"type": kind, **content}))
