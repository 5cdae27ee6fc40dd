"""The steps of `evaluate.py`: open, look through, match, write."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtn_jax.reporting.config import FLOORS, EvaluateConfig
from rtn_jax.reporting.opening import Opened, open_all

if TYPE_CHECKING:
    from rtn_jax.evaluation import Answer, Journal, Result

log = logging.getLogger(__name__)

PREDICTIONS_FOLDER = "predictions"
_QUIET = 60.0
"""Seconds between lines of progress where there is no terminal to draw a bar on."""


def report(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluates, prints the table and writes what was asked for.

    Returns:
        What `results.json` holds; of a shard only what it did.

    Raises:
        ValueError: for a checkpoint, data set or output folder that cannot be used.
    """
    from rtn_jax.evaluation import Journal, result

    started = time.perf_counter()
    out = _make_folder(config.out)
    opened = open_all(config)
    if out is not None:
        _check_results(out, opened)
    journal = None if out is None else Journal(out, opened.subject, config.part)
    done = _evaluate(opened, journal)
    if config.shard is not None:
        return _shard_done(opened, len(done[opened.name]))
    results = [result(name, opened.benchmark, answered) for name, answered in done.items()]
    return _finish(opened, results, out, journal, time.perf_counter() - started)


def _evaluate(opened: Opened, journal: Journal | None) -> dict[str, dict[str, Answer]]:
    """Answers of the floors and the matcher, by its name, then by pair; of a shard those to its part of the pairs."""
    import jax

    from rtn_jax.evaluation import answers

    found = {}
    devices = jax.local_devices() if opened.params is not None and jax.local_device_count() > 1 else [None]
    for name, build in _matchers(opened).items():
        with _progress(name, len(opened.benchmark.pairs)) as progress:
            found[name] = answers(
                name,
                build,
                opened.benchmark,
                devices=devices,
                shard=opened.config.part,
                journal=journal,
                keep=_keeper(opened) if name == opened.name and journal is not None else None,
                progress=progress,
            )
    return found


def _matchers(opened: Opened) -> dict[str, Callable[[Any], Any]]:
    """By name, the floors first, how each is made for a device."""
    from functools import cache

    from rtn_jax import evaluation

    files = opened.benchmark.files
    found: dict[str, Callable[[Any], Any]] = {"identity": lambda _: evaluation.identity(files)}
    if opened.predictions is not None:
        predicted = opened.predictions.matcher(opened.benchmark)
        found[opened.name] = lambda _: predicted
    if opened.params is None:
        return found
    params = opened.params
    features = cache(lambda device: evaluation.ImageFeatures(params, files, device))

    def aware(matcher: Callable[..., Any]) -> Callable[[Any], Any]:
        if not opened.config.mirror_aware:
            return lambda device: matcher(features(device))
        return lambda device: evaluation.mirror_aware(
            matcher(features(device)), matcher(features(device), mirrored=True)
        )

    found["nearest"] = aware(evaluation.nearest)
    if opened.config.ckpt not in FLOORS:
        found[opened.name] = aware(evaluation.network)
    return found


def _keeper(opened: Opened) -> Callable[..., None] | None:
    """Stores flows as they come; keypoints are few, they are written at the end."""
    if not opened.config.save_predictions or opened.benchmark.protocol == "keypoints" or opened.config.out is None:
        return None
    from rtn_jax.evaluation.predictions import save_flow

    folder, files = opened.config.out / PREDICTIONS_FOLDER, opened.benchmark.files
    return lambda pair, transfer, _: save_flow(folder, pair, transfer.flow(files.shape(pair.src)))


def _shard_done(opened: Opened, pairs: int) -> dict[str, Any]:
    from rich.console import Console

    index, count = opened.config.part
    line = f"shard {index}/{count}: {pairs} of {len(opened.benchmark.pairs)} pairs done; "
    Console().print(line + "when all are, the same command without --shard gathers them", soft_wrap=True)
    return {"shard": opened.config.shard, "pairs": pairs}


