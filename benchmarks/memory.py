"""Cost curves: time and memory of inference and of a training step by batch, image size, iterations and radius.

    python -m benchmarks.memory --out memory.json --draw memory.png     # several hours on two cores: all of it
    python -m benchmarks.memory --axes radius --ways inference          # a part of it
    python -m benchmarks.memory --axes size --sizes 128 256 512
    python -m benchmarks.memory --quick                                 # a tiny network, to see that it works

One choice at a time is changed, the others are `--pairs`, `--size`, `--iterations` and `--radius`. Every point is
measured in a process of its own. Three ways: `inference` is `rtn_jax.apply`, `training` a step of the synthetic stage,
`remat` such a step with `--remat`. A table per choice, in Markdown, with the nearest straight lines below it: the aim
is twice the pixels, iterations, candidates or pairs, twice the time and memory, and nothing that grows faster.

With --out, everything measured so far is in that file after every measurement, and what is in it already is not
measured again, failures included: after a change of the code choose another file.

"Peak GB" is the most memory the process ever had, compiling included; "calls alone" the most it had during the calls
that are timed, after giving back what compiling had left behind. On an accelerator it is the most of its own in use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from benchmarks.fresh import about, table
from benchmarks.growth import Row, calls_memory, line_in_words, median
from benchmarks.train_step import QUICK, Log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AxisName = Literal["pairs", "size", "iterations", "radius"]
Way = Literal["inference", "training", "remat"]

WAYS: dict[Way, tuple[str, dict[str, Any]]] = {
    "inference": ("inference", {}),
    "training": ("step", {}),
    "remat": ("step", {"remat": True}),
}
"""Job of `benchmarks.measure`, and flags."""

COLORS: dict[Way, str] = {"inference": "#0072B2", "training": "#D55E00", "remat": "#009E73"}
MARKERS: dict[Way, str] = {"inference": "o", "training": "s", "remat": "^"}
NAMES: dict[Way, str] = {"inference": "inference", "training": "training step", "remat": "training step, remat"}

FIGURES = (("time", "s"), ("memory of the calls", "GB"))


@dataclass(frozen=True)
class Axis:
    """A choice that is changed while the others stay."""

    heading: str
    """Of the table."""
    label: str
    """Of the drawn axis."""
    unit: str
    """In which the line's slope is given."""
    flags: Callable[[int], dict[str, Any]]
    """Of `benchmarks.measure`."""
    work: Callable[[int], float]
    """Number of units: what time and memory should be a straight line against."""
    shown: Callable[[int], str]
    """The value in words."""


AXES: dict[AxisName, Axis] = {
    "pairs": Axis("pairs", "pairs per call", "pair", lambda n: {"batch_size": n}, float, str),
    "size": Axis(
        "image size",
        "image size, pixels x pixels",
        "256 x 256 pixels",
        lambda n: {"image_size": n},
        lambda n: (n / 256) ** 2,
        lambda n: f"{n} x {n}",
    ),
    "iterations": Axis(
        "iterations of each level",
        "iterations of each level",
        "iteration of each level",
        lambda n: {"iterations": [n, n]},
        float,
        str,
    ),
    "radius": Axis(
        "radius (candidates)",
        "radius r, at (2r + 1)$^2$ candidates",
        "81 candidates",
        lambda n: {"radius": n},
        lambda n: (2 * n + 1) ** 2 / 81,
        lambda n: f"{n} ({(2 * n + 1) ** 2})",
    ),
}


@dataclass(frozen=True)
class Point:
    """One measurement."""

    value: int
    row: Row
    pairs: int

    @property
    def seconds(self) -> float:
        """Of a call."""
        return median(self.row["seconds"])

    @property
    def memory(self) -> float:
        """Gigabytes, of the calls alone."""
        return calls_memory(self.row)


Curve = Sequence[Point]
Curves = dict[AxisName, dict[Way, Curve]]


