"""The viewer in a real browser: Debian's Chromium without a screen, driven by Playwright."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from PIL import Image

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60.0
"""Seconds that anything may take to show; on a quiet machine all of it takes a second or two."""
PANEL_WIDTH = 320
"""Pixels at the right that belong to the viewer's panel, and at the top to its title."""
TITLE_HEIGHT = 52
# WebGL without a GPU.
_OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


def find_chromium() -> str | None:
    """The browser's program, or None where there is none."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


class Page:
    """The viewer's page.

    Attributes:
        complaints: uncaught exceptions, and errors on the console that are not about other hosts or known.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("console", self._heard)

    def _heard(self, message: Any) -> None:
        if message.type != "error":
            return
        elsewhere = urlparse(message.location.get("url", "")).hostname not in (None, "127.0.0.1")
        # viser's analytics script and nerfstudio's logo cannot load where there is no network, and three.js complains
        # about the camera frustums that nerfstudio draws, with and without our panel.
        if not elsewhere and "computeBoundingSphere" not in message.text:
            self.complaints.append(message.text)

    def open(self, port: int) -> None:
        """Load the page and wait for our panel."""
        self.page.goto(f"http://127.0.0.1:{port}", wait_until="domcontentloaded")
        self.field("Prompts").wait_for(timeout=1000 * PATIENCE)
        if self.page.get_by_role("button", name="Hide Train Cams", exact=True).is_visible():
            self.press("Hide Train Cams")

    def field(self, label: str) -> Any:
        """The input beside a label."""
        return self.page.locator(
            f'xpath=(//*[normalize-space(text())="{label}"]/following::input[not(@type="hidden")])[1]'
        )

    def type(self, label: str, text: str) -> None:
        """Type text letter by letter, after what is there is deleted."""
        self.field(label).fill("")
        self.field(label).press_sequentially(text, delay=20)

    def choose(self, label: str, option: str) -> None:
        """Choose from a list."""
        self.field(label).click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def press(self, name: str) -> None:
        """Press a button."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def slide(self, label: str, key: str) -> None:
        """Move a slider to its end by a key, Home or End; one that is still disabled is waited for."""
        thumb = self.page.locator(f'xpath=(//*[normalize-space(text())="{label}"]/following::*[@role="slider"])[1]')
        end = thumb.get_attribute("aria-valuemin" if key == "Home" else "aria-valuemax")
        for _ in range(int(4 * PATIENCE)):
            thumb.focus()
            thumb.press(key)
            self.page.wait_for_timeout(250)
            if thumb.get_attribute("aria-valuenow") == end:
                return
        raise AssertionError(f"the slider {label} does not move")

    def says(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.page.get_by_text(text).first.wait_for(timeout=1000 * PATIENCE)

    def download(self, name: str, out: Path) -> None:
        """Press a button that sends a file."""
        with self.page.expect_download(timeout=1000 * PATIENCE) as waiting:
            self.press(name)
        waiting.value.save_as(out)

    def view(self) -> np.ndarray:
        """What the view shows, without the panel: float [H, W, 3] in 0..1."""
        self.page.mouse.move(5, TITLE_HEIGHT + 5)
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        return np.asarray(picture, np.float32)[TITLE_HEIGHT:, :-PANEL_WIDTH] / 255

    def wait(self, what: str, condition: Callable[[np.ndarray], bool]) -> np.ndarray:
        """Wait until the view shows something; `what` names it in the error."""
        end = time.monotonic() + PATIENCE
        while not condition(picture := self.view()):
            assert time.monotonic() < end, f"the view does not show {what}"
            self.page.wait_for_timeout(150)
        return picture

    def settled(self) -> np.ndarray:
        """What the view shows once it does not change any more."""
        last: list[np.ndarray] = [self.view()]

        def same(picture: np.ndarray) -> bool:
            before, last[0] = last[0], picture
            self.page.wait_for_timeout(1000)
            return float(np.abs(picture - before).max()) < 0.02

        return self.wait("the same picture twice", same)

    def click(self, row: int, column: int) -> None:
        """Click into the view, at a pixel of what `view` gives."""
        self.page.mouse.click(column, row + TITLE_HEIGHT)


@contextmanager
def open_page(port: int, width: int = 1100, height: int = 760) -> Iterator[Page]:
    """The viewer in a browser window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_OPTIONS)
        try:
            page = Page(browser.new_page(viewport={"width": width, "height": height}))
            page.open(port)
            yield page
        finally:
            browser.close()


@contextmanager
def open_file(path: Path, width: int, height: int = 800, dark: bool = False) -> Iterator[Page]:
    """An HTML file in a browser window, all of it loaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_OPTIONS)
        try:
            scheme = "dark" if dark else "light"
            page = Page(browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme))
            page.page.goto(path.resolve().as_uri(), wait_until="load")
            yield page
        finally:
            browser.close()


def like(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Where a picture has the hue of a colour and is not pale: bool [H, W]."""
    wanted = np.array(color, np.float32) / 255
    wanted = wanted - wanted.mean()
    found = picture - picture.mean(-1, keepdims=True)
    strength = np.linalg.norm(found, axis=-1)
    cosine = (found @ wanted) / np.maximum(strength * np.linalg.norm(wanted), 1e-6)
    return (cosine > 0.97) & (strength > 0.3)
