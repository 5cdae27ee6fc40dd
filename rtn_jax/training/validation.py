"""What a run is measured on while it trains, and the measuring.

| `--val` | what is measured | called |
|---|---|---|
| `builtin` | fixed warps of the held-out photos that come with the installed packages | `held_out` |
| `NAME:FOLDER` | a benchmark of `data.datasets`: its split `val`, or the one with figures where it has none | `NAME` |
| `.json`, `.jsonl` | a list of keypoint pairs (`data.json_pairs`) | the file's name |
| folder, `.csv` | fixed warps of up to 16 of its photos | the folder's or file's name |

Beside the figures stand the numbers that a loss can change without matching better: the field's mean 2x2 part, its
determinant, the share of folded cells.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rtn_jax import evaluation
from rtn_jax.affine import field_statistics
from rtn_jax.coordinates import Shape
from rtn_jax.data.datasets import DATASETS, read_benchmark
from rtn_jax.data.held_out import held_out_benchmark
from rtn_jax.data.json_pairs import json_pairs
from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.data.photos import BUILTIN_HELD_OUT
from rtn_jax.data.sources import BUILTIN, BuiltinFiles, Photos, photo_source
from rtn_jax.evaluation import Answer, Transfer
from rtn_jax.evaluation.matchers import MATCHERS, Field, MatcherName
from rtn_jax.evaluation.run import Progress
from rtn_jax.evaluation.scores import MASK_FIGURES, figures
from rtn_jax.metrics import pck_name
from rtn_jax.params import Params

WARPED_PHOTOS = 16
"""Photos of a folder or table that are warped: with 8 warps each, 128 pairs."""

USUAL_ALPHA = 0.10
"""Of the PCK that counts, where a benchmark has it."""


@dataclass(frozen=True)
class Validation:
    """Pairs that a run is measured on."""

    key: str
    """Short, of letters, digits and `_`, unique among the sets of a run: what its curves are called."""
    benchmark: Benchmark
    """The pairs; the name says of how many they are a part."""
    headline: str
    """Name of the figure that counts."""


def validation_sets(val: tuple[str, ...], *, pairs: int, shape: Shape) -> tuple[Validation, ...]:
    """Opens what `--val` names. Every file that will be needed is read once, so that a bad one is known at the start.

    Args:
        val: values as in the module's table.
        pairs: at most so many of each set, evenly spread over its order; 0: all.
        shape: (height, width) of the warped photos: the network's image size.

    Raises:
        ValueError: if one is not there, is not as described or has a file that cannot be read, or `pairs` is negative;
            the message begins with `val: `.
    """
    if pairs < 0:
        raise ValueError(f"val: expected a number of pairs, or 0 for all, got {pairs}")
    found: dict[str, Validation] = {}
    for given in val:
        try:
            name, benchmark = _opened(given, pairs, shape)
        except ValueError as error:
            raise ValueError(f"val: {re.sub('^(data|data_dir|dataset|path): ', '', str(error))}") from error
        key = _unique(re.sub(r"\W+", "_", name).strip("_") or "val", found)
        found[key] = Validation(key, benchmark, headline(benchmark))
    return tuple(found.values())


def validate(
    params: Params,
    validation: Validation,
    *,
    matcher: MatcherName = "network",
    devices: Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Measures a network on all pairs of a set, in one pass; the same weights give the same numbers.

    Args:
        params: the network; its weights may lie on any devices, also on several.
        validation: the pairs.
        matcher: `network`, or `nearest`: the nearest neighbour of its features alone.
        devices: (`jax.Device`) share the pairs, each in a thread of its own; jax's default one unless given.
        progress: called with the number of pairs done, after every few of them; what it raises ends the measuring.

    Returns:
        The headline first, then the other figures, by printed name in per cent; then the means over the pairs of
        `mean_axx`, `mean_axy`, `mean_ayx`, `mean_ayy`, `mean_determinant` and `folded` (a share) of the final field,
        which `nearest` does not have, and of `confidence`. A network that answers NaN is wrong where it does, and its
        field's numbers are NaN.

    Raises:
        ValueError: if a file cannot be read any more.
    """
    benchmark = validation.benchmark
    seen: dict[str, dict[str, float]] = {}
    weights = jax.tree.map(np.asarray, params)  # wherever they are; each device gets a copy of its own

    def build(device: Any) -> evaluation.Matcher:
        return MATCHERS[matcher](evaluation.ImageFeatures(jax.device_put(weights, device), benchmark.files))

    def keep(pair: Pair, transfer: Transfer, _: Answer) -> None:
        numbers = {} if transfer.affine is None else field_numbers(transfer.affine)
        if transfer.confidence is not None:  # either matcher knows it
            seen[pair.id] = numbers | {"confidence": transfer.confidence}

    done = evaluation.answers(matcher, build, benchmark, devices=devices or (None,), keep=keep, progress=progress)
    result = evaluation.result(matcher, benchmark, done)
    rows = [seen[pair.id] for pair in benchmark.pairs]
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {validation.headline: math.nan} | result.metrics | means


