"""The steps of `evaluate.py`: open, look through, match, write."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtn_jax.reporting.config import FLOORS, EvaluateConfig

if TYPE_CHECKING:
    from rtn_jax.data.pairs import Benchmark
    from rtn_jax.evaluation import Journal, Result
    from rtn_jax.evaluation.predictions import Predictions
    from rtn_jax.params import Params

PREDICTIONS_FOLDER = "predictions"


@dataclass(frozen=True)
class _Evaluation:
    """What is evaluated on what, opened and checked."""

    config: EvaluateConfig
    benchmark: Benchmark
    data_hash: str
    params: Params | None
    predictions: Predictions | None

    @property
    def name(self) -> str:
        """Of the matcher that this is about, as the user called it."""
        return self.config.ckpt or f"predictions {self.config.predictions}"

    def subject(self) -> dict[str, Any]:
        """Everything the answers depend on."""
        import jax

        from rtn_jax.version import __version__

        return {
            "dataset": self.benchmark.name,
            "data": self.data_hash,
            "weights": None if self.params is None else weights_hash(self.params),
            "config": None if self.params is None else json.loads(self.params.config.to_json()),
            "answers": None if self.config.predictions is None else folder_hash(self.config.predictions),
            "mirror_aware": self.config.mirror_aware,
            "save_predictions": self.config.save_predictions,
            "versions": {"rtn_jax": __version__, "jax": jax.__version__},
        }


def report(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluates, prints the table and writes what was asked for.

    Returns:
        What `results.json` holds; of a shard only what it did.

    Raises:
        ValueError: for a checkpoint, data set or output folder that cannot be used.
    """
    from rtn_jax.evaluation import Journal

    started = time.perf_counter()
    out = _make_folder(config.out)
    opened = _open(config)
    journal = None if out is None else Journal(out, opened.subject(), config.part)
    results = _evaluate(opened, journal)
    if config.shard is not None:
        return _shard_done(opened, results)
    return _finish(opened, results, out, journal, time.perf_counter() - started)


def _open(config: EvaluateConfig) -> _Evaluation:
    """Cheap mistakes first: the checkpoint is small work, the look through the data the greatest."""
    from rtn_jax.evaluation import survey
    from rtn_jax.evaluation.predictions import open_predictions

    params = None if config.ckpt in (None, "identity") else _params(config)
    benchmark = read(config)
    predictions = None
    if config.predictions is not None:
        predictions = open_predictions(config.predictions, benchmark, skip_bad=config.skip_bad)
        answered = tuple(pair for pair in benchmark.pairs if pair.id not in predictions.missing)
        left_out = (*benchmark.left_out, *predictions.missing.values(), *predictions.ignored)
        benchmark = benchmark.replace(pairs=answered, left_out=left_out)
    benchmark, data_hash = survey(benchmark, skip_bad=config.skip_bad)
    return _Evaluation(config, benchmark, data_hash, params, predictions)


def read(config: EvaluateConfig) -> Benchmark:
    """The benchmark that was asked for, with the thresholds that were asked for.

    Raises:
        ValueError: if it is not there or not as published.
    """
    benchmark = _published(config)
    if benchmark.protocol is None:
        raise ValueError(
            f"split: {benchmark.name} {config.split} has pairs to train on, without a truth to compare with"
        )
    asked = {"thresholds": config.thresholds, "alphas": config.alphas}
    given = {name: value for name, value in asked.items() if value is not None}
    if given and benchmark.protocol != "keypoints":
        raise ValueError(f"{next(iter(given))}: {benchmark.name} is not measured by PCK")
    return benchmark.replace(**given)


def _published(config: EvaluateConfig) -> Benchmark:
    if config.data_dir is None:
        from rtn_jax.data.held_out import held_out_benchmark
        from rtn_jax.data.photos import BUILTIN_HELD_OUT, builtin_photos

        photos = builtin_photos()
        return held_out_benchmark({name: photos[name] for name in BUILTIN_HELD_OUT})
    if config.dataset == "json":
        from rtn_jax.data.json_pairs import json_pairs

        return json_pairs(config.data_dir, skip_bad=config.skip_bad)
    from rtn_jax.data.datasets import read_benchmark

    return read_benchmark(config.dataset, config.data_dir, split=config.split, skip_bad=config.skip_bad)


def _params(config: EvaluateConfig) -> Params:
    import jax

    from rtn_jax import checkpoints
    from rtn_jax.config import default
    from rtn_jax.params import init
    from rtn_jax.weights import pretrained

    if config.ckpt == "nearest":
        backbone_weights = None if config.weights == "random" else pretrained(config.backbone, config.weights)
        params = init(jax.random.key(0), default(config.backbone), backbone_weights=backbone_weights)
    else:
        params = checkpoints.load(str(config.ckpt))
    asked = {name: getattr(config, name) for name in ("image_size", "iterations", "compute_dtype")}
    return params.configure(**{name: value for name, value in asked.items() if value is not None})


