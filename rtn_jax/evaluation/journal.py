"""What an evaluation has done so far, on disk: it goes on after a kill, and its shards meet there.

    <folder>/journal/<shard>-of-<count>.jsonl    first line: what is being evaluated; then one line per pair and matcher

Every process appends to its own file and reads those of all; a line that was cut off by a kill is not counted. Numbers
are written so that they read back bit-equal.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rtn_jax import locks
from rtn_jax.evaluation.scores import Answer

FOLDER = "journal"

Done = dict[tuple[str, str], Answer]
"""By matcher and pair id."""


class Journal:
    """The journal of one process.

    Args:
        folder: of the evaluation; made if need be.
        subject: everything the answers depend on; a journal with another subject is not continued.
        shard: index and count of this process among those that share the work.

    Raises:
        ValueError: the folder cannot be written, holds the journal of another evaluation, or one that is damaged.
    """

    def __init__(self, folder: Path, subject: Mapping[str, Any], shard: tuple[int, int] = (0, 1)) -> None:
        self.folder = folder / FOLDER
        self._subject: dict[str, Any] = json.loads(json.dumps(subject))
        self._path = self.folder / f"{shard[0]}-of-{shard[1]}.jsonl"
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _lock(self._path)
            self.done = self._read_all()
            self._repair()
            if not self._path.exists() or self._path.stat().st_size == 0:
                self._write([self._subject])
        except OSError as error:
            raise ValueError(f"out: {self._path} cannot be written: {error.strerror}") from error

    def add(self, matcher: str, answers: Mapping[str, Answer]) -> None:
        """Records the answers of a batch, by pair id, so that they survive whatever comes next."""
        with self._lock:
            self.done |= {(matcher, name): given for name, given in answers.items()}
            self._write([{"matcher": matcher, "pair": name, **_to_json(given)} for name, given in answers.items()])

    def remove(self) -> None:
        """Removes the journals of all processes: the results are written.

        Raises:
            ValueError: if another process is still writing one.
        """
        for path in self.folder.glob("*.jsonl"):
            if path != self._path:
                _lock(path)
        shutil.rmtree(self.folder)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    def _repair(self) -> None:
        """Cuts off a line that a kill left half-written, so that the next one begins on its own."""
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self._path.open("r+b") as file:
                file.truncate(whole)

    def _read_all(self) -> Done:
        done: Done = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was cut off
            for number, line in enumerate(lines, 1):
                try:
                    row = _parsed(line)
                    if number > 1:
                        done[row["matcher"], row["pair"]] = _from_json(row)
                        continue
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    raise ValueError(f"{path} line {number}: damaged; remove {self.folder} to start over") from error
                self._check_subject(row, path)
        return done

    def _check_subject(self, subject: Mapping[str, Any], path: Path) -> None:
        if subject == self._subject:
            return
        names = sorted({*subject, *self._subject})
        changed = [name for name in names if subject.get(name) != self._subject.get(name)]
        raise ValueError(
            f"out: {path} is of an unfinished evaluation with another {', '.join(changed)}; "
            f"choose another folder or remove {self.folder}"
        )


def _parsed(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise TypeError("expected an object")
    return row


def _lock(path: Path) -> None:
    """Keeps a journal for this process.

    Raises:
        ValueError: if another process has it.
    """
    if not locks.hold(path.with_suffix(".lock")):  # a file of its own: a lock goes when its file is closed
        raise ValueError(f"out: another process is writing {path}")


def _to_json(given: Answer) -> dict[str, Any]:
    if given.points is not None:
        return {"points": [[_number(v) for v in point] for point in given.points]}
    return {"values": {name: _number(value) for name, value in (given.values or {}).items()}}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _from_json(row: Mapping[str, Any]) -> Answer:
    if "points" in row:
        return Answer(points=np.array(row["points"], np.float64).reshape(-1, 2))
    return Answer(values={name: math.nan if value is None else float(value) for name, value in row["values"].items()})
