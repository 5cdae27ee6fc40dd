"""How time and memory grow: medians, memory and the nearest straight line, for the tables of several benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
"""What `measure.step` or `measure.inference` found, and what was asked for."""

MEASURED = (("time", "s"), ("memory of the steps", "GB"))


def median(values: Sequence[float]) -> float:
    """Of repeats."""
    return float(np.median(values))


def line(x: Sequence[float], y: Sequence[float], *, relative: bool = False) -> tuple[float, float, float]:
    """The straight line nearest to the points: offset, slope, and the largest distance relative to a point's value.

    Args:
        x, y: of the points.
        relative: relative distances are what is made small; where values differ a hundredfold, the small ones would
            count for nothing otherwise.
    """
    slope, offset = np.polyfit(x, y, 1, w=1 / np.abs(y) if relative else None)
    distance = np.abs(offset + slope * np.asarray(x) - y) / np.abs(y)
    return float(offset), float(slope), float(distance.max())


def line_in_words(
    what: str, of: str, x: Sequence[float], y: Sequence[float], unit: str, *, relative: bool = False
) -> str:
    """An item of a list: the line through measurements of `what`, which are in `of`, against a number of `unit`s."""
    if len(x) < 3:
        return f"* {what}: too few points for a line"
    offset, slope, worst = line(x, y, relative=relative)
    return f"* {what}: {offset:.3f} {of} + {slope:.3f} {of} per {unit}; at most {100 * worst:.1f} % off that line"


def calls_memory(row: Row) -> float:
    """Gigabytes during the calls that were timed, of the accelerator if there is one."""
    return float(row["device_peak_bytes"] or row["steps_peak_bytes"]) / 1e9
