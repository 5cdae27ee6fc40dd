"""The curves of a run as one picture, from the lines of its `metrics.jsonl`.

    {"step": 50, "stage": "synthetic", "train": {"loss": 0.12, "learning_rate": 3e-4, ...}}
    {"step": 50, "stage": "synthetic", "validation": {"held_out": {"PCK@0.10 (img)": 74.8, ...}, ...}}

A quantity is drawn where it is there and a number. Of two lines of one step the later counts: a run that was killed
makes some steps again. The first figure of a validation set is its headline (see `validation.validate`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from rtn_jax.training import panels
from rtn_jax.training.panels import BLUE, COLORS, GREEN, ORANGE, PURPLE, VERMILLION, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

SHAPE = (1080, 1200)
"""(height, width) of the picture."""
_DPI = 100

MARKERS = "os^Dv"
"""Of validation sets, so that the colour is not all that tells them apart; no divisor in common with the colours."""
MATRIX = {"mean_axx": BLUE, "mean_ayy": ORANGE, "mean_axy": GREEN, "mean_ayx": PURPLE}
"""Colours of the 2x2 part: those that are 1 for the identity, then those that are 0."""
LEAST_SPAN = 5.0
"""Points of per cent that the axis of the headline figures covers at least."""
LONGEST = 24
"""Letters of a validation set's name that are shown."""


def curves_picture(rows: Rows) -> UInt8[np.ndarray, "H W 3"]:
    """Loss, headline figures, the field's 2x2 part, its determinant and folds, gradient and learning rate, and speed.

    A vertical line marks where another stage begins, a cross a loss that was no finite number, a ring around a figure
    the best one.

    Args:
        rows: lines of `metrics.jsonl`, as the module's description has them; `step` counts on through the stages.

    Raises:
        ValueError: if a row has no step.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(curves_figure(rows))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def curves_figure(rows: Rows) -> Figure:
    """`curves_picture` before it is drawn. The figure stands alone: no window, nothing of pyplot."""
    from matplotlib.figure import Figure

    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("step"), int | float):
            raise ValueError(f"rows: expected a step in each, got none in row {number}: {str(dict(row))[:80]}")
    height, width = SHAPE
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained", facecolor="white")
    last, changes = max((row["step"] for row in rows), default=0), stage_changes(rows)
    all_axes = figure.subplots(3, 2, sharex=True)
    for axes, draw in zip(all_axes.flat, (_loss, _headlines, _matrix, _determinant, _gradient, _speed), strict=True):
        panels.finish(draw(axes, rows), last, changes)
    for axes in all_axes[-1]:
        axes.set_xlabel("step")
    return figure


def curve(rows: Rows, *names: str) -> Curve:
    """One quantity by step: `curve(rows, "train", "loss")`."""
    found: dict[float, float] = {}
    for row in rows:
        part: Any = row
        for name in names[:-1]:
            part = part.get(name) or {}
        if names[-1] in part:
            value = part[names[-1]]
            found[row["step"]] = float(value) if value is not None and math.isfinite(value) else math.nan
    steps = sorted(found)
    return np.array(steps, np.float64), np.array([found[step] for step in steps], np.float64)


def stage_changes(rows: Rows) -> list[tuple[float, str]]:
    """The first step of every stage but the first one, and the stage's name."""
    stages = {row["step"]: row["stage"] for row in rows if row.get("stage")}
    return [now for before, now in itertools.pairwise(sorted(stages.items())) if before[1] != now[1]]


def headlines(rows: Rows) -> dict[str, str]:
    """The headline figure of every validation set, by the set's key."""
    found: dict[str, str] = {}
    for row in rows:
        for key, figures in (row.get("validation") or {}).items():
            if figures:
                found.setdefault(key, next(iter(figures)))
    return found


