"""Checkpoints: whole and equal when read back, or one clear error; never half of one."""

from __future__ import annotations

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

import rtn_jax
from rtn_jax import checkpoints
from rtn_jax.config import released
from rtn_jax.params import expected_shapes
from tests import oracle
from tests.networks import moving_params
from tests.weights.released_files import dagnn, released_params, write_v7, write_v73


@pytest.fixture(scope="module")
def params():
    return moving_params()


@pytest.fixture
def saved(params, tmp_path):
    rtn_jax.save(tmp_path / "net", params)
    return tmp_path / "net"


def assert_equal(a, b):
    assert a.config == b.config
    assert jax.tree.structure(a.weights) == jax.tree.structure(b.weights)
    for x, y in zip(jax.tree.leaves(a.weights), jax.tree.leaves(b.weights), strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_interruption_while_saving_waits_for_the_checkpoint(tmp_path, monkeypatch):
    """Orbax, cut off in the middle, leaves threads behind that keep the process from ending."""
    from orbax.checkpoint import v1 as ocp

    save = ocp.save

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        save(*arguments)

    monkeypatch.setattr(ocp, "save", interrupted)
    params = moving_params()
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
    with pytest.raises(ValueError, match="another optimiser"):
        checkpoints.load_training(tmp_path / "net", {"count": np.arange(4)})
    shutil.rmtree(tmp_path / "net" / "training")
    assert_equal(rtn_jax.load(tmp_path / "net"), params)
    with pytest.raises(ValueError, match="no training state"):
        checkpoints.load_training(tmp_path / "net", training)


def test_saving_again_replaces_and_a_run_folder_is_found(params, tmp_path):
    rtn_jax.save(tmp_path / "run" / "checkpoint", moving_params(seed=5))
    rtn_jax.save(tmp_path / "run" / "checkpoint", params)
    assert_equal(rtn_jax.load(tmp_path / "run"), params)


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(params, saved, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp, "save", full)
    with pytest.raises(ValueError, match=r"net: cannot be written: No space left"):
        rtn_jax.save(saved, moving_params(seed=5))
    monkeypatch.undo()
    assert_equal(rtn_jax.load(saved), params)
    assert [path.name for path in saved.parent.iterdir()] == ["net"]


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


def test_altered_weights_are_refused(saved):
    largest = max((p for p in (saved / "weights").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        rtn_jax.load(saved)


def test_truncated_weights_are_refused(saved):
    largest = max((p for p in (saved / "weights").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged"):
        rtn_jax.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update(format="other 3"), "expected the format"),
        (lambda header: header.pop("files"), "damaged, or not of a checkpoint"),
        (lambda header: header["files"].update({"weights/gone": "0" * 64}), "damaged: weights/gone is missing"),
        (lambda header: header["config"].update(geometry_width=5), "conv1/kernel has shape"),
        (lambda header: header["config"].update(radius=3), "conv1/kernel has shape"),
        (lambda header: header["config"].update(backbone="resnet"), "backbone: expected one of"),
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
