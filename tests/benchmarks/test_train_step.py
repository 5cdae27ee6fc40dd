"""The measurements run, on tiny networks, and their tables say what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import benchmarks.train_step
from benchmarks import measure
from benchmarks.fresh import about, machine, measured, table
from benchmarks.growth import line
from benchmarks.setup import Request, Setup, random_weights, setup_of
from benchmarks.train_step import Log, growth_table, main, split_table, steps_table
from rtn_jax import Params
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.objectives import OBJECTIVES
from rtn_jax.training.recipes import RECIPES
from tests.networks import ONE_LEVEL, small_config


def quick_to_compile(params, batch, recipe):
    """In place of the network, whose gradient takes many seconds to compile."""
    loss = sum((weight**2).mean() for weight in jax.tree.leaves(params.weights)) * batch["src"].astype("float32").mean()
    return loss, {"loss_of_old": loss}


def test_steps_and_their_parts_are_measured(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "weak", quick_to_compile)
    recipe = TrainConfig(stage="weak", data="none", batch_size=2).chosen("weak")
    config = small_config(levels=ONE_LEVEL)
    weights = random_weights(config)
    weights["geometry"] = {"conv10": weights["geometry"]["conv10"]}
    small = Setup("weak", recipe, Params(weights, config), accumulate=2)

    found = measure.step(small, Request("step", repeats=2))
    assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0 and found["compile_seconds"] > 0
    assert found["peak_bytes"] >= found["steps_peak_bytes"] > 2**26
    json.dumps(found)

    found = measure.parts(small, Request("parts", repeats=2))
    assert min(found["forward_and_backward"]) > 0 and min(found["update"]) > 0
    assert len(found["checkpoint_copy"]) == len(found["checkpoint_write"]) == 2
    assert (found["pairs"], found["photos_per_pair"]) == (2, 2)
    numbers = sum(array.size for array in weights["geometry"]["conv10"].values())
    assert found["gradient_bytes"] == 4 * numbers
    assert found["flops"] > found["forward_flops"] > numbers
    json.dumps(found)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system cannot count anew")
def test_memory_that_was_given_back_before_the_steps_is_not_counted():
    large = np.ones(50_000_000)
    before = measure._peak_bytes()
    del large
    measure._forget_peak()
    assert measure._peak_bytes() < before - 350_000_000


def test_a_process_of_its_own_makes_the_devices_it_is_asked_for():
    flags = {"image_size": 32, "geometry_width": 2, "iterations": [1, 1]}
    found = measured("all_reduce", flags, devices=2, repeats=1)
    assert found["devices"] == 2
    assert found["bytes"] > 1e5
    assert len(found["seconds"]) == len(found["latency_seconds"]) == 10


def test_a_process_that_fails_is_said_to_have():
    assert "image_size" in measured("step", {"image_size": 7})["error"]


def test_weights_and_batch_are_those_of_train_py():
    made = setup_of(TrainConfig(stage="weak", data="none", image_size=32, geometry_width=2, accumulate=3))
    assert (made.stage, made.recipe, made.accumulate) == ("weak", RECIPES["default"]["weak"], 3)
    batch = made.batch()
    assert batch["src"].shape == batch["tgt"].shape == (made.recipe.batch_size, 32, 32, 3)
    assert np.abs(np.asarray(made.params.weights["geometry"]["conv10"]["kernel"])).max() > 0, "or no field would move"


def fake(job, flags, **options):
    """What a machine would find on which everything is a straight line."""
    pairs = flags.get("batch_size", 4)
    if flags.get("remat"):
        return {"error": "exit code -9: killed | out of memory"}
    return {
        "step": {"seconds": [9.0, 0.5 + pairs, 0.0], "compile_seconds": 20.0, "peak_bytes": 3e9,
                 "steps_peak_bytes": 1e9 + 5e8 * pairs, "device_peak_bytes": None},
        "parts": {"forward": [1.0], "forward_and_backward": [3.0], "update": [0.25], "checkpoint_copy": [0.1],
                  "checkpoint_write": [0.4], "pairs": pairs, "photos_per_pair": 1, "flops": 1e11 * pairs},
        "all_reduce": {"seconds": [0.2], "bytes": 8e7},
        "reading": {"photos_per_second": {"0": 100.0, "2": 200.0}},
    }[job]  # fmt: skip


@pytest.fixture
def pretended(monkeypatch):
    asked = []
    monkeypatch.setattr(
        benchmarks.train_step, "measured", lambda *args, **options: asked.append(args) or fake(*args, **options)
    )
    return asked


def test_tables_say_what_was_measured(pretended, tmp_path):
    log = Log(tmp_path / "found.json")
    words = steps_table(log, {"stage": "weak"}, (1, 4), (2,), repeats=3).splitlines()
    assert words[1] == "weak stage"
    assert words[5:] == [
        "| 1 | 1.50 | 1.50 | 20 | 3.00 | 1.50 |",
        "| 1 `--remat` | exit code -9: killed / out of memory | - | - | - | - |",
        "| 4 | 4.50 | 1.12 | 20 | 3.00 | 3.00 |",
        "| 4 `--remat` | exit code -9: killed / out of memory | - | - | - | - |",
        "| 4 `--accumulate=2` | 4.50 | 1.12 | 20 | 3.00 | 3.00 |",
    ]
    words = growth_table(log, {"stage": "weak"}, "batch_size", (1, 4, 8), repeats=3).splitlines()
    assert words[1] == "weak stage"
    assert words[-2] == "* time: 0.500 s + 1.000 s per pair; at most 0.0 % off that line"
    assert words[-1] == "* memory of the steps: 1.000 GB + 0.500 GB per pair; at most 0.0 % off that line"
    assert len(pretended) == 6, "what was measured before is not measured again"

    words = split_table(log, {"batch_size": 4}, ("synthetic",), 2, repeats=3)
    for row in (
        "| backward (gradient less forward) | 2000.0 |",
        "| the rest of the step | 1250.0 |",
        "| **step** | 4500.0 |",
        "| input, a thread | 40.0 |",
        "| all-reduce of 80 MB, 2 devices | 200.0 |",
        "| GFLOP per pair, gradient | 100 |",
    ):
        assert row in words
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["group"] for row in rows] == ["steps"] * 5 + ["growth"] * 3 + ["split"] * 4


def test_the_whole_script_runs(pretended, capsys, tmp_path):
    main(quick=True, out=tmp_path / "all.json")
    words = capsys.readouterr().out
    assert "synthetic stage" in words and "weak stage" in words and "| **step** |" in words
    assert all(args[1]["image_size"] <= 48 for args in pretended), "quick"


def test_a_line_is_the_nearest_one():
    assert line([1, 2, 4], [3.0, 5.0, 9.0]) == pytest.approx((1, 2, 0), abs=1e-12)
    assert line([0, 1, 2], [1.0, 4.0, 1.0]) == pytest.approx((2, 0, 1))


def test_a_busy_machine_is_said_to_be():
    quiet = {**machine(), "load_before": 0.0, "xla_flags": ""}
    assert "BUSY" not in about(quiet) and "XLA" not in about(quiet)
    assert about({**quiet, "xla_flags": "--a=b"}).endswith("XLA_FLAGS=--a=b")
    assert "BUSY" in about({**quiet, "load_before": 1.0})
    assert table(("a", "b"), [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"
