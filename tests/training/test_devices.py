"""A step on several devices is the step on one device with the whole batch."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rtn_jax.training.step import STOP
from tests.training import reference
from tests.training.on_devices import GOOD

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """From a process with four devices; meanwhile this one computes what to compare with."""
    file = tmp_path_factory.mktemp("devices") / "found"
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.training.on_devices", str(file)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for stage in reference.CHOSEN:
            reference.run(stage)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return pickle.loads(file.read_bytes())


@pytest.mark.parametrize("stage", list(reference.CHOSEN))
def test_a_step_of_the_network_is_the_same(found, stage):
    """To 1e-5, and gradients to 1e-4 of their size: they jump where rounding takes a ReLU across its kink."""
    assert found["devices"] == 4
    start = reference.network().weights
    for made, expected in zip(found[stage], reference.run(stage), strict=False):
        assert largest(expected.weights, start) > 1e-3, "a difference would not show"
        for kind in ("weights", "measured"):
            assert largest(getattr(made, kind), getattr(expected, kind)) < 1e-5
        tolerances = {name: 1e-4 if name == "gradient_norm" else 1e-5 for name in expected.metrics}
        for name, tolerance in tolerances.items():
            assert made.metrics[name] == pytest.approx(expected.metrics[name], rel=tolerance, abs=tolerance), name
        size = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected.optimizer) if leaf.ndim)
        assert largest(made.optimizer, expected.optimizer) < 1e-4 * size


@pytest.mark.parametrize("devices", [2, 4])
def test_skips_and_wishes_of_one_are_those_of_all(found, devices):
    """A pair without a loss, one without a gradient, a wish to stop and one without data, each on a single device."""
    for (state, metrics), (alone, expected) in zip(found["toys"][devices], found["toys"][1], strict=True):
        for copies, (one,) in zip(state, alone, strict=True):
            assert len(copies) == devices
            for copy in copies:
                np.testing.assert_allclose(copy, one, rtol=1e-5, atol=1e-7)
                np.testing.assert_array_equal(copy, copies[0])
        assert metrics == pytest.approx(expected, rel=1e-5, nan_ok=True)
    skipped = [metrics["skipped_in_a_row"] for _, metrics in found["toys"][devices]]
    assert skipped[:4] == [0, 1, 0, 1]
    assert skipped[-1] == 0
    stop = [metrics[STOP] for _, metrics in found["toys"][devices]]
    assert [stop[i] > 0 for i in range(4)] == [False, False, True, False]
    assert np.isnan(stop[4])


def test_parts_of_a_devices_share(found):
    for (state, metrics), (_, expected) in zip(found["toys in parts"], found["toys"][1], strict=True):
        assert metrics == pytest.approx(expected, rel=1e-5, nan_ok=True)
        assert len(state[0]) == 2


def test_the_mean_is_over_all_pairs(found):
    assert found["toys"][4][0][1]["mean_x"] == pytest.approx(GOOD["x"].mean(), rel=1e-6)


def test_sizes_that_do_not_divide_are_refused_with_both_numbers(found):
    assert found["refusals"] == [
        "batch_size: 6 pairs cannot be split evenly over 4 devices",
        "batch_size: 7 pairs cannot be split evenly over 2 devices",
        "accumulate: 2 pairs of a device cannot be split evenly into 4 parts",
    ]


def largest(first, second):
    """Difference between two trees."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return max(float(np.abs(np.subtract(a, b, dtype=np.float64)).max()) for a, b in pairs)
