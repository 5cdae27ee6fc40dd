"""Batches one after another, read ahead of time by worker processes of grain.

The batches are numbered and none depends on another, so neither the number of workers nor where a stream began has any
influence on them, and the position of a stream is one whole number.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rtn_jax.data.pipeline import Batch, Batches

if TYPE_CHECKING:
    import grain

AHEAD = 2
"""Batches that are made before they are asked for, per process."""

SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps what workers hand over; 64 MB in a container unless it is told otherwise."""


class Stream:
    """Batches one after another, made ahead of time in this process or in others; to be used in a `with` statement.

    Leaving it ends the worker processes. They also end when this process does, however that happens, and they ignore
    Ctrl-C and SIGTERM, which are this process's to act on. They log nothing: what was replaced, the batch tells.

    Args:
        batches: of `photo_batches` or `pair_batches`.
        position: number of the first batch.
        workers: processes that read; 0: a thread of this one.
    """

    def __init__(self, batches: Batches, *, position: int = 0, workers: int = 0) -> None:
        self.position = position
        """Number of the next batch: what to keep with a checkpoint, and to open a stream at, to go on from there."""
        self._batches, self._workers = batches, workers
        self._iterator: grain.DatasetIterator[Batch] | None = None

    def __enter__(self) -> Stream:
        """Starts reading.

        Raises:
            ValueError: if there is too little shared memory for the workers, or a batch cannot be read.
        """
        batches = self._batches.dataset[self.position :]
        if self._workers:
            _check_shared_memory(sum(array.nbytes for array in batches[0].values()), self._workers)
        self._iterator = _in_processes(batches, self._workers) if self._workers else _in_thread(batches)
        self._iterator.start_prefetch()
        return self

    def __exit__(self, *error: object) -> None:
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            ValueError: as `Batches.__getitem__`: neither a photo nor anything drawn in its place can be read.
        """
        if self._iterator is None:
            raise RuntimeError("a stream gives batches inside its `with` statement only")
        batch = next(self._iterator)
        self.position += 1
        if self._workers:  # out of the shared memory, which then does not depend on what becomes of the batch
            batch = {name: np.array(array, subok=False) for name, array in batch.items()}
        return batch


def _in_thread(batches: grain.MapDataset[Batch]) -> grain.DatasetIterator[Batch]:
    import grain

    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)))


def _in_processes(batches: grain.MapDataset[Batch], workers: int) -> grain.DatasetIterator[Batch]:
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # grain tells its workers the values of its flags
        flags.FLAGS.mark_as_parsed()
    in_turn = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD)
    return iter(in_turn.mp_prefetch(options, worker_init_fn=_begin_worker))


def _begin_worker(worker: int, workers: int) -> None:
    """Runs first in every worker process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which come to all processes of a terminal or a job
        signal.signal(number, signal.SIG_IGN)
    # What there is to say of a photo, the parent says once (`Batches.replaced`), not every worker at every reading.
    logging.getLogger("rtn_jax").setLevel(logging.CRITICAL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Waits for the parent to be gone: killed, it could not tell its workers, which would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _check_shared_memory(batch_bytes: int, workers: int) -> None:
    """A worker that finds it full is ended by the system without a word.

    Raises:
        ValueError: if what workers make ahead of time would not fit.
    """
    needed = workers * (2 * AHEAD + 2) * batch_bytes  # each: made, waiting here and there, in use
    if SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY).free) < needed:
        raise ValueError(
            f"workers: {workers} need {needed / 1e6:.0f} MB in {SHARED_MEMORY}, {free / 1e6:.0f} MB are free; "
            "take fewer, a smaller batch, or enlarge it (in a container, --shm-size)"
        )
