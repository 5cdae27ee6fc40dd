"""Before the long work: every file of a benchmark is read once, so that a bad one is known, and their hash taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.evaluation.scores import threshold_length

T = TypeVar("T")
THREADS = 4


def survey(benchmark: Benchmark, *, skip_bad: bool = False) -> tuple[Benchmark, str]:
    """Reads all images, masks and flows of a benchmark.

    Args:
        benchmark: to be looked through.
        skip_bad: leave pairs with a bad file out, and say so in `left_out`, instead of failing.

    Returns:
        The benchmark, without the pairs left out, and the sha256 of its content: names, keypoints, boxes, the images'
        files, masks and flows. It does not depend on whether they came from a folder or a prepared data set.

    Raises:
        ValueError: for the first bad file, or if every pair has one.
    """
    images, bad_images = _checked(benchmark.images, lambda name: _image(benchmark, name), skip_bad)
    ids = tuple(pair.id for pair in benchmark.pairs)
    by_id = {pair.id: pair for pair in benchmark.pairs}
    truths, bad_pairs = _checked(ids, lambda name: _truth(benchmark, by_id[name]), skip_bad)
    bad = {
        pair.id: next((bad_images[name] for name in (pair.src, pair.tgt) if name in bad_images), "")
        or bad_pairs.get(pair.id, "")
        for pair in benchmark.pairs
    }
    kept = tuple(pair for pair in benchmark.pairs if not bad[pair.id])
    reasons = tuple(f"{name}: {reason}" for name, reason in bad.items() if reason)
    if not kept:
        raise ValueError(f"{benchmark.name}: no pair can be used; the first: {reasons[0]}")
    whole = hashlib.sha256()
    for pair in kept:
        for part in (_description(pair), images[pair.src], images[pair.tgt], truths[pair.id]):
            whole.update(part.encode())
    return benchmark.replace(pairs=kept, left_out=(*benchmark.left_out, *reasons)), whole.hexdigest()


def _checked(
    names: tuple[str, ...], read: Callable[[str], str], skip_bad: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Hash by name of what could be read, and the reason by name of what could not."""

    def attempt(name: str) -> tuple[str, str]:
        try:
            return read(name), ""
        except ValueError as error:
            if not skip_bad:
                raise
            return "", str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        done = dict(zip(names, pool.map(attempt, names), strict=True))
    return {n: h for n, (h, _) in done.items() if h}, {n: reason for n, (_, reason) in done.items() if reason}


def _image(benchmark: Benchmark, name: str) -> str:
    benchmark.files.image(name)
    return hashlib.sha256(benchmark.files.encoded(name)).hexdigest()


def _truth(benchmark: Benchmark, pair: Pair) -> str:
    """Hash of the pair's flow and masks, as far as the protocol asks for them; that PCK has a length for it."""
    content = hashlib.sha256()
    if benchmark.protocol == "keypoints":
        for kind in benchmark.thresholds:
            threshold_length(benchmark, pair, kind)
    if benchmark.protocol == "flow":
        content.update(benchmark.files.flow(pair.id).astype("<f4").tobytes())
    if benchmark.protocol == "masks":
        for name in (pair.src, pair.tgt):
            content.update(np.packbits(benchmark.files.mask(name)).tobytes())
    return content.hexdigest()


def _description(pair: Pair) -> str:
    """Everything a pair says of itself, in a fixed form."""
    arrays = {
        name: None if (value := getattr(pair, name)) is None else value.tolist()
        for name in ("src_points", "tgt_points", "src_box", "tgt_box")
    }
    plain = {name: getattr(pair, name) for name in ("id", "src", "tgt", "category", "subset", "mirrored", "leaked")}
    return json.dumps(plain | arrays, sort_keys=True)
