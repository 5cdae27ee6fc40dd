"""SIGTERM and SIGINT while a network is trained: the first asks for an end after the step, the second ends at once.

Python runs its signal handlers between its own instructions, so one that waits for the device (a compilation, a step
of several seconds) hears nothing. The operating system's handler, though, writes the signal's number to a pipe at
once; a thread reads it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

TWICE = 1.0
"""Seconds in which a signal that comes again is the same one: `timeout` sends it to the process and to its group, and a
terminal's Ctrl-C may come from a wrapper too."""


class Stop:
    """Listens to the signals while its `with` block runs; to be used in the main thread (elsewhere it hears nothing).

    In its block, neither signal raises anything.
    """

    def __init__(self) -> None:
        self.by: str | None = None
        """Name of the signal that asked for an end; None: nobody has."""
        self._before: dict[signal.Signals, object] = {}
        self._pipe: tuple[int, int] | None = None
        self._since = 0.0

    def __enter__(self) -> Stop:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _heard) for number in SIGNALS}
        threading.Thread(target=self._listen, args=(self._pipe[0],), daemon=True, name="signals").start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._pipe is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe[1])  # which ends the thread
        self._pipe = None

    def _listen(self, pipe: int) -> None:
        while letters := os.read(pipe, 64):
            for number in letters:
                if number in SIGNALS:
                    self._act(signal.Signals(number))
        os.close(pipe)

    def _act(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self.by is not None and now - self._since >= TWICE:
            _say(f"{number.name} again: stopped at once")
            os._exit(128 + number)
        if self.by is not None:
            return
        self.by, self._since = number.name, now
        _say(f"{number.name}: stopping after this step (once more: at once)")


def _heard(number: int, frame: FrameType | None) -> None:
    """Python's part of the handler; the thread does the rest."""


def _say(words: str) -> None:
    """Past everything that buffers or locks: the main thread may hold any of it."""
    with contextlib.suppress(OSError, ValueError):  # a terminal that has gone is no reason not to stop
        os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, f"\n{words}\n".encode())
