"""What a run may not pass over in silence: photos that cannot be read, and updates that were skipped."""

from __future__ import annotations

import logging
import math

import numpy as np

from rtn_jax.training.phases import Phase

_LOG = logging.getLogger(__name__)

ENOUGH = 200
"""Draws before the share of bad ones is judged, where an epoch is longer."""

Batch = dict[str, np.ndarray]


class Watch:
    """Follows one phase; names what went wrong, and says when it is too much.

    Args:
        phase: whose batches these are.
        max_bad: share of the draws that may be replaced.
        max_skipped: updates in a row that may be skipped.
    """

    def __init__(self, phase: Phase, *, max_bad: float, max_skipped: int) -> None:
        self.problem: str | None = None
        """Why the run should stop, in one line."""
        self._phase, self._max_bad, self._max_skipped = phase, max_bad, max_skipped
        self._draws = self._bad = 0
        self._reasons: list[str] = []
        self._attempts: dict[int, Batch] = {}

    def checked(self, step: int, batch: Batch) -> Batch:
        """The batch of a step without what is only for us; photos that were replaced are logged, each of them once."""
        number = step - self._phase.first
        attempts = batch["attempts"]
        self._attempts[step] = {"attempts": attempts}  # what `names` needs of it
        self._draws += len(attempts)
        self._bad += int((attempts > 0).sum())
        if attempts.any():
            for replaced in self._phase.batches.replaced(number, batch):
                if replaced.reason not in self._reasons:  # a photo is in many pairs
                    _LOG.warning("%s; %s is taken instead", replaced.reason, replaced.instead)
                    self._reasons.append(replaced.reason)
        enough = self._draws >= min(ENOUGH, self._phase.batches.items)
        if enough and self._bad > self._max_bad * self._draws:
            self.problem = (
                f"data: {self._bad} of {self._draws} draws could not be read, more than "
                f"--max_bad={self._max_bad:g} allows; the first: {self._reasons[0]}"
            )
        return {name: array for name, array in batch.items() if name != "attempts"}

    def heed(self, step: int, metrics: dict[str, float]) -> bool:
        """Looks at the metrics of the step that made the run `step` steps long.

        Returns:
            Whether too many updates were skipped, which all processes see at the same step. (That too many photos could
            not be read, one of them may know alone.)
        """
        read = self._attempts.pop(step - 1)
        in_a_row = int(metrics["skipped_in_a_row"])
        if not in_a_row:
            return False
        names = ", ".join(self._phase.batches.names(step - 1 - self._phase.first, read))
        what = "gradient" if math.isfinite(metrics["loss"]) else "loss"
        _LOG.warning("step %d: %s not finite, update skipped; its batch: %s", step, what, names)
        if in_a_row <= self._max_skipped:
            return False
        self.problem = (
            f"loss: {in_a_row} updates in a row were skipped because loss or gradient was not finite, more than "
            f"--max_skipped={self._max_skipped} allows; lower --learning_rate"
        )
        return True
