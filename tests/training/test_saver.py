"""Checkpoints written while training goes on: nothing that happens to one may cost another, or the training."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax import Params, checkpoints
from rtn_jax.params import expected_shapes
from rtn_jax.training import saver as module
from rtn_jax.training.saver import Saver, newest_whole
from tests.networks import ONE_LEVEL, small_config

CONFIG = small_config(levels=ONE_LEVEL)
SHAPES = expected_shapes(CONFIG)
NO_ROOM = OSError(errno.ENOSPC, "No space left on device")


def network(value):
    """A network all of whose weights are one number; made without compiling anything."""
    return Params(jax.tree.map(lambda shape: np.full(shape, value, np.float32), SHAPES, is_leaf=_is_shape), CONFIG)


def _is_shape(leaf):
    return isinstance(leaf, tuple)


NETWORKS = {value: network(value) for value in (1, 2, 3)}


def training(value):
    return {"momentum": np.full(1000, value, np.float32), "count": np.asarray(value)}


def value_of(folder):
    """The number in a checkpoint, which has to be whole."""
    checkpoints.check(folder)
    weights = jax.tree.leaves(checkpoints.load(folder).weights)
    values = {float(value) for leaf in weights for value in np.unique(leaf)}
    kept = checkpoints.load_training(folder, training(0))
    assert values == {float(kept["count"])} == set(np.unique(kept["momentum"]).tolist())
    return values.pop()


def save(saver, step, value=1, **options):
    saver.save(step, NETWORKS[value], training(value), notes={}, **options)
    return saver.wait()


def steps(run):
    return [int(folder.name) for folder in checkpoints.numbered(run)]


def names(run):
    return sorted(entry.name for entry in (run / "checkpoints").iterdir())


def damage(folder):
    """Flips a bit of the weights, and keeps the size."""
    file = max((p for p in (folder / "weights").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture
def warnings(caplog):
    """What was logged, in words."""
    caplog.set_level(logging.WARNING)

    def said():
        words = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return words

    return said


@pytest.fixture
def quick(monkeypatch):
    """Checkpoints without orbax, for tests of which ones stay: a header and a file."""

    def write(folder, params, *, training, **notes):
        checkpoints_written.append(int(folder.name))
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "weights").mkdir(parents=True)
        (folder / "weights" / "numbers").write_text("1 2 3")
        digests = checkpoints.header.file_digests(folder)
        header = {"format": checkpoints.header.FORMAT, "config": {}, "files": digests, **notes}
        (folder / "config.json").write_text(json.dumps(header))

    checkpoints_written: list[int] = []
    monkeypatch.setattr(checkpoints, "save", write)
    return checkpoints_written


def test_what_is_saved_comes_back(tmp_path):
    with Saver(tmp_path) as saver:
        assert saver.last is None
        notes = {"stage": "weak", "seed": 3, "data_position": 12}
        saver.save(30, NETWORKS[2], training(2), metric=("PCK@0.10", 61.5), notes=notes)
        assert saver.wait() is None
        assert saver.last == 30
    folder = tmp_path / "checkpoints" / "00000030"
    assert newest_whole(tmp_path) == checkpoints.find(tmp_path) == folder
    assert value_of(folder) == 2
    header = checkpoints.read_header(folder)
    assert {name: header[name] for name in ("step", "metric", *notes)} == {
        "step": 30,
        "metric": {"name": "PCK@0.10", "value": 61.5},
        **notes,
    }
    assert sorted(entry.name for entry in folder.iterdir()) == ["config.json", "training", "weights"]


def test_training_goes_on_meanwhile_and_may_use_up_its_arrays(tmp_path, monkeypatch):
    write, going_on = checkpoints.save, threading.Event()

    def slow(*arguments, **options):
        assert going_on.wait(30)
        write(*arguments, **options)

    monkeypatch.setattr(checkpoints, "save", slow)
    params, state, notes = network(2), training(2), {"data_position": 5}
    donated = {"a": jnp.full(1000, 2.0), "b": jnp.full((), 2.0)}
    with Saver(tmp_path) as saver:
        saver.save(10, params, {**state, "donated": donated}, notes=notes)
        for leaf in jax.tree.leaves((params, state)):
            leaf[...] = 7
        notes["data_position"] = 6
        next_one = jax.jit(lambda tree: jax.tree.map(lambda x: x + 5, tree), donate_argnums=0)(donated)
        jax.block_until_ready(next_one)
        assert not (tmp_path / "checkpoints").exists(), "nothing is written yet"
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
        going_on.set()
    folder = newest_whole(tmp_path)
    like = {**training(0), "donated": {"a": np.zeros(1000, np.float32), "b": np.zeros((), np.float32)}}
    found = (checkpoints.load(folder), checkpoints.load_training(folder, like))
    assert {float(value) for leaf in jax.tree.leaves(found) for value in np.unique(leaf)} == {2.0}
    assert checkpoints.read_header(folder)["data_position"] == 5


def test_checkpoints_are_written_one_after_the_other(tmp_path, quick, monkeypatch):
    write, busy, most = checkpoints.save, [], []

    def slow(*arguments, **options):
        busy.append(1)
        most.append(len(busy))
        time.sleep(0.1)
        write(*arguments, **options)
        busy.pop()

    monkeypatch.setattr(checkpoints, "save", slow)
    with Saver(tmp_path, keep=5) as saver:
        for step in range(3):
            saver.save(step, NETWORKS[1], training(1), notes={})
    assert most == [1, 1, 1]
    assert quick == steps(tmp_path) == [0, 1, 2], "the end of the block waits"


def test_leaving_by_an_error_waits_too(tmp_path, quick, monkeypatch):
    write = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *a, **k: (time.sleep(0.2), write(*a, **k)))

    def train():
        with Saver(tmp_path) as saver:
            saver.save(1, NETWORKS[1], training(1), notes={})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train()
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize(
    ("keep", "metrics", "stay"),
    [
        (2, [None, None, None, None], [2, 3]),
        (1, [None, None, None], [2]),
        (2, [1.0, 9.0, 3.0, 4.0, 5.0], [1, 3, 4]),
        (1, [1.0, 9.0, 9.0, None, math.nan], [2, 4]),
        (1, [9.0, 1.0, 10.0, 2.0], [2, 3]),
        (3, [1.0, 2.0], [0, 1]),
        (1, [math.nan, None], [1]),
    ],
)
def test_the_latest_and_the_best_stay(tmp_path, quick, keep, metrics, stay):
    with Saver(tmp_path, keep=keep) as saver:
        for step, value in enumerate(metrics):
            assert save(saver, step, metric=None if value is None else ("PCK", value)) is None
            assert steps(tmp_path)[-1] == step == saver.last
    assert steps(tmp_path) == stay
    assert names(tmp_path) == [f"{step:08d}" for step in stay]


def test_a_figure_that_is_no_number_is_written_as_null(tmp_path, quick):
    with Saver(tmp_path) as saver:
        save(saver, 1, metric=("PCK", math.nan))
    text = (newest_whole(tmp_path) / "config.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metric"] == {"name": "PCK", "value": None}


def test_saving_a_step_again_keeps_its_metric(tmp_path, quick):
    """As a run does that is stopped just after a validation: its best checkpoint must stay the best."""
    with Saver(tmp_path, keep=1) as saver:
        save(saver, 1, metric=("PCK", 9.0))
        save(saver, 1)
        assert checkpoints.read_header(checkpoints.place(tmp_path, 1))["metric"] == {"name": "PCK", "value": 9.0}
        save(saver, 1, metric=("PCK", 8.0))
        assert checkpoints.read_header(checkpoints.place(tmp_path, 1))["metric"] == {"name": "PCK", "value": 8.0}
    assert quick == [1, 1, 1]
    with Saver(tmp_path, keep=1) as saver:
        save(saver, 1)
        save(saver, 2)
        assert steps(tmp_path) == [1, 2]
        shutil.rmtree(tmp_path / "checkpoints")
        assert save(saver, 1) is None
        assert checkpoints.read_header(checkpoints.place(tmp_path, 1))["metric"] is None


def test_keep_has_to_be_positive(tmp_path):
    with pytest.raises(ValueError, match="keep: expected at least 1, got 0"):
        Saver(tmp_path, keep=0)


def test_a_failed_write_is_one_line_and_costs_nothing(tmp_path, monkeypatch, warnings):
    from orbax import checkpoint as ocp

    def full(*_args, **_kwargs):
        raise NO_ROOM

    with Saver(tmp_path, keep=1) as saver:
        with monkeypatch.context() as patch:
            patch.setattr(ocp.Checkpointer, "save", full)
            assert save(saver, 10) == "No space left on device"
        nothing = (
            "checkpoint of step 10 could not be written: No space left on device; there is no whole one yet; going on"
        )
        assert warnings() == [nothing]
        assert saver.last is None
        assert save(saver, 20, 2) is None
        with monkeypatch.context() as patch:
            patch.setattr(ocp.Checkpointer, "save", full)
            assert save(saver, 30, 3) == "No space left on device"
            assert saver.wait() == "No space left on device", "it is still so"
            assert save(saver, 20, 3) == "No space left on device", "nor does one that was to replace another cost it"
        assert [line.split("; ")[1] for line in warnings()] == ["the last whole one is of step 20"] * 2
        assert saver.last == 20
        assert names(tmp_path) == ["00000020"]
        assert value_of(newest_whole(tmp_path)) == 2
        assert save(saver, 40, 3) is None
    assert names(tmp_path) == ["00000040"]
    assert value_of(newest_whole(tmp_path)) == 3
    assert warnings() == []


def test_a_disk_that_is_really_full(tmp_path, warnings, capfd):
    """As full as a process can make it: its files may not get larger than 20 kB."""
    with Saver(tmp_path) as saver:
        save(saver, 10, 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            assert save(saver, 20, 2) == "File too large"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(warnings()) == 1
        assert names(tmp_path) == ["00000010"]
        assert value_of(newest_whole(tmp_path)) == 1
        assert save(saver, 20, 2) is None
    assert capfd.readouterr().err == "", "no tracebacks of orbax's threads"


@pytest.mark.parametrize(
    "refusal", [OSError(errno.EROFS, "Read-only file system"), PermissionError(13, "Permission denied")]
)
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, warnings, refusal):
    with Saver(tmp_path) as saver:
        save(saver, 10, 1)
        with monkeypatch.context() as patch:

            def refuse(*_args, **_kwargs):
                raise refusal

            patch.setattr(Path, "mkdir", refuse)
            assert save(saver, 20, 2) == refusal.strerror
        assert f"step 20 could not be written: {refusal.strerror}; the last whole one is of step 10" in warnings()[0]
        assert save(saver, 30, 3) is None
    assert steps(tmp_path) == [10, 30]


def test_a_file_in_the_way_is_named(tmp_path, warnings):
    (tmp_path / "checkpoints").write_text("")
    with Saver(tmp_path) as saver:
        assert save(saver, 10) == f"File exists: {tmp_path / 'checkpoints'}"
        assert "there is no whole one yet" in warnings()[0]
        (tmp_path / "checkpoints").unlink()
        assert save(saver, 20) is None
    assert newest_whole(tmp_path) == checkpoints.place(tmp_path, 20)


def test_a_removed_folder_is_made_again(tmp_path, quick):
    run = tmp_path / "run"
    with Saver(run) as saver:
        save(saver, 10)
        shutil.rmtree(run)
        assert saver.last is None
        assert save(saver, 20) is None
        assert saver.last == 20
    assert steps(run) == [20]


def test_whatever_fails_in_the_thread_does_not_end_the_training(tmp_path, monkeypatch, warnings):
    def broken(*_args, **_kwargs):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(checkpoints, "save", broken)
    with Saver(tmp_path) as saver:
        assert save(saver, 10) == "RuntimeError: first line"
    assert len(warnings()) == 1


def test_old_ones_that_cannot_be_removed_are_named(tmp_path, quick, monkeypatch, warnings):
    def stuck(_):
        raise PermissionError(13, "Permission denied")

    with Saver(tmp_path, keep=1) as saver:
        save(saver, 10)
        with monkeypatch.context() as patch:
            patch.setattr(module.atomic, "remove", stuck)
            assert save(saver, 20) is None
        assert warnings() == [f"{checkpoints.place(tmp_path, 10)}: cannot be removed: Permission denied"]
        assert saver.last == 20
        (checkpoints.place(tmp_path, 20) / "config.json").write_text("{}")
        assert save(saver, 30) is None
        assert "old checkpoints cannot be removed" in warnings()[0]
        assert saver.last == 30


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path, quick, warnings):
    with Saver(tmp_path, keep=9) as saver:
        for step, value in ((10, 1.0), (20, 2.0), (30, 5.0), (40, 3.0)):
            save(saver, step, metric=("PCK", value))
    (checkpoints.place(tmp_path, 30) / "weights" / "numbers").write_text("1 2 4")
    (checkpoints.place(tmp_path, 40) / "config.json").unlink()
    assert newest_whole(tmp_path) == checkpoints.place(tmp_path, 20)
    said = warnings()
    assert [line.split(": ")[0] for line in said] == ["passed over"] * 2
    assert "00000040/config.json: damaged" in said[0]
    assert "00000030: the checkpoint is damaged: weights/numbers is not what was saved" in said[1]
    with Saver(tmp_path, keep=1) as saver:
        assert saver.last == 20
        assert save(saver, 25) is None
        assert steps(tmp_path) == [20, 25], "the best and the newest that are whole"
        (tmp_path / "checkpoints" / "00000040").mkdir()
        assert save(saver, 40) is None
        assert steps(tmp_path) == [20, 40]


def test_newest_whole(tmp_path, quick, warnings):
    assert newest_whole(tmp_path / "nowhere") is None
    assert newest_whole(tmp_path) is None
    with Saver(tmp_path, keep=3) as saver:
        for step in (10, 20, 30):
            save(saver, step)
    assert newest_whole(tmp_path) == checkpoints.place(tmp_path, 30)
    assert warnings() == []
    for step in (10, 20, 30):
        (checkpoints.place(tmp_path, step) / "weights" / "numbers").unlink()
    with pytest.raises(
        ValueError, match=r"checkpoints: none of 3 checkpoints is whole; remove the folder to start over$"
    ):
        newest_whole(tmp_path)
    assert len(warnings()) == 3


def test_real_damage_is_passed_over(tmp_path, warnings):
    with Saver(tmp_path) as saver:
        save(saver, 10, 1)
        save(saver, 20, 2)
    damage(checkpoints.place(tmp_path, 20))
    assert value_of(newest_whole(tmp_path)) == 1
    assert "00000020: the checkpoint is damaged: weights/" in warnings()[0]
    (checkpoints.place(tmp_path, 20) / "config.json").unlink()
    with Saver(tmp_path) as saver:
        assert save(saver, 20, 3) is None, "what is left of a damaged one is not in the way"
    assert value_of(newest_whole(tmp_path)) == 3


def test_leftovers_of_a_killed_process(tmp_path, quick):
    with Saver(tmp_path) as saver:
        save(saver, 10)
        save(saver, 20)
    folder = tmp_path / "checkpoints"
    os.replace(folder / "00000020", folder / ".00000020.0123abcd.old")  # killed between two moves
    (folder / ".00000020.89abcdef.partial").mkdir()
    shutil.copytree(folder / "00000010", folder / ".00000010.0123abcd.old")
    (folder / "notes").write_text("mine")
    assert newest_whole(tmp_path) == folder / "00000020"
    assert len(names(tmp_path)) == 5, "a reader removes nothing"
    Saver(tmp_path)
    assert names(tmp_path) == ["00000010", "00000020", "notes"]


def test_waiting_survives_a_signal_whose_handler_returns(tmp_path, quick, monkeypatch):
    write, heard = checkpoints.save, []

    def interrupted(*arguments, **options):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        write(*arguments, **options)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with Saver(tmp_path) as saver:
            assert save(saver, 10) is None
            assert steps(tmp_path) == [10]
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT] * 3


KILLED = """
import sys, time
from pathlib import Path
from rtn_jax import checkpoints
from rtn_jax.checkpoints import network
from rtn_jax.training.saver import Saver, newest_whole