def _loss(axes: Axes, rows: Rows) -> list[Axes]:
    steps, values = curve(rows, "train", "loss")
    bad = steps[np.isnan(values)]
    panels.title(axes, "training loss" + (f" (cross: not finite, {bad.size:,} times)" if bad.size else ""))
    panels.line(axes, (steps, values), BLUE)
    panels.logarithmic(axes, values)
    if bad.size:
        along_the_bottom = axes.get_xaxis_transform()
        axes.plot(bad, np.full(bad.size, 0.03), "x", color=VERMILLION, transform=along_the_bottom)
    return [axes]


def _headlines(axes: Axes, rows: Rows) -> list[Axes]:
    panels.title(axes, "validation, per cent")
    for number, (key, figure) in enumerate(headlines(rows).items()):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        steps, values = curve(rows, "validation", key, figure)
        label = f"{_short(key)}: {figure}"
        if np.isfinite(values).any():
            best = len(values) - 1 - int(np.nanargmax(values[::-1]))  # of equal ones the last: the one that is kept
            label += f", best {values[best]:.1f} at {steps[best]:,.0f}"
            axes.plot(steps[best], values[best], "o", markersize=12, color=color, fillstyle="none")
        axes.plot(steps, values, color=color, marker=marker, markersize=4.5, linewidth=1.6, label=label)
    low, high = axes.get_ylim()
    if (missing := LEAST_SPAN - (high - low)) > 0:  # a tenth of a point is not to look like progress
        low, high = low - missing / 2, high + missing / 2
        axes.set_ylim(low, high)
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    axes.set_ylim(low - 0.09 * (high - low) * len(axes.get_legend_handles_labels()[1]), high)  # room for the legend
    axes.set_yticks(ticks)
    panels.legend(axes, "lower right")
    return [axes]


def _matrix(axes: Axes, rows: Rows) -> list[Axes]:
    panels.title(axes, f"mean 2×2 part of the field{_sources(rows)}")
    for name, color in MATRIX.items():
        _both(axes, rows, name, color, label=name.removeprefix("mean_"))
    panels.reference(axes, 0, 1)
    panels.legend(axes, "center", columns=len(MATRIX))
    return [axes]


def _determinant(axes: Axes, rows: Rows) -> list[Axes]:
    panels.title(axes, f"determinant and folds{_sources(rows)}")
    right = panels.second_scale(axes, "mean determinant", "folded cells, per cent")
    _both(axes, rows, "mean_determinant", BLUE)
    panels.reference(axes, 1)
    _both(right, rows, "folded", VERMILLION, scale=100)
    top = max(1.0, right.get_ylim()[1])
    right.set_ylim(-0.03 * top, top)  # room for the rings at zero
    return [axes, right]


def _gradient(axes: Axes, rows: Rows) -> list[Axes]:
    panels.title(axes, "gradient and learning rate")
    right = panels.second_scale(axes, "gradient norm", "learning rate")
    norms = curve(rows, "train", "gradient_norm")
    panels.line(axes, norms, BLUE)
    panels.logarithmic(axes, norms[1])
    panels.line(right, curve(rows, "train", "learning_rate"), VERMILLION, noisy=False)
    right.set_ylim(bottom=0)
    right.yaxis.set_major_formatter("{x:g}")
    return [axes, right]


def _speed(axes: Axes, rows: Rows) -> list[Axes]:
    panels.title(axes, "pairs per second")
    panels.line(axes, curve(rows, "train", "pairs_per_second"), BLUE)
    axes.set_ylim(bottom=0)
    return [axes]


def _both(axes: Axes, rows: Rows, name: str, color: str, *, scale: float = 1, label: str = "") -> None:
    """A number of the field: a line for the training pairs, rings for the first validation set."""
    steps, values = curve(rows, "train", name)
    panels.line(axes, (steps, scale * values), color, label=label)
    for key in list(headlines(rows))[:1]:
        steps, values = curve(rows, "validation", key, name)
        panels.rings(axes, (steps, scale * values), color, label=label)


def _sources(rows: Rows) -> str:
    """What lines and rings stand for."""
    return "".join(f" (line: training, ring: {_short(key)})" for key in list(headlines(rows))[:1])


def _short(key: str) -> str:
    return key if len(key) <= LONGEST else f"{key[: LONGEST - 1]}…"
