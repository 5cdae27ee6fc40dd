"""Trees of arrays on disk, by orbax: one process writes or reads without the others of a `jax.distributed` job."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

_LONG = 300
"""Letters of a reason: orbax can say all it knows of its storage in one line."""


def write_tree(folder: Path, tree: PyTree) -> None:
    """Writes NumPy arrays, by itself: orbax's newer `v1.save` waits for all processes of `jax.distributed`."""
    from orbax import checkpoint as ocp  # half a second to import, for those who save

    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="writer")
    # Weights hardly compress (by 8 %), and trying takes longer than writing them.
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone, use_compression=False)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))


def read_tree(folder: Path, check: Callable[[PyTree], None]) -> PyTree:
    """An orbax tree as NumPy arrays; `check` sees the tree of shapes before anything large is read."""
    from orbax.checkpoint import v1 as ocp

    alone, process = ocp.Context(), jax.process_index()
    alone.multiprocessing.primary_host = process
    alone.multiprocessing.active_processes = {process}
    alone.multiprocessing.barrier_sync_key_prefix = f"reader {process}"
    with alone:
        try:
            found = ocp.metadata(folder.absolute()).metadata
        except Exception as error:
            raise ValueError(f"{folder}: damaged, or not weights ({_first_line(error)})") from error
        check(found)
        try:
            target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), found)
            return ocp.load(folder.absolute(), target)
        except Exception as error:
            raise ValueError(f"{folder}: the checkpoint is damaged ({_first_line(error)})") from error


def reason(error: BaseException) -> str:
    """Why something went wrong, in one line; in the system's words where it was the system that refused."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            in_the_way = isinstance(cause, FileExistsError | NotADirectoryError)
            return f"{cause.strerror}: {cause.filename}" if in_the_way else cause.strerror
        if code := re.search(r"os_error_code='(\d+)'", str(cause)):  # of orbax's storage
            return os.strerror(int(code[1]))
        cause = cause.__cause__
    short = type(error) is ValueError and "\n" not in str(error) and len(str(error)) < _LONG
    return str(error) if short else _first_line(error)


def _first_line(error: BaseException) -> str:
    words = str(error).strip()
    return f"{type(error).__name__}: {words.splitlines()[0]}"[:_LONG] if words else type(error).__name__
