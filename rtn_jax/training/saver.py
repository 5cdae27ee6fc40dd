"""The checkpoints of a run while it trains: written beside the training, the latest ones and the best kept."""

from __future__ import annotations

import json
import logging
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from rtn_jax import atomic, checkpoints
from rtn_jax.params import Params

_LOG = logging.getLogger(__name__)


def newest_whole(run: Path) -> Path | None:
    """The checkpoint to continue a run from; those that are damaged are named in the log and passed over.

    Nobody may be writing there, as the holder of the run's lock knows.

    Args:
        run: folder of the run.

    Returns:
        None if the run has no checkpoint yet.

    Raises:
        ValueError: if none of those it has is whole.
    """
    folder = run / checkpoints.FOLDER
    try:
        atomic.put_back(folder)
    except OSError as error:
        _LOG.warning("%s: a checkpoint that stepped aside cannot be put back: %s", folder, error.strerror)
    numbered = checkpoints.numbered(run)
    for checkpoint in reversed(numbered):
        try:
            checkpoints.check(checkpoint)
        except ValueError as error:
            _LOG.warning("passed over: %s", error)
        else:
            return checkpoint
    if numbered:
        raise ValueError(f"{folder}: none of {len(numbered)} checkpoints is whole; remove the folder to start over")
    return None


class Saver:
    """Writes the checkpoints of a run in a thread of its own; to be used in a `with` block, which waits at its end.

    Training never fails because a checkpoint cannot be written: that is logged, and the next one tried.

    Args:
        run: folder of the run, which this process has locked. What a killed one left there is removed.
        keep: how many of the latest checkpoints stay, besides the best.

    Raises:
        ValueError: if `keep` is not positive, or the run's checkpoints cannot be listed.
    """

    def __init__(self, run: Path, *, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep: expected at least 1, got {keep}")
        self._run, self._keep = run, keep
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        try:
            atomic.remove_leftovers(run / checkpoints.FOLDER)
        except OSError as error:
            _LOG.warning("%s: leftovers cannot be removed: %s", run, error.strerror)
        self._whole = {folder for folder in checkpoints.listed(run) if _is_whole(folder)}

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()

    @property
    def last(self) -> int | None:
        """Step of the last whole checkpoint there is; None without one."""
        try:
            steps = [int(folder.name) for folder in self._whole_ones()]
        except ValueError:  # the folder cannot be read
            return None
        return max(steps, default=None)

    def save(
        self,
        step: int,
        params: Params,
        training: PyTree,
        *,
        metric: tuple[str, float] | None = None,
        notes: dict[str, Any],
    ) -> None:
        """Copies everything to host memory, so that the arrays may be given away, and has it written meanwhile.

        Waits for the checkpoint before it, so that two are never in memory.

        Args:
            step: of the optimiser, which names the checkpoint.
            params: the network.
            training: a tree of arrays needed to go on training.
            metric: name and value of what decides which checkpoint is the best, the higher the better. Without it, a
                checkpoint of the same step keeps the one it has.
            notes: JSON values stored beside the config.
        """
        self.wait()
        header = json.loads(json.dumps({**notes, "step": step, "metric": _noted(metric)}))
        params, training = _on_host((params, training))
        self._thread = threading.Thread(target=self._write, args=(params, training, header), name="checkpoint")
        self._thread.start()

    def wait(self) -> str | None:
        """Waits until nothing is being written.

        Returns:
            Why the last checkpoint could not be written, in one line; None if it was, or there is none yet.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self._failure

    def _write(self, params: Params, training: PyTree, header: dict[str, Any]) -> None:
        folder = checkpoints.place(self._run, header["step"])
        try:
            if folder in self._whole_ones() and header["metric"] is None:
                header["metric"] = checkpoints.read_header(folder).get("metric")
            if not (folder / "config.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)  # the rest of a damaged one
            checkpoints.save(folder, params, training=training, **header)
        except Exception as error:  # whatever it was, it must not end the training
            self._failure = checkpoints.reason(error)
            last = self.last
            kept = "there is no whole one yet" if last is None else f"the last whole one is of step {last}"
            message = "checkpoint of step %d could not be written: %s; %s; going on"
            _LOG.warning(message, header["step"], self._failure, kept)
            return
        self._failure = None
        self._whole.add(folder)
        try:
            self._retire(folder)
        except ValueError as error:
            _LOG.warning("old checkpoints cannot be removed: %s", error)

    def _retire(self, newest: Path) -> None:
        """Removes the checkpoints that nobody needs now that a new one is whole."""
        whole = self._whole_ones()
        kept = {newest, *whole[-self._keep :], checkpoints.best(whole)}
        for folder in checkpoints.numbered(self._run):
            if folder not in kept:
                try:
                    atomic.remove(folder)
                except OSError as error:
                    _LOG.warning("%s: cannot be removed: %s", folder, error.strerror)

    def _whole_ones(self) -> list[Path]:
        """Those there are still, oldest first."""
        return [folder for folder in checkpoints.listed(self._run) if folder in self._whole]


def _noted(metric: tuple[str, float] | None) -> dict[str, Any] | None:
    if metric is None:
        return None
    name, value = metric[0], float(metric[1])
    return {"name": name, "value": value if math.isfinite(value) else None}  # JSON knows no NaN


def _is_whole(folder: Path) -> bool:
    try:
        checkpoints.check(folder)
    except ValueError:  # `newest_whole` has named it
        return False
    return True


def _on_host(tree: PyTree) -> PyTree:
    """Copies of all arrays in host memory; those of an accelerator travel at the same time."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    return jax.tree.map(np.array, tree)
