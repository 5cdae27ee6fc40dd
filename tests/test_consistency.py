"""The way there and back against a slow loop, mappings that undo each other, and the gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.consistency import consistency_confidence, forward_backward_error, round_trip
from rtn_jax.coordinates import pixel_grid
from tests import oracle

SRC, TGT = (6, 9), (7, 5)

error_of = jax.jit(forward_backward_error)  # each operation by itself would be a program to compile


def mappings(rng, shape=SRC, other=TGT):
    """Both ways at random, somewhat beyond the other picture's edges."""
    there = rng.uniform(-1.5, np.asarray([other[1], other[0]]) + 0.5, (*shape, 2))
    return there, rng.uniform(-1.5, np.asarray([shape[1], shape[0]]) + 0.5, (*other, 2))


@pytest.mark.usefixtures("x64")
def test_is_what_a_slow_loop_computes(rng):
    there, back = mappings(rng)
    there[2, 3], there[4, 1, 0], back[3, 3] = np.nan, np.inf, np.nan
    expected = oracle.forward_backward_error(there, back)
    assert np.isinf(expected).sum() > 10 and np.isfinite(expected).sum() > 10
    np.testing.assert_allclose(error_of(jnp.asarray(there), jnp.asarray(back)), expected, rtol=1e-12)
    single = error_of(jnp.asarray(there, jnp.float32), jnp.asarray(back, jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)


def test_a_batch_and_jit_are_the_same(rng):
    pairs = [mappings(rng) for _ in range(3)]
    there, back = (jnp.asarray(np.stack(one), jnp.float32) for one in zip(*pairs, strict=True))
    together = error_of(there, back)
    assert together.shape == (3, *SRC)
    for i in range(3):
        np.testing.assert_allclose(together[i], error_of(there[i], back[i]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(forward_backward_error(there[0], back[0]), together[0], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_mappings_that_undo_each_other_agree():
    """An affine mapping is interpolated exactly, so what stays inside comes back to where it was."""
    matrix, offset = np.asarray([[0.8, -0.2], [0.1, 0.9]]), np.asarray([1.3, 0.4])
    there = pixel_grid((8, 10), np.float64) @ matrix.T + offset
    back = (pixel_grid((12, 12), np.float64) - offset) @ np.linalg.inv(matrix).T
    inside = ((there >= 0) & (there <= 11)).all(-1)
    error = np.asarray(error_of(jnp.asarray(there), jnp.asarray(back)))
    assert inside.sum() > 40
    assert error[inside].max() < 1e-12


@pytest.mark.usefixtures("x64")
def test_the_error_is_what_the_way_back_misses_by():
    identity = pixel_grid((6, 8), np.float64)
    trip = np.asarray(jax.jit(round_trip)(jnp.asarray(identity), jnp.asarray(identity + np.asarray([3.0, -4.0]))))
    np.testing.assert_allclose(trip, np.broadcast_to([3.0, -4.0], trip.shape))
    error = np.asarray(error_of(jnp.asarray(identity), jnp.asarray(identity + np.asarray([3.0, -4.0]))))
    np.testing.assert_allclose(error, 5)
    leaving = np.asarray(error_of(jnp.asarray(identity + np.asarray([2.6, 0.0])), jnp.asarray(identity)))
    np.testing.assert_array_equal(np.isinf(leaving), np.broadcast_to(np.arange(8) > 4, (6, 8)))  # 4 + 2.6 < 7.5


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences(rng):
    there, back = mappings(rng)
    there[0, 0] = 50  # leaves the target: a constant
    weights = jnp.asarray(rng.normal(size=SRC))

    def total(there, back):
        error = forward_backward_error(there, back)
        sure = consistency_confidence(error, tolerance=3.0)
        return jnp.sum(jnp.where(jnp.isfinite(error), weights * error, 0)) + jnp.sum(weights * sure)

    total = jax.jit(total)
    given = [jnp.asarray(there), jnp.asarray(back)]
    for argument, gradient in enumerate(map(np.asarray, jax.jit(jax.grad(total, (0, 1)))(*given))):
        assert np.isfinite(gradient).all()
        for _ in range(4):
            direction, step = rng.normal(size=gradient.shape), 1e-6
            ends = []
            for sign in (1, -1):
                moved = list(given)
                moved[argument] = given[argument] + sign * step * direction
                ends.append(float(total(*moved)))
            np.testing.assert_allclose((gradient * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-5)


def test_the_gradient_at_perfect_agreement_is_zero():
    identity = jnp.asarray(pixel_grid((4, 4)))
    gradient = jax.jit(jax.grad(lambda m: forward_backward_error(m, identity).sum()))(identity)
    np.testing.assert_array_equal(gradient, 0)


def test_confidence_is_a_half_at_the_tolerance():
    error = jnp.asarray([0.0, 2.0, 4.0, jnp.inf, jnp.nan])
    np.testing.assert_allclose(consistency_confidence(error, tolerance=2.0), [1, 0.5, 1 / 16, 0, 0], rtol=1e-6)
    given = np.asarray(error, np.float64)
    sure = consistency_confidence(given, tolerance=2.0)
    assert isinstance(sure, np.ndarray)
    np.testing.assert_allclose(sure, [1, 0.5, 1 / 16, 0, 0], rtol=1e-12)
    with pytest.raises(ValueError, match="tolerance: expected a length above 0, got 0"):
        consistency_confidence(error, tolerance=0)


@pytest.mark.parametrize("shapes", [((4, 5, 3), (4, 5, 2)), ((1, 4, 5, 2), (4, 5, 2)), ((2, 4, 5, 2), (3, 4, 5, 2))])
def test_wrong_shapes_are_refused(unchecked, shapes):
    with pytest.raises(ValueError, match=r"src_to_tgt, tgt_to_src: expected \[b, H, W, 2\]"):
        forward_backward_error(*(jnp.zeros(shape) for shape in shapes))
