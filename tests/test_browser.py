"""The panel in a real browser, on a finished run: type, see, click, take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import Page, find_chromium, like, open_page
from processes import viewer

from lang_splat_ns.plugin.viewer.pictures import PALETTE
from lang_splat_ns.splatting.ply import read_ply

pytest.importorskip("playwright", reason="Playwright is in the dev dependencies")
pytestmark = pytest.mark.skipif(find_chromium() is None, reason="there is no chromium: apt-get install chromium")


def test_type_see_click_take(lifted: Path, tmp_path: Path) -> None:
    with viewer(tmp_path / "here", "ns-viewer", "--load-config", lifted / "config.yml") as port:
        with open_page(port) as page:
            _type(page)
            _slide(page)
            _click(page, tmp_path)
            assert not page.complaints, page.complaints


def _lit(picture: np.ndarray) -> np.ndarray:
    """Where the first prompt's colour is."""
    return like(picture, PALETTE[0])


def _type(page: Page) -> None:
    """A prompt lights up what it means, in English and in Chinese; what is half typed says nothing."""
    page.type("Prompts", "green")
    page.says("ms per query")
    page.press("Fly to")
    page.wait("green things lit", lambda picture: _lit(picture).mean() > 0.002)
    green = _lit(page.settled())
    page.type("Prompts", "黄色; <b>bl")
    page.wait("yellow things lit", lambda picture: _lit(picture).any() and _overlap(green, _lit(picture)) < 0.3)
    page.says("黄色")
    page.says("<b>bl")
    page.type("Prompts", "绿色")
    page.wait("what the English word lit", lambda picture: _overlap(green, _lit(picture)) > 0.8)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def _slide(page: Page) -> None:
    """The opacity fades the colour, and no threshold that nothing exceeds leaves anything lit."""
    page.type("Prompts", "green")
    before = page.settled()
    page.slide("Opacity", "Home")
    page.wait("less colour", lambda picture: _lit(picture).sum() < 0.7 * _lit(before).sum())
    page.slide("Opacity", "End")
    page.wait("more colour", lambda picture: _lit(picture).sum() > 0.9 * _lit(before).sum())
    page.page.get_by_text("How prompts are read").click()
    page.field("Auto threshold").click()
    page.slide("Threshold", "End")
    page.says("nothing above the threshold here")
    page.wait("nothing outlined", lambda picture: _lit(picture).sum() < 0.7 * _lit(before).sum())
    page.field("Auto threshold").click()
    page.says("% of the view")


def _click(page: Page, folder: Path) -> None:
    """A click selects the object, which is then drawn alone and taken away as a file."""
    lit = _lit(page.settled())
    row, column = np.argwhere(lit)[len(np.argwhere(lit)) // 2]
    page.click(int(row), int(column))
    page.says("Looks like:")
    page.says("Selected:")
    page.choose("Show", "Isolate in 3D")
    alone = page.wait("a background", lambda picture: (np.ptp(picture, axis=-1) < 0.15).mean() > 0.5)
    assert np.ptp(alone[row, column]) > 0.1, "what was clicked is still there"
    page.download("Export .ply", folder / "selection.ply")
    count = len(read_ply(folder / "selection.ply").means)
    page.says(f"selection.ply: {count:,} Gaussians")
    page.download("Snapshot", folder / "snapshot.png")
    assert (folder / "snapshot.png").read_bytes().startswith(b"\x89PNG")
    page.choose("Show", "Relevancy overlay")
    page.press("Alike")
    page.says("like what was clicked")
    page.press("Clear")
    page.wait("a picture without light", lambda picture: not _lit(picture)[row, column])
