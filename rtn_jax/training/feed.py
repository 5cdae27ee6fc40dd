"""The batches of a phase as the loop takes them: with this process's wish to stop in them.

A process that cannot read its part of a batch must not leave the others alone in the step, in which all of them wait
for each other. It takes part with a blank one, which says that the step must not count.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np

from rtn_jax.data.stream import Stream
from rtn_jax.training import hosts
from rtn_jax.training.phases import Phase
from rtn_jax.training.step import STOP
from rtn_jax.training.stopping import Stop
from rtn_jax.training.watch import Watch

Batch = dict[str, np.ndarray]


class Feed:
    """To be used in a `with` statement.

    Args:
        phase: whose batches these are.
        done: steps of the run so far.
        workers: processes that read.
        watch: sees every batch.
        stop: the signals.
    """

    def __init__(self, phase: Phase, done: int, workers: int, watch: Watch, stop: Stop) -> None:
        self.problem: str | None = None
        """Why a batch could not be read."""
        self._stream = Stream(phase.batches, position=done - phase.first, workers=workers)
        self._watch, self._stop = watch, stop
        self._ahead: Batch | None = None
        self._last: Batch = {}
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Feed:
        """Starts reading, and waits for the first batch.

        Raises:
            ValueError: in all processes, if one of them cannot read it.
        """
        with contextlib.ExitStack() as stack:
            self._ahead = hosts.together(lambda: next(stack.enter_context(self._stream)))
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def batch(self, step: int) -> Batch:
        """The batch that follows `step` steps; they are asked for one after another."""
        if self.problem is None:
            try:
                batch = next(self._stream) if self._ahead is None else self._ahead
                self._ahead, self._last = None, self._watch.checked(step, batch)
            except (ValueError, OSError) as error:
                self.problem = str(error)
                self._last = {name: np.zeros_like(array) for name, array in self._last.items()}
        wish = float(self._stop.by is not None or self._watch.problem is not None)
        size = len(next(iter(self._last.values())))
        return {**self._last, STOP: np.full(size, wish if self.problem is None else math.nan, np.float32)}
