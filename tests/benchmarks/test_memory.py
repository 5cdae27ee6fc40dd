"""Cost curves: inference is measured, tables say what was, and what is in the file already is not measured again."""

from __future__ import annotations

import json

import pytest

import benchmarks.train_step
from benchmarks import measure
from benchmarks.growth import line
from benchmarks.memory import AXES, Point, axis_table, main, picture
from benchmarks.setup import Request, Setup, random_weights, setup_of
from benchmarks.train_step import Log
from rtn_jax import Level, Params
from rtn_jax.images import read_image
from rtn_jax.training.config import TrainConfig
from tests.networks import small_config

FIXED = {"batch_size": 1, "image_size": 256, "iterations": [2, 3], "radius": 4, "compute_dtype": "float32"}


def test_inference_is_measured():
    recipe = TrainConfig(data="none", batch_size=2).chosen("synthetic")
    config = small_config(levels=(Level(layer="conv2_1", iterations=1),))
    found = measure.inference(
        Setup("synthetic", recipe, Params(random_weights(config), config)), Request("inference", repeats=2)
    )
    assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0 and found["compile_seconds"] > 0
    assert found["peak_bytes"] >= found["steps_peak_bytes"] > 2**26
    json.dumps(found)


def test_the_radius_is_a_flag_of_measurements(monkeypatch):
    made = []
    monkeypatch.setitem(measure.JOBS, "inference", lambda setup, request: made.append(setup) or {})
    measure.main(Request("inference", {"image_size": 32, "geometry_width": 2, "radius": 3, "batch_size": 5}))
    assert (made[0].config.radius, made[0].recipe.batch_size) == (3, 5)
    kernel = made[0].params.weights["geometry"]["conv1"]["kernel"]
    assert kernel.shape[2] == 7 * 7, "weights are those of the changed network"
    with pytest.raises(ValueError, match="no such field: radios"):
        setup_of(TrainConfig(data="none"), radios=3)


def fake(job, flags, **options):
    """What a machine would find on which everything is a straight line."""
    if flags["batch_size"] == 32 and job == "step":
        return {"error": "exit code -9: killed | out of memory"}
    work = flags["batch_size"] * (flags["image_size"] / 256) ** 2 * (2 * flags["radius"] + 1) ** 2 / 81
    work *= (1 + 2 * (job == "step")) * sum(flags["iterations"]) / 5
    return {"seconds": [99.0, 0.5 + work, 0.0], "compile_seconds": 20.0, "peak_bytes": 3e9,
            "steps_peak_bytes": 1e9 + 5e8 * work, "device_peak_bytes": None}  # fmt: skip


@pytest.fixture
def pretended(monkeypatch):
    asked = []
    monkeypatch.setattr(
        benchmarks.train_step, "measured", lambda *args, **options: asked.append(args) or fake(*args, **options)
    )
    return asked


def curve(name, values, job="inference"):
    points = []
    for value in values:
        flags = FIXED | AXES[name].flags(value)
        points.append(Point(value, fake(job, flags), flags["batch_size"]))
    return points


def test_tables_say_what_was_measured():
    words = axis_table("pairs", {"inference": curve("pairs", (1, 2, 4))}, FIXED).splitlines()
    assert words[1] == "By pairs; 256 x 256 pixels, 2 + 3 iterations, radius 4"
    assert words[5:] == [
        "| 1, inference | 1.50 | 1.50 | 20 | 3.00 | 1.50 |",
        "| 2, inference | 2.50 | 1.25 | 20 | 3.00 | 2.00 |",
        "| 4, inference | 4.50 | 1.12 | 20 | 3.00 | 3.00 |",
        "",
        "* inference, time: 0.500 s + 1.000 s per pair; at most 0.0 % off that line;"
        " at the end 1.80 times for 2.00 times as much",
        "* inference, memory of the calls: 1.000 GB + 0.500 GB per pair; at most 0.0 % off that line;"
        " at the end 1.50 times for 2.00 times as much",
    ]
    words = axis_table("pairs", {"training": curve("pairs", (1, 32), "step")}, FIXED)
    assert "| 32, training step | exit code -9: killed / out of memory | - | - | - | - |" in words
    assert "too few points" in words


@pytest.mark.parametrize(
    ("name", "values", "heading", "shown", "unit"),
    [
        ("size", (128, 256, 512), "By image size; 1 pair per call, 2 + 3 iterations", "128 x 128", "256 x 256 pixels"),
        ("radius", (2, 4, 7), "By radius (candidates); 1 pair per call, 256 x 256", "2 (25)", "81 candidates"),
    ],
)
def test_what_counts_are_pixels_and_candidates(name, values, heading, shown, unit):
    words = axis_table(name, {"training": curve(name, values, "step")}, FIXED)
    assert words.strip().startswith(heading) and f"| {shown}, training step |" in words
    assert f"training step, time: 0.500 s + 3.000 s per {unit}; at most 0.0 % off that line" in words


def test_a_line_may_be_nearest_relative_to_the_values():
    x, y = [1, 2, 3, 100], [1.0, 2.0, 3.0, 110.0]
    assert line(x, y, relative=True)[2] < 0.1 < line(x, y)[2]


def test_iterations_are_those_of_each_level():
    words = axis_table("iterations", {"inference": curve("iterations", (1, 2, 6))}, FIXED)
    assert "time: 0.500 s + 0.400 s per iteration of each level; at most 0.0 % off that line" in words


def test_the_whole_script_runs_and_measures_nothing_twice(pretended, capsys, tmp_path):
    out, draw = tmp_path / "found.json", tmp_path / "curves.png"
    main(quick=True, out=out, draw=draw)
    words = capsys.readouterr().out
    assert words.count("By ") == 4 and words.count("training step, remat |") == 8
    assert all(args[1]["image_size"] <= 48 for args in pretended), "quick"
    assert len(pretended) == 3 * (1 + 4), "what all choices share is measured once"
    assert read_image(draw).shape == (720, 1600, 3)
    rows = json.loads(out.read_text())["rows"]

    pretended.clear()
    main(quick=True, out=out, axes=("size",), sizes=(32, 48, 64))
    assert not pretended and json.loads(out.read_text())["rows"] == rows
    assert Log.continued(out).rows == rows
    main(out=out, axes=("radius",), ways=("inference",), radii=(2,), size=64)
    assert [(job, flags["image_size"], flags["radius"]) for job, flags in pretended] == [("inference", 64, 2)]

    there = json.loads(out.read_text())
    out.write_text(json.dumps(there | {"machine": there["machine"] | {"jax": "0.1"}}))
    with pytest.raises(ValueError, match="measured with another jax; choose another file"):
        main(quick=True, out=out)


def test_curves_are_drawn_with_units_and_a_slope():
    drawn = {"inference": curve("size", (128, 256, 512)), "training": curve("size", (128, 256, 512), "step")}
    time, memory = picture({"size": drawn}).axes
    assert "pixels" in time.get_xlabel() and [label.get_text() for label in time.get_xticklabels()] == [
        "128", "256", "512",
    ]  # fmt: skip
    assert [tuple(line.get_ydata()) for line in time.lines[:2]] == [(0.75, 1.5, 4.5), (1.25, 3.5, 12.5)]
    assert tuple(memory.lines[0].get_ydata()) == (1.125, 1.5, 3.0)
    assert time.get_xscale() == time.get_yscale() == "log"
    assert time.lines[2].get_label().startswith("slope 1")
    assert "seconds" in time.get_ylabel() and "GB" in memory.get_ylabel()
