"""Published figures: only those that may be printed, under the names of figures that are printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtn_jax.metrics import pck_name
from rtn_jax.reporting import published as module
from rtn_jax.reporting.published import published

NAMES = {
    "TSS": ["FG3DCar", "JODS", "PASCAL", "mean"],
    "PF-WILLOW": [pck_name(alpha, "bbox-kp") for alpha in (0.05, 0.10, 0.15)],
    "PF-PASCAL": [pck_name(alpha, "img") for alpha in (0.05, 0.10, 0.15)],
}


@pytest.mark.parametrize(("benchmark", "pairs"), [("TSS", 800), ("PF-WILLOW", 900), ("PF-PASCAL", 299)])
def test_every_figure_has_the_name_of_a_printed_one(benchmark, pairs):
    table = published(benchmark)
    assert table.pairs == pairs
    methods = [row.method for row in table.rows]
    assert methods and len(set(methods)) == len(methods)
    for row in table.rows:
        assert row.figures.keys() <= {*NAMES[benchmark]}
        assert all(0 < figure < 100 for figure in row.figures.values())


def test_tss_means_are_means_of_the_subsets():
    for row in published("TSS").rows:
        *subsets, mean = (row.figures[name] for name in NAMES["TSS"])
        assert abs(sum(subsets) / 3 - mean) < 0.1, row.method


@pytest.mark.parametrize("benchmark", ["PF-WILLOW", "PF-PASCAL"])
def test_a_looser_threshold_has_a_greater_figure(benchmark):
    for row in published(benchmark).rows:
        figures = [row.figures[name] for name in NAMES[benchmark] if name in row.figures]
        assert figures == sorted(figures), row.method


def test_figures_known_from_memory_only_are_not_printed():
    words = Path(module.__file__).read_text()
    for name in ("RTN", "WeakAlign"):
        assert name not in words
    for benchmark in ("PF-WILLOW", "PF-PASCAL"):
        assert "NC-Net" not in [row.method for row in published(benchmark).rows]


@pytest.mark.parametrize("benchmark", ["SPair-71k", "Caltech-101", "held-out warps", "mine"])
def test_other_benchmarks_have_none(benchmark):
    assert published(benchmark) is None
