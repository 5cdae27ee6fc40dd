"""Signals: the first one asks, the second one ends, and one that comes twice at once is one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rtn_jax.training import stopping
from rtn_jax.training.stopping import SIGNALS, Stop

ROOT = Path(__file__).resolve().parents[2]


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture
def ended(monkeypatch):
    """The exit codes this process would have ended with."""
    codes = []
    monkeypatch.setattr(stopping.os, "_exit", codes.append)
    return codes


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_raises_nothing(number, capfd, ended):
    before = handlers()
    with Stop() as stop:
        assert stop.by is None
        os.kill(os.getpid(), number)
        until(lambda: stop.by is not None)
        assert stop.by == number.name
    assert capfd.readouterr().err == f"\n{number.name}: stopping after this step (once more: at once)\n"
    assert handlers() == before
    assert ended == []


@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_ends_the_process(second, code, ended, monkeypatch, capfd):
    monkeypatch.setattr(stopping, "TWICE", 0.05)
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: stop.by is not None)
        time.sleep(0.1)
        os.kill(os.getpid(), second)
        until(lambda: ended)
    assert ended == [code]
    assert f"{second.name} again: stopped at once" in capfd.readouterr().err


def test_the_same_one_sent_to_process_and_group_counts_once(ended, monkeypatch):
    monkeypatch.setattr(stopping, "TWICE", 60.0)
    with Stop() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: stop.by is not None)
            time.sleep(0.02)
    assert ended == []


def test_it_is_heard_while_the_main_thread_hears_nothing():
    """Python's own handler waits for a compiled step to come back; here it is a hash that takes a second or two."""
    code = (
        "import hashlib, os, signal, threading\n"
        "from rtn_jax.training.stopping import Stop\n"
        "with Stop() as stop:\n"
        "    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "    threading.Timer(0.3, lambda: print('heard' if stop.by else 'deaf', flush=True)).start()\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 4_000_000)\n"
        "    print('back')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "heard\nback\n"


def test_a_terminal_that_has_gone_keeps_nothing_from_stopping(ended, monkeypatch):
    monkeypatch.setattr(stopping, "TWICE", 0.0)

    def gone(*_):
        raise OSError(5, "Input/output error")

    with Stop() as stop:
        monkeypatch.setattr(stopping.os, "write", gone)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: stop.by is not None)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: ended)


def test_other_signals_are_none_of_its_business(ended):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            until(lambda: heard)
            assert stop.by is None
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_afterwards_signals_are_what_they_were_and_nothing_is_left():
    def listening():
        return [thread for thread in threading.enumerate() if thread.name == "signals"]

    until(lambda: not listening())
    descriptors = len(os.listdir("/proc/self/fd"))
    with Stop():
        assert len(listening()) == 1
    until(lambda: not listening())
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_in_another_thread_it_hears_nothing_and_does_no_harm():
    before, found = handlers(), []

    def elsewhere():
        with Stop() as stop:
            found.append(stop.by)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [None]
    assert handlers() == before
