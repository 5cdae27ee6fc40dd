"""The report's tables of figures: the published ones beside floors and other methods, then the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rtn_jax.data.pairs import Benchmark
from rtn_jax.evaluation import Result
from rtn_jax.evaluation.scores import WITHOUT_MIRRORED
from rtn_jax.metrics import pck_name
from rtn_jax.reporting.charts import percent, swatch
from rtn_jax.reporting.markup import Markup, element, joined
from rtn_jax.reporting.published import PublishedTable, published

FLOOR_WORDS = {"identity": "nothing moves", "nearest": "nearest neighbour of features"}
LOWER_IS_BETTER = ("LOC-ERR",)


def headline_groups(benchmark: Benchmark, result: Result) -> list[list[str]]:
    """Names of the figures that the benchmark is known by, those of one threshold together."""
    if benchmark.protocol == "keypoints":
        return [[pck_name(alpha, kind) for alpha in benchmark.alphas] for kind in benchmark.thresholds]
    return [[name for name in result.metrics if WITHOUT_MIRRORED not in name]]


def primary(benchmark: Benchmark, result: Result) -> str:
    """The one figure to name first: PCK at 0.10 if it is there, the mean of the subsets, or the first."""
    names = headline_groups(benchmark, result)[0]
    wanted = (
        "mean"
        if benchmark.protocol == "flow"
        else pck_name(0.10, benchmark.thresholds[0] if benchmark.thresholds else "img")
    )
    return wanted if wanted in names else names[0]


def unit(benchmark: Benchmark) -> str:
    """What the benchmark's figures count one by one."""
    return "flow field" if benchmark.protocol == "flow" else "pair"


def intervals(record: Mapping[str, Any], result: Result) -> Mapping[str, Sequence[float]]:
    """A result's intervals by figure, as the record holds them."""
    known = {record["matcher"]: record["intervals"]} | record["floor_intervals"]
    found: Mapping[str, Sequence[float]] = known[result.matcher]
    return found


def headline(record: Mapping[str, Any], benchmark: Benchmark, results: Sequence[Result]) -> Markup:
    """A table per threshold: a row per floor, the matcher, then what is published under the same name."""
    table = _comparable(record, benchmark)
    groups = headline_groups(benchmark, results[-1])
    shown = [_headline_table(record, results, names, table) for names in groups]
    note = [
        "In brackets the 95 % interval that the choice of the pairs leaves a figure in: percentile bootstrap over "
        "pairs, within each subset where there are several. Pairs share images, so it is a lower bound on the "
        "uncertainty."
    ]
    if table is not None and _stated(table, groups):
        note.append(
            f" Published figures are as their authors state them, on all {table.pairs} {unit(benchmark)}s; their "
            "conventions may differ (thresholds as their authors used them, image size, mirroring, training data)."
        )
        if table.pairs != len(benchmark.pairs):
            note.append(f" Here {len(benchmark.pairs)} were measured: the two are not over the same.")
    return element("section", element("h2", "Figures"), *shown, element("p", *note, class_="note"))


def _comparable(record: Mapping[str, Any], benchmark: Benchmark) -> PublishedTable | None:
    """What is published on these very pairs: not for pairs of one's own, nor for another split."""
    options = record.get("options", {})
    table = published(benchmark.name)
    if table is None or options.get("dataset") == "json" or options.get("split") not in (None, table.split):
        return None
    return table


def _stated(table: PublishedTable, groups: Sequence[Sequence[str]]) -> bool:
    names = {name for group in groups for name in group}
    return any(names & row.figures.keys() for row in table.rows)


def _headline_table(
    record: Mapping[str, Any], results: Sequence[Result], names: Sequence[str], table: PublishedTable | None
) -> Markup:
    heads = [element("th", _heading(name), scope="col", class_="number") for name in names]
    head = element("thead", element("tr", element("th", "per cent", scope="col"), *heads))
    own = element("tbody", *[_result_row(record, results, i, names) for i in range(len(results))])
    others = [row for row in (table.rows if table else ()) if row.figures.keys() & {*names}]
    return _table(len(names), head, own, *_published_rows(others, names))


def _result_row(record: Mapping[str, Any], results: Sequence[Result], i: int, names: Sequence[str]) -> Markup:
    result, ends = results[i], intervals(record, results[i])
    words = FLOOR_WORDS.get(result.matcher)
    label = joined(swatch(i, len(results)), result.matcher, element("small", words) if words else None)
    cells = [_measured(result.metrics.get(name), ends.get(name)) for name in names]
    subject = "subject" if i == len(results) - 1 else None
    return element("tr", element("th", label, scope="row"), *cells, class_=subject)


def _published_rows(rows: Sequence[Any], names: Sequence[str]) -> Iterator[Markup]:
    if not rows:
        return
    group = element("tr", element("th", "as published", colspan=len(names) + 1, scope="rowgroup"), class_="group")
    lines = []
    for row in rows:
        cells = [element("td", percent(row.figures.get(name)), class_="number") for name in names]
        lines.append(element("tr", element("th", row.method, scope="row"), *cells))
    yield element("tbody", group, *lines, class_="published")


def other_figures(record: Mapping[str, Any], benchmark: Benchmark, results: Sequence[Result]) -> Markup | None:
    """The figures of other averages and of parts of the pairs: a row each."""
    known = {name for group in headline_groups(benchmark, results[-1]) for name in group}
    rest = [figure for figure in results[-1].figures if figure.name not in known]
    if not rest:
        return None
    count = len(results)
    heads = [
        element("th", swatch(i, count), result.matcher, scope="col", class_="number")
        for i, result in enumerate(results)
    ]
    columns = element(
        "tr",
        element("th", "per cent", scope="col"),
        element("th", f"{unit(benchmark)}s", scope="col", class_="number"),
        *heads,
    )
    rows = []
    for figure in rest:
        cells = [_measured(r.metrics.get(figure.name), intervals(record, r).get(figure.name)) for r in results]
        pairs = element("td", figure.pairs, class_="number")
        rows.append(element("tr", element("th", figure.name, scope="row"), pairs, *cells))
    heading = element("h2", "Other averages, and parts of the pairs")
    return element("section", heading, _table(count + 1, element("thead", columns), element("tbody", *rows)))


def _table(columns: int, *parts: Markup) -> Markup:
    """A table that scrolls by itself where it is wider than the page."""
    return element("div", element("table", *parts, class_="figures", style=f"--columns: {columns}"), class_="scroll")


def _measured(value: float | None, ends: Sequence[float] | None) -> Markup:
    interval = None if value is None or ends is None else element("small", f"[{ends[0]:.1f}, {ends[1]:.1f}]")
    return element("td", percent(value), interval, class_="number")


def _heading(name: str) -> Markup:
    """A figure's name, what stands in brackets kept together, and which way is up where that is not clear."""
    words, bracket, rest = name.partition(" (")
    kept = element("span", bracket.strip() + rest, class_="whole") if bracket else None
    return joined(words, " " if kept else None, kept, element("small", direction(name)) if direction(name) else None)


def direction(name: str) -> str:
    """What has to be said of figures that are better when they are lower."""
    return "lower is better" if name in LOWER_IS_BETTER else ""
