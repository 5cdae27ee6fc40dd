"""Answers of any method in files: keypoints as JSON lines, flows as `.flo` or `.npy`.

    predictions.jsonl   {"src": "car(G)/a.png", "tgt": "car(G)/b.png", "tgt_points": [[x, y], ...]} per pair, the points
                        in the order of the benchmark's; `"id"` may stand for `"src"` and `"tgt"`
    <pair id>.flo|.npy  [H, W, 2] float32, displacement (x, y) in pixels from every source pixel into the target; for
                        TSS the tree of the data set itself, `<subset>/<pair>/flow1.flo`, `flow2.flo`

Points are in pixels of the images as distributed, origin at the centre of the top-left pixel. A flow of another size
than the source image is rescaled: positions half-pixel, and those it points to with the target, whose size is that of
the flow of the other direction (as in TSS's own kit); without one, both are taken to be scaled alike. A point or
vector that is not finite, and a vector of 1e9 or more, counts as wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.data.rows import json_object, read_json_lines
from rtn_jax.evaluation.matchers import Flow, Matcher, Points, Transfer, carried
from rtn_jax.flow_files import SUFFIXES, read_flow, write_flow
from rtn_jax.metrics import known_flow, rescale_flow

POINTS_FILE = "predictions.jsonl"


@dataclass(frozen=True)
class Predictions:
    """A folder of answers to a benchmark; every one was checked when it was opened."""

    points: Mapping[str, Points]
    """Keypoints by pair id, where the folder holds points."""
    flows: Mapping[str, Path]
    """Files of flows by pair id, where it holds flows."""
    missing: Mapping[str, str]
    """Why a pair has no answer that can be used, by pair id; only ever filled on request."""
    ignored: tuple[str, ...] = ()
    """Answers that belong to no pair, one line each; only ever filled on request."""

    def sha256(self) -> str:
        """Of the answers: two folders with the same ones have the same."""
        content = hashlib.sha256()
        for name in sorted(self.points):
            content.update(name.encode(errors="backslashreplace") + self.points[name].tobytes())
        for name in sorted(self.flows):
            content.update(name.encode(errors="backslashreplace"))
            with self.flows[name].open("rb") as file:
                content.update(hashlib.file_digest(file, "sha256").digest())
        return content.hexdigest()

    def matcher(self, benchmark: Benchmark) -> Matcher:
        """The answers as a matcher."""
        by_images = {(pair.src, pair.tgt): pair.id for pair in benchmark.pairs}

        def answer(pair: Pair) -> Transfer:
            if pair.id in self.points:
                return Transfer(lambda _: self.points[pair.id])
            return self._transfer(benchmark, pair, self.flows.get(by_images.get((pair.tgt, pair.src), "")))

        return lambda pairs: [answer(pair) for pair in pairs]

    def _transfer(self, benchmark: Benchmark, pair: Pair, back: Path | None) -> Transfer:
        """`back`: the flow of the other direction, which tells what size the target had."""

        def flow() -> Flow:
            found = _read(self.flows[pair.id])
            shape, tgt_shape = benchmark.files.shape(pair.src), benchmark.files.shape(pair.tgt)
            tgt_shapes = None if back is None else (_read(back).shape[:2], tgt_shape)
            if found.shape[:2] == tuple(shape) and (tgt_shapes is None or tgt_shapes[0] == tuple(tgt_shape)):
                return found
            return rescale_flow(found, shape, tgt_shapes=tgt_shapes).astype(np.float32)

        return Transfer(lambda points: carried(flow(), points), given_flow=flow)


def open_predictions(folder: Path, benchmark: Benchmark, *, skip_bad: bool = False) -> Predictions:
    """Finds and checks the answers for all pairs of a benchmark.

    Args:
        folder: holds `predictions.jsonl` or a flow per pair.
        skip_bad: pairs whose answer is missing or unusable are listed in `missing` instead of failing.

    Raises:
        ValueError: the folder is missing or empty, answers are missing, given twice, for pairs or with numbers of
            points that the benchmark does not have, or a file is damaged; the message names the file and the row.
    """
    if not folder.is_dir():
        raise ValueError(f"predictions: expected a folder, found none at {folder}")
    listed, flows = folder / POINTS_FILE, _flow_files(folder)
    if not listed.is_file():
        found = _find_flows(folder, flows, benchmark, skip_bad)
    elif flows:
        raise ValueError(f"predictions: expected either {POINTS_FILE} or flows, found both, such as {flows[0]}")
    elif benchmark.protocol == "keypoints":
        found = _read_points(listed, benchmark, skip_bad)
    else:
        raise ValueError(f"{listed}: {benchmark.name} needs flows ({', '.join(SUFFIXES)}), not keypoints")
    if len(found.missing) == len(benchmark.pairs):
        raise ValueError(f"predictions: no answer in {folder} can be used; {next(iter(found.missing.values()))}")
    return found


def point_row(pair: Pair, points: Points) -> str:
    """The line of `predictions.jsonl` for one pair."""
    values = [[None if not np.isfinite(v) else float(v) for v in point] for point in points]
    return json.dumps({"id": pair.id, "src": pair.src, "tgt": pair.tgt, "tgt_points": values})


def save_flow(folder: Path, pair: Pair, flow: Flow) -> None:
    """Writes a flow where `open_predictions` finds it."""
    path = folder / f"{pair.id}.flo"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_flow(path, flow)


def _read_points(path: Path, benchmark: Benchmark, skip_bad: bool) -> Predictions:
    pair_of = _finder(benchmark)
    answers: dict[str, Points] = {}
    problems: dict[str, str] = {}
    ignored: list[str] = []
    for place, text in read_json_lines(path):
        try:
            values = json_object(text)
            pair = pair_of(values)
        except ValueError as error:
            ignored.append(f"{place}: {error}")
            continue
        if pair.id in answers or pair.id in problems:
            problems[pair.id] = f"{place}: a second answer for {pair.id!r}"
            continue
        try:
            answers[pair.id] = _answer(values, pair)
        except ValueError as error:
            problems[pair.id] = f"{place}: {error}"
    return _checked(answers, {}, problems, ignored, benchmark, skip_bad, f"{path}: no answer")


def _finder(benchmark: Benchmark) -> Callable[[dict[str, Any]], Pair]:
    """The function from a row to its pair."""
    by_id = {pair.id: pair for pair in benchmark.pairs}
    by_images: dict[tuple[str, str], list[Pair]] = {}
    for pair in benchmark.pairs:
        by_images.setdefault((pair.src, pair.tgt), []).append(pair)

    def find(values: dict[str, Any]) -> Pair:
        for name in ("id", "src", "tgt"):
            if name in values and not isinstance(values[name], str):
                raise ValueError(f"{name}: expected a text, got {values[name]!r}")
        if "id" not in values and not {"src", "tgt"} <= set(values):
            raise ValueError("expected 'id', or 'src' and 'tgt', which are not there")
        if "id" not in values:
            candidates = by_images.get((values["src"], values["tgt"]), [])
            if len(candidates) != 1:
                problem = "has several, give the id of" if candidates else "has no pair"
                raise ValueError(f"src, tgt: {benchmark.name} {problem} {values['src']!r} -> {values['tgt']!r}")
            return candidates[0]
        if values["id"] not in by_id:
            raise ValueError(f"id: {benchmark.name} has no pair {values['id']!r}")
        pair = by_id[values["id"]]
        for name, image in (("src", pair.src), ("tgt", pair.tgt)):
            if values.get(name, image) != image:
                raise ValueError(f"{name}: expected {image!r} as in the pair {pair.id!r}, got {values[name]!r}")
        return pair

    return find


def _answer(values: dict[str, Any], pair: Pair) -> Points:
    given, wanted = values.get("tgt_points"), 0 if pair.src_points is None else len(pair.src_points)
    if not isinstance(given, list) or len(given) != wanted:
        got = f"{len(given)} of them" if isinstance(given, list) else repr(given)[:60]
        raise ValueError(f"tgt_points of {pair.id!r}: expected a list of {wanted} points [x, y], got {got}")
    return np.array([_point(value, pair, number) for number, value in enumerate(given, 1)])


def _point(value: Any, pair: Pair, number: int) -> list[float]:
    """`[x, y]`; null, or null in place of a number, is no answer."""
    parts = [None, None] if value is None else value
    if not isinstance(parts, list) or len(parts) != 2 or not all(p is None or type(p) in (int, float) for p in parts):
        raise ValueError(f"tgt_points of {pair.id!r}: expected [x, y] as point {number}, got {repr(value)[:60]}")
    try:
        return [np.nan if part is None else float(part) for part in parts]
    except OverflowError as error:
        raise ValueError(f"tgt_points of {pair.id!r}: point {number} has a number that is too large") from error


def _flow_files(folder: Path) -> list[Path]:
    return sorted(path for suffix in SUFFIXES for path in folder.rglob(f"*{suffix}"))


def _find_flows(folder: Path, files: list[Path], benchmark: Benchmark, skip_bad: bool) -> Predictions:
    expected = {pair.id for pair in benchmark.pairs}
    flows: dict[str, Path] = {}
    problems: dict[str, str] = {}
    ignored: list[str] = []
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name not in expected:
            ignored.append(f"{path}: belongs to no pair of {benchmark.name} (one is {benchmark.pairs[0].id})")
        elif name in flows:
            problems[name] = f"{path}: a second answer for {name!r}, the first is {flows[name]}"
        else:
            flows[name] = path
            try:
                read_flow(path)
            except ValueError as error:
                problems[name] = str(error)
    return _checked(
        {}, flows, problems, ignored, benchmark, skip_bad, f"predictions: no {POINTS_FILE} or flow in {folder}"
    )


def _checked(
    points: dict[str, Points],
    flows: dict[str, Path],
    problems: dict[str, str],
    ignored: list[str],
    benchmark: Benchmark,
    skip_bad: bool,
    absent: str,
) -> Predictions:
    """Every pair has one answer, and every answer its pair; what is not so is an error, or listed if that was asked."""
    given = {*points, *flows}
    missing = {pair.id: f"{absent} for {pair.id!r}" for pair in benchmark.pairs if pair.id not in {*given, *problems}}
    bad = missing | problems
    if not skip_bad and (bad or ignored):
        first = next(iter([*problems.values(), *ignored, *missing.values()]))
        usable = f"{len(benchmark.pairs) - len(bad)} of {len(benchmark.pairs)} pairs have an answer that can be used"
        raise ValueError(f"{first} ({usable}; --skip_bad goes on without the others)")
    usable_points = {name: answer for name, answer in points.items() if name not in problems}
    usable_flows = {name: path for name, path in flows.items() if name not in problems}
    return Predictions(usable_points, usable_flows, bad, tuple(ignored))


def _read(path: Path) -> Flow:
    flow = read_flow(path)
    return np.where(known_flow(flow)[..., None], flow, np.float32(np.nan))
