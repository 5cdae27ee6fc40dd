"""The convolution in both of its forms against the slow loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax.convolution import convolve
from tests import oracle

# On the CPU a 3x3 convolution of up to 64 cells is a matrix product, everything else XLA's convolution.
CASES = [(grid, size) for grid in [(1, 1), (5, 7), (8, 8), (8, 9)] for size in (1, 3, 9)]


def inputs(rng, grid, size, batch=2):
    x = rng.standard_normal((batch, *grid, 3)).astype(np.float32)
    return x, rng.standard_normal((size, size, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(("grid", "size"), CASES)
def test_equals_the_slow_loop(rng, grid, size):
    x, kernel = inputs(rng, grid, size)
    expected = np.stack([oracle.conv2d(one, kernel, np.zeros(4, np.float32)) for one in x])
    np.testing.assert_allclose(convolve(jnp.asarray(x), jnp.asarray(kernel)), expected, atol=1e-4)


@pytest.mark.parametrize("grid", [(5, 7), (9, 8)])
def test_a_kernel_with_one_tap_shifts(rng, grid):
    x, _ = inputs(rng, grid, 3)
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[1, 2] = np.eye(3)  # reads the neighbour to the right
    expected = np.pad(x[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    np.testing.assert_allclose(convolve(jnp.asarray(x), jnp.asarray(kernel)), expected, atol=1e-6)


@pytest.mark.parametrize("grid", [(3, 4), (9, 8)])
def test_jit_batch_and_gradients(x64, rng, grid):
    x, kernel = (jnp.asarray(array, jnp.float64) for array in inputs(rng, grid, 3))
    out = convolve(x, kernel)
    np.testing.assert_allclose(jax.jit(convolve)(x, kernel), out, atol=1e-12)
    np.testing.assert_allclose(convolve(x[1:], kernel), out[1:], atol=1e-12)
    check_grads(jax.jit(convolve), (x, kernel), order=1, modes=("fwd", "rev"))


def test_both_forms_have_the_same_gradient(rng):
    """The same 8 x 8 cells alone, and with a row of zeros below, which takes the other form."""
    x, kernel = map(jnp.asarray, inputs(rng, (8, 8), 3))

    def loss(kernel, rows):
        padded = jnp.pad(x, ((0, 0), (0, rows), (0, 0), (0, 0)))
        return (convolve(padded, kernel)[:, :8] ** 2).sum()

    np.testing.assert_allclose(jax.grad(loss)(kernel, 0), jax.grad(loss)(kernel, 1), rtol=1e-4, atol=1e-3)
