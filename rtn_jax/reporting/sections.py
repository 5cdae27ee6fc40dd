"""What the report says between its tables: what was measured, charts, pairs, what was left out, how it was made."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rtn_jax.data.pairs import Benchmark
from rtn_jax.evaluation import Result, by_category, normalised_errors, per_pair
from rtn_jax.metrics import PckKind
from rtn_jax.reporting.charts import BarRow, Curve, bars, curves, legend
from rtn_jax.reporting.config import EvaluateConfig
from rtn_jax.reporting.examples import DRAWN_POINTS, best_and_worst, data_url, draw_pair, mean_errors
from rtn_jax.reporting.figure_tables import direction, intervals, primary, unit
from rtn_jax.reporting.markup import Content, Markup, element, joined

LENGTHS: dict[PckKind, str] = {
    "img": "the longer side of the target image",
    "bbox": "the longer side of the target object's box",
    "bbox-kp": "the longer side of the box around the target's keypoints",
}
CURVE_END = 0.3
CURVE_POINTS = 241
UNFOLDED_CLASSES = 30
"""More classes than these are folded away."""
UNFOLDED_LINES = 10
"""More lines about what was left out than these are folded away."""


def header(record: Mapping[str, Any], benchmark: Benchmark, results: Sequence[Result]) -> Markup:
    """Title, what was measured, and the first figure in words."""
    title = element("h1", record["matcher"], " ", element("span", "on"), " ", benchmark.name)
    count = f"{len(benchmark.pairs)} {unit(benchmark)}s"
    if benchmark.left_out:
        count += f", {len(benchmark.left_out)} left out"
    mirrored = " Matched against the target and against its mirror image." if record.get("mirror_aware") else ""
    about = element("p", f"{count}. {_measured(benchmark)}{mirrored}", class_="soft")
    name = primary(benchmark, results[-1])
    low, high = intervals(record, results[-1])[name]
    floors = ", ".join(f"{r.matcher}\N{NO-BREAK SPACE}{r.metrics[name]:.1f}" for r in reversed(results[:-1]))
    label = "Mean of the subsets" if name == "mean" else name
    own = element("strong", f"{results[-1].metrics[name]:.1f} %")
    rest = f" [{low:.1f},\N{NO-BREAK SPACE}{high:.1f}]" + (f", beside {floors}" if floors else "") + "."
    notes = [element("p", f"Note: {note}.", class_="soft") for note in benchmark.notes]
    return element("header", title, about, *notes, element("p", f"{label}: ", own, rest, class_="lead"))


def _measured(benchmark: Benchmark) -> str:
    if benchmark.protocol == "keypoints":
        lengths = "; ".join(f"{kind}: {LENGTHS[kind]}" for kind in benchmark.thresholds)
        return (
            "PCK@α is the share of keypoints that land within α of the truth, as a fraction of a length "
            f"({lengths}), averaged over pairs."
        )
    if benchmark.protocol == "flow":
        return (
            "The share of the object's pixels that land within 5 pixels of the truth, on images scaled to a longer "
            "side of 100 pixels; averaged over a subset's fields, then over the subsets."
        )
    return (
        "The target's object mask is carried to the source. LT-ACC is the share of pixels that get the right label, "
        "IoU the overlap with the true mask, LOC-ERR the mean distance of positions in units of the objects' boxes "
        "(lower is better)."
    )


def charts(benchmark: Benchmark, results: Sequence[Result]) -> Markup:
    """Keypoints: PCK over its threshold; flow and masks: bars of the figures."""
    names = [result.matcher for result in results]
    if benchmark.protocol != "keypoints":
        heading = "By subset" if benchmark.protocol == "flow" else "Side by side"
        labels = [figure.name for figure in results[-1].figures]
        rows = [
            BarRow(label, tuple(result.metrics.get(label) for result in results), direction(label)) for label in labels
        ]
        return element("section", element("h2", heading), bars(names, rows, rows_are="", unit="per cent"))
    kind = benchmark.thresholds[0]
    end = max(CURVE_END, *benchmark.alphas)
    lines = []
    for result in results:
        errors = normalised_errors(benchmark, result.answers, kind)
        x = np.linspace(0, end, CURVE_POINTS)
        y, marked = pck_curve(errors, x), pck_curve(errors, np.asarray(benchmark.alphas))
        lines.append(
            Curve(
                result.matcher,
                list(zip(x.tolist(), y.tolist(), strict=True)),
                list(zip(benchmark.alphas, marked.tolist(), strict=True)),
            )
        )
    plot = curves(
        lines,
        y_label="keypoints within α of the truth, per cent",
        x_label=f"α, as a fraction of {LENGTHS[kind]}",
        description=f"PCK over its threshold, relative to {LENGTHS[kind]}, of {', '.join(names)}",
    )
    return element("section", element("h2", f"PCK over α ({kind})"), legend(names), plot)


def pck_curve(errors: Sequence[Float[np.ndarray, " _"]], alphas: Float[np.ndarray, " a"]) -> Float[np.ndarray, " a"]:
    """PCK at thresholds `alphas`, per cent, averaged over pairs; `errors` of every pair are fractions of its length."""
    flat = np.concatenate(errors)
    weights = np.concatenate([np.full(len(error), 1 / (len(error) * len(errors))) for error in errors])
    order = np.argsort(flat, kind="stable")
    reached = np.concatenate([[0.0], np.cumsum(weights[order])])
    return np.minimum(100 * reached[np.searchsorted(flat[order], alphas, side="right")], 100.0)


def classes(record: Mapping[str, Any], benchmark: Benchmark, results: Sequence[Result]) -> Markup | None:
    """Bars by class of the objects, the class that the matcher does best on first."""
    counts = Counter(pair.category for pair in benchmark.pairs)
    if benchmark.protocol == "flow" or len(counts) < 2:
        return None
    name = primary(benchmark, results[-1])
    found = [by_category(benchmark, result.answers) for result in results[:-1]] + [record["classes"]]
    rows = [
        BarRow(category or "(no class)", tuple(each[category].get(name) for each in found), str(count))
        for category, count in counts.items()
    ]
    rows.sort(key=lambda row: -(row.values[-1] or 0))
    table = bars([result.matcher for result in results], rows, rows_are="class, pairs", unit=f"{name}, per cent")
    folded = element("details", element("summary", f"{len(rows)} classes"), table)
    return element("section", element("h2", "By class"), folded if len(rows) > UNFOLDED_CLASSES else table)


def pairs(benchmark: Benchmark, result: Result) -> Markup:
    """The best and the worst pairs as pictures."""
    name, shares = next(iter(per_pair(benchmark, result.answers).items()))
    errors = mean_errors(benchmark, result.answers)
    points = benchmark.protocol == "keypoints"

    def figure(index: int) -> Markup:
        pair, words = benchmark.pairs[index], f"{unit(benchmark)} {index + 1} of {len(benchmark.pairs)}"
        picture = draw_pair(benchmark, pair, result.answers[index])
        height, width = picture.shape[:2]
        shown = f"source and target of {words}" + (", with keypoints" if points else "")
        image = element("img", src=data_url(picture), width=width, height=height, alt=shown)
        error = f", mean error {errors[index]:.2f}" if points else ""
        caption = joined(element("b", f"{100 * shares[index]:.1f} %"), f"{error} · {words} · {pair.id}")
        return element("figure", image, element("figcaption", caption))

    parts: list[Content] = [element("h2", "Best and worst pairs")]
    for heading, chosen in zip(("Best", "Worst"), best_and_worst(benchmark, result.answers), strict=True):
        if chosen:
            parts += [element("h3", heading), element("div", *[figure(i) for i in chosen], class_="pairs")]
    return element("section", *parts[:1], element("p", _legend_of_pairs(benchmark, name), class_="soft"), *parts[1:])


def _legend_of_pairs(benchmark: Benchmark, name: str) -> str:
    if benchmark.protocol != "keypoints":
        return f"Source on the left, target on the right; by {name}; equal pairs are in the benchmark's order."
    return (
        f"Source on the left, target on the right; by {name}, then by the keypoints' mean error in units of the same "
        f"length. Of more than {DRAWN_POINTS} keypoints so many are drawn: a numbered dot in the target is the "
        "matcher's answer, the cross of the same colour the truth; a ring at the edge lies outside the picture."
    )


def left_out(benchmark: Benchmark) -> Markup | None:
    """The pairs that do not count, and why."""
    if not benchmark.left_out:
        return None
    listed: Markup = element("ul", *[element("li", line) for line in benchmark.left_out], class_="lines")
    if len(benchmark.left_out) > UNFOLDED_LINES:
        listed = element("details", element("summary", f"all {len(benchmark.left_out)}"), listed)
    count = f"{len(benchmark.left_out)} of the published list do not count in any figure above:"
    return element("section", element("h2", "Left out"), element("p", count), listed)


def made(record: Mapping[str, Any]) -> Markup:
    """Everything that it takes to make it again."""
    options = record.get("options", {})
    usual = {field.name: field.default for field in dataclasses.fields(EvaluateConfig)}
    chosen = {key: value for key, value in options.items() if value is not None and value != usual.get(key)}
    versions = {**record.get("versions", {}), **record.get("environment", {})}
    rows = {
        "checkpoint": record.get("ckpt"),
        "predictions": record.get("predictions"),
        "their sha256": record.get("answers"),
        "weights, sha256": record.get("weights"),
        "data, sha256": record.get("data"),
        "options": _listed(chosen),
        "versions": _listed(versions),
        "time": f"{record['seconds']:.1f} s" if "seconds" in record else None,
        "network": json.dumps(record["config"]) if record.get("config") else None,
    }
    shown = [
        joined(element("dt", term), element("dd", element("code", value))) for term, value in rows.items() if value
    ]
    return element("section", element("h2", "How it was made"), element("dl", *shown))


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {json.dumps(value) if isinstance(value, bool | list | tuple) else value}"
        for key, value in values.items()
    )
