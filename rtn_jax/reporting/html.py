"""The report as one HTML page that needs nothing else: no script, no network, no other file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rtn_jax.data.pairs import Benchmark
from rtn_jax.evaluation import Result
from rtn_jax.reporting import figure_tables, sections
from rtn_jax.reporting.markup import Markup, element, joined
from rtn_jax.reporting.style import stylesheet

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser lets the page load, should a name in it ever be taken for markup: nothing from anywhere."""


def html_report(record: Mapping[str, Any], benchmark: Benchmark, results: Sequence[Result]) -> str:
    """The page: figures beside floors and published ones, bars, curve, best and worst pairs, and how it was made.

    Args:
        record: what `results.json` holds.
        benchmark: what was measured on.
        results: the floors, then the matcher that the report is about.

    Returns:
        A whole HTML document.

    Raises:
        ValueError: an image of a pair that is shown cannot be read any more.
    """
    title = f"{record['matcher']} on {benchmark.name}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(stylesheet())),
    )
    body = element("body", element("main", *_parts(record, benchmark, results)))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _parts(record: Mapping[str, Any], benchmark: Benchmark, results: Sequence[Result]) -> Iterator[Markup | None]:
    yield sections.header(record, benchmark, results)
    yield figure_tables.headline(record, benchmark, results)
    yield sections.charts(benchmark, results)
    yield sections.classes(record, benchmark, results)
    yield sections.pairs(benchmark, results[-1])
    yield figure_tables.other_figures(record, benchmark, results)
    yield sections.left_out(benchmark)
    yield sections.made(record)
    yield element(
        "footer", joined("Written by ", element("code", "evaluate.py --report"), " of rtn_jax."), class_="note"
    )
