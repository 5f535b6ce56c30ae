"""The report: one page that opens anywhere, holds hostile prompts harmlessly, and shows what was scored."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from language_fakes import FakeEncoder, FakeField
from PIL import Image

from lang_splat_ns.evaluation.evaluator import LabelledFrame, evaluate
from lang_splat_ns.evaluation.pictures import (
    data_uri,
    mask_overlay,
    relevancy_overlay,
    shrink_picture,
    turbo,
    unit_pictures,
    write_png,
)
from lang_splat_ns.evaluation.report import write_report
from lang_splat_ns.evaluation.scores import LanguageScores

HOSTILE = "<script>alert('cup')</script>\" onload=\"x"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what a page holds, and checks that tags close in the order in which they opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_scores(pictures: bool) -> tuple[LanguageScores, list]:
    mask = np.zeros((30, 50), bool)
    mask[10:20, 10:30] = True
    maps = {HOSTILE: np.where(mask, 0.9, 0.1)[None], "tiger": np.full((1, 30, 50), 0.2)}
    field = FakeField({"cam": maps}, ("whole",), FakeEncoder({HOSTILE: (1, 0), "tiger": (0, 1), "thing": (1, 1)}))
    frame = LabelledFrame("a&b.jpg", "cam", {HOSTILE: mask, "<b>dragon</b>": mask}, {HOSTILE: [mask]})
    collected: list = []
    photo = np.random.default_rng(0).uniform(size=(30, 50, 3)).astype(np.float32)
    keep = (lambda answer: collected.append(unit_pictures(answer, photo))) if pictures else None
    return evaluate(field, [frame], ["tiger"], on_answer=keep), collected


@pytest.mark.parametrize("with_pictures", [True, False])
def test_hostile_text_stays_text(tmp_path: Path, with_pictures: bool) -> None:
    scores, pictures = hostile_scores(with_pictures)
    path = tmp_path / "new folder" / "report.html"
    write_report(path, "<i>desk</i>", scores, pictures, {"psnr": 27.312, "<u>": "</style>"}, {"gpu": "<img src=x>"})
    page = Page(path.read_text(encoding="utf-8"))
    assert not {"script", "b", "i", "u", "link", "iframe"} & set(page.tags)
    assert "onload" not in page.attributes
    for text in (HOSTILE, "<b>dragon</b>", "<i>desk</i>", "<img src=x>", "a&b.jpg", "27.31"):
        assert text in page.text


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    scores, pictures = hostile_scores(True)
    write_report(tmp_path / "report.html", "desk", scores, pictures, {}, {})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert "http" not in text and "@import" not in text and "url(" not in text
    # Photo, relevancy, found and truth of the prompt; no truth of the absent one.
    assert page.tags.count("img") == 7
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    assert "100.0\u2009%" in page.text and "1 of 2" in page.text
    assert "unknown word" in page.text and "finds nothing" in page.text


def test_nothing_scored_is_a_page_too(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", "empty", LanguageScores({}, [], ()), [], {}, {})
    assert "empty" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).text


def test_overlay_is_the_subdued_photo_up_to_a_half() -> None:
    photo = np.random.default_rng(1).uniform(size=(4, 6, 3))
    plain = relevancy_overlay(photo, np.full((4, 6), 0.0))
    assert plain.dtype == np.uint8 and plain.shape == (4, 6, 3)
    assert np.array_equal(relevancy_overlay(photo, np.full((4, 6), 0.5)), plain)
    assert np.array_equal(relevancy_overlay(photo, np.full((4, 6), np.nan)), plain)
    hot = relevancy_overlay(photo, np.full((4, 6), 1.0))
    subdued = 0.35 * photo + 0.35 * photo.mean(-1, keepdims=True)
    assert np.allclose(plain, 255 * subdued, atol=0.51)
    assert np.allclose(hot, 255 * (0.3 * subdued + 0.7 * turbo(np.ones(1))), atol=0.51)


def test_mask_overlay_keeps_the_photo_inside() -> None:
    photo = np.random.default_rng(2).uniform(size=(20, 30, 3))
    mask = np.zeros((20, 30), bool)
    mask[5:10, 5:10] = True
    picture = mask_overlay(photo, mask)
    assert np.allclose(picture[mask], 255 * photo[mask], atol=0.51)
    assert (picture[0] <= 0.3 * 255 + 1).all()
    assert np.array_equal(mask_overlay(photo, ~np.zeros_like(mask)), np.round(photo * 255).astype(np.uint8))
    assert mask_overlay(photo, np.zeros_like(mask)).max() <= 0.3 * 255 + 1


def test_files_and_addresses_hold_the_picture(tmp_path: Path) -> None:
    picture = np.full((30, 40, 3), (200, 30, 90), np.uint8)
    write_png(tmp_path / "a" / "picture.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / "picture.png")), picture)
    write_png(tmp_path / "mask.png", picture[..., 0] > 300)
    assert np.asarray(Image.open(tmp_path / "mask.png")).max() == 0
    head, _, content = data_uri(picture).partition(",")
    assert head == "data:image/jpeg;base64"
    assert np.allclose(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), picture, atol=4)


def test_pictures_shrink_but_never_grow() -> None:
    picture = np.zeros((30, 40, 3), np.uint8)
    assert shrink_picture(picture, 40) is picture
    assert shrink_picture(picture, 20).shape == (15, 20, 3)
    assert shrink_picture(np.zeros((1, 4000, 3), np.uint8), 100).shape == (1, 100, 3)
