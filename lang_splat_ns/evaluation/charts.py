"""Line charts as SVG that stands in a page: matplotlib's drawing, in the page's own colours.

Colours become the page's CSS variables `--line-0` to `--line-7` and `--quiet`, so that dark pages get light lines. The
drawing is narrow enough for a phone to show its letters at a size that can be read.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = 8
"""Lines of different colours; more of them start over with other dashes."""

_INCHES = 4.8, 3.0
_LEGEND_ROW = 0.2
_DASHES = ("-", "--", ":")
_LONGEST_NAME = 50
_QUIET = "#fe0100"
_LINES = tuple(f"#fe00{number:02x}" for number in range(COLORS))
"""Colours that stand for CSS variables until matplotlib has drawn."""


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: what the legend calls it, any text.
        x: positions, in increasing order.
        y: values, as many; a point that is not finite is left out.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        label: words and unit, any text.
        log: whether equal steps are equal factors; values that are not above 0 are then left out.
        percent: whether 0.5 is written as 50 %.
        low: where the axis begins, or None for the smallest value.
        high: where it ends, or None for the largest value.
    """

    label: str
    log: bool = False
    percent: bool = False
    low: float | None = None
    high: float | None = None


def line_chart(series: Sequence[Series], x: Axis, y: Axis, title: str) -> Markup:
    """Draw named lines over common axes, with a legend below.

    Args:
        series: the lines; an empty one appears in the legend only.
        x: the horizontal axis.
        y: the vertical axis.
        title: what the picture is, for those who cannot see it.

    Returns:
        One `<svg>` element. Names and labels are escaped.
    """
    from matplotlib import rc_context

    # Letters stay letters; ids follow from the title, since several charts stand in one page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9, "font.family": "sans-serif"}):
        figure = _figure(series, x, y)
        text = io.StringIO()
        nothing: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue().partition("<svg ")[2].replace(_QUIET, "var(--quiet)")
    # Names of XML's vocabularies are addresses, and a page needs none.
    svg = re.sub(r'xmlns(:xlink)?="[^"]*" ?', "", svg, count=2).replace("xlink:href", "href")
    for number, color in enumerate(_LINES):
        svg = svg.replace(color, f"var(--line-{number})")
    # matplotlib has escaped what it was given.
    return Markup(f'<svg class="chart" role="img" aria-label="{escape(title)}" {svg}')


def _figure(series: Sequence[Series], x: Axis, y: Axis) -> Figure:
    from matplotlib.figure import Figure

    width, height = _INCHES
    figure = Figure(figsize=(width, height + _LEGEND_ROW * len(series)), layout="constrained")
    axes = figure.add_subplot()
    drawn = []
    for number, one in enumerate(series):
        points = _usable(one, x, y)
        style: Any = {"color": _LINES[number % COLORS], "linestyle": _DASHES[number // COLORS % len(_DASHES)]}
        drawn += axes.plot([px for px, _ in points], [py for _, py in points], marker="o", markersize=3.5, **style)
    _show_axis(axes, "x", x)
    _show_axis(axes, "y", y)
    axes.grid(color=_QUIET, alpha=0.3, linewidth=0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", colors=_QUIET, length=0)
    if drawn:
        # matplotlib leaves out names that begin with "_", so they are put in afterwards.
        legend = figure.legend(drawn, ["name"] * len(drawn), loc="outside lower left", frameon=False, labelcolor=_QUIET)
        for text, one in zip(legend.get_texts(), series, strict=True):
            text.set_parse_math(False)
            text.set_text(one.name if len(one.name) <= _LONGEST_NAME else one.name[: _LONGEST_NAME - 1] + "…")
    return figure


def _show_axis(axes: Axes, which: str, axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    side: Any = getattr(axes, f"{which}axis")
    side.set_label_text(axis.label, parse_math=False, color=_QUIET)
    if axis.log:
        getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(axis.low, axis.high)
    side.set_major_formatter(PercentFormatter(1.0) if axis.percent else FuncFormatter(lambda value, _: f"{value:,g}"))


def _usable(one: Series, x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [
        (px, py)
        for px, py in zip(one.x, one.y, strict=True)
        if math.isfinite(px) and math.isfinite(py) and (px > 0 or not x.log) and (py > 0 or not y.log)
    ]
