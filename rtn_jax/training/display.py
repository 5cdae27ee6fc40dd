"""What a run shows while it lasts: a progress bar, lines of figures, and TensorBoard's curves."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

_LOG = logging.getLogger(__name__)


class Display:
    """To be used in a `with` statement.

    Args:
        folder: of the run.
        steps: of the whole run.
        done: steps made before.
        shown: False in processes that are not to show or write anything.
    """

    def __init__(self, folder: Path, steps: int, done: int, shown: bool) -> None:
        self._steps, self._done, self._shown = steps, done, shown
        self._curves = Curves(folder / "tensorboard", done + 1)
        self._loss = self._headline = self._speed = ""

    def __enter__(self) -> Display:
        from rich import progress

        self._bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("step"),
            progress.MofNCompleteColumn(),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[status]}"),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("left"),
            disable=not self._shown,
        )
        self._task = self._bar.add_task("training", total=self._steps, completed=self._done, status="")
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._curves.close()

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """A step was made."""
        self._loss, self._speed = f"loss {metrics['loss']:.4f}", f"{metrics['pairs_per_second']:.2f} pairs/s"
        self._bar.update(self._task, completed=step, status=self._status())

    def validated(self, step: int, headlines: dict[str, tuple[str, float]]) -> None:
        """A validation was made: per set, the figure that counts."""
        figures = "  ".join(f"{key} {name} {value:.1f}" for key, (name, value) in headlines.items())
        self._headline = figures.split("  ")[0]
        self._bar.update(self._task, status=self._status())
        if self._shown:
            line = "  ".join(part for part in (f"step {step:>6}", self._loss, figures) if part)
            self._bar.console.print(line, highlight=False, soft_wrap=True)

    def curves(self, step: int, group: str, values: dict[str, float]) -> None:
        """Points of TensorBoard's curves."""
        if self._shown:
            self._curves.add(step, {f"{group}/{_curve_name(name)}": value for name, value in values.items()})

    def _status(self) -> str:
        return "  ".join(part for part in (self._loss, self._headline, self._speed) if part)


class Curves:
    """TensorBoard's files, written at once: tensorboardX's own writer waits for ever on a disk that was full.

    Args:
        folder: of the files, which is made when there is something to write.
        begin: the first step to come; points of it and later ones that are there are hidden.
    """

    def __init__(self, folder: Path, begin: int) -> None:
        self._folder = folder
        self._begin: int | None = begin
        self._file: BinaryIO | None = None
        self._files = 0
        self._complained = False

    def add(self, step: int, values: dict[str, float]) -> None:
        """Points of curves, by name. What cannot be written is missing; a new file is begun the next time."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        try:
            if self._file is None:
                self._open()
            self._write(Event(step=step, summary=Summary(value=points)))
        except OSError as error:
            if not self._complained:
                _LOG.warning("%s: curves cannot be written: %s; going on", self._folder, error.strerror)
            self._complained = True
            self.close()
        else:
            self._complained = False

    def close(self) -> None:
        """Ends the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> None:
        """A new file; the first one hides what a killed run wrote of steps that come again."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        self._files += 1
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{self._files}"
        self._file = (self._folder / name).open("xb", buffering=0)
        self._write(Event(file_version="brain.Event:2"))
        if self._begin is not None:
            self._write(Event(step=self._begin, session_log=SessionLog(status=SessionLog.START)))
            self._begin = None

    def _write(self, event: Any) -> None:
        """One record: its length, its bytes, and a sum to check either by."""
        from tensorboardX.record_writer import masked_crc32c

        event.wall_time = time.time()
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
        record = length + sums[0] + content + sums[1]
        if self._file is not None and self._file.write(record) < len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _curve_name(name: str) -> str:
    """TensorBoard takes letters, digits and a few signs: `PCK@0.10 (img)` becomes `PCK_0.10_img`."""
    return re.sub(r"[^\w.]+", "_", name).strip("_")
