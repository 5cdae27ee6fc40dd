"""Streams of batches, in this process and in workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rtn_jax.data import stream
from rtn_jax.data.pipeline import pair_batches, photo_batches
from rtn_jax.data.sources import pair_source, photo_source
from rtn_jax.data.stream import Stream
from tests.networks import write_two_classes

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (16, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    write_two_classes(path, 30, 40)
    return path


@pytest.fixture(scope="module")
def batches(folder):
    return pair_batches(pair_source(str(folder)), SHAPE, batch_size=3, seed=2)


def equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def alive(pid):
    """Neither gone nor waiting for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stream_is_the_batches_in_order(batches):
    with Stream(batches) as reading:
        for i in range(5):
            assert reading.position == i
            equal(next(reading), batches[i])


def test_a_saved_position_continues_exactly(batches):
    with Stream(batches) as reading:
        first = [next(reading) for _ in range(3)]
        saved = json.loads(json.dumps(reading.position))
        rest = [next(reading) for _ in range(4)]
    assert len(first) == saved == 3
    with Stream(batches, position=saved) as reading:
        for batch in rest:
            equal(next(reading), batch)
        assert reading.position == 7


def test_workers_change_nothing_and_a_position_is_theirs_too(batches):
    with Stream(batches, workers=2) as reading:
        for i in range(7):
            batch = next(reading)
            equal(batch, batches[i])
            assert all(type(array) is np.ndarray for array in batch.values()), "no shared memory is handed out"
        saved = reading.position
        children = _spawned(_children(os.getpid()))
    assert len(children) == 2
    with Stream(batches, position=saved, workers=1) as reading:
        equal(next(reading), batches[saved])
    _gone(children)


def cut(folder, path, names):
    """A copy of the folder where those photos are cut off."""
    shutil.copytree(folder, path, dirs_exist_ok=True)
    for name in names:
        (path / name).write_bytes((path / name).read_bytes()[:60])
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_photo_is_replaced_alike_by_any_process_and_none_says_so(folder, tmp_path, capfd, workers):
    bad = pair_batches(pair_source(str(cut(folder, tmp_path, ["class1/3.png"]))), SHAPE, batch_size=3, seed=2)
    told = []
    with Stream(bad, workers=workers) as reading:
        for i in range(6):
            batch = next(reading)
            equal(batch, bad[i])
            told += bad.replaced(i, batch)
    assert told
    assert all("3.png: damaged" in entry.reason for entry in told)
    assert "3.png" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_folder_ends_the_stream_and_is_named(folder, tmp_path, workers):
    names = [str(file.relative_to(folder)) for file in folder.rglob("*.png")]
    bad = photo_batches(photo_source(str(cut(folder, tmp_path, names))), SHAPE, batch_size=1, seed=0)
    with (
        pytest.raises(ValueError, match=r"\d\.png: damaged .*; nor could what was drawn in its place"),
        Stream(bad, workers=workers) as it,
    ):
        next(it)


def test_batches_are_given_inside_the_with_statement_only(batches):
    reading = Stream(batches)
    with pytest.raises(RuntimeError, match="inside its `with`"):
        next(reading)
    with reading:
        next(reading)
    with pytest.raises(RuntimeError, match="inside its `with`"):
        next(reading)


def test_too_little_shared_memory_is_said_beforehand(batches, monkeypatch, tmp_path):
    monkeypatch.setattr(stream, "SHARED_MEMORY", tmp_path)
    usage = stream.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(stream.shutil, "disk_usage", lambda path: usage._replace(free=40_000))
    with (
        pytest.raises(ValueError, match=r"workers: 2 need .* are free; take fewer"),
        Stream(batches, workers=2),
    ):
        pass


PROGRAM = """
import sys, time
from rtn_jax.data.pipeline import pair_batches
from rtn_jax.data.sources import pair_source
from rtn_jax.data.stream import Stream
if __name__ == "__main__":
    batches = pair_batches(pair_source(sys.argv[1]), (16, 24), batch_size=3, seed=2)
    with Stream(batches, workers=1) as reading:
        next(reading)
        sys.stdout.write("started\\n")
        sys.stdout.flush()
        while True:
            next(reading)
            time.sleep(0.01)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(folder, tmp_path, sign):
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout.readline() == "started\n"
            workers = _spawned(_children(process.pid))
            assert workers
            if sign == signal.SIGINT:
                os.killpg(process.pid, sign)  # as a terminal does: to the workers too
            else:
                process.send_signal(sign)
            errors = process.communicate(timeout=30)[1]
            assert process.returncode == -sign
            if sign == signal.SIGINT:
                assert errors.count("Traceback") == 1, "the parent's own"
                assert "leaked" not in errors
            _gone(workers)
        finally:
            process.kill()


def _children(pid):
    """Of any of its threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in tasks for child in children.read_text().split()]


def _spawned(pids):
    """Those that are workers, not multiprocessing's tracker of shared memory."""
    lines = {pid: Path(f"/proc/{pid}/cmdline") for pid in pids}
    return [pid for pid, path in lines.items() if path.exists() and b"spawn_main" in path.read_bytes()]


def _gone(pids):
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.05)
