"""A run's folder: what was asked for, the figures, the pictures; and that a single process writes it.

<run>/train.json           every choice of the run
<run>/checkpoints/<step>/  the latest and the best weights, with what is needed to continue
<run>/metrics.jsonl        one line per validation, and every few steps one of training; null: not finite
<run>/curves.png           the same, drawn
<run>/matches_<step>.png   held-out matches
<run>/tensorboard/         the curves for TensorBoard
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rtn_jax import locks
from rtn_jax.images import save_image

_LOG = logging.getLogger(__name__)

CHOICES = "train.json"
ROWS = "metrics.jsonl"
LOCK = "lock"

FREE = (
    "run_dir",
    "workers",
    "max_bad",
    "eval_every",
    "save_every",
    "keep",
    "accumulate",
    "remat",
    "max_skipped",
    "distributed",
    "coordinator",
    "processes",
    "process",
)
"""Choices that a run may be continued with others of: how it is computed, not what; and its folder may be moved."""


class RunFolder:
    """The folder of one run.

    Args:
        path: of the folder.
        choices: JSON values of everything the run was asked for.
    """

    def __init__(self, path: Path, choices: dict[str, Any]) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        """Of `metrics.jsonl`."""
        self._choices: dict[str, Any] = json.loads(json.dumps(choices))
        self._failed: set[str] = set()
        """What could not be written when it was last tried."""

    def check(self) -> bool:
        """Whether a run is there; nothing is written.

        Raises:
            ValueError: if the folder holds a run with other choices, or something that is no run.
        """
        written = self.path / CHOICES
        if not written.exists():
            begun = (LOCK, f".{CHOICES}.partial")  # what a killed process may have left before there was a run
            left = [entry for entry in self.path.iterdir() if entry.name not in begun] if self.path.is_dir() else []
            if left or (self.path.exists() and not self.path.is_dir()):
                raise ValueError(f"run_dir: {self.path} exists and is not a run of train.py; choose another folder")
            return False
        try:
            before = json.loads(written.read_text())
            changed = differences(before, self._choices)
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"run_dir: {written} is damaged; choose another folder") from error
        if changed:
            raise ValueError(
                f"run_dir: {self.path} holds a run with other choices ({', '.join(changed)}); choose another folder"
            )
        return True

    def open(self) -> None:
        """Makes the folder, or takes over the one that is there, for this process alone.

        Raises:
            ValueError: as `check`; or if another process trains there, or it cannot be written.
        """
        self.check()  # before there is so much as a lock in somebody's folder
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not locks.hold(self.path / LOCK):
                raise ValueError(f"run_dir: another process is training in {self.path}; choose another folder")
            if not self.check():  # now that nobody else can change it
                self._write_choices()
        except OSError as error:
            raise ValueError(f"run_dir: {self.path} cannot be written: {error.strerror}") from error

    def take_rows(self, step: int) -> None:
        """Reads the figures of a run that goes on after `step` steps, and drops those of later steps; of -1, all.

        A run that was killed has written some after its last checkpoint; they come again.
        """
        file = self.path / ROWS
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # of a process that was killed while it wrote, or a disk that was full
            if row["step"] <= step:
                self.rows.append(row)
        self._guarded("figures", self._write_rows)

    def add(self, row: dict[str, Any]) -> None:
        """Adds a line of figures."""
        self.rows.append(row)
        # A disk that was full may have taken a part of the last line; the folder may have been removed.
        whole = "figures" not in self._failed and (self.path / ROWS).exists()
        self._guarded("figures", self._append_row if whole else self._write_rows)

    def save_picture(self, name: str, draw: Callable[[], UInt8[np.ndarray, "H W 3"]]) -> None:
        """Draws a picture and writes it."""
        self._guarded("pictures", lambda: save_image(self.path / name, draw()))

    def _append_row(self) -> None:
        with (self.path / ROWS).open("a") as file:
            file.write(_line(self.rows[-1]))

    def _write_rows(self) -> None:
        if not (self.path / CHOICES).exists():
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_choices()
        new = self.path / f".{ROWS}.partial"
        new.write_text("".join(map(_line, self.rows)))
        new.replace(self.path / ROWS)

    def _write_choices(self) -> None:
        new = self.path / f".{CHOICES}.partial"
        with new.open("w") as file:
            file.write(json.dumps(self._choices, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())  # without it, a run cannot be continued: it must outlive the power
        new.replace(self.path / CHOICES)

    def _guarded(self, what: str, write: Callable[[], object]) -> None:
        """Figures and pictures that cannot be written are no reason to lose what was learned: training goes on."""
        try:
            write()
        except (OSError, ValueError) as error:
            if what not in self._failed:
                reason = getattr(error, "strerror", None) or error
                _LOG.warning("%s: %s cannot be written: %s; going on", self.path, what, reason)
            self._failed.add(what)
        else:
            self._failed.discard(what)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`learning_rate 0.0003 -> 0.001` for every choice that differs; the stages' own are named `weak.learning_rate`."""
    flat_before, flat_now = _flat(before), _flat(now)
    names = [name for name in dict.fromkeys([*flat_now, *flat_before]) if name not in FREE]
    changed = [name for name in names if flat_before.get(name) != flat_now.get(name)]
    # A flag shows in the recipe that it changed; once is enough.
    said = [name for name in changed if "." not in name or name.split(".")[1] not in changed]
    return [f"{name} {_shown(flat_before.get(name))} -> {_shown(flat_now.get(name))}" for name in said]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(_strict(row), allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, dict):
        return {name: _strict(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(choices: dict[str, Any]) -> dict[str, Any]:
    flags = {name: value for name, value in choices.items() if name != "phases"}
    phases = choices.get("phases", [])
    return flags | {f"{phase['stage']}.{name}": value for phase in phases for name, value in phase.items()}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
