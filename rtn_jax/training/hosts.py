"""Several processes that train one network: how they find each other and agree.

Every process feeds its own devices with its own part of each batch and computes the same state. The first one writes.
Nothing here does anything in a run of one process. What one process finds out alone, be it an error, a signal or what
lies in the run's folder, is told to all before any of them acts on it: they would wait for each other for ever.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

T = TypeVar("T")

_MESSAGE = 1000
"""Bytes of an error that travel to the other processes."""

_PATIENCE = 60
"""Seconds in which the others have to end, once one has."""

LONGEST_TEXT = 8192
"""Bytes that `told_text` can tell."""


def join(coordinator: str | None, processes: int | None, process: int | None, *, find: bool = False) -> None:
    """Joins the other processes; to be called before JAX is used for anything else.

    Args:
        coordinator: `host:port` of the first process.
        processes: how many there are.
        process: which of them this is, from 0.
        find: let JAX find out all three, as it can under SLURM, Open MPI, on TPU pods and Kubernetes.

    Raises:
        ValueError: if only some of the three are given or one is out of range, or JAX cannot find them out or reach the
            others.
    """
    given = [coordinator is not None, processes is not None, process is not None]
    if not any(given) and not find:
        return
    if not all(given) and not (find and not any(given)):
        raise ValueError("coordinator, processes, process: expected all three, or --distributed alone")
    if coordinator is not None:
        _check_address(coordinator)
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ValueError(f"process: expected 0 to {processes - 1}, got {process}")
    try:
        jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(f"distributed: the other processes cannot be found or reached: {line}") from error


def _check_address(coordinator: str) -> None:
    """JAX would try for five minutes, and then abort.

    Raises:
        ValueError: if it is not the address of a host there is.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 2**16:
        raise ValueError(f"coordinator: expected host:port, got {coordinator!r}")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as error:
        raise ValueError(f"coordinator: {coordinator!r} is no host that can be found: {error}") from error


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def shard() -> tuple[int, int]:
    """Which process of how many this is."""
    return jax.process_index(), jax.process_count()


def together(action: Callable[[], T]) -> T:
    """Does something in every process that may fail in any: then all of them raise what the first of those met.

    Raises:
        ValueError: of this process or another one, which is then named. Any other exception of this process is raised
            as it is, once the others know.
    """
    if jax.process_count() == 1:
        return action()
    problem, failure = "", None
    try:
        result = action()
    except Exception as error:
        problem, failure = _line(error), error
    problems = _gathered(_letters(problem))
    if failure is not None and not isinstance(failure, ValueError | OSError):
        raise failure
    for process, letters in enumerate(problems):
        if letters.any():
            raise ValueError(f"{_words(letters)} (process {process} of {len(problems)})") from failure
    return result


def first(action: Callable[[], T]) -> T | None:
    """Does something in the first process only; None in the others. Its error is that of all, as in `together`."""
    return together(lambda: action() if is_first() else None)


def told(number: int) -> int:
    """The first process's number, in every process."""
    return int(_gathered(np.asarray(number, np.int32))[0])


def told_text(text: str) -> str:
    """The first process's text, in every process.

    Raises:
        ValueError: if it is longer than `LONGEST_TEXT` bytes.
    """
    encoded = np.frombuffer(text.encode(), np.uint8)
    if len(encoded) > LONGEST_TEXT:
        raise ValueError(f"text: expected at most {LONGEST_TEXT} bytes, got {len(encoded)}")
    padded = np.zeros(LONGEST_TEXT, np.uint8)  # all processes have to send as much
    padded[: len(encoded)] = encoded
    return _gathered(padded)[0].tobytes().rstrip(b"\0").decode()


def any_of(flag: bool) -> bool:
    """Whether any process says so."""
    return bool(_gathered(np.asarray(flag, np.int32)).any())


def same(tree: PyTree) -> PyTree:
    """The first process's arrays, in every process; the trees have to be alike, shapes and types included."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def _gathered(array: np.ndarray) -> np.ndarray:
    """Every process's array, one below the other; waits for all of them."""
    if jax.process_count() == 1:
        return array[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array))


def _line(error: Exception) -> str:
    """What to tell the other processes."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    words = " ".join(str(error).split())
    if not words:
        return type(error).__name__
    return words if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {words}"


def _letters(words: str) -> np.ndarray:
    encoded = words.encode()[:_MESSAGE]
    return np.frombuffer(encoded.ljust(_MESSAGE, b"\0"), np.uint8)


def _words(letters: np.ndarray) -> str:
    return letters.tobytes().rstrip(b"\0").decode(errors="replace")
