"""A lock is of one process, until it ends."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rtn_jax import locks

fcntl = pytest.importorskip("fcntl")

# The module alone: importing the library takes a second.
HOLD = f"""
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("locks", {str(Path(locks.__file__))!r})
locks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(locks)
print(locks.hold(pathlib.Path(sys.argv[1])), flush=True)
if len(sys.argv) > 2:
    time.sleep(60)
"""


def other(path: Path, *, stay: bool = False) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLD, path, *["stay"] * stay], stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def test_another_process_is_refused_while_this_one_may_ask_again(tmp_path):
    assert locks.hold(tmp_path / "lock")
    assert locks.hold(tmp_path / "lock")
    with other(tmp_path / "lock") as process:
        assert answer(process) == "False"
    with other(tmp_path / "another") as process:
        assert answer(process) == "True"


def test_a_kill_frees_the_lock(tmp_path):
    with other(tmp_path / "lock", stay=True) as process:
        assert answer(process) == "True"
        assert not locks.hold(tmp_path / "lock")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert locks.hold(tmp_path / "lock")
        assert (tmp_path / "lock").stat().st_size == 0


def test_systems_without_locks_are_trusted(tmp_path, monkeypatch):
    def refuse(number):
        def lockf(*_):
            raise OSError(number, "cannot lock")

        monkeypatch.setattr(fcntl, "lockf", lockf)

    refuse(errno.ENOLCK)
    assert locks.hold(tmp_path / "lock")
    refuse(errno.EACCES)
    assert not locks.hold(tmp_path / "lock"), "how some systems say that another process has it"
    refuse(errno.EIO)
    with pytest.raises(OSError, match="cannot lock"):
        locks.hold(tmp_path / "lock")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert locks.hold(tmp_path / "lock")


def test_a_file_that_cannot_be_made_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        locks.hold(tmp_path / "nowhere" / "lock")
