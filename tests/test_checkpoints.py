"""Checkpoints: whole and equal when read back, or one clear error; never half of one."""

from __future__ import annotations

import collections
import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rtn_jax
from rtn_jax import Params, checkpoints
from rtn_jax.config import released
from rtn_jax.params import expected_shapes
from tests import oracle
from tests.networks import small_config
from tests.weights.released_files import dagnn, released_params, write_v7, write_v73


def network(seed=0):
    """A network of random numbers; made without compiling anything."""
    config, rng = small_config(), np.random.default_rng(seed)
    return Params(
        jax.tree.map(
            lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
            expected_shapes(config),
            is_leaf=lambda shape: isinstance(shape, tuple),
        ),
        config,
    )


@pytest.fixture(scope="module")
def params():
    return network()


@pytest.fixture
def saved(params, tmp_path):
    rtn_jax.save(tmp_path / "net", params)
    return tmp_path / "net"


def assert_equal(a, b):
    assert a.config == b.config
    assert jax.tree.structure(a.weights) == jax.tree.structure(b.weights)
    for x, y in zip(jax.tree.leaves(a.weights), jax.tree.leaves(b.weights), strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_interruption_while_saving_waits_for_the_checkpoint(params, tmp_path, monkeypatch):
    """Orbax, cut off in the middle, leaves threads behind that keep the process from ending."""
    from orbax import checkpoint as ocp

    save = ocp.Checkpointer.save

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        save(*arguments, **options)

    monkeypatch.setattr(ocp.Checkpointer, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rtn_jax.save(tmp_path / "whole", params)
    monkeypatch.undo()
    loaded = rtn_jax.load(tmp_path / "whole")
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the next one acts at once"


def test_weights_and_config_come_back_equal(params, saved):
    assert_equal(rtn_jax.load(saved), params)
    assert [path.name for path in saved.parent.iterdir()] == ["net"]


def test_weights_are_read_without_the_optimiser(params, tmp_path):
    training = {"momentum": params.weights["geometry"], "count": np.arange(3)}
    checkpoints.save(tmp_path / "net", params, training=training, step=7)
    assert_equal(rtn_jax.load(tmp_path / "net"), params)
    assert checkpoints.read_header(tmp_path / "net")["step"] == 7
    back = checkpoints.load_training(tmp_path / "net", jax.tree.map(np.zeros_like, training))
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(training), strict=True):
        np.testing.assert_array_equal(x, y)
    shutil.rmtree(tmp_path / "net" / "training")
    assert_equal(rtn_jax.load(tmp_path / "net"), params)
    with pytest.raises(ValueError, match="no training state"):
        checkpoints.load_training(tmp_path / "net", training)
    with pytest.raises(ValueError, match="damaged: training/"):
        checkpoints.check(tmp_path / "net")
    rtn_jax.save(tmp_path / "net", params)
    with pytest.raises(ValueError, match="no training state"):
        checkpoints.load_training(tmp_path / "net", training)


Trace = collections.namedtuple("Trace", "slow, fast, empty")  # not in the order of the alphabet


def test_training_state_comes_back_leaf_by_leaf_in_its_own_structure(params, tmp_path):
    """Orbax reads tuples with names as dicts, whose order is another: equal shapes would change places in silence."""
    training = {
        "state": Trace(np.full(2, 1.0), np.full(2, 2.0), ()),
        "many": [np.full((), i) for i in range(12)],
        "kinds": (np.array(True), np.uint32(7), np.asarray(jnp.array([1.5, -2], jnp.bfloat16)), jnp.arange(3)),
        "nothing": None,
    }
    checkpoints.save(tmp_path / "net", params, training=training)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), training)
    back = checkpoints.load_training(tmp_path / "net", like)
    assert jax.tree.structure(back) == jax.tree.structure(training)
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(training), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(back["state"].slow, [1, 1])