run = Path(sys.argv[1])
params = checkpoints.load(run)
digests, writes = network.file_digests, []

def blocked(folder):
    writes.append(folder)
    if len(writes) == 2:
        print("writing", flush=True)
        time.sleep(60)
    return digests(folder)

network.file_digests = blocked
with Saver(run, keep=1) as saver:
    for step in (20, 30):
        saver.save(step, params, {"momentum": params.weights["geometry"]}, notes={})
"""


def test_kill_9_in_the_middle_of_a_write_leaves_the_checkpoint_before_it(tmp_path):
    with Saver(tmp_path) as saver:
        save(saver, 10)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert [name[:10] for name in names(tmp_path)] == [".00000030.", "00000020"]
    folder = newest_whole(tmp_path)
    assert folder == checkpoints.place(tmp_path, 20)
    like = {"momentum": NETWORKS[1].weights["geometry"]}
    for tree in (checkpoints.load(folder).weights["geometry"], checkpoints.load_training(folder, like)["momentum"]):
        assert all((np.asarray(leaf) == 1).all() for leaf in jax.tree.leaves(tree))
    with Saver(tmp_path) as saver:
        assert names(tmp_path) == ["00000020"]
        assert saver.last == 20
        save(saver, 30, 3)
    assert value_of(newest_whole(tmp_path)) == 3
