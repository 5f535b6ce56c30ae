"""Line charts as SVG that stands in a page: no script, no font, colours and text sizes of the page around it.

Colours are the page's CSS variables `--line-0` to `--line-7`, so that dark pages get light lines. The drawing is narrow
enough for a phone to show its letters at a size that can be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

COLORS = 8
"""Lines of different colours; more of them start over with other dashes."""

_WIDTH, _HEIGHT = 440, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44
_LEGEND_ROW = 18
_DASHES = ("", "7 4", "2 3")
_LONGEST_NAME = 50


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
    points = [_usable(one, x, y) for one in series]
    every = [point for line in points for point in line]
    across, up = _range(x, [px for px, _ in every]), _range(y, [py for _, py in every])
    place_x = _scale(x, across, _LEFT, _WIDTH - _RIGHT)
    place_y = _scale(y, up, _HEIGHT - _BOTTOM, _TOP)
    height = _HEIGHT + _LEGEND_ROW * len(series)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, height, title),
        *(_x_tick(place_x(value), _written(value, x)) for value in ticks(*across, log=x.log)),
        *(_y_tick(place_y(value), _written(value, y)) for value in ticks(*up, log=y.log)),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x.label, "middle"),
        Markup(
            '<text class="quiet" text-anchor="middle" transform="translate(13 {:.0f}) rotate(-90)">{}</text>'
        ).format((_TOP + _HEIGHT - _BOTTOM) / 2, y.label),
    ]
    for number, (one, line) in enumerate(zip(series, points, strict=True)):
        parts += [_line(number, [(place_x(px), place_y(py)) for px, py in line]), _legend(number, one.name)]
    return Markup("\n").join([*parts, Markup("</svg>")])


def power_law(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Exponent and factor of the power law `y = factor * x ** exponent` that fits best on log-log axes.

    Args:
        x: positive values, of which at least two differ.
        y: positive values, as many.

    Raises:
        ValueError: too few values, or one that is not above 0.
    """
    logs = [(math.log(one), math.log(other)) for one, other in zip(x, y, strict=True)]
    if len({one for one, _ in logs}) < 2:
        raise ValueError("a power law needs values at two different places")
    middle_x, middle_y = (sum(pair[axis] for pair in logs) / len(logs) for axis in (0, 1))
    spread = sum((one - middle_x) ** 2 for one, _ in logs)
    exponent = sum((one - middle_x) * (other - middle_y) for one, other in logs) / spread
    return exponent, math.exp(middle_y - exponent * middle_x)


def ticks(low: float, high: float, *, log: bool = False) -> list[float]:
    """Round numbers from one value to another: some five on a linear axis, powers of ten on a logarithmic one."""
    if log:
        first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
        step = max(1, math.ceil((last - first) / 6))
        found = [10.0**power for power in range(first, last + 1, step)]
        if last - first <= 2:
            found = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
        return [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _usable(one: Series, x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [
        (px, py)
        for px, py in zip(one.x, one.y, strict=True)
        if math.isfinite(px) and math.isfinite(py) and (px > 0 or not x.log) and (py > 0 or not y.log)
    ]


def _range(axis: Axis, values: Sequence[float]) -> tuple[float, float]:
    low = axis.low if axis.low is not None else min(values, default=1.0 if axis.log else 0.0)
    high = axis.high if axis.high is not None else max(values, default=10.0 if axis.log else 1.0)
    if high > low:
        return low, high
    return (low / 2, low * 2) if axis.log else (low - 0.5, low + 0.5)


def _scale(axis: Axis, ends: tuple[float, float], start: float, stop: float) -> Callable[[float], float]:
    def along(value: float) -> float:
        return math.log(value) if axis.log else value

    low, high = along(ends[0]), along(ends[1])
    return lambda value: start + (along(value) - low) / (high - low) * (stop - start)


def _written(value: float, axis: Axis) -> str:
    if axis.percent:
        return f"{100 * value:.3g}\u2009%"
    if value and not 1e-3 <= abs(value) < 1e5:
        digits, _, power = f"{value:.0e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _x_tick(at: float, text: str) -> Markup:
    line = Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
        at, _TOP, _HEIGHT - _BOTTOM
    )
    return line + _text(at, _HEIGHT - _BOTTOM + 16, text, "middle")


def _y_tick(at: float, text: str) -> Markup:
    line = Markup('<line class="grid" x1="{1}" x2="{2}" y1="{0:.1f}" y2="{0:.1f}"/>').format(at, _LEFT, _WIDTH - _RIGHT)
    return line + _text(_LEFT - 5, at + 4, text, "end")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="quiet" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _style(number: int) -> Markup:
    dash = _DASHES[number // COLORS % len(_DASHES)]
    return Markup('style="color: var(--line-{})" stroke-dasharray="{}"').format(number % COLORS, dash or "none")


def _line(number: int, places: Sequence[tuple[float, float]]) -> Markup:
    style = _style(number)
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = Markup("").join(
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.6" {}/>').format(x, y, style) for x, y in places
    )
    return Markup('<polyline points="{}" {}/>').format(joined, style) + dots


def _legend(number: int, name: str) -> Markup:
    at = _HEIGHT + _LEGEND_ROW * number + 8
    short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    stroke = Markup('<line class="key" x1="{}" x2="{}" y1="{}" y2="{}" {}/>').format(
        _LEFT, _LEFT + 22, at, at, _style(number)
    )
    return stroke + Markup('<text x="{}" y="{}">{}<title>{}</title></text>').format(
        _LEFT + 30, at + 4, escape(short), name
    )