def test_training_state_without_arrays_is_one_too(params, tmp_path):
    checkpoints.save(tmp_path / "net", params, training=Trace((), None, {}))
    assert checkpoints.load_training(tmp_path / "net", Trace((), None, {})) == Trace((), None, {})
    with pytest.raises(ValueError, match=r"another optimiser or network: it lacks \.slow"):
        checkpoints.load_training(tmp_path / "net", Trace(np.zeros(1), None, {}))


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": np.zeros(2), "b": np.zeros(3), "c": np.zeros(1)}, r"it lacks \['c'\]"),
        ({"a": np.zeros(2)}, r"it has \['b'\] left over"),
        ({"a": np.zeros(2), "b": np.zeros((3, 1))}, r"\['b'\] is float64 \(3,\), expected float64 \(3, 1\)"),
        ({"a": np.zeros(2, np.float32), "b": np.zeros(3)}, r"\['a'\] is float64 \(2,\), expected float32 \(2,\)"),
    ],
)
def test_training_state_of_another_structure_is_refused(params, tmp_path, like, message):
    checkpoints.save(tmp_path / "net", params, training={"a": np.zeros(2), "b": np.zeros(3)})
    with pytest.raises(
        ValueError, match="net/training: the training state is of another optimiser or network: " + message
    ):
        checkpoints.load_training(tmp_path / "net", like)


def test_saving_again_replaces(params, saved):
    rtn_jax.save(saved, network(seed=5))
    rtn_jax.save(saved, params)
    assert_equal(rtn_jax.load(saved), params)
    assert [path.name for path in saved.parent.iterdir()] == ["net"]


@pytest.fixture
def run(saved, tmp_path):
    """A function that makes a run: its checkpoints have metrics by step."""

    def make(metrics):
        for step, value in metrics.items():
            folder = checkpoints.place(tmp_path / "run", step)
            shutil.copytree(saved, folder)
            change_header(folder, metric=None if value is None else {"name": "PCK", "value": value}, step=step)
        return tmp_path / "run"

    return make


def change_header(folder, **changes):
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(header | changes))


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        ({5: None, 10: None}, 10),
        ({5: 40.0, 10: 60.5, 20: 50.0, 30: None}, 10),
        ({5: 40.0, 10: 60.5, 20: 60.5, 30: 2.0}, 20),
        ({5: math.nan, 10: 0.0, 20: math.nan, 30: math.inf}, 10),
        ({5: math.nan, 10: None, 20: math.nan}, 20),
        ({99_999_999: 1.0, 100_000_000: 1.0}, 100_000_000),
    ],
)
def test_a_run_stands_for_its_best_checkpoint_or_its_newest(run, metrics, found):
    folder = run(metrics)
    assert checkpoints.find(folder) == checkpoints.place(folder, found)
    first = checkpoints.place(folder, min(metrics))
    assert checkpoints.find(first) == first
    assert [int(path.name) for path in checkpoints.listed(folder)] == list(metrics)


def test_the_network_of_a_run_is_its_best_one(params, run):
    folder = run({10: 50.0, 20: 40.0})
    checkpoints.save(checkpoints.place(folder, 15), network(seed=5), metric={"name": "PCK", "value": 60.0})
    assert_equal(rtn_jax.load(folder), network(seed=5))


def test_only_folders_with_a_number_and_a_config_are_checkpoints_of_a_run(run, tmp_path):
    folder = run({10: 1.0, 20: 2.0})
    (folder / "checkpoints" / "notes").mkdir()
    (folder / "checkpoints" / "00000030").write_text("")
    shutil.copytree(checkpoints.place(folder, 20), folder / "checkpoints" / ".00000040.0123abcd.partial")
    shutil.copytree(checkpoints.place(folder, 20), checkpoints.place(folder, 50))
    (checkpoints.place(folder, 50) / "config.json").unlink()
    assert [int(path.name) for path in checkpoints.listed(folder)] == [10, 20]
    assert [int(path.name) for path in checkpoints.numbered(folder)] == [10, 20, 50]
    assert checkpoints.listed(tmp_path) == checkpoints.listed(tmp_path / "nowhere") == []


def test_a_damaged_header_in_a_run_is_named_rather_than_another_taken_for_the_best(run):
    folder = run({10: 1.0, 20: 2.0})
    (checkpoints.place(folder, 20) / "config.json").write_text('{"format": ')
    with pytest.raises(ValueError, match=r"00000020/config\.json: damaged"):
        rtn_jax.load(folder)


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(params, saved, monkeypatch):
    from orbax import checkpoint as ocp

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.Checkpointer, "save", full)
    with pytest.raises(ValueError, match=r"net: cannot be written: No space left on device$"):
        rtn_jax.save(saved, network(seed=5))
    monkeypatch.undo()
    assert_equal(rtn_jax.load(saved), params)
    assert [path.name for path in saved.parent.iterdir()] == ["net"]