def main(
    axes: tuple[AxisName, ...] = ("pairs", "size", "iterations", "radius"),
    ways: tuple[Way, ...] = ("inference", "training", "remat"),
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32),
    sizes: tuple[int, ...] = (128, 192, 256, 384, 512, 768, 1024),
    depths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12),
    radii: tuple[int, ...] = (2, 3, 4, 6, 8, 10, 12),
    pairs: int = 1,
    size: int = 256,
    iterations: tuple[int, ...] = (2, 3),
    radius: int = 4,
    dtype: Literal["float32", "bfloat16"] = "float32",
    repeats: int = 3,
    out: Path | None = None,
    draw: Path | None = None,
    quick: bool = False,
) -> None:
    """Measure, print tables and draw.

    Args:
        axes: what is changed.
        ways: what is measured.
        batches: pairs per call.
        sizes: of the images, squares.
        depths: iterations of each of the two levels.
        radii: of the correlation window.
        pairs: per call, where another choice is changed; likewise those that follow.
        size: of the images.
        iterations: of either level.
        radius: of the correlation window.
        dtype: of features and convolutions.
        repeats: calls that are timed, after two that compile and warm up.
        out: JSON file of everything measured, repeats, versions and machine included; gone on with, if it is there.
        draw: picture of the curves (.png, .svg, .pdf).
        quick: a tiny network, two values of each choice, one repeat.
    """
    fixed: dict[str, Any] = {"batch_size": pairs, "image_size": size, "iterations": [*iterations], "radius": radius}
    fixed["compute_dtype"] = dtype
    if quick:
        fixed |= QUICK | {"radius": 1}
        batches, sizes, depths, radii, repeats = (1, 2), (32, 48), (1, 2), (1, 2), 1
    values = {"pairs": batches, "size": sizes, "iterations": depths, "radius": radii}
    log = Log.continued(out)
    sys.stdout.write(f"{about(log.about)}; medians of {repeats}\n")
    curves: Curves = {}
    for name in axes:
        curves[name] = {way: measure(log, name, way, fixed, values[name], repeats) for way in ways}
        sys.stdout.write(axis_table(name, curves[name], fixed))
    if draw is not None:
        picture(curves).savefig(draw, dpi=100)


def measure(log: Log, name: AxisName, way: Way, fixed: dict[str, Any], values: Sequence[int], repeats: int) -> Curve:
    """The points of a curve."""
    job, more = WAYS[way]
    points = []
    for value in values:
        flags = fixed | AXES[name].flags(value) | more
        points.append(Point(value, log.measure(name, job, flags, repeats=repeats), flags["batch_size"]))
    return points


def axis_table(name: AxisName, curves: dict[Way, Curve], fixed: dict[str, Any]) -> str:
    """Time and memory by one choice, and how far they are from a straight line."""
    axis, rows, lines = AXES[name], [], []
    for way, curve in curves.items():
        rows += [[f"{axis.shown(point.value)}, {NAMES[way]}", *_cells(point)] for point in curve]
        known = _known(curve)
        x = [axis.work(point.value) for point in known]
        for (what, of), y in zip(FIGURES, (_seconds(known), _memory(known)), strict=True):
            lines.append(line_in_words(f"{NAMES[way]}, {what}", of, x, y, axis.unit, relative=True) + _at_the_end(x, y))
    headings = (axis.heading, "s per call", "s per pair", "compile s", "peak GB", "calls alone GB")
    return f"\n{_others(name, fixed)}\n\n{table(headings, rows)}\n" + "\n".join(lines) + "\n"