def field_numbers(field: Field) -> dict[str, float]:
    """`mean_axx`, `mean_axy`, `mean_ayx`, `mean_ayy`, `mean_determinant`, `folded` of a field; NaN where it has any."""
    return {name: float(value) for name, value in _field_statistics(field[None]).items()}


_field_statistics = jax.jit(field_statistics)


def headline(benchmark: Benchmark) -> str:
    """The name of the figure that counts.

    Keypoints: PCK@0.10, or that of the middle alpha, for the first threshold. Flows: the mean of all subsets where the
    pairs are of all of them, else the first figure. Masks: the first figure.
    """
    if benchmark.protocol == "masks":
        return MASK_FIGURES[0]
    if benchmark.protocol == "keypoints":
        alphas = sorted(benchmark.alphas)
        return pck_name(USUAL_ALPHA if USUAL_ALPHA in alphas else alphas[len(alphas) // 2], benchmark.thresholds[0])
    names = [figure.name for figure in figures(benchmark, [Answer(values={"accuracy": 0.0})] * len(benchmark.pairs))]
    return "mean" if "mean" in names else names[0]


def _opened(given: str, pairs: int, shape: Shape) -> tuple[str, Benchmark]:
    """What one value of `--val` is to be called, and its pairs."""
    if given == BUILTIN:
        return "held_out", _cut(_warps(Photos(BuiltinFiles(), BUILTIN_HELD_OUT, ""), shape), pairs)
    name, _, folder = given.partition(":")
    if name in DATASETS:
        if not folder:
            raise ValueError(f"expected {name}:FOLDER with the folder that {DATASETS[name].title} is in, got {given!r}")
        split = "val" if "val" in DATASETS[name].splits else None
        return name, _checked(_cut(read_benchmark(name, folder, split=split), pairs))
    path = Path(os.path.abspath(Path(given).expanduser()))  # which has a name even where `..` was given
    if not path.is_dir() and path.suffix.lower() in (".json", ".jsonl"):
        return path.stem, _checked(_cut(json_pairs(path), pairs))
    if not path.is_dir() and path.suffix.lower() != ".csv":
        expected = f"{BUILTIN}, NAME:FOLDER (NAME: {', '.join(DATASETS)}), a .json or .jsonl list, a folder or a .csv"
        raise ValueError(f"expected {expected}, got {given!r}" + ("" if path.exists() else ", which is not there"))
    photos = photo_source(str(path))
    warps = _warps(photos, shape)
    warped = f"{len(warps.images) - len(warps.pairs)} of {len(photos)} photos"
    return path.name if path.is_dir() else path.stem, _cut(warps.replace(name=f"warps of {warped} of {given}"), pairs)


def _warps(photos: Photos, shape: Shape) -> Benchmark:
    """Fixed warps of up to so many photos, evenly spread."""
    names = [photos.names[i] for i in _spread(len(photos), WARPED_PHOTOS)]
    return held_out_benchmark({name: photos.files.image(name) for name in names}, shape=shape)


def _cut(benchmark: Benchmark, pairs: int) -> Benchmark:
    """At most so many pairs, evenly spread; 0: all."""
    total = len(benchmark.pairs)
    if not 0 < pairs < total:
        return benchmark
    chosen = tuple(benchmark.pairs[i] for i in _spread(total, pairs))
    return benchmark.replace(pairs=chosen, name=f"{benchmark.name} ({pairs} of {total:,} pairs)")


def _spread(total: int, count: int) -> list[int]:
    """`count` of so many places, the first and the last among them; all where there are no more."""
    return [round(place) for place in np.linspace(0, total - 1, min(count, total)).tolist()]


def _checked(benchmark: Benchmark) -> Benchmark:
    """The same, after every file has been read."""
    evaluation.survey(benchmark)
    return benchmark


def _unique(name: str, taken: Container[str]) -> str:
    """The name, or the name with the first of `_2`, `_3`, ... that is not taken."""
    number, key = 1, name
    while key in taken:
        number += 1
        key = f"{name}_{number}"
    return key
