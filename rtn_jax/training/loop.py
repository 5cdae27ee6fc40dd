"""The training loop: steps, held-out figures, and everything a run folder holds.

<run>/train.json        every choice of the run
<run>/checkpoint/       the latest weights, with what is needed to continue
<run>/metrics.jsonl     one line per evaluation
<run>/matches_<step>.png  held-out matches
<run>/tensorboard/      curves
"""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from rtn_jax import checkpoints, evaluation
from rtn_jax.config import Config
from rtn_jax.data.held_out import held_out_benchmark
from rtn_jax.data.pairs import Benchmark
from rtn_jax.data.stream import Stream
from rtn_jax.images import save_image
from rtn_jax.params import Params, init
from rtn_jax.pictures import matches_picture
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.photos import held_out_photos, training_batches
from rtn_jax.training.step import TrainState, init_state, make_step, parallel
from rtn_jax.weights import pretrained

_LOG = logging.getLogger(__name__)

SPEED_ONLY = ("workers",)
"""Choices that a run may be continued with others of: they do not change what is computed."""


@dataclass
class _Run:
    """What the loop carries besides the state."""

    train: TrainConfig
    params: Params
    """As they were at the start; gives the config."""
    benchmark: Benchmark
    folder: Path
    history: list[dict[str, Any]] = field(default_factory=list)

    def with_weights(self, state: TrainState) -> Params:
        return Params(state.weights, self.params.config)


def fit(train: TrainConfig) -> dict[str, Any]:
    """Trains a network and leaves it in the run folder.

    Returns:
        The figures of the last evaluation.

    Raises:
        ValueError: for data, weights or a folder that cannot be used; nothing has been written then.
    """
    from tensorboardX import SummaryWriter

    seen = _check_folder(train)
    given = None if train.init is None else _given_params(train, train.init)
    config = train.network() if given is None else given.config
    batches, about = training_batches(train, config.image_shape)
    photos = held_out_photos(train)
    params = _new_params(train, config) if given is None else given
    benchmark = held_out_benchmark(photos, shape=config.image_shape)
    step = parallel(make_step(config, train), _devices(train.batch_size))
    state = init_state(params, train)
    run = _Run(train, params, benchmark, train.folder)
    state = _open(run, state, seen)
    _LOG.info("%s; run folder %s", about, run.folder)
    with (
        Stream(batches, position=int(state.step), workers=train.workers) as stream,
        SummaryWriter(str(run.folder / "tensorboard")) as writer,
        _progress_bar() as bar,
    ):
        task = bar.add_task("training", total=train.steps, completed=int(state.step), status="")
        if int(state.step) == 0:
            _evaluate(run, state, {}, writer, bar)
        while (done := int(state.step)) < train.steps:
            started = time.perf_counter()
            state, averages = step(state, next(stream))
            metrics = {name: float(value) for name, value in averages.items()}
            if not np.isfinite(metrics["loss"]):
                raise ValueError(f"loss: not finite at step {done}; lower --learning_rate")
            metrics["pairs_per_second"] = train.batch_size / (time.perf_counter() - started)
            for name, value in metrics.items():
                writer.add_scalar(f"train/{name}", value, done + 1)
            bar.update(task, completed=done + 1, status=_status(metrics, run.history))
            if (done + 1) % train.eval_every == 0 or done + 1 == train.steps:
                _evaluate(run, state, metrics, writer, bar)
    return run.history[-1]


def _given_params(train: TrainConfig, path: str) -> Params:
    """The checkpoint to start from, computed the way this run asks for."""
    return checkpoints.load(path).configure(compute_dtype=train.compute_dtype, remat=train.remat)


def _new_params(train: TrainConfig, config: Config) -> Params:
    """A new network with the backbone weights asked for."""
    backbone_weights = None if train.weights == "random" else pretrained(train.backbone, train.weights)
    return init(jax.random.key(train.seed), config, backbone_weights=backbone_weights)


