"""Charts of the report, drawn by hand in SVG: bars in the rows of a table, and curves.

Positions are percentages of the drawing and words keep their size, so a chart is readable at every width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rtn_jax.reporting.markup import Markup, element, joined
from rtn_jax.visualize.drawing import PALETTE, Color

_BLUE, _SKY, _VERMILLION, _ORANGE, _GREEN = (PALETTE[i] for i in (4, 1, 5, 0, 2))
LIGHT: tuple[Color, ...] = (_BLUE, _VERMILLION, _GREEN)
"""On a light page: of the matcher that the report is about, then of the floors."""
DARK: tuple[Color, ...] = (_SKY, _ORANGE, _GREEN)

TICKS = 4
"""Spaces between the marks of a percentage axis."""
_THICK, _THIN, _GAP = 11, 4, 2
"""Pixels: the matcher's bar, a floor's, and between them."""
_LABELLED = 4
"""More marked points of a curve than these are not labelled with their values."""


@dataclass(frozen=True)
class BarRow:
    """One row of bars."""

    label: str
    values: tuple[float | None, ...]
    """Per cent, by matcher; None where there is none."""
    note: str = ""
    """Beside the label."""


@dataclass(frozen=True)
class Curve:
    """One matcher's line."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, per cent) from left to right."""
    marks: Sequence[tuple[float, float]] = ()
    """Points on it that are marked."""


def series(index: int, count: int) -> str:
    """The style of a matcher: the last is what the report is about, those before it are floors."""
    return "m0" if index == count - 1 else f"m{index % (len(LIGHT) - 1) + 1}"


def swatch(index: int, count: int) -> Markup:
    """A matcher's colour, and how its line is dashed."""
    line = element("line", x1="0", x2="100%", y1="50%", y2="50%", class_="curve")
    return element("svg", line, class_=f"swatch {series(index, count)}", width="22", height="10", aria_hidden="true")


def legend(names: Sequence[str]) -> Markup:
    """Which colour is which matcher's."""
    items = [element("li", swatch(i, len(names)), name) for i, name in enumerate(names)]
    return element("ul", *reversed(items), class_="legend")


def bars(names: Sequence[str], rows: Sequence[BarRow], *, rows_are: str, unit: str) -> Markup:
    """A table with a row of bars per label, and every value in figures; the legend is above it.

    Args:
        names: of the matchers, the one that the report is about last.
        rows: with a value for every matcher.
        rows_are: what the labels are, such as `class`.
        unit: what the bars show.
    """
    top = axis_top(max((value for row in rows for value in row.values if value is not None), default=0))
    order = [len(names) - 1, *range(len(names) - 1)]  # the matcher first, then the floors beside it
    heads = [
        element("th", swatch(i, len(names)), element("span", names[i], class_="unseen"), scope="col", class_="number")
        for i in order
    ]
    head = element("tr", element("th", rows_are, scope="col"), element("th", unit, scope="col"), *heads)
    axis = element("tr", element("td"), element("td", _axis(top), class_="axis"), *[element("td") for _ in order])
    body = element("tbody", *[_bar_row(row, order, top) for row in rows])
    parts = element("thead", head), body, element("tfoot", axis, aria_hidden="true")
    return joined(legend(names), element("table", *parts, class_="bars", style=f"--columns: {len(names)}"))


def _bar_row(row: BarRow, order: Sequence[int], top: float) -> Markup:
    count, y = len(order), 0
    drawn = []
    for i in order:
        height, value = (_THICK if i == count - 1 else _THIN), row.values[i]
        if value is not None:
            width = f"{100 * value / top:.3f}%"
            drawn.append(element("rect", x="0", y=y, width=width, height=height, class_=series(i, count)))
        y += height + _GAP
    picture = element("svg", *drawn, width="100%", height=y - _GAP, aria_hidden="true")
    label = joined(row.label, element("small", " ", row.note) if row.note else None)
    numbers = [element("td", percent(row.values[i]), class_=f"number {series(i, count)}") for i in order]
    return element("tr", element("th", label, scope="row"), element("td", picture, class_="grid"), *numbers)


def _axis(top: float) -> Markup:
    marks = []
    for i in range(TICKS + 1):
        anchor = "start" if i == 0 else "end" if i == TICKS else "middle"
        marks.append(element("text", f"{top * i / TICKS:g}", x=f"{100 * i / TICKS:g}%", y="12", text_anchor=anchor))
    return element("svg", *marks, width="100%", height="16")


def curves(lines: Sequence[Curve], *, x_label: str, y_label: str, description: str) -> Markup:
    """Lines over a common axis from 0, their height 0 to 100 per cent.

    Args:
        lines: the one that the report is about last.
        x_label: under the axis.
        y_label: above the drawing.
        description: of the drawing, for those who cannot see it.
    """
    end = max(x for line in lines for x, _ in line.points)
    step = x_step(end)
    parts = []
    for i in range(TICKS + 1):
        y = f"{100 - 100 * i / TICKS:g}%"
        parts.append(element("line", x1="0", x2="100%", y1=y, y2=y, class_="rule"))
        parts.append(element("text", f"{100 * i / TICKS:g}", x="-8", y=y, dy="4", text_anchor="end"))
    for i in range(math.floor(end / step + 1e-6) + 1):
        x = f"{100 * i * step / end:.3f}%"
        parts.append(element("text", f"{i * step:g}", x=x, y="100%", dy="18", text_anchor="middle"))
    for i, line in enumerate(lines):
        path = " ".join(f"{1000 * x / end:.1f},{1000 - 10 * y:.1f}" for x, y in line.points)
        drawn = element("polyline", points=path, class_="curve", vector_effect="non-scaling-stroke")
        stretched = element(
            "svg", drawn, viewBox="0 0 1000 1000", preserveAspectRatio="none", width="100%", height="100%"
        )
        last = i == len(lines) - 1
        labelled = last and len(line.marks) <= _LABELLED
        marks = [_mark(x, y, end, line.name, labelled) for x, y in line.marks]
        parts.append(element("g", stretched, *marks, class_=series(i, len(lines))))
    drawing = element("svg", *parts, width="100%", height="100%", role="img", aria_label=description)
    frame = element("div", drawing, class_="frame")
    words = element("div", y_label, class_="label"), frame, element("div", x_label, class_="label under")
    return element("div", *words, class_="plot")


def _mark(x: float, y: float, end: float, name: str, labelled: bool) -> Markup:
    at = {"x": f"{100 * x / end:.3f}%", "y": f"{100 - y:.3f}%"}
    hint = element("title", f"{name}: {y:.1f} % at {x:g}")
    dot = element("g", hint, element("circle", cx=at["x"], cy=at["y"], r="4"))
    if not labelled:
        return dot
    # Above the line, or below it where the drawing ends.
    return joined(dot, element("text", f"{y:.1f}", **at, dx="-7", dy="-8" if y < 92 else "20", text_anchor="end"))


def percent(value: float | None) -> str:
    """A figure as tables show it."""
    return "–" if value is None else f"{value:.1f}"


def axis_top(largest: float) -> float:
    """The end of a percentage axis that holds the largest value: 20, 40, 60, 80 or 100, or hundreds beyond."""
    return next((top for top in (20, 40, 60, 80, 100) if largest <= top), 100 * math.ceil(largest / 100))


def x_step(end: float) -> float:
    """A round distance of marks that leaves at most seven spaces up to `end`."""
    power = 10.0 ** math.floor(math.log10(end / 7))
    return next(power * digit for digit in (1, 2, 5, 10) if end / (power * digit) <= 7 + 1e-6)