def picture(curves: Curves) -> Any:
    """Time above, memory below, a column per choice, both axes logarithmic; a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 7.2), layout="constrained")
    rows = figure.subplots(2, len(curves), squeeze=False, sharey="row")
    labelled = ((_seconds, "seconds per call"), (_memory, "memory of the calls, GB"))
    for panels, (figures, label) in zip(rows, labelled, strict=True):
        for panel, (name, drawn) in zip(panels, curves.items(), strict=True):
            _draw(panel, AXES[name], drawn, figures)
        panels[0].set_ylabel(label, fontsize=12)
        for panel, (name, drawn) in zip(panels, curves.items(), strict=True):  # when the limits of the row are known
            _draw_slope(panel, AXES[name], drawn, figures)
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels) or 1, frameon=False, fontsize=12)
    return figure


def _draw(panel: Axes, axis: Axis, curves: dict[Way, Curve], figures: Callable[[Curve], list[float]]) -> None:
    """The curves of one panel."""
    for way, curve in curves.items():
        known = _known(curve)
        x = [axis.work(point.value) for point in known]
        panel.plot(x, figures(known), color=COLORS[way], marker=MARKERS[way], label=NAMES[way])
    panel.set_xscale("log")
    panel.set_yscale("log")
    _ticks(panel, axis, sorted({point.value for curve in curves.values() for point in curve}))
    panel.set_xlabel(axis.label, fontsize=12)
    panel.grid(visible=True, alpha=0.3)


def _draw_slope(panel: Axes, axis: Axis, curves: dict[Way, Curve], figures: Callable[[Curve], list[float]]) -> None:
    """Through the last point of the uppermost curve, what would be twice as much for twice as much."""
    lasts = [known[-1] for curve in curves.values() if (known := _known(curve))]
    if not lasts:
        return
    x, y = max(((axis.work(point.value), *figures([point])) for point in lasts), key=lambda end: end[1])
    limits = panel.get_ylim()
    panel.axline((x, y), (x / 2, y / 2), color="0.5", linestyle="--", zorder=0, label="slope 1: twice for twice")
    panel.set_ylim(limits)


def _ticks(panel: Axes, axis: Axis, values: Sequence[int]) -> None:
    """The values that were measured along the one axis, plain numbers along the other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set_xticks([axis.work(value) for value in values], [str(value) for value in values])
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.tick_params(axis="x", which="minor", length=0)
    panel.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def _known(curve: Curve) -> Curve:
    """Without what failed."""
    return [point for point in curve if "error" not in point.row]


def _seconds(curve: Curve) -> list[float]:
    return [point.seconds for point in curve]


def _memory(curve: Curve) -> list[float]:
    return [point.memory for point in curve]


def _cells(point: Point) -> list[str]:
    if "error" in point.row:
        return [point.row["error"].replace("|", "/"), "-", "-", "-", "-"]
    per_pair, compiling = point.seconds / point.pairs, point.row["compile_seconds"]
    times = [*(f"{seconds:#.3g}".rstrip(".") for seconds in (point.seconds, per_pair)), f"{compiling:.0f}"]
    return [*times, f"{point.row['peak_bytes'] / 1e9:.2f}", f"{point.memory:.2f}"]


def _at_the_end(x: Sequence[float], y: Sequence[float]) -> str:
    """What the last step up cost: a line that fits may hide a curve that has just begun to rise."""
    if len(x) < 2:
        return ""
    return f"; at the end {y[-1] / y[-2]:.2f} times for {x[-1] / x[-2]:.2f} times as much"


def _others(name: AxisName, fixed: dict[str, Any]) -> str:
    """What stays as it is, in words."""
    plural = "" if fixed["batch_size"] == 1 else "s"
    words = {
        "pairs": f"{fixed['batch_size']} pair{plural} per call",
        "size": f"{fixed['image_size']} x {fixed['image_size']} pixels",
        "iterations": f"{' + '.join(map(str, fixed['iterations']))} iterations",
        "radius": f"radius {fixed['radius']}",
    }
    return f"By {AXES[name].heading}; {', '.join(text for other, text in words.items() if other != name)}"


if __name__ == "__main__":
    tyro.cli(main)
