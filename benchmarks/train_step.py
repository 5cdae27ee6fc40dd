"""Times training steps and measures their memory, each configuration in a process of its own.

    python -m benchmarks.train_step --out train_step.json
    python -m benchmarks.train_step --quick               # the same on a tiny network, to see that it works

Three groups of tables, in Markdown: `steps` (batch sizes, with and without remat and accumulation), `growth` (with
batch, image size and iterations, beside a straight line) and `split` (where a step's time goes). With --out, a JSON
file has everything measured so far, after every measurement. Nothing else may run meanwhile.

"Peak GB" is the most memory the process ever had, compiling included; "steps alone" the most it had during the steps
that are timed, after giving back what compiling had left behind. On an accelerator it is the most of its own in use.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.fresh import about, machine, measured, table
from benchmarks.growth import MEASURED, Row, calls_memory, line_in_words, median

Group = Literal["steps", "growth", "split"]
Stage = Literal["synthetic", "weak"]

QUICK = {"image_size": 32, "geometry_width": 4, "iterations": [1, 1]}


@dataclass
class Log:
    """What was measured, and where it goes."""

    out: Path | None
    about: dict[str, Any] = field(default_factory=machine)
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def continued(cls, out: Path | None) -> Log:
        """With what is in the file already, if it is there.

        Raises:
            ValueError: if that was measured on another machine or with other versions.
        """
        log = cls(out)
        if out is None or not out.exists():
            return log
        there = json.loads(out.read_text())
        own = log.about.keys() - {"load_before"}
        changed = sorted(name for name in own if there["machine"].get(name) != log.about[name])
        if changed:
            raise ValueError(f"{out}: measured with another {', '.join(changed)}; choose another file")
        load = max(there["machine"]["load_before"], log.about["load_before"])  # of all that is in the file, the worst
        return cls(out, log.about | {"load_before": load}, there["rows"])

    def measure(self, group: str, job: str, flags: dict[str, Any], **options: int) -> Row:
        """Measures, unless that was done before, and adds the row to the file; a process that failed gives one too."""
        asked = {"job": job, "flags": flags, **options}
        known = [row for row in self.rows if all(row.get(name) == value for name, value in asked.items())]
        if again := next((row for row in known if row["group"] == group), None):
            return again
        found = next(iter(known), None) or measured(job, flags, **options)
        row = {**found, **asked, "group": group}
        self.rows.append(row)
        if self.out is not None:
            self.out.write_text(json.dumps({"machine": self.about, "rows": self.rows}, indent=1))
        said = row.get("error") or (f"{median(row['seconds']):.3f} s" if "seconds" in row else "done")
        sys.stderr.write(f"{group}: {job} {json.dumps(flags)}: {said}\n")
        return row


def main(
    groups: tuple[Group, ...] = ("steps", "growth", "split"),
    stages: tuple[Stage, ...] = ("synthetic", "weak"),
    recipe: Literal["default", "released"] = "default",
    batches: tuple[int, ...] = (1, 4, 8),
    parts: tuple[int, ...] = (2, 4),
    sizes: tuple[int, ...] = (128, 192, 256, 384),
    iterations: tuple[int, ...] = (1, 2, 3, 4, 5, 6),
    growth_batch: int = 2,
    split_batch: int = 4,
    devices: int = 2,
    dtype: Literal["float32", "bfloat16"] = "float32",
    repeats: int = 3,
    out: Path | None = None,
    quick: bool = False,
) -> None:
    """Measure and print tables.

    Args:
        groups: of tables.
        stages: that are timed; growth is measured of the first.
        recipe: of train.py.
        batches: pairs per step.
        parts: what a batch is cut into by --accumulate, where it divides.
        sizes: of the images, for growth.
        iterations: of either level, for growth.
        growth_batch: pairs per step of what is measured for growth in sizes and iterations.
        split_batch: pairs per step of what is split.
        devices: over which the all-reduce is measured; on the CPU they share the cores.
        dtype: of features and convolutions.
        repeats: steps that are timed, after two that compile and warm up.
        out: JSON file of everything measured, repeats, versions and machine included.
        quick: a tiny network, few sizes, one repeat.
    """
    flags: dict[str, Any] = {"recipe": recipe, "compute_dtype": dtype}
    if quick:
        flags |= QUICK
        batches, parts, sizes, iterations, growth_batch, split_batch, repeats = (1, 2), (2,), (32, 48), (1, 2), 1, 2, 1
    log = Log(out)
    sys.stdout.write(f"{about(log.about)}; medians of {repeats}\n")
    if "steps" in groups:
        for stage in stages:
            sys.stdout.write(steps_table(log, flags | {"stage": stage}, batches, parts, repeats))
    if "growth" in groups:
        of = flags | {"stage": stages[0]}
        for name, values in (("batch_size", batches), ("image_size", sizes), ("iterations", iterations)):
            sys.stdout.write(growth_table(log, of | {"batch_size": growth_batch}, name, values, repeats))
    if "split" in groups:
        sys.stdout.write(split_table(log, flags | {"batch_size": split_batch}, stages, devices, repeats))


def steps_table(log: Log, flags: dict[str, Any], batches: tuple[int, ...], parts: tuple[int, ...], repeats: int) -> str:
    """Time and memory by batch size and what is done to save memory."""
    rows = []
    for size in batches:
        ways: dict[str, dict[str, Any]] = {"": {}, "`--remat`": {"remat": True}}
        ways |= {f"`--accumulate={n}`": {"accumulate": n} for n in parts if size % n == 0}
        for name, way in ways.items():
            row = log.measure("steps", "step", flags | {"batch_size": size} | way, repeats=repeats)
            rows.append([f"{size} {name}".strip(), *_step_cells(row, size)])
    headings = ("pairs", "s per step", "s per pair", "compile s", "peak GB", "steps alone")
    return f"\n{flags['stage']} stage\n\n" + table(headings, rows)


def growth_table(log: Log, flags: dict[str, Any], name: str, values: tuple[int, ...], repeats: int) -> str:
    """Time and memory by one choice, and how far they are from a straight line."""
    rows, x, y = [], [], []
    for value in values:
        given = [value, value] if name == "iterations" else value
        row = log.measure("growth", "step", flags | {name: given}, repeats=repeats)
        rows.append([str(value), *_step_cells(row, (flags | {name: given})["batch_size"])])
        if "error" not in row:
            x.append((value / 256) ** 2 if name == "image_size" else value)
            y.append((median(row["seconds"]), calls_memory(row)))
    headings = (name, "s per step", "s per pair", "compile s", "peak GB", "steps alone")
    unit = {"batch_size": "pair", "image_size": "256 x 256 pixels", "iterations": "iteration of each level"}[name]
    lines = [line_in_words(what, of, x, [v[i] for v in y], unit) for i, (what, of) in enumerate(MEASURED)]
    title = f"{flags['stage']} stage" + ("" if name == "batch_size" else f", {flags['batch_size']} pairs")
    return f"\n{title}\n\n{table(headings, rows)}\n" + "\n".join(lines) + "\n"


def split_table(log: Log, flags: dict[str, Any], stages: tuple[Stage, ...], devices: int, repeats: int) -> str:
    """Where the time of a step goes, per stage."""
    columns = [split(log, flags | {"stage": stage}, devices, repeats) for stage in stages]
    rows = [[name, *(column.get(name, "-") for column in columns)] for name in columns[0]]
    return f"\n{flags['batch_size']} pairs\n\n" + table(("ms", *stages), rows)


def split(log: Log, flags: dict[str, Any], devices: int, repeats: int) -> dict[str, str]:
    """The rows of one stage, in milliseconds."""
    step = log.measure("split", "step", flags, repeats=repeats)
    parts = log.measure("split", "parts", flags, repeats=repeats)
    reduced = log.measure("split", "all_reduce", flags, repeats=repeats, devices=devices)
    read = log.measure("split", "reading", {k: flags[k] for k in ("image_size",) if k in flags}, repeats=repeats)
    if any("error" in row for row in (step, parts, reduced, read)):
        return {"error": "; ".join(row["error"] for row in (step, parts, reduced, read) if "error" in row)}
    whole, forward, update = median(step["seconds"]), median(parts["forward"]), median(parts["update"])
    backward = median(parts["forward_and_backward"]) - forward
    photos = parts["pairs"] * parts["photos_per_pair"]
    seconds = {
        "forward (loss)": forward,
        "backward (gradient less forward)": backward,
        "update": update,
        "the rest of the step": whole - forward - backward - update,
        "**step**": whole,
        **{f"input, {_readers(n)}": photos / rate for n, rate in read["photos_per_second"].items()},
        f"all-reduce of {reduced['bytes'] / 1e6:.3g} MB, {devices} devices": median(reduced["seconds"]),
        "checkpoint: copy": median(parts["checkpoint_copy"]),
        "checkpoint: written meanwhile": median(parts["checkpoint_write"]),
    }
    cells = {name: f"{1000 * value:.1f}" for name, value in seconds.items()}
    return cells | {"GFLOP per pair, gradient": f"{parts['flops'] / parts['pairs'] / 1e9:.0f}"}


def _step_cells(row: Row, pairs: int) -> list[str]:
    if "error" in row:
        return [row["error"].replace("|", "/"), "-", "-", "-", "-"]
    seconds = median(row["seconds"])
    figures = (seconds, seconds / pairs, row["compile_seconds"], row["peak_bytes"] / 1e9, calls_memory(row))
    return [f"{figure:.{digits}f}" for figure, digits in zip(figures, (2, 2, 0, 2, 2), strict=True)]


def _readers(workers: str) -> str:
    return {"0": "a thread", "1": "1 process"}.get(workers, f"{workers} processes")


if __name__ == "__main__":
    tyro.cli(main)
