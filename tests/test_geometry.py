"""The geometry network against the slow loop on grids of every kind, and what a new one does."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax.geometry import GeometryNetwork, weight_shapes
from tests import oracle

WIDTH, WINDOW = 4, 9


@pytest.fixture(scope="module")
def weights():
    """Random weights of a thin network, the last layer included, float64."""
    rng = np.random.default_rng(1)
    return oracle.random_weights(rng, last_layer="conv1_1", divisor=64 // WIDTH, window=WINDOW)["geometry"]


def network(upsampling="edge", dtype=jnp.float64):
    return GeometryNetwork(WIDTH, upsampling, dtype)


CASES = [  # (grid, upsampling, jit): compiling is what takes the time
    ((1, 1), "edge", False),
    ((4, 4), "zero", True),
    ((5, 7), "edge", True),
    ((16, 16), "zero", True),
]


@pytest.mark.parametrize(("grid", "upsampling", "jit"), CASES)
def test_equals_the_slow_loop(x64, rng, weights, grid, upsampling, jit):
    slow = {"edge": oracle.upsample_edge, "zero": oracle.upsample_released}[upsampling]
    volume = jnp.asarray(rng.standard_normal((2, *grid, WINDOW)))
    apply = network(upsampling).apply
    residual = (jax.jit(apply) if jit else apply)({"params": weights}, volume)
    expected = np.stack([oracle.geometry(weights, one, slow) for one in volume])
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(residual, expected.reshape(2, *grid, 6), atol=1e-10)


@pytest.fixture(scope="module")
def new():
    """The weights of a new network."""
    return jax.jit(GeometryNetwork(width=8).init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, 1, 1, WINDOW)))


def test_a_new_network_changes_no_field(rng, new):
    volume = jnp.asarray(rng.standard_normal((1, 4, 4, WINDOW)), jnp.float32)
    np.testing.assert_array_equal(jax.jit(GeometryNetwork(width=8).apply)(new, volume), np.zeros((1, 4, 4, 6)))


def test_a_new_network_is_he_normal(new):
    for name, layer in new["params"].items():
        assert (layer["bias"] == 0).all(), name
        expected = 0 if name == "conv10" else math.sqrt(2 / math.prod(layer["kernel"].shape[:3]))
        np.testing.assert_allclose(layer["kernel"].std(), expected, rtol=0.1, err_msg=name)


def test_the_released_network_has_20030662_weights():
    params = jax.eval_shape(GeometryNetwork(width=64).init, jax.random.key(0), jnp.zeros((1, 16, 16, 81)))["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 20_030_662
    assert {name: layer["kernel"].shape for name, layer in params.items()} == oracle.geometry_shapes()


@pytest.mark.parametrize(("width", "radius"), [(64, 4), (5, 1)])
def test_shapes_are_known_without_building_it(width, radius):
    volume = jnp.zeros((1, 16, 16, (2 * radius + 1) ** 2))
    built = jax.eval_shape(lambda: GeometryNetwork(width).init(jax.random.key(0), volume)["params"])
    assert weight_shapes(width, volume.shape[-1]) == jax.tree.map(lambda leaf: leaf.shape, built)


def test_half_precision_computes_in_half_precision(rng, weights):
    volume = jnp.asarray(rng.standard_normal((1, 4, 4, WINDOW)), jnp.float32)
    params = {"params": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights)}
    half = jax.jit(network(dtype=jnp.bfloat16).apply)(params, volume)
    assert half.dtype == jnp.bfloat16
    full = oracle.geometry(weights, np.asarray(volume[0], np.float64), oracle.upsample_edge).reshape(1, 4, 4, 6)
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.1 * np.abs(full).max())


def test_gradients(x64, rng, weights):
    """By the input and the last layer; the step is so small that no ReLU or maximum changes sides."""
    volume = jnp.asarray(rng.standard_normal((1, 3, 5, WINDOW)))

    @jax.jit
    def residual(volume, last):
        return network().apply({"params": {**weights, "conv10": last}}, volume)

    check_grads(residual, (volume, weights["conv10"]), order=1, modes=("rev",), eps=1e-7, atol=1e-5, rtol=1e-5)
