"""What `results.json` holds."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from rtn_jax.data.pairs import Benchmark
from rtn_jax.evaluation import Result, by_category
from rtn_jax.reporting.config import FLOORS


def make_record(benchmark: Benchmark, results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """Figures of the last result, with the floors beside it; every number is a percentage.

    Args:
        benchmark: what was measured on.
        results: the floors, then the matcher; the last is what the record is about.
        seconds: that it took.
    """
    result = results[-1]
    return {
        "matcher": result.matcher,
        "dataset": benchmark.name,
        "protocol": benchmark.protocol,
        "pairs": len(benchmark.pairs),
        "left_out": list(benchmark.left_out),
        "notes": list(benchmark.notes),
        "metrics": result.metrics,
        "intervals": result.intervals,
        "pairs_counted": {figure.name: figure.pairs for figure in result.figures},
        "classes": by_category(benchmark, result.answers),
        "floors": {other.matcher: other.metrics for other in results if other.matcher in FLOORS},
        "floor_intervals": {other.matcher: other.intervals for other in results if other.matcher in FLOORS},
        "seconds": round(seconds, 3),
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{name: version(name) for name in ("jax", "jaxlib", "numpy", "pillow")},
        },
    }
