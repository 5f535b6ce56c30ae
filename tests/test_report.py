"""Reports of one and of several runs: pages that open anywhere, hold hostile text harmlessly, and show the scores."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_fakes import FakeEncoder, FakeField
from PIL import Image

from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.evaluator import LabelledFrame, evaluate
from lang_splat_ns.evaluation.pictures import (
    UnitPictures,
    data_uri,
    mask_overlay,
    relevancy_overlay,
    shrink_picture,
    turbo,
    unit_pictures,
    write_png,
)
from lang_splat_ns.evaluation.report import RunReport, write_report
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


MASK = np.zeros((30, 50), bool)
MASK[10:20, 10:30] = True
ELSEWHERE = np.roll(MASK, 18, axis=1)
FOUND, NOTHING = np.where(MASK, 0.9, 0.1)[None], np.full((1, 30, 50), 0.2)
WORDS = {HOSTILE: (1, 0), "tiger": (0, 1), "thing": (1, 1), "lamp": (1, 2)}
PHOTO = np.random.default_rng(0).uniform(size=(30, 50, 3)).astype(np.float32)


def hostile_run(name: str, pictures: bool = True, words: Sequence[str] = tuple(WORDS), **about: Any) -> RunReport:
    """Finds the hostile prompt in its place, and the lamp there too, in two photos."""
    maps = {HOSTILE: FOUND, "tiger": NOTHING, "lamp": FOUND}
    field = FakeField({"cam": maps}, ("whole",), FakeEncoder({word: WORDS[word] for word in words}))
    masks = {HOSTILE: MASK, "<b>dragon</b>": MASK, "lamp": ELSEWHERE}
    frames = [LabelledFrame(frame, "cam", masks, {HOSTILE: [MASK]}) for frame in ("a&b.jpg", "c.jpg")]
    collected: list[UnitPictures] = []
    keep = (lambda answer: collected.append(unit_pictures(answer, PHOTO))) if pictures else None
    return RunReport(name, evaluate(field, frames, ["tiger"], on_answer=keep), collected, **about)


def page_of(path: Path, *runs: RunReport, **options: Any) -> Page:
    write_report(path, "<i>desk</i>", runs, **options)
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("with_pictures", [True, False])
@pytest.mark.parametrize("others", [(), ("<em>other</em>",)])
def test_hostile_text_stays_text(tmp_path: Path, with_pictures: bool, others: tuple[str, ...]) -> None:
    about: Any = {"figures": {"psnr": 27.312, "<u>": "</style>"}, "facts": {"gpu": "<img src=x>"}}
    runs = [hostile_run(name, with_pictures, **about) for name in ("<s>first</s>", *others)]
    page = page_of(tmp_path / "new folder" / "report.html", *runs)
    assert not {"script", "i", "u", "em", "s", "link", "iframe"} & set(page.tags)
    assert "onload" not in page.attributes
    for text in (HOSTILE, "<b>dragon</b>", "<i>desk</i>", "<img src=x>", "a&b.jpg", "27.31", *others):
        assert text in page.text


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", hostile_run("one"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    # A "#" leads to another place of the page itself.
    assert page.addresses and all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "http" not in text and "@import" not in text and not re.search(r"url\((?!#)", text)
    # Photo, relevancy, found and truth of two prompts; no truth of the absent one; in two photos each.
    assert page.tags.count("img") == 2 * (4 + 4 + 3)
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    assert "100.0\u2009%" in page.text and "2 of 3" in page.text
    assert "unknown word" in page.text and "finds nothing" in page.text
    assert "Taken for something else" in page.text, "the lamp is found on the hostile thing"


def test_nothing_scored_is_a_page_too(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", "empty", [RunReport("one", LanguageScores({}, [], ()))])
    assert "empty" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).text


def test_runs_are_compared_over_what_all_of_them_scored(tmp_path: Path) -> None:
    narrow = hostile_run("narrow", words=[HOSTILE, "tiger", "thing"])
    wide = hostile_run("wide")
    assert wide.scores.summary["language_miou"] < narrow.scores.summary["language_miou"], "it also tries the lamp"
    page = page_of(tmp_path / "report.html", wide, narrow)
    miou = f"{100 * narrow.scores.summary['language_miou']:.1f}\u2009%"
    assert page.text.count(miou) >= 4 and f"{100 * wide.scores.summary['language_miou']:.1f}" not in page.text
    words = " ".join(page.text.split())
    assert "over the 4 questions" in words and "2 of wide." in words
    assert "1 of 3" in words and "2 of 3" in words, "how much each encoder can represent is told all the same"
    # Per photo of a unit: the photo and its truth once, relevancy and mask of both runs.
    assert page.tags.count("img") == 2 * (2 + 4) + 2 * (1 + 4)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f"stroke: var(--line-{line})" in text for line in (0, 1)), "a curve for each"


def test_runs_with_nothing_in_common_are_refused(tmp_path: Path) -> None:
    runs = [hostile_run("one", words=[HOSTILE, "thing"]), hostile_run("two", words=["lamp", "thing"])]
    with pytest.raises(UserError, match=r"no prompt in common.*one: .*two: lamp"):
        write_report(tmp_path / "report.html", "desk", runs)
    with pytest.raises(UserError, match="the same name"):
        write_report(tmp_path / "report.html", "desk", [hostile_run("one"), hostile_run("one")])
    assert not (tmp_path / "report.html").exists()


def test_pictures_beyond_the_limit_are_left_out_in_turn(tmp_path: Path) -> None:
    run = hostile_run("one")
    one_photo_each = sum(
        len(picture.uri)
        for unit in run.pictures
        if unit.row["frame"] == "a&b.jpg" and unit.truth is not None
        for picture in (unit.photo, unit.relevancy, unit.mask, unit.truth)
    )
    page = page_of(tmp_path / "report.html", run, megabytes=(one_photo_each + 100) / 1e6)
    assert page.tags.count("img") == 8 and "4 more questions" in page.text
    assert page_of(tmp_path / "report.html", run, megabytes=0).tags.count("img") == 0


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
