"""The training loop: steps, validations, checkpoints, and an end that can be taken up again."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from rtn_jax.commands import as_typed
from rtn_jax.evaluation.matchers import MatcherName
from rtn_jax.params import Params
from rtn_jax.pictures import matches_picture
from rtn_jax.training import hosts
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.curves import curves_picture
from rtn_jax.training.display import Display
from rtn_jax.training.feed import Feed
from rtn_jax.training.phases import Phase, phase_at
from rtn_jax.training.resume import to_continue
from rtn_jax.training.saver import Saver
from rtn_jax.training.scheduler import save_memory
from rtn_jax.training.start import RECENT, Start, start
from rtn_jax.training.step import STOP, TrainState, init_state, make_step, parallel
from rtn_jax.training.stopping import Stop
from rtn_jax.training.validation import validate
from rtn_jax.training.watch import Watch

_LOG = logging.getLogger(__name__)

LOG_EVERY = 10
"""Steps between lines of training figures, which are means over them."""


@dataclass
class _Run:
    """What the loop carries."""

    train: TrainConfig
    begin: Start
    saver: Saver | None
    """Of the first process; the others write nothing."""
    display: Display
    stop: Stop
    state: TrainState
    """After `done` steps; or after a few more, whose metrics are waiting."""
    done: int
    validated: bool
    """Whether the network of these steps has been measured."""
    recent: list[dict[str, float]]
    """Metrics of the steps since the last line of figures."""
    saved: int | None
    """Steps of the state that was saved last."""
    metric: tuple[str, float] | None = None
    """What decides which checkpoint is the best, of the state as it is."""
    waiting: list[Any] = field(default_factory=list)
    """Metrics of steps that are not looked at yet, so that the device is not kept waiting."""
    clock: float = 0.0
    """When the last step was over, or what came after it."""
    stopped: bool = False
    problem: str | None = None
    """Why it stopped, if it had to."""

    @property
    def steps(self) -> int:
        return self.begin.phases[-1].end


def fit(train: TrainConfig) -> dict[str, dict[str, float]]:
    """Trains a network and leaves it in the run folder; continues the run that is there.

    SIGTERM or SIGINT ends it after a step, with a checkpoint.

    Returns:
        The figures of the last validation, per set, in the first process.

    Raises:
        ValueError: for data, weights or a folder that cannot be used, with nothing written; later, if too many photos
            cannot be read, updates have to be skipped, or the last checkpoint cannot be written.
    """
    if train.saves_memory:
        save_memory()
    hosts.join(train.coordinator, train.processes, train.process, find=train.distributed)
    with contextlib.ExitStack() as stack:
        begin = start(train)  # until it is over there is nothing to save: a signal ends the process as any other
        stop = stack.enter_context(Stop())
        saver = hosts.first(lambda: Saver(begin.folder.path, keep=train.keep))
        if saver is not None:
            stack.enter_context(saver)
        steps = begin.phases[-1].end
        display = stack.enter_context(Display(begin.folder.path, steps, begin.done, hosts.is_first()))
        run = _Run(
            train=train,
            begin=begin,
            saver=saver,
            display=display,
            stop=stop,
            state=begin.state,
            done=begin.done,
            validated=begin.validated,
            recent=begin.recent,
            saved=None if saver is None else saver.last,
        )
        _train(run)
    return next((row["validation"] for row in reversed(begin.folder.rows) if "validation" in row), {})


def _train(run: _Run) -> None:
    """From where it begins to the end, or to where it is asked to stop."""
    phases, path = run.begin.phases, run.begin.folder.path
    if run.done == run.steps and run.validated:
        finished = "%s: finished after %d steps; nothing to do (choose another folder to train anew)"
        _LOG.info(finished, path, run.done)
    elif run.done:
        _LOG.info("continuing %s after step %d", path, run.done)
    else:
        _LOG.info("%s; run folder %s", phases[0].about, path)
    for phase in phases:
        if run.done > phase.end or (run.done == phase.end and run.validated):
            continue
        if run.done == phase.first and phase is not phases[0]:
            params = Params(_measured(run.state), run.begin.config)
            run.state = init_state(params, phase.recipe, phase.steps, step=run.done)
            _LOG.info("%s stage: %s", phase.stage, phase.about)
        _train_phase(run, phase)
        if run.stopped:
            break
    _finish(run)


def _train_phase(run: _Run, phase: Phase) -> None:
    """A phase to its end, or until the run is stopped."""
    train = run.train
    if hosts.any_of(run.stop.by is not None):
        return _stop(run, phase)
    if _validates(run, phase, run.done) and not run.validated and not _validate(run, phase):
        return _stop(run, phase)
    step = parallel(make_step(run.begin.config, phase.stage, phase.recipe, phase.steps, accumulate=train.accumulate))
    watch = Watch(phase, max_bad=train.max_bad, max_skipped=train.max_skipped)
    alone = hosts.shard()[1] == 1
    with Feed(phase, run.done, train.workers, watch, run.stop) as feed:
        run.clock = time.perf_counter()
        while run.done < phase.end and not run.stopped:
            ahead = run.done + len(run.waiting)
            run.state, metrics = step(run.state, feed.batch(ahead))
            run.waiting.append(metrics)
            validating = _validates(run, phase, ahead + 1)
            saving = validating or (ahead + 1) % (train.save_every or train.eval_every) == 0
            _heed(run, phase, watch, all_of_them=saving)
            if alone and run.stop.by is not None:
                run.stopped = True
                _heed(run, phase, watch, all_of_them=True)
            if run.stopped:
                run.problem = feed.problem or watch.problem
            elif validating:
                run.stopped = not _validate(run, phase)
            if saving or run.stopped:
                _save(run, phase)
                run.clock = time.perf_counter()
    return None


def _stop(run: _Run, phase: Phase) -> None:
    """Between steps."""
    run.stopped = True
    _save(run, phase)


def _validates(run: _Run, phase: Phase, done: int) -> bool:
    """Whether the network is measured after so many steps."""
    return done % run.train.eval_every == 0 or done == phase.end


def _heed(run: _Run, phase: Phase, watch: Watch, *, all_of_them: bool) -> None:
    """Looks at the metrics of all steps but the last, or of all; one of them may say to stop.

    Every process sees the same metrics, and so comes to the same end.
    """
    while len(run.waiting) > (0 if all_of_them or run.stopped else 1):
        metrics = {name: float(value) for name, value in jax.device_get(run.waiting.pop(0)).items()}
        stop = metrics.pop(STOP)
        run.stopped |= stop != 0
        if math.isnan(stop):
            continue  # a step that changed nothing
        run.done, run.validated, run.metric = run.done + 1, False, None
        now = time.perf_counter()
        metrics["pairs_per_second"] = phase.recipe.batch_size / (now - run.clock)
        run.clock = now
        run.stopped |= watch.heed(run.done, metrics)
        run.recent.append(metrics)
        run.display.step(run.done, metrics)
        if run.done % LOG_EVERY == 0 or run.done == phase.end:
            _log_training(run, phase)


def _log_training(run: _Run, phase: Phase) -> None:
    if run.saver is not None:
        names = list(run.recent[-1])
        means = {name: float(np.mean([metrics[name] for metrics in run.recent])) for name in names}
        run.begin.folder.add({"step": run.done, "stage": phase.stage, "train": means})
        run.display.curves(run.done, "train", means)
    run.recent.clear()


def _validate(run: _Run, phase: Phase) -> bool:
    """Figures of the network as it is: a line, curves, pictures, a checkpoint. All processes compute them.

    Returns:
        False if it was asked to stop meanwhile: then there is nothing of this.

    Raises:
        ValueError: in all processes, if one of them cannot read a file any more; what was learned is saved.
    """
    params, folder = Params(_measured(run.state), run.begin.config), run.begin.folder
    # A geometry network that is not trained answers with the identity, whatever the features have learned.
    matcher: MatcherName = "network" if phase.recipe.geometry_rate else "nearest"
    try:
        figures = hosts.together(lambda: _figures(run, params, matcher))
    except ValueError:
        _save(run, phase)
        raise
    if hosts.any_of(figures is None) or figures is None:
        return False
    run.validated = True
    if run.saver is None:
        return True
    folder.add({"step": run.done, "stage": phase.stage, "validation": figures})
    headlines = {v.key: (v.headline, figures[v.key][v.headline]) for v in run.begin.validations}
    for key, values in figures.items():
        run.display.curves(run.done, key, values)
    run.display.validated(run.done, headlines)
    first = run.begin.validations[0]
    folder.save_picture(
        f"matches_{run.done:06d}.png", lambda: matches_picture(params, first.benchmark, matcher=matcher)
    )
    folder.save_picture("curves.png", lambda: curves_picture(folder.rows))
    name, value = headlines[first.key]
    run.metric = (f"{first.key} {name}", value)
    _save(run, phase, anew=True)
    return True


class _AskedToStopError(Exception):
    """Ends a validation."""


def _figures(run: _Run, params: Params, matcher: MatcherName) -> dict[str, dict[str, float]] | None:
    """Per set; None if asked to stop meanwhile."""

    def progress(_: int) -> None:
        if run.stop.by is not None:
            raise _AskedToStopError

    try:
        return {
            v.key: validate(params, v, matcher=matcher, devices=jax.local_devices(), progress=progress)
            for v in run.begin.validations
        }
    except _AskedToStopError:
        return None


def _save(run: _Run, phase: Phase, *, anew: bool = False) -> None:
    """Has the state written, unless it was already."""
    if run.saver is None or (run.saved == run.done and not anew):
        return
    run.saved = run.done
    notes: dict[str, Any] = {
        "stage": phase.stage,
        "seed": run.train.seed,
        "data_position": run.done - phase.first,
        RECENT: run.recent,
    }
    params = Params(_measured(run.state), run.begin.config)
    training = to_continue(run.state, run.begin.config, phase)
    run.saver.save(run.done, params, training, metric=run.metric, notes=notes)


def _finish(run: _Run) -> None:
    """Sees the last checkpoint written.

    Raises:
        ValueError: in all processes, if it cannot be, or the run had to stop.
    """
    hosts.together(lambda: _settle(run))
    if run.stopped:
        _LOG.info("stopped after step %d of %d, saved; to continue: %s", run.done, run.steps, as_typed(sys.argv))


def _settle(run: _Run) -> None:
    """What is left to do, and to say, in this process."""
    problem = None if run.saver is None else run.saver.wait()
    if problem is not None and run.saver is not None:
        _save(run, phase_at(run.begin.phases, run.done - 1), anew=True)  # once more: there may be room by now
        problem = run.saver.wait()
    kept = "none" if run.saver is None or run.saver.last is None else f"step {run.saver.last}"
    path = run.begin.folder.path
    if run.problem is not None:
        saved = f"saved in {path}" if problem is None else f"which could not be saved: {problem}; the last is {kept}"
        raise ValueError(f"{run.problem}; stopped after step {run.done}, {saved}")
    if problem is not None:
        raise ValueError(
            f"run_dir: the checkpoint of step {run.done} could not be written: {problem}; the last is {kept}"
        )


def _measured(state: TrainState) -> Any:
    """The weights that are measured, in host memory."""
    return jax.tree.map(np.asarray, state.measured)
