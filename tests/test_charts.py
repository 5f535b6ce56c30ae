"""Line charts: points stand where they belong, text stays text, and what cannot be drawn is left out."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lang_splat_ns.evaluation.charts import Axis, Series, line_chart
from lang_splat_ns.evaluation.page import write_page


def lines(svg: str) -> list[list[tuple[float, float]]]:
    """The points of every line, y upwards."""
    found = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: var\(--line-\d\)', svg)
    return [[(float(x), -float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)] for path in found]


def test_points_stand_in_proportion() -> None:
    (line,) = lines(line_chart([Series("one", [0, 1, 4], [0, 10, 40])], Axis("x"), Axis("y"), "t"))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.25, abs=0.01)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.25, abs=0.01)


def test_powers_are_straight_on_logarithmic_axes() -> None:
    x = [1e4, 1e5, 1e6]
    svg = line_chart([Series("n^2", x, [v**2 for v in x])], Axis("n", log=True), Axis("s", log=True), "t")
    assert all(f">{text}</text>" in svg for text in ("10,000", "100,000", "1e+06", "1e+12"))
    (line,) = lines(svg)
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y1 - y0 == pytest.approx(y2 - y1, abs=0.2)


def test_what_cannot_be_drawn_is_left_out() -> None:
    drawn = line_chart(
        [Series("holes", [0, 1, 2, 3], [1, math.nan, 3, math.inf]), Series("nothing", [], [])],
        Axis("x"),
        Axis("y"),
        "t",
    )
    assert max(map(len, lines(drawn))) == 2 and ">nothing</text>" in drawn
    one = line_chart([Series("", [0, 1], [5, 5])], Axis("", log=True), Axis(""), "")
    assert max(map(len, lines(one)), default=1) == 1
    assert "nan" not in line_chart([], Axis("x", log=True), Axis("y", log=True), "empty")


@pytest.mark.parametrize("hostile", ["<script>\"'&", "_begins", "$x_1$ and $"])
def test_hostile_names_stay_text(hostile: str) -> None:
    svg = line_chart([Series(hostile, [1, 2], [1, 2])], Axis(hostile), Axis(hostile), hostile)
    root = ElementTree.fromstring(svg)
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert root.attrib["aria-label"] == hostile
    assert sum(element.text == hostile for element in root.iter() if element.tag.endswith("text")) == 3


def test_a_page_of_charts(tmp_path: Path) -> None:
    svg = line_chart([Series("lift", [1, 10], [2, 20])], Axis("Gaussians", log=True), Axis("seconds", log=True), "cost")
    path = tmp_path / "charts.html"
    write_page(path, "charts.html.j2", title="Scale", charts=[("Cost", "<i>exponent</i> 1.0", svg)], facts={"cores": 2})
    text = path.read_text(encoding="utf-8")
    assert text.count("<svg") == 1 and "&lt;i&gt;exponent" in text and "cores" in text
    assert "--line-0:" in text, "the colours that the lines name"