def _evaluate(opened: _Evaluation, journal: Journal | None) -> list[Result]:
    """The floors and the matcher; of a shard its part of the pairs."""
    import jax

    from rtn_jax.evaluation import answers, result

    found = []
    devices = jax.local_devices() if opened.params is not None and jax.local_device_count() > 1 else [None]
    for name, build in _matchers(opened).items():
        with _progress(name, len(opened.benchmark.pairs)) as progress:
            done = answers(
                name,
                build,
                opened.benchmark,
                devices=devices,
                shard=opened.config.part,
                journal=journal,
                keep=_keeper(opened) if name == opened.name and journal is not None else None,
                progress=progress,
            )
        benchmark = opened.benchmark
        if opened.config.shard is not None:
            benchmark = benchmark.replace(pairs=tuple(pair for pair in benchmark.pairs if pair.id in done))
        found.append(result(name, benchmark, done))
    return found


def _matchers(opened: _Evaluation) -> dict[str, Callable[[Any], Any]]:
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


def _keeper(opened: _Evaluation) -> Callable[..., None] | None:
    """Stores flows as they come; keypoints are few, they are written at the end."""
    if not opened.config.save_predictions or opened.benchmark.protocol == "keypoints" or opened.config.out is None:
        return None
    from rtn_jax.evaluation.predictions import save_flow

    folder, files = opened.config.out / PREDICTIONS_FOLDER, opened.benchmark.files
    return lambda pair, transfer, _: save_flow(folder, pair, transfer.flow(files.shape(pair.src)))


def _shard_done(opened: _Evaluation, results: list[Result]) -> dict[str, Any]:
    from rich.console import Console

    index, count = opened.config.part
    pairs = len(results[-1].answers)
    line = f"shard {index}/{count}: {pairs} of {len(opened.benchmark.pairs)} pairs done; "
    Console().print(line + "when all are, the same command without --shard gathers them", soft_wrap=True)
    return {"shard": opened.config.shard, "pairs": pairs}


def _finish(
    opened: _Evaluation, results: list[Result], out: Path | None, journal: Journal | None, seconds: float
) -> dict[str, Any]:
    from rtn_jax.reporting.record import make_record
    from rtn_jax.reporting.tables import print_table, write_pairs

    record = make_record(opened.benchmark, results, seconds) | {
        "ckpt": opened.config.ckpt,
        "predictions": None if opened.config.predictions is None else str(opened.config.predictions),
        **opened.subject(),
        "options": {name: _plain(value) for name, value in dataclasses.asdict(opened.config).items()},
    }
    print_table(opened.benchmark, results, seconds, mode="mirror-aware" if opened.config.mirror_aware else "")
    if out is not None:
        _write_json(out / "results.json", record)
        write_pairs(out / "pairs.csv", opened.benchmark, results)
        _write_extras(opened, results, record, out)
        if journal is not None:
            journal.remove()
    return record


def _write_extras(opened: _Evaluation, results: list[Result], record: dict[str, Any], out: Path) -> None:
    from rtn_jax.images import save_image, write_atomically

    benchmark = opened.benchmark
    if opened.config.save_predictions and benchmark.protocol == "keypoints":
        from rtn_jax.evaluation.predictions import POINTS_FILE, point_row

        answered = zip(benchmark.pairs, results[-1].answers, strict=True)
        lines = "".join(point_row(pair, given.points) + "\n" for pair, given in answered if given.points is not None)
        (out / PREDICTIONS_FOLDER).mkdir(exist_ok=True)
        write_atomically(out / PREDICTIONS_FOLDER / POINTS_FILE, lambda file: file.write(lines.encode()))
    if opened.params is not None and opened.config.ckpt not in FLOORS and benchmark.protocol == "keypoints":
        from rtn_jax.pictures import matches_picture

        save_image(out / "matches.png", matches_picture(opened.params, benchmark))
    if opened.config.report:
        from rtn_jax.reporting.html import html_report

        page = html_report(record, benchmark, results)
        write_atomically(out / "report.html", lambda file: file.write(page.encode()))


def _write_json(path: Path, record: dict[str, Any]) -> None:
    from rtn_jax.images import write_atomically

    text = (json.dumps(record, indent=1) + "\n").encode()
    write_atomically(path, lambda file: file.write(text))


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


def weights_hash(params: Params) -> str:
    """sha256 of all weights, whatever file they came from."""
    import jax
    import numpy as np

    content = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params.weights):
        array = np.asarray(leaf)
        content.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def folder_hash(folder: Path) -> str:
    """sha256 of the names and contents of all files below a folder."""
    content = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    return content.hexdigest()


@contextlib.contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
