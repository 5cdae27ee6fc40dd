"""The benchmark of the correlation runs on tiny sizes, its forms equal the slow loop, and others are refused."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import benchmarks.correlation
import benchmarks.turns
from benchmarks.correlation import (
    QUICK,
    Config,
    difference,
    gathered_windows,
    main,
    shifted_products,
    torch_device,
    torch_forms,
)
from rtn_jax.commands import run
from tests import oracle

NO_TORCH = "PyTorch: left out, it is not installed"


@pytest.fixture(autouse=True)
def quick_ceilings(monkeypatch):
    monkeypatch.setitem(benchmarks.turns.SIDE, "cpu", 64)
    monkeypatch.setitem(benchmarks.turns.COPIED, "cpu", 1 << 16)
    monkeypatch.setattr(benchmarks.turns, "PAUSE", 0.0)


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setattr(benchmarks.correlation, "torch_device", lambda dtype: (None, NO_TORCH))


def expected(src, tgt, radius):
    return np.stack([oracle.window_correlation(s, t, radius) for s, t in zip(src, tgt, strict=True)])


def test_the_quick_mode_says_what_was_measured(without_torch, capsys, tmp_path):
    main(Config(quick=True, out=tmp_path / "found.json"))
    words = capsys.readouterr().out
    assert NO_TORCH in words.splitlines()
    names = ["window_correlation", "25 shifted products", "gathered windows"]
    headings = re.findall(r"batch 2, 6x6 cells of 8 channels, radius 2, float32: (.*)", words)
    assert headings == ["forward", "forward + backward"]
    assert re.findall(r"^\| (\w.*?) \|", words, re.M) == names * 2
    useful = 2 * 2 * 6 * 6 * 25 * 8
    assert f"{useful / 1e9:.4g} GFLOP, {(2 * 576 + 1800) * 4 / 1e6:.4g} MB of inputs and outputs" in words
    assert f"{3 * useful / 1e9:.4g} GFLOP, {(4 * 576 + 2 * 1800) * 4 / 1e6:.4g} MB of inputs and outputs" in words
    rows = 2 * 2 * 6 * 6 * 6 * 8 * 5
    assert f"products of whole rows, one per row offset: {rows / 1e9:.4g} GFLOP, 1.20 times" in words

    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ceilings"]["flops"] > 0 and found["machine"]["pytorch"] == NO_TORCH
    results = found["results"]
    assert results["config"]["grid"] == QUICK["grid"]
    for kind, passes in (("forward", 1), ("forward + backward", 3)):
        assert [row["name"] for row in results[kind]["rows"]] == names
        assert all(len(row["seconds"]) == 2 and row["flops"] == passes * useful for row in results[kind]["rows"])
        assert set(results[kind]["temporary_bytes"]) <= set(names)


def test_half_precision_forward_alone(capsys):
    main(Config(quick=True, gradient=False, dtype="bfloat16"))
    words = capsys.readouterr().out
    assert "PyTorch: left out, its forms are in single precision" in words
    assert "bfloat16: forward\n" in words and "backward" not in words


@pytest.mark.parametrize("form", [shifted_products, gathered_windows])
@pytest.mark.parametrize("radius", [0, 2])
def test_the_naive_forms_equal_the_slow_loop(rng, form, radius):
    src, tgt = rng.standard_normal((2, 2, 4, 5, 3)).astype(np.float32)
    volume = form(jnp.asarray(src), jnp.asarray(tgt), radius=radius)
    np.testing.assert_allclose(volume, expected(src, tgt, radius), atol=1e-5)


@pytest.mark.parametrize("index", [0, 1])
def test_pytorchs_forms_equal_the_slow_loop(rng, index):
    torch = pytest.importorskip("torch")
    src, tgt = rng.standard_normal((2, 2, 4, 5, 3)).astype(np.float32)
    form = list(torch_forms(2).values())[index]
    np.testing.assert_allclose(form(torch.tensor(src), torch.tensor(tgt)), expected(src, tgt, 2), atol=1e-5)


def test_pytorch_takes_its_turns_where_it_is(capsys):
    pytest.importorskip("torch")
    main(Config(quick=True))
    words = capsys.readouterr().out
    assert words.count("| PyTorch, peer's row products |") == words.count("| PyTorch, unfold |") == 2


def test_pytorch_that_is_not_there_is_said_to_be_missing(monkeypatch):
    monkeypatch.setattr(benchmarks.correlation.importlib.util, "find_spec", lambda name: None)
    assert torch_device("float32") == (None, NO_TORCH)


@pytest.mark.parametrize("gradient", [False, True])
def test_a_form_that_disagrees_is_refused(without_torch, monkeypatch, gradient):
    @jax.custom_vjp
    def wrong(src, tgt):
        return shifted_products(src, tgt, radius=2) * (1 if gradient else 1.001)

    def backward(residuals, cotangent):
        by_src, by_tgt = jax.vjp(lambda src, tgt: shifted_products(src, tgt, radius=2), *residuals)[1](cotangent)
        return by_src, by_tgt.at[0, 1, 2, 3].add(0.1)

    wrong.defvjp(lambda src, tgt: (wrong(src, tgt), (src, tgt)), backward)
    monkeypatch.setattr(benchmarks.correlation, "gathered_windows", lambda src, tgt, radius: wrong(src, tgt))
    kind = "forward [+] backward" if gradient else "forward"
    with pytest.raises(SystemExit, match=rf"gathered windows disagrees with window_correlation by .*, {kind}: nothing"):
        main(Config(quick=True))


def test_arrays_of_other_shapes_or_without_numbers_are_apart():
    one = np.array([1.0, -4.0])
    assert difference([one, one], [one, one + 0.4]) == pytest.approx(0.1)
    assert not difference([one], [one * np.nan]) <= 1
    assert difference([one], [one[None]]) == np.inf
    assert difference([0 * one], [0 * one]) == 0


@pytest.mark.parametrize("wrong", ["--radius=-1", "--grid=0", "--repeats=0", "--dtype=int8"])
def test_mistakes_end_in_one_line(capsys, wrong):
    with pytest.raises(SystemExit) as end:
        run("benchmarks.correlation", Config, main, [wrong])
    assert end.value.code == 2
    words = capsys.readouterr().err
    assert words.startswith("benchmarks.correlation: error: ") and words.count("\n") == 1
    assert wrong.split("=")[0].strip("-") in words
