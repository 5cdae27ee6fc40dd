"""The curve over the iterations is that of the network with so many of them."""

from __future__ import annotations

import json

import pytest

import rtn_jax
from benchmarks.iterations import IterationsConfig, main
from rtn_jax.commands import run
from rtn_jax.evaluation import matchers
from rtn_jax.evaluation.run import evaluate
from rtn_jax.training.validation import validation_sets
from tests.networks import moving_params, small_config


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network that moves, in two levels of one iteration and two."""
    config = small_config()
    params = moving_params(config.replace(iterations=(1, 2)), scale=0.05)
    path = tmp_path_factory.mktemp("run") / "network"
    rtn_jax.save(path, params)
    return path, params


def test_figures_are_those_of_networks_that_stop_there(saved, tmp_path, capsys):
    path, params = saved
    main(IterationsConfig(ckpt=str(path), pairs=5, out=tmp_path / "curve.json"))
    (found,) = json.loads((tmp_path / "curve.json").read_text())["results"]["curves"].values()
    (opened,) = validation_sets(("builtin",), pairs=5, shape=params.config.image_shape)

    def whole(matcher):
        return evaluate("", matcher, opened.benchmark).metrics

    expected = [whole(matchers.identity(opened.benchmark.files))]
    for iterations in ((1, 1), (1, 2), (1, 3)):  # the first level's alone is no network of these levels
        network = matchers.network(
            matchers.ImageFeatures(params.configure(iterations=iterations), opened.benchmark.files)
        )
        expected.append(whole(network))
    assert len(found) == 5
    for one, other in zip([found[0], *found[2:]], expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    assert found[0] != found[-1]

    words = capsys.readouterr().out
    rows = [line.split(" | ")[:2] for line in words.splitlines() if line.startswith("| ") and "---" not in line]
    layers = [level.taps[0] for level in params.config.levels]
    assert rows[1:] == [[f"| {n}", tap] for n, tap in enumerate(["none", layers[0], *[layers[1]] * 3])]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(["--on", "nowhere.json"], "val: "), (["--more=-2"], "iterations: expected a whole number of at least 1, got 0")],
)
def test_mistakes_are_said_in_one_line(saved, capsys, wrong, said):
    with pytest.raises(SystemExit) as stopped:
        run("benchmarks.iterations", IterationsConfig, main, [f"--ckpt={saved[0]}", *wrong])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
