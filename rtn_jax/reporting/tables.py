"""The table in the terminal, and the one with a row per pair."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rtn_jax.data.pairs import Benchmark
from rtn_jax.evaluation import Result, per_pair
from rtn_jax.images import write_atomically
from rtn_jax.metrics import Figure

SHOWN_LEFT_OUT = 5


def print_table(benchmark: Benchmark, results: Sequence[Result], seconds: float, *, mode: str = "") -> None:
    """A row per figure, a column per matcher; then what was left out. `mode`: how it was matched, for the title."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    about = [benchmark.name, _counted(len(benchmark.pairs)), *filter(None, [mode]), "per cent [95 % interval]"]
    table = Table(title=Text(", ".join(about)))
    table.add_column("", no_wrap=True)
    for result in results:
        table.add_column(Text(result.matcher), justify="right", overflow="fold")
    columns = [{figure.name: figure for figure in result.figures} for result in results]
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(Text(name), *(_cell(column.get(name)) for column in columns))
    console = Console()
    console.print(table, markup=False)
    for note in benchmark.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    if benchmark.left_out:
        console.print(f"left out: {len(benchmark.left_out)}", highlight=False)
        for line in benchmark.left_out[:SHOWN_LEFT_OUT]:
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
        if len(benchmark.left_out) > SHOWN_LEFT_OUT:
            console.print("  ... (all of them in results.json)", highlight=False)
    console.print(f"{seconds:.1f} s", highlight=False)


def _counted(pairs: int) -> str:
    return f"{pairs} pair" if pairs == 1 else f"{pairs} pairs"


def _cell(figure: Figure | None) -> str:
    """A matcher whose answers leave every pixel outside the target has no localisation error."""
    if figure is None:
        return "-"
    low, high = figure.interval()
    return f"{figure.percent:.1f}\n[{low:.1f}, {high:.1f}]"


def write_pairs(path: Path, benchmark: Benchmark, results: Sequence[Result]) -> None:
    """One row per pair: what it is, then its figures in per cent, the last result's first and the floors' after it."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    columns = dict(_columns(benchmark, results))
    writer.writerow(["id", "src", "tgt", "category", "subset", "mirrored", "leaked", "keypoints", *columns])
    for i, pair in enumerate(benchmark.pairs):
        about = [pair.id, pair.src, pair.tgt, pair.category, pair.subset, int(pair.mirrored), int(pair.leaked)]
        count = "" if pair.src_points is None else len(pair.src_points)
        writer.writerow([*about, count, *(_number(values[i]) for values in columns.values())])
    write_atomically(path, lambda file: file.write(output.getvalue().encode(errors="backslashreplace")))


def _number(percent: float) -> str:
    """Nothing where a pair has no such figure."""
    return f"{percent:.4f}" if math.isfinite(percent) else ""


def _columns(benchmark: Benchmark, results: Sequence[Result]) -> Iterator[tuple[str, list[float]]]:
    for result in reversed(results):
        suffix = "" if result is results[-1] else f" [{result.matcher}]"
        for name, shares in per_pair(benchmark, result.answers).items():
            yield f"{name}{suffix}", [100 * float(share) for share in shares]