def _check_folder(train: TrainConfig) -> int:
    """How many steps the run folder has seen: 0 if it is new. Nothing is written yet.

    Raises:
        ValueError: if the folder holds a run with other choices, one that is finished, or something else.
    """
    folder, written = train.folder, train.folder / "train.json"
    if not written.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"run_dir: {folder} exists and is not a run of train.py; choose another folder")
        return 0
    try:
        before = json.loads(written.read_text())
    except ValueError as error:
        raise ValueError(f"run_dir: {written} is damaged; choose another folder") from error
    now = json.loads(json.dumps(train.to_dict()))
    compared = [name for name in now if name not in SPEED_ONLY]
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in compared if before.get(name) != now[name]]
    if changed:
        raise ValueError(
            f"run_dir: {folder} holds a run with other choices ({', '.join(changed)}); choose another folder"
        )
    if not (folder / "checkpoint").exists():
        return 0
    step = int(checkpoints.read_header(folder / "checkpoint")["step"])
    if step >= train.steps:
        raise ValueError(f"run_dir: {folder} holds a finished run of {step} steps; choose another folder")
    return step


def _open(run: _Run, state: TrainState, seen: int) -> TrainState:
    """Makes the run folder, or takes up the run that is there.

    Raises:
        ValueError: if the folder cannot be written or its checkpoint is damaged.
    """
    if not seen:
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            (run.folder / "metrics.jsonl").unlink(missing_ok=True)  # of a run that ended before its first checkpoint
            (run.folder / "train.json").write_text(json.dumps(run.train.to_dict(), indent=1) + "\n")
        except OSError as error:
            raise ValueError(f"run_dir: {run.folder} cannot be written: {error.strerror}") from error
        return state
    _LOG.info("continuing %s at step %d", run.folder, seen)
    params = checkpoints.load(run.folder)
    optimizer = checkpoints.load_training(run.folder, state.optimizer)
    run.history.extend(json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines())
    return TrainState(jax.numpy.asarray(seen, jax.numpy.int32), params.weights, optimizer)


def _evaluate(run: _Run, state: TrainState, metrics: dict[str, float], writer: Any, bar: Progress) -> None:
    """Held-out figures of the network as it is: a line, curves, a picture, a checkpoint."""
    step = int(state.step)
    params = run.with_weights(state)
    features = evaluation.ImageFeatures(params, run.benchmark.files)
    result = evaluation.evaluate("network", evaluation.network(features), run.benchmark)
    row = {"step": step, **{f"held-out {name}": value for name, value in result.metrics.items()}, **metrics}
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    checkpoints.save(run.folder / "checkpoint", params, training=state.optimizer, step=step)
    for name, value in result.metrics.items():
        writer.add_scalar(f"held_out/{_curve_name(name)}", value, step)
    save_image(run.folder / f"matches_{step:06d}.png", matches_picture(params, run.benchmark))
    run.history.append(row)
    loss = f"loss {metrics['loss']:.4f}  " if metrics else ""
    headline = result.figures[: len(run.benchmark.alphas)]
    figures = "  ".join(f"{figure.name} {figure.percent:.1f}" for figure in headline)
    bar.console.print(f"step {step:>6}  {loss}held-out {figures}", highlight=False, soft_wrap=True)


def _curve_name(name: str) -> str:
    """TensorBoard takes letters, digits and a few signs: `PCK@0.10 (img)` becomes `PCK_0.10_img`."""
    return re.sub(r"[^\w.]+", "_", name).strip("_")


def _devices(batch_size: int) -> int:
    """As many devices as share the batch evenly.

    Raises:
        ValueError: if there are several and the batch cannot be split over all of them.
    """
    devices = jax.local_device_count()
    if batch_size % devices:
        raise ValueError(f"batch_size: {batch_size} pairs cannot be split evenly over {devices} devices")
    return devices


def _progress_bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )


def _status(metrics: dict[str, float], history: list[dict[str, Any]]) -> str:
    held_out = next(
        (f"held-out {k.removeprefix('held-out ')} {v:.1f}" for k, v in history[-1].items() if "@0.10" in k), ""
    )
    return f"loss {metrics['loss']:.4f}  {held_out}  {metrics['pairs_per_second']:.2f} pairs/s"
