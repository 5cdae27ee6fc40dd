"""`train.py` as it is run: killed, stopped, continued, by one process or two, on as many devices as there are.

The loss is the cheap one of `runs.py`; `test_commands.py` and `benchmarks/survival.py` have the real one.
The stories are independent of each other and mostly wait for one thread each, so two are told at a time.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.training.runs import assert_close, assert_same, rows, steps, write_network, write_pairs, write_photos

ROOT = Path(__file__).resolve().parents[2]
RUN = ["--init=network", "--val=photos/pairs.jsonl", "--batch_size=4", "--eval_every=100", "--save_every=1"]
RUN += ["--optimizer=sgd", "--average=0.9"]
BOTH = [*RUN, "--stage=both", "--data=photos", "--steps=12"]
SYNTHETIC = [*RUN, "--data=many", "--steps=12", "--keep=99"]
PATIENCE = 200
"""Seconds for anything to happen, on a machine that is busy otherwise."""


class Training:
    """A running `train.py`, with a loss that is compiled soon."""

    def __init__(self, home: Path, arguments: list[str], devices: int = 1) -> None:
        self.errors = home / f"{time.monotonic_ns()}.txt"
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        compiled = {
            "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "training" / "cheap_train.py"), *arguments],
                cwd=home,
                env=os.environ | compiled | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def said(self) -> str:
        return self.errors.read_text()

    def heard(self) -> bool:
        return "stopping after this step" in self.said()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def ended(self, code: int = 0) -> str:
        """What it said, once it has ended as expected."""
        assert self.process.wait(PATIENCE) == code, self.said()
        assert "Traceback" not in self.said()
        return self.said()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_network(folder / "network")
    write_pairs(write_photos(folder / "photos"))
    for name in ("many", "others"):  # more than are read before they are taken away
        write_photos(folder / name, classes=1, count=200)
    return folder


@pytest.fixture(scope="module")
def stories(home):
    with ThreadPoolExecutor(2) as pool:
        yield {story.__name__: pool.submit(story, home) for story in (one_process, two_processes, lost_data)}


def reaches(run, step):
    return lambda: bool(steps(run)) and steps(run)[-1] >= step


def one_process(home):
    """A run of both stages that is killed at random moments, stopped, and continued each time; and one that is not."""
    whole, run, rng, said = home / "whole", home / "run", np.random.default_rng(0), {}
    train = [*BOTH, "--run_dir=run"]
    Training(home, [*BOTH, "--run_dir=whole"]).ended()
    for ending in ("kill", "refused", "kill", "twice", "kill"):
        before = steps(run)[-1] if run.exists() else 0
        training = Training(home, train)
        training.until(reaches(run, before + 2))
        if ending == "refused":
            training.process.send_signal(signal.SIGSTOP)
            said["second process"] = Training(home, train).ended(2)
            said["other config"] = Training(home, [*train, "--seed=7"]).ended(2)
            training.process.send_signal(signal.SIGCONT)
        if ending == "kill":
            time.sleep(rng.uniform(0, 0.2))  # nearly always in the middle of writing a checkpoint
            training.process.kill()
            training.process.wait()
            continue
        training.process.send_signal(signal.SIGTERM)
        if ending == "twice":
            training.until(training.heard)
            training.process.send_signal(signal.SIGSTOP)  # or it would be done before the second one
            time.sleep(1.2)
            training.process.send_signal(signal.SIGINT)
            training.process.send_signal(signal.SIGCONT)
        said[ending] = training.ended(130 if ending == "twice" else 0)
    said["end"] = Training(home, train).ended()
    assert_same(run, whole)
    assert not [entry for entry in (run / "checkpoints").iterdir() if entry.name.startswith(".")]
    figures = (run / "metrics.jsonl").read_bytes()
    said["finished"] = Training(home, train).ended()
    assert (run / "metrics.jsonl").read_bytes() == figures
    return said


def two_processes(home):
    """Stopped by a signal to the second one, and continued by a single one on one device; and one on four devices."""
    run, four = home / "two", home / "four"
    Training(home, [*SYNTHETIC, "--run_dir=four"], devices=4).ended()
    first, second = job(home, [*SYNTHETIC, "--run_dir=two"], [*SYNTHETIC, "--run_dir=elsewhere"])
    first.until(reaches(run, 3))
    second.process.send_signal(signal.SIGTERM)
    said = {"stop": [first.ended(), second.ended()], "after": steps(run)[-1]}
    assert not (home / "elsewhere").exists(), "the first one writes"
    for step in steps(run):
        assert_close(run, four, step=step)
    said["end"] = Training(home, [*SYNTHETIC, "--run_dir=two"]).ended()
    assert_close(run, four)
    return said


def lost_data(home):
    """Two processes, one of which cannot read its photos any more."""
    train = [*SYNTHETIC, "--run_dir=lost"]
    first, second = job(home, train, [*train, "--data=others"])
    first.until(reaches(home / "lost", 3))
    (home / "others").rename(home / "away")
    return [first.ended(2), second.ended(2)], steps(home / "lost")[-1]


def job(home, *arguments):
    """The processes of a job, each with its arguments, on two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    of_all = [f"--coordinator=127.0.0.1:{port}", f"--processes={len(arguments)}"]
    return [
        Training(home, [*given, *of_all, f"--process={number}"], devices=2) for number, given in enumerate(arguments)
    ]


def test_a_run_that_is_killed_and_stopped_is_to_the_bit_one_that_is_not(stories, home):
    said = stories["one_process"].result()
    (line,) = [line for line in said["refused"].splitlines() if line.startswith("stopped after step ")]
    assert " of 24, saved; to continue: python " in line
    assert line.endswith(f"cheap_train.py {' '.join(BOTH)} --run_dir=run")
    assert "SIGINT again: stopped at once" in said["twice"]
    assert "continuing run after step " in said["end"]
    assert [row["stage"] for row in rows(home / "run") if "validation" in row] == ["synthetic", "synthetic", "weak"]


def test_others_in_its_folder_are_refused_in_one_line(stories):
    said = stories["one_process"].result()
    refusal = "train.py: error: run_dir: "
    assert said["second process"] == f"{refusal}another process is training in run; choose another folder\n"
    expected = f"{refusal}run holds a run with other choices (seed 0 -> 7); choose another folder\n"
    assert said["other config"] == expected


def test_a_finished_run_has_nothing_to_do(stories):
    said = stories["one_process"].result()["finished"]
    assert said == "run: finished after 24 steps; nothing to do (choose another folder to train anew)\n"


def test_two_processes_are_one_and_one_device_goes_on_for_them(stories):
    said = stories["two_processes"].result()
    assert f"continuing two after step {said['after']}" in said["end"]


def test_a_signal_to_one_process_stops_both_after_the_same_step(stories):
    said = stories["two_processes"].result()
    for heard in said["stop"]:
        assert f"stopped after step {said['after']} of 12, saved; to continue: python " in heard
    assert ["SIGTERM: stopping" in heard for heard in said["stop"]] == [False, True]


def test_data_that_one_process_loses_ends_both_in_one_line(stories):
    said, step = stories["lost_data"].result()
    for heard in said:
        (line,) = [line for line in heard.splitlines() if "error" in line]
        assert line.startswith("train.py: error: others/class0/")
        assert line.endswith(f"10 times over; stopped after step {step}, saved in lost (process 1 of 2)")
