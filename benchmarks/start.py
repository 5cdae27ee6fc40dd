"""Runs a command as `python` would, and writes at its end which programs XLA compiled and which it read from the cache.

    python -m benchmarks.start report.json train.py --help
    python -m benchmarks.start report.json -m rtn_jax match a.png b.png
    python -m benchmarks.start report.json -c "import rtn_jax"

Started by `benchmarks.compile`. Only the standard library is imported here, and JAX is not before the command does it:
what is measured is the command.
"""

from __future__ import annotations

import atexit
import importlib.abc
import importlib.util
import json
import runpy
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

COMPILED = "/jax/core/compile/backend_compile_duration"
"""Of a program that was compiled, and just as well of one that was read from the cache."""
READ = "/jax/compilation_cache/cache_hits"
"""Comes first, of one that was read. There is an event of misses too, but only of those that are then kept."""
READ_WHOLE = "/rtn_jax/programs/read"
"""Of one that was neither traced nor lowered (`rtn_jax.programs.READ`); with its seconds, and no other event."""


class Watch:
    """The programs that were asked for since JAX was imported, each with its seconds."""

    def __init__(self) -> None:
        self.compiled: list[tuple[str, float]] = []
        self.read: list[tuple[str, float]] = []
        self._thread = threading.local()

    def listen(self) -> None:
        """From now on."""
        import jax

        jax.monitoring.register_event_listener(self._event)
        jax.monitoring.register_event_duration_secs_listener(self._duration)

    def _event(self, event: str, **_: Any) -> None:
        if event == READ:
            self._thread.was_read = True

    def _duration(self, event: str, seconds: float, **about: Any) -> None:
        if event == READ_WHOLE:
            self.read.append((str(about.get("fun_name", "?")), seconds))
        elif event == COMPILED:
            was_read, self._thread.was_read = getattr(self._thread, "was_read", False), False
            (self.read if was_read else self.compiled).append((str(about.get("fun_name", "?")), seconds))

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps({"compiled": self.compiled, "read": self.read}))


class WhenImported(importlib.abc.MetaPathFinder):
    """Has a watch listen as soon as JAX is there, if it ever is."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """JAX as it would be found without this, with `listen` at the end of its import."""
        if name != "jax":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_listen(module: ModuleType) -> None:
            run(module)
            self._watch.listen()

        spec.loader.exec_module = run_and_listen  # type: ignore[method-assign]
        return spec


def main(report: Path, command: Sequence[str]) -> None:
    """Becomes the command; the report is written however it ends."""
    watch = Watch()
    sys.meta_path.insert(0, WhenImported(watch))
    atexit.register(watch.write, report)
    if command[0] == "-c":
        sys.argv = [*command[:1], *command[2:]]
        exec(compile(command[1], "<command>", "exec"), {"__name__": "__main__"})
    elif command[0] == "-m":
        sys.argv = [*command[1:]]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [*command]
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
