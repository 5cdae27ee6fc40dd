"""A benchmark through a matcher, pair by pair, over devices and shards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.evaluation.journal import Journal
from rtn_jax.evaluation.matchers import BATCH, Matcher, Transfer
from rtn_jax.evaluation.scores import Answer, answer, figures
from rtn_jax.metrics import Figure

Progress = Callable[[int], None]
Build = Callable[[Any], Matcher]
"""Makes the matcher for a device (`jax.Device`, or None for jax's own choice)."""
Keep = Callable[[Pair, Transfer, Answer], None]
"""Is shown every pair's answer, for instance to store it."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of one matcher on one benchmark."""

    matcher: str
    figures: tuple[Figure, ...]
    """The published ones first."""
    answers: tuple[Answer, ...]
    """One per pair, in the benchmark's order."""

    @property
    def metrics(self) -> dict[str, float]:
        """Percentage by printed name."""
        return {figure.name: figure.percent for figure in self.figures}

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bootstrap 95 % interval of every figure over the pairs, in per cent."""
        return {figure.name: figure.interval() for figure in self.figures}


def evaluate(name: str, matcher: Matcher, benchmark: Benchmark, *, progress: Progress | None = None) -> Result:
    """Runs a matcher over all pairs of a benchmark, on one device.

    Args:
        name: of the matcher, for the result.
        matcher: answers a few pairs at a time.
        benchmark: pairs, files and how figures are defined.
        progress: called with the number of pairs done, after every batch.

    Returns:
        The figures, over all pairs of the benchmark that have them.

    Raises:
        ValueError: if a file cannot be read.
    """
    done = answers(name, lambda _: matcher, benchmark, progress=progress)
    return result(name, benchmark, done)


def result(name: str, benchmark: Benchmark, done: dict[str, Answer]) -> Result:
    """The figures of the answers to all pairs."""
    ordered = tuple(done[pair.id] for pair in benchmark.pairs)
    return Result(matcher=name, figures=figures(benchmark, ordered), answers=ordered)


def answers(
    name: str,
    build: Build,
    benchmark: Benchmark,
    *,
    devices: Sequence[Any] = (None,),
    shard: tuple[int, int] = (0, 1),
    journal: Journal | None = None,
    keep: Keep | None = None,
    progress: Progress | None = None,
) -> dict[str, Answer]:
    """Answers of a matcher to the pairs of one shard, by pair id.

    Pairs are matched in batches that are cut from the benchmark's list, whatever the shards and devices: each pair
    always has the same neighbours, so its answer is the same to the bit however the work was divided.

    Args:
        name: of the matcher, as the journal knows it.
        build: makes the matcher for a device.
        benchmark: the whole of it.
        devices: (`jax.Device`, or None) work in parallel, one thread each.
        shard: index and count; batch n belongs to the shard n modulo count.
        journal: batches it holds are taken from it, new ones are added.
        keep: is shown every new answer.
        progress: called with the number of pairs done, after every batch.

    Raises:
        ValueError: if a file cannot be read.
    """
    index, count = shard
    batches = [benchmark.pairs[i : i + BATCH] for i in range(0, len(benchmark.pairs), BATCH)][index::count]
    found, open_batches = _taken(name, batches, journal)
    if progress is not None:
        progress(len(found))
    lock = threading.Lock()

    def work(device: Any, mine: Sequence[tuple[Pair, ...]]) -> Iterator[None]:
        if not mine:
            return
        matcher = build(device)
        for batch in mine:
            new = {}
            for pair, transfer in zip(batch, matcher(batch), strict=True):
                new[pair.id] = answer(benchmark, pair, transfer)
                if keep is not None:
                    keep(pair, transfer, new[pair.id])
            with lock:
                found.update(new)
                if journal is not None:
                    journal.add(name, new)
                if progress is not None:
                    progress(len(found))
            yield

    _in_parallel([work(device, open_batches[i :: len(devices)]) for i, device in enumerate(devices)])
    return found


def _taken(
    name: str, batches: Sequence[tuple[Pair, ...]], journal: Journal | None
) -> tuple[dict[str, Answer], list[tuple[Pair, ...]]]:
    """The answers of batches that the journal holds whole, and the other batches."""
    done = {} if journal is None else journal.done
    found: dict[str, Answer] = {}
    others = []
    for batch in batches:
        known = {pair.id: done[name, pair.id] for pair in batch if (name, pair.id) in done}
        for pair in batch:
            if pair.id in known and journal is not None and not _fits(known[pair.id], pair):
                raise ValueError(f"{journal.folder}: damaged at pair {pair.id!r}; remove it to start over")
        if len(known) == len(batch):
            found |= known
        else:
            others.append(batch)
    return found, others


def _fits(given: Answer, pair: Pair) -> bool:
    """Whether an answer has a place for each of the pair's keypoints."""
    return given.points is None or given.points.shape == np.shape(pair.src_points)  # type: ignore[arg-type]


def _in_parallel(works: Sequence[Iterator[None]]) -> None:
    """Each in a thread of its own; one alone needs none. A failure or an interruption stops the others.

    Raises:
        Exception: the first that any of them raised.
    """
    if len(works) == 1:
        for _ in works[0]:
            pass
        return
    stop = threading.Event()

    def run(work: Iterator[None]) -> None:
        try:
            for _ in work:
                if stop.is_set():
                    return
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(run, work) for work in works]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            stop.set()
