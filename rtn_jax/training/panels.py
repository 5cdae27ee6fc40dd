"""How the panels of `curves` look: the lines, scales and words that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from rtn_jax.visualize.drawing import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]
"""Steps, rising, and values; NaN where a value is no finite number."""

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = COLORS = tuple(
    "#{:02x}{:02x}{:02x}".format(*PALETTE[i]) for i in (4, 5, 2, 6, 0, 1)
)
"""Okabe and Ito's for every kind of colour vision, without the yellow, which is pale on white."""
GREY = "#6b7177"

PARTS = 60
"""A noisy line of more than twice as many values is drawn pale, and over it the means of so many parts of it."""


def line(axes: Axes, points: Curve, color: str, *, label: str = "", noisy: bool = True) -> None:
    """A curve with gaps where there is no number; nothing at all if there is none."""
    steps, values = points
    if not np.isfinite(values).any():
        return
    if len(values) <= 2 * PARTS:
        axes.plot(steps, values, color=color, label=label, linewidth=1.6, marker=".")
    elif noisy:
        axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.3)
        axes.plot(*means(points), color=color, label=label, linewidth=1.8)
    else:
        axes.plot(steps, values, color=color, label=label, linewidth=1.8)


def means(points: Curve) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Means of `PARTS` parts of a curve, equally long but for one value; NaN for a part without a number."""
    steps, values = (np.array_split(array, PARTS) for array in points)
    known = [part[np.isfinite(part)] for part in values]
    return np.array([part.mean() for part in steps]), np.array([p.mean() if p.size else math.nan for p in known])


def rings(axes: Axes, points: Curve, color: str, *, label: str = "") -> None:
    """A ring for every number of a curve; a label that the axes' legend has already is not repeated."""
    if np.isfinite(points[1]).any():
        new = "" if label in axes.get_legend_handles_labels()[1] else label
        axes.plot(*points, "o", color=color, fillstyle="none", markersize=5, label=new)


def reference(axes: Axes, *values: float) -> None:
    """What the identity has: a dashed line behind the others, if there are any."""
    for value in values if axes.lines else ():
        axes.axhline(value, color=GREY, linewidth=1, linestyle="--", zorder=1)


def logarithmic(axes: Axes, values: Float[np.ndarray, " n"]) -> None:
    """A logarithmic scale, if there is something above zero and nothing below it, which has no logarithm."""
    from matplotlib.ticker import LogLocator, NullFormatter

    above = values[values > 0]
    if not above.size or (values < 0).any():
        return
    axes.set_yscale("log", nonpositive="mask")
    few = above.max() < 1e3 * above.min()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=9))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def second_scale(axes: Axes, left: str, right: str) -> Axes:
    """Another scale on the right side; the words of both have the colours of their lines, blue and vermillion."""
    other = axes.twinx()
    other.spines["top"].set_visible(False)
    for own, words, color in ((axes, left, BLUE), (other, right, VERMILLION)):
        own.set_ylabel(words, color=color)
        own.tick_params(axis="y", labelcolor=color)
    return other


def title(axes: Axes, words: str) -> None:
    """Above the panel; nothing in it is a formula."""
    axes.set_title(words, loc="left", fontsize=11, parse_math=False)


def legend(axes: Axes, place: Any, *, columns: int = 1) -> None:
    """Of the lines with a label, if there are any; nothing in it is a formula."""
    if not axes.get_legend_handles_labels()[1]:
        return
    shown = axes.legend(loc=place, ncols=columns, fontsize=9, framealpha=0.85, edgecolor="none", borderpad=0.3)
    for words in shown.get_texts():
        words.set_parse_math(False)


def finish(scales: Sequence[Axes], last: float, changes: Sequence[tuple[float, str]]) -> None:
    """What every panel has: steps from 0 to the last, a grid, and lines where another stage begins.

    Args:
        scales: of the panel, the left one first.
        last: step.
        changes: the first step of a stage, and its name.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes = scales[0]
    if not any(scale.lines for scale in scales):
        axes.text(0.5, 0.5, "no values yet", color=GREY, ha="center", va="center", transform=axes.transAxes)
    axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color="#e4e6e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    paper, along_the_top = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}, axes.get_xaxis_transform()
    for step, stage in changes:
        axes.axvline(step, color=GREY, linewidth=1.2)
        place = {"xycoords": along_the_top, "xytext": (4, -1), "textcoords": "offset points", "va": "top"}
        axes.annotate(stage, (step, 1), **place, color=GREY, fontsize=9, bbox=paper)  # type: ignore[arg-type]
