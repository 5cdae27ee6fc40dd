"""The warped convolution's benchmark runs on tiny sizes, and its forms agree with the slow loop."""

from __future__ import annotations

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

import benchmarks.correlation
import benchmarks.turns
import benchmarks.warp
from benchmarks.warp import BIAS, QUICK, Config, by_index, by_map_coordinates, job, main, smooth_field, torch_forms
from rtn_jax.affine import sampling_positions
from rtn_jax.commands import run
from tests import oracle

NO_TORCH = "PyTorch: left out, it is not installed"
TINY = {"batch": 1, "grid": 5, "channels": 3, "outputs": 2, "fields": 2}


@pytest.fixture(autouse=True)
def quick_ceilings(monkeypatch):
    monkeypatch.setitem(benchmarks.turns.SIDE, "cpu", 64)
    monkeypatch.setitem(benchmarks.turns.COPIED, "cpu", 1 << 16)
    monkeypatch.setattr(benchmarks.turns, "PAUSE", 0.0)


@pytest.fixture
def without_torch(monkeypatch):
    for module in (benchmarks.correlation, benchmarks.warp):
        monkeypatch.setattr(module, "torch_device", lambda dtype: (None, NO_TORCH))


def expected(x, kernel, fields):
    one, bias = np.asarray(x, np.float64)[0], np.full(kernel.shape[-1], BIAS)
    layer = np.asarray(kernel, np.float64), bias
    warped = [oracle.affine_warped_convolution(one, *layer, np.asarray(field)[0], "centers") for field in fields]
    return np.stack(warped)[:, None]


def test_the_quick_mode_says_what_was_measured(without_torch, capsys, tmp_path):
    main(Config(quick=True, out=tmp_path / "found.json"))
    words = capsys.readouterr().out
    assert NO_TORCH in words.splitlines()
    names = ["warped_convolution", "four indexed gathers", "map_coordinates per channel"]
    headings = re.findall(r"batch 2, 6x6 cells, 8 to 4 channels, 1 field\(s\), float32: (.*)", words)
    assert headings == ["forward", "forward + backward"]
    assert re.findall(r"^\| (\w.*?) \|", words, re.M) == names * 2
    useful = 2 * 72 * 9 * 8 * 4 + 8 * 72 * 9 * 4
    inputs, outputs = 72 * 8 + 9 * 8 * 4 + 72 * 6, 72 * 4
    assert f"{useful / 1e9:.4g} GFLOP, {4 * (inputs + outputs) / 1e6:.4g} MB of inputs and outputs" in words
    assert f"{3 * useful / 1e9:.4g} GFLOP, {8 * (inputs + outputs) / 1e6:.4g} MB of inputs and outputs" in words

    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert results["config"]["outputs"] == QUICK["outputs"]
    for kind, passes in (("forward", 1), ("forward + backward", 3)):
        assert [row["name"] for row in results[kind]["rows"]] == names
        assert all(len(row["seconds"]) == 2 and row["flops"] == passes * useful for row in results[kind]["rows"])


def test_half_precision_forward_alone(capsys):
    main(Config(quick=True, gradient=False, dtype="bfloat16"))
    words = capsys.readouterr().out
    assert "bfloat16: forward\n" in words and "backward" not in words


def test_all_forms_equal_the_slow_loop(without_torch):
    work = job(Config(**TINY))
    for name, form in work.forms.items():
        np.testing.assert_allclose(form(*work.inputs), expected(*work.inputs), atol=1e-4, err_msg=name)


@pytest.mark.parametrize("index", [0, 1])
def test_pytorchs_forms_equal_the_slow_loop(without_torch, index):
    torch = pytest.importorskip("torch")
    inputs = job(Config(**TINY)).inputs
    found = list(torch_forms().values())[index](*(torch.tensor(np.asarray(x)) for x in inputs))
    np.testing.assert_allclose(found, expected(*inputs), atol=1e-4)


def test_pytorch_takes_its_turns_where_it_is(capsys):
    pytest.importorskip("torch")
    main(Config(quick=True))
    words = capsys.readouterr().out
    assert words.count("| PyTorch, peer's embedding_bag |") == words.count("| PyTorch, grid_sample |") == 2


@pytest.mark.parametrize("sample", [by_index, by_map_coordinates])
def test_samples_end_in_zeros_outside(sample):
    image = jnp.ones((1, 2, 3, 1))
    points = jnp.array([[1.0, 0.5], [2.5, 1.0], [-0.75, 0.0], [3.0, 0.0], [50.0, -50.0]]).reshape(1, 1, 1, 5, 2)
    np.testing.assert_allclose(sample(image, points).ravel(), [1, 0.5, 0.25, 0, 0], atol=1e-6)


def test_no_position_lies_at_a_cells_edge_and_some_lie_outside(rng):
    positions = np.asarray(sampling_positions(smooth_field(rng, 2, 32)))
    assert np.abs(positions - np.round(positions)).min() > 0.007
    assert (positions < 0).any() and (positions > 31).any()


def test_a_form_that_disagrees_is_refused(without_torch, monkeypatch):
    monkeypatch.setattr(benchmarks.warp, "by_map_coordinates", lambda x, positions: by_index(x, positions + 0.001))
    with pytest.raises(SystemExit, match="map_coordinates per channel disagrees with warped_convolution by"):
        main(Config(quick=True))


@pytest.mark.parametrize("wrong", ["--grid=0", "--fields=0", "--outputs=-3", "--channels=x"])
def test_mistakes_end_in_one_line(capsys, wrong):
    with pytest.raises(SystemExit) as end:
        run("benchmarks.warp", Config, main, [wrong])
    assert end.value.code == 2
    words = capsys.readouterr().err
    assert words.startswith("benchmarks.warp: error: ") and words.count("\n") == 1
    assert wrong.split("=")[0].strip("-") in words