def test_a_folder_that_is_removed_meanwhile_is_named_in_one_line(params, tmp_path, monkeypatch):
    from orbax import checkpoint as ocp

    def removed(*_args, **_kwargs):
        shutil.rmtree(tmp_path / "run")
        raise ValueError(f"NOT_FOUND: Error opening: {'all it knows, ' * 500}")

    monkeypatch.setattr(ocp.Checkpointer, "save", removed)
    with pytest.raises(ValueError, match=r"net: cannot be written: the folder was removed meanwhile$"):
        rtn_jax.save(tmp_path / "run" / "net", params)
    monkeypatch.setattr(shutil, "rmtree", lambda *_args, **_kwargs: None)
    with pytest.raises(
        ValueError, match=r"net: cannot be written: ValueError: NOT_FOUND: Error opening: all it"
    ) as end:
        rtn_jax.save(tmp_path / "run" / "net", params)
    assert len(str(end.value)) < 500


def test_a_full_disk_is_noticed_before_orbax_starts(params, saved, monkeypatch, capfd):
    """A real one, as far as a process can make it: files of this process may not get larger than 100 kB."""
    from orbax import checkpoint as ocp

    called = []
    monkeypatch.setattr(ocp.Checkpointer, "save", lambda *_args, **_kwargs: called.append(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ValueError, match=r"net: cannot be written: File too large$"):
            rtn_jax.save(saved, params)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not called
    assert capfd.readouterr() == ("", "")
    assert_equal(rtn_jax.load(saved), params)
    assert [path.name for path in saved.parent.iterdir()] == ["net"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "a/file"), "No space left on device"),
        (FileExistsError(17, "File exists", "runs/a"), "File exists: runs/a"),
        (NotADirectoryError(20, "Not a directory", "runs/a"), "Not a directory: runs/a"),
        (ValueError("RESOURCE_EXHAUSTED: Error writing \"x\": Failed [os_error_code='28']"), os.strerror(28)),
        (ValueError("runs/a: exists"), "runs/a: exists"),
        (RuntimeError("first\nsecond"), "RuntimeError: first"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_reason_is_one_line_in_the_systems_words(error, words):
    assert checkpoints.reason(error) == words
    outer = RuntimeError("could not be saved")
    outer.__cause__ = error
    system = isinstance(error, OSError) or "os_error" in str(error)
    assert checkpoints.reason(outer) == (words if system else "RuntimeError: could not be saved")


def test_what_is_not_a_checkpoint_is_left_alone(params, tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="left as it is"):
            rtn_jax.save(target, params)
    assert (tmp_path / "notes.txt").read_text() == "keep"
    with pytest.raises(ValueError, match="cannot be written"):
        rtn_jax.save(tmp_path / "notes.txt" / "net", params)


def test_missing_and_foreign_paths_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such checkpoint"):
        rtn_jax.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a checkpoint"):
        rtn_jax.load(tmp_path)
    (tmp_path / "net.mat").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"net\.mat"):
        rtn_jax.load(tmp_path / "net.mat")


