"""The window correlation against the slow loop, its peak at a shift, and the norms."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax.coordinates import window_offsets
from rtn_jax.correlation import l2_normalize, window_correlation
from tests import oracle

GRIDS = [(1, 1), (4, 4), (5, 7), (7, 2)]


def pair(rng, grid, channels=6, batch=2):
    return rng.standard_normal((2, batch, *grid, channels)).astype(np.float32)


@pytest.mark.parametrize("radius", [0, 1, 4])
@pytest.mark.parametrize("grid", GRIDS)
def test_volume_equals_the_slow_loop(rng, grid, radius):
    src, tgt = pair(rng, grid)
    expected = np.stack([oracle.window_correlation(s, t, radius) for s, t in zip(src, tgt, strict=True)])
    volume = window_correlation(jnp.asarray(src), jnp.asarray(tgt), radius=radius)
    np.testing.assert_allclose(volume, expected, atol=1e-5)


@pytest.mark.parametrize("shift", [(0, 0), (2, -1), (-3, 3)])
def test_a_shifted_copy_peaks_at_the_shift(rng, shift):
    dx, dy = shift
    features = l2_normalize(jnp.asarray(rng.standard_normal((1, 12, 12, 32)), jnp.float32))
    moved = jnp.roll(features, (dy, dx), axis=(1, 2))  # moved[y + dy, x + dx] == features[y, x]
    volume = window_correlation(features, moved, radius=3)[0, 4:8, 4:8]
    best = window_offsets(3)[np.asarray(volume.argmax(-1))]
    np.testing.assert_array_equal(best, np.broadcast_to(shift, (4, 4, 2)))
    np.testing.assert_allclose(volume.max(-1), 1, atol=1e-3)


def test_an_impulse_lands_in_one_channel():
    src = jnp.zeros((1, 5, 7, 1)).at[0, 2, 3].set(2)
    tgt = jnp.zeros((1, 5, 7, 1)).at[0, 1, 5].set(3)  # one up, two to the right
    expected = np.zeros((1, 5, 7, 25))
    expected[0, 2, 3, 1 * 5 + 4] = 6  # row dy = -1, column dx = 2
    np.testing.assert_array_equal(window_correlation(src, tgt, radius=2), expected)


def test_candidates_beyond_the_border_are_zero(rng):
    src, tgt = pair(rng, (4, 4))
    corner = np.asarray(window_correlation(jnp.asarray(src), jnp.asarray(tgt), radius=2))[:, 0, 0].reshape(2, 5, 5)
    np.testing.assert_array_equal(corner[:, :2], 0)
    np.testing.assert_array_equal(corner[:, :, :2], 0)
    assert (corner[:, 2:, 2:] != 0).all()


def test_volume_is_per_image_and_bilinear_in_the_features(rng):
    src, tgt = map(jnp.asarray, pair(rng, (5, 4)))
    volume = window_correlation(src, tgt, radius=2)
    np.testing.assert_allclose(window_correlation(src[1:], tgt[1:], radius=2), volume[1:], atol=1e-5)
    np.testing.assert_allclose(window_correlation(2 * src, -3 * tgt, radius=2), -6 * volume, rtol=1e-4, atol=1e-4)


def test_volume_jit_and_dtype(rng):
    src, tgt = map(jnp.asarray, pair(rng, (5, 4)))
    volume = window_correlation(src, tgt, radius=2)
    np.testing.assert_allclose(jax.jit(partial(window_correlation, radius=2))(src, tgt), volume, atol=1e-5)
    half = window_correlation(src.astype(jnp.bfloat16), tgt.astype(jnp.bfloat16), radius=2)
    assert half.dtype == jnp.float32  # sums over many channels would lose what distinguishes candidates
    np.testing.assert_allclose(half, volume, atol=0.15)


def test_volume_gradients(x64, rng):
    src, tgt = (jnp.asarray(x, jnp.float64) for x in pair(rng, (3, 4), channels=3, batch=1))
    check_grads(jax.jit(partial(window_correlation, radius=2)), (src, tgt), order=1, modes=("fwd", "rev"))


def test_norm_equals_the_slow_formula(rng):
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(l2_normalize(jnp.asarray(x)), oracle.l2_normalize(x), rtol=1e-5)
    np.testing.assert_allclose(l2_normalize(jnp.asarray(x), 0.5), oracle.l2_normalize(x, 0.5), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(l2_normalize)(x), oracle.l2_normalize(x), rtol=1e-5)


def test_norm_by_hand():
    np.testing.assert_allclose(l2_normalize(jnp.array([3.0, 4.0]), 0.0), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(l2_normalize(jnp.array([0.3, 0.4])), np.array([0.3, 0.4]) / np.sqrt(0.26), rtol=1e-6)


def test_norm_at_zero_is_zero_with_a_finite_gradient():
    np.testing.assert_array_equal(l2_normalize(jnp.zeros((2, 3))), 0)
    gradient = jax.grad(lambda x: l2_normalize(x).sum())(jnp.zeros(3))
    np.testing.assert_allclose(gradient, 10, rtol=1e-5)  # 1 / sqrt(0.01)


def test_norm_gradients(x64, rng):
    check_grads(jax.jit(l2_normalize), (jnp.asarray(rng.standard_normal((2, 3, 4))),), order=1, modes=("fwd", "rev"))


def test_norm_of_half_precision_sums_in_single():
    x = jnp.full((1, 4096), 1.0, jnp.bfloat16)  # a running bfloat16 sum would stop at 256
    normal = l2_normalize(x)
    assert normal.dtype == jnp.bfloat16
    np.testing.assert_allclose(normal.astype(jnp.float32), 1 / 64, rtol=0.01)


@pytest.mark.parametrize(
    ("src", "tgt", "radius", "match"),
    [
        ((4, 4, 3), (4, 4, 3), 1, r"^src, tgt: expected two arrays \[b, h, w, c\]"),
        ((1, 4, 4, 3), (1, 4, 5, 3), 1, r"got \(1, 4, 4, 3\) and \(1, 4, 5, 3\)"),
        ((1, 4, 4, 3), (1, 4, 4, 3), -1, r"^radius: expected at least 0, got -1"),
    ],
)
def test_volume_refuses(unchecked, src, tgt, radius, match):
    with pytest.raises(ValueError, match=match):
        window_correlation(jnp.zeros(src), jnp.zeros(tgt), radius=radius)
