"""The checkpoints of a run of `train.py`: `<run>/checkpoints/<step>/`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from rtn_jax.checkpoints.header import is_checkpoint, read_header

FOLDER = "checkpoints"
"""Of a run, with a folder per step in it."""


def find(path: Path) -> Path:
    """The checkpoint folder at a path: the path itself, or the best one of a run, or its newest if none was measured.

    Raises:
        ValueError: if there is neither, or one that might be the best cannot be judged because it is damaged.
    """
    if is_checkpoint(path):
        return path
    if folders := listed(path):
        return best(folders) or folders[-1]
    if not path.exists():
        from rtn_jax import trained

        raise ValueError(
            f"{path}: no such checkpoint (train.py writes them; with the package comes {', '.join(trained.names())})"
        )
    raise ValueError(
        f"{path}: not a checkpoint (expected a folder with config.json and weights/, or a run of train.py)"
    )


def place(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run / FOLDER / f"{step:08d}"


def numbered(run: Path) -> list[Path]:
    """All folders that are meant to be checkpoints of a run, damaged or not, oldest first.

    Raises:
        ValueError: if the run's folder cannot be read.
    """
    try:
        entries = list((run / FOLDER).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ValueError(f"{run / FOLDER}: cannot be read: {error.strerror}") from error
    found = [entry for entry in entries if re.fullmatch("[0-9]+", entry.name) and entry.is_dir()]
    return sorted(found, key=_step)


def listed(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; none if it has none, or is no run.

    Raises:
        ValueError: as `numbered`.
    """
    return [folder for folder in numbered(run) if is_checkpoint(folder)]


def best(folders: Sequence[Path]) -> Path | None:
    """The checkpoint whose metric is highest, the newest of several; None where none has a metric.

    Raises:
        ValueError: if the header of one is damaged.
    """
    values = [(value, _step(folder), folder) for folder in folders if (value := _metric(folder)) is not None]
    return max(values)[2] if values else None


def _step(folder: Path) -> int:
    return int(folder.name)


def _metric(folder: Path) -> float | None:
    try:
        value = (read_header(folder).get("metric") or {}).get("value")
    except ValueError:
        if folder.exists():
            raise
        return None  # a better one has taken its place meanwhile
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