def flip(path):
    """Changes a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_altered_weights_are_refused(saved):
    flip(largest(saved / "weights"))
    with pytest.raises(ValueError, match="damaged"):
        rtn_jax.load(saved)


def test_truncated_weights_are_refused(saved):
    file = largest(saved / "weights")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged"):
        rtn_jax.load(saved)


def test_check_sees_every_file_of_a_checkpoint(params, tmp_path):
    checkpoints.save(tmp_path / "net", params, training={"a": np.zeros(2)})
    names = [path.relative_to(tmp_path / "net").as_posix() for path in (tmp_path / "net").rglob("*") if path.is_file()]
    assert {name.split("/")[0] for name in names} == {"config.json", "weights", "training"}
    for name in names:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "net", tmp_path / "copy")
        checkpoints.check(tmp_path / "copy")
        (tmp_path / "copy" / name).write_bytes((tmp_path / "net" / name).read_bytes()[:-2])
        with pytest.raises(ValueError, match=rf"copy.*{name}.*(damaged|is not what was saved)|{name} is not what"):
            checkpoints.check(tmp_path / "copy")
        (tmp_path / "copy" / name).unlink()
        with pytest.raises(ValueError, match=rf"{name}"):
            checkpoints.check(tmp_path / "copy")


def test_a_checkpoint_that_lists_no_weights_is_not_whole(saved):
    change_header(saved, files={})
    with pytest.raises(ValueError, match="no weights are listed"):
        checkpoints.check(saved)


def test_a_file_that_cannot_be_read_is_one_line(saved, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoints.header.hashlib, "file_digest", broken)
    with pytest.raises(ValueError, match=r"net: the checkpoint cannot be read: weights/.*: Input/output error$"):
        checkpoints.check(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update(format="other 3"), "expected the format"),
        (lambda header: header.pop("files"), "damaged, or not of a checkpoint"),
        (lambda header: header["files"].update({"weights/gone": "0" * 64}), "damaged: weights/gone is missing"),
        (lambda header: header["config"].update(geometry_width=5), "conv1/kernel has shape"),
        (lambda header: header["config"].update(radius=3), "conv1/kernel has shape"),
        (lambda header: header["config"].update(backbone="alexnet"), "backbone: expected one of"),
        (lambda header: header["config"].update(speed=3), "not a config of this version"),
        (
            lambda header: header["config"].update(levels=[{"layer": "conv4_1", "iterations": 1}]),
            "conv3_2/bias is missing",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_refused(unchecked, saved, change, message):
    header = json.loads((saved / "config.json").read_text())
    change(header)
    (saved / "config.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=message):
        rtn_jax.load(saved)


def test_a_config_that_is_not_json_is_refused(saved):
    (saved / "config.json").write_text('{"format": ')
    with pytest.raises(ValueError, match=r"config\.json: damaged"):
        rtn_jax.load(saved)


@pytest.mark.parametrize("write", [write_v7, write_v73])
def test_the_releases_file_gives_params_with_its_preset(rng, tmp_path, write):
    tree = oracle.random_weights(rng, dtype=np.float32)
    write(tmp_path / "net-epoch.mat", dagnn(released_params(tree)))
    params = rtn_jax.load(tmp_path / "net-epoch.mat")
    assert params.config == released()
    assert jax.tree.map(np.shape, params.weights) == expected_shapes(released())
    for layer in ("conv4_1", "conv1_1"):
        np.testing.assert_array_equal(params.weights["backbone"][layer]["kernel"], tree["backbone"][layer]["kernel"])
    np.testing.assert_array_equal(params.weights["geometry"]["conv10"]["kernel"], tree["geometry"]["conv10"]["kernel"])


ONE_OF_TWO = """
import faulthandler, os, sys, time
faulthandler.dump_traceback_later(60, exit=True)
import jax, numpy as np
port, process, given, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
jax.distributed.initialize(f"localhost:{port}", 2, process)
from rtn_jax import checkpoints
params = checkpoints.load(given)
assert jax.process_count() == 2
if process == 0:
    checkpoints.save(folder, params, training=[np.arange(3)])
else:
    while not os.path.exists(folder):
        time.sleep(0.05)
    try:
        checkpoints.save(folder + "2", params)
    except ValueError as error:
        print(error)
weights = zip(jax.tree.leaves(checkpoints.load(folder).weights), jax.tree.leaves(params.weights), strict=True)
assert all((np.asarray(a) == np.asarray(b)).all() for a, b in weights)
assert checkpoints.load_training(folder, [np.zeros(3, int)])[0].tolist() == [0, 1, 2]
print("read", flush=True)
if process == 0:
    print(sys.stdin.readline().strip())
"""


def test_one_of_two_processes_writes_and_each_reads_without_the_other(saved, tmp_path):
    """Orbax's own way asks all processes to take part: the first would wait for the second, which waits for a file."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, port, str(process), str(saved), str(tmp_path / "new")],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    )
    try:
        words = [second.stdout.readline(), second.stdout.readline()]
        assert words[1] == "read\n", second.communicate()[1]
        assert "only the first of 2 processes can write" in words[0]
        out, errors = first.communicate("done", timeout=60)  # so far the first has not ended, which would wait for both
        assert out.splitlines() == ["read", "done"], errors
        assert (first.returncode, second.wait(60)) == (0, 0)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
