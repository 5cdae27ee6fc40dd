"""Timing of several ways to do one thing, in turns, beside the time that the machine's ceilings leave no way below.

Nothing else may run meanwhile. Ratios are of medians of one run; times of different runs are not compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fresh import table

PAUSE = 0.1
"""Seconds between turns: OpenMP's idle threads spin for a while, and would be timed with the other side."""

SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
"""Of the large matrix product, by platform."""
COPIED = {"cpu": 1 << 28, "gpu": 1 << 31, "tpu": 1 << 31}
"""Bytes of the large copy: many times the caches."""


@dataclass(frozen=True)
class Ceilings:
    """What the machine does at best, measured in the run that is compared with it."""

    flops: float
    """Operations per second of a large matrix product."""
    bytes: float
    """Bytes per second of a large copy, read and written."""
    dtype: str = "float32"

    def floor(self, flops: float, size: float) -> float:
        """Seconds below which so many operations and so many bytes of memory traffic cannot be done."""
        return max(flops / self.flops, size / self.bytes)

    def __str__(self) -> str:
        rates = (
            f"{self.flops / 1e9:.4g} GFLOP/s by a {self.dtype} matrix product, {self.bytes / 1e9:.3g} GB/s by a copy"
        )
        return f"ceilings: {rates}"


@dataclass
class Timed:
    """One way, timed; what it is compared with is the first row of its table."""

    name: str
    seconds: list[float] = field(default_factory=list)
    flops: float = 0.0
    """Operations that must be done; 0: not counted."""
    bytes: float = 0.0
    """Bytes that must go through the memory: what comes in and what goes out, each once."""
    items: int = 1
    """Pairs, say, that are done in one go."""

    @property
    def median(self) -> float:
        """Of the seconds."""
        return float(np.median(self.seconds))


def interleave(runs: Sequence[Callable[[], Any]], repeats: int, pause: float = PAUSE) -> list[list[float]]:
    """Seconds of every call, per run, called in turns A B C A B C; calls return when they are done."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, times in zip(runs, seconds, strict=True):
            time.sleep(pause)
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return seconds


def take_turns(ways: dict[str, Callable[[], Any]], repeats: int, **counted: float) -> list[Timed]:
    """Times every way, after one call that compiles and one that warms up; `counted` is the same for all."""
    for run in [*ways.values()] * 2:
        run()
    times = interleave(list(ways.values()), repeats)
    return [Timed(name, seconds, **counted) for name, seconds in zip(ways, times, strict=True)]  # type: ignore[arg-type]


def ceilings(dtype: str = "float32", repeats: int = 5) -> Ceilings:
    """Measures them, on the default device: the best of a few, each."""
    platform = jax.default_backend()
    side = SIDE.get(platform, SIDE["gpu"])
    # Random: a processor that is held to a power multiplies ones faster than what it is made for.
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
    numbers = jnp.ones(COPIED.get(platform, COPIED["gpu"]) // 4, jnp.float32)
    multiply, copy = jax.jit(lambda a: a @ a), jax.jit(lambda x: x + 1)
    product, copied = take_turns({"": waited(multiply, matrix), " ": waited(copy, numbers)}, repeats)
    return Ceilings(2 * side**3 / min(product.seconds), 2 * numbers.nbytes / min(copied.seconds), dtype)


def waited(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """A call that returns when the device is done."""
    return lambda: jax.block_until_ready(function(*args))


def turns_table(rows: Iterable[Timed], limits: Ceilings | None = None) -> str:
    """Median, spread, ratio to the first row; where operations are counted, the floor and how much of it is reached."""
    rows = list(rows)
    scale, name = (1e3, "ms") if rows[0].median < 1 else (1.0, "s")
    headings = ["", f"median {name}", f"min-max {name}", "ratio", "per second"]
    if limits:
        headings += [f"floor {name}", "share of it"]
    cells = []
    for row in rows:
        low, high = scale * min(row.seconds), scale * max(row.seconds)
        line = [row.name, f"{scale * row.median:.4g}", f"{low:.4g}-{high:.4g}"]
        line += [f"{row.median / rows[0].median:.2f}", f"{row.items / row.median:.4g}"]
        if limits:
            floor = limits.floor(row.flops, row.bytes)
            line += [f"{scale * floor:.4g}", f"{100 * floor / row.median:.0f} %"] if floor else ["-", "-"]
        cells.append(line)
    return table(headings, cells)


def write(out: Path | None, machine: dict[str, Any], limits: Ceilings | None, results: dict[str, Any]) -> None:
    """Everything measured as JSON, with the machine and its ceilings; nothing if no file is asked for."""
    if out is not None:
        ceiling = None if limits is None else asdict(limits)
        out.write_text(
            json.dumps({"machine": machine, "ceilings": ceiling, "results": results}, indent=1, default=asdict)
        )