def _finish(
    opened: Opened, results: list[Result], out: Path | None, journal: Journal | None, seconds: float
) -> dict[str, Any]:
    from rtn_jax.reporting.record import make_record
    from rtn_jax.reporting.tables import print_table, write_pairs

    record = make_record(opened.benchmark, results, seconds) | {
        "ckpt": opened.config.ckpt,
        "predictions": None if opened.config.predictions is None else str(opened.config.predictions),
        **opened.subject,
        "options": {name: _plain(value) for name, value in dataclasses.asdict(opened.config).items()},
    }
    if out is not None:
        _write_json(out / "results.json", record)
        write_pairs(out / "pairs.csv", opened.benchmark, results)
        extras = _write_extras(opened, results, record, out)
        if journal is not None:
            journal.remove()
    # Last: a terminal that cannot show it, or is gone, costs nothing that was computed.
    print_table(opened.benchmark, results, seconds, mode="mirror-aware" if opened.config.mirror_aware else "")
    if out is not None:
        _say(f"{out}: {', '.join(['results.json', 'pairs.csv', *extras])}")
    return record


def _say(line: str) -> None:
    from rich.console import Console

    Console().print(line, highlight=False, markup=False, soft_wrap=True)


def _write_extras(opened: Opened, results: list[Result], record: dict[str, Any], out: Path) -> list[str]:
    """What is only written where it was asked for, or can be; the names in the folder."""
    from rtn_jax.images import save_image, write_atomically

    benchmark = opened.benchmark
    written = [PREDICTIONS_FOLDER] if opened.config.save_predictions else []
    if opened.config.save_predictions and benchmark.protocol == "keypoints":
        from rtn_jax.evaluation.predictions import POINTS_FILE, point_row

        answered = zip(benchmark.pairs, results[-1].answers, strict=True)
        lines = "".join(point_row(pair, given.points) + "\n" for pair, given in answered if given.points is not None)
        (out / PREDICTIONS_FOLDER).mkdir(exist_ok=True)
        write_atomically(out / PREDICTIONS_FOLDER / POINTS_FILE, lambda file: file.write(lines.encode()))
    if opened.params is not None and opened.config.ckpt not in FLOORS and benchmark.protocol == "keypoints":
        from rtn_jax.pictures import matches_picture

        save_image(out / "matches.png", matches_picture(opened.params, benchmark))
        written.append("matches.png")
    if opened.config.report:
        from rtn_jax.reporting.html import html_report

        page = html_report(record, benchmark, results)
        write_atomically(out / "report.html", lambda file: file.write(page.encode()))
        written.append("report.html")
    return written


def _write_json(path: Path, record: dict[str, Any]) -> None:
    from rtn_jax.images import write_atomically

    text = (json.dumps(record, indent=1) + "\n").encode()
    write_atomically(path, lambda file: file.write(text))


def _check_results(out: Path, opened: Opened) -> None:
    """That what an earlier evaluation left in the folder is of this one, and may be written again.

    Raises:
        ValueError: it is of another, or of none.
    """
    now = json.loads(json.dumps(opened.subject))
    try:
        there = json.loads((out / "results.json").read_text(encoding="utf-8"))
        before = {name: there[name] for name in now}
    except FileNotFoundError:
        before = now
        if (out / PREDICTIONS_FOLDER).exists() and not (out / "journal").exists():
            raise ValueError(f"out: {out / PREDICTIONS_FOLDER} is of something else; choose another folder") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"out: {out / 'results.json'} is not of evaluate.py; choose another folder") from error
    if before != now:
        changed = ", ".join(name for name in now if before[name] != now[name])
        raise ValueError(f"out: {out} holds results of another evaluation ({changed}); choose another folder")
    (out / "report.html").unlink(missing_ok=True)  # of other alphas or thresholds, perhaps


def _make_folder(folder: Path | None) -> Path | None:
    """Before the long work: a folder that cannot be written should not cost ten minutes."""
    if folder is None:
        return None
    from rtn_jax.images import check_writable

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out: {folder} cannot be made: {error.strerror}") from error
    check_writable(folder / "matches.png")
    return folder


@contextlib.contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal; in a file, a line now and then."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(name, total)
        return
    with Progress(transient=True, console=console) as bar:
        task = bar.add_task(escape(name), total=total)
        yield lambda done: bar.update(task, completed=done)


def _lines(name: str, total: int) -> Callable[[int], None]:
    said = time.monotonic()

    def progress(done: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= _QUIET and done < total:
            said = now
            log.info("%s: %d of %d pairs", name, done, total)

    return progress


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
