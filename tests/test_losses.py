"""Losses against slow loops and by hand, their limits and gradients."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax.losses import synthetic_loss, weak_loss

# --- weak_loss


@pytest.fixture
def volume(rng):
    return rng.uniform(-1, 1, (2, 3, 4, 9)).astype(np.float32)


@pytest.fixture
def mask(rng):
    return (rng.uniform(size=(2, 3, 4)) < 0.5).astype(np.float32)


def slow_weak(volume, mask, temperature, reduction):
    total = 0.0
    for cell in np.ndindex(mask.shape):
        exponentials = [math.exp(temperature * c) for c in volume[cell].tolist()]
        share = mask[cell] if reduction == "sum" else mask[cell] / mask[cell[0]].sum()
        total -= share * math.log(exponentials[len(exponentials) // 2] / sum(exponentials))
    return total / len(volume)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_weak_equals_the_slow_loop(volume, mask, temperature, reduction):
    got = weak_loss(jnp.asarray(volume), jnp.asarray(mask), temperature=temperature, reduction=reduction)
    np.testing.assert_allclose(got, slow_weak(volume, mask, temperature, reduction), rtol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weak_is_the_mean_of_the_parts_of_a_batch(volume, mask, reduction):
    """However the batch is split over devices, and however much their masks differ."""
    mask = mask.copy()
    mask[0], mask[0, 0, 0] = 0, 1
    whole = weak_loss(jnp.asarray(volume), jnp.asarray(mask), reduction=reduction)
    parts = [
        weak_loss(jnp.asarray(volume[i : i + 1]), jnp.asarray(mask[i : i + 1]), reduction=reduction) for i in (0, 1)
    ]
    np.testing.assert_allclose(whole, np.mean(parts), rtol=1e-6)
    assert abs(parts[0] - parts[1]) > 1e-3


def test_weak_without_a_mask_takes_every_cell(volume):
    expected = slow_weak(volume, np.ones((2, 3, 4)), 1.0, "mean")
    np.testing.assert_allclose(weak_loss(jnp.asarray(volume)), expected, rtol=1e-5)


def test_weak_of_an_undecided_volume_is_the_log_of_the_candidates():
    np.testing.assert_allclose(weak_loss(jnp.full((1, 2, 2, 81), 0.3)), math.log(81), rtol=1e-6)


def test_weak_rewards_the_centre_alone():
    sure = jnp.zeros((1, 2, 2, 9)).at[..., 4].set(1)
    wrong = jnp.zeros((1, 2, 2, 9)).at[..., 3].set(1)
    assert weak_loss(sure, temperature=50.0) < 1e-6
    np.testing.assert_allclose(weak_loss(wrong, temperature=50.0), 50, rtol=1e-6)


def test_weak_with_an_empty_mask_is_zero(volume):
    for reduction in ("mean", "sum"):
        value, gradient = jax.value_and_grad(weak_loss)(jnp.asarray(volume), jnp.zeros((2, 3, 4)), reduction=reduction)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_weak_gradients_and_jit(x64, volume, mask):
    volume, mask = jnp.asarray(volume, jnp.float64), jnp.asarray(mask, jnp.float64)
    loss = jax.jit(partial(weak_loss, temperature=5.0))
    np.testing.assert_allclose(loss(volume, mask), weak_loss(volume, mask, temperature=5.0), rtol=1e-12)
    check_grads(lambda v: loss(v, mask), (volume,), order=1, modes=("fwd", "rev"))


def test_weak_of_half_precision_is_computed_in_single(volume):
    assert weak_loss(jnp.asarray(volume, jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("shape", "mask_shape", "reduction", "match"),
    [
        ((3, 4, 9), (3, 4), "mean", r"^correlation: expected \[b, h, w, m\] .* got shape \(3, 4, 9\)"),
        ((1, 3, 4, 8), (1, 3, 4), "mean", r"^correlation: .* \(m odd\), got shape \(1, 3, 4, 8\)"),
        ((1, 3, 4, 9), (1, 4, 3), "mean", r"^mask: expected \(1, 3, 4\), got \(1, 4, 3\)"),
        ((1, 3, 4, 9), (1, 3, 4), "max", r"^reduction: expected 'mean' or 'sum', got 'max'"),
    ],
)
def test_weak_refuses(unchecked, shape, mask_shape, reduction, match):
    with pytest.raises(ValueError, match=match):
        weak_loss(jnp.zeros(shape), jnp.ones(mask_shape), reduction=reduction)


# --- synthetic_loss


@pytest.fixture
def levels(rng):
    """Two levels with two and three iterations: (history, truth, valid)."""
    grids, iterations = [(2, 3), (4, 6)], [2, 3]
    history = [rng.standard_normal((k, 2, *grid, 2, 3)) for grid, k in zip(grids, iterations, strict=True)]
    truth = [rng.standard_normal((2, *grid, 2, 3)) for grid in grids]
    valid = [rng.uniform(size=(2, *grid)) < 0.7 for grid in grids]
    return jax.tree.map(jnp.asarray, (history, truth, valid))


def slow_synthetic(history, truth, valid, decay, matrix_weight):
    errors = []
    for fields, true, inside in zip(history, truth, valid, strict=True):
        for field in np.asarray(fields, np.float64):
            cells = []
            for cell in zip(*np.nonzero(np.asarray(inside)), strict=True):
                difference = np.abs(field[cell] - np.asarray(true)[cell])
                cells.append(difference[:, 2].mean() + matrix_weight * difference[:, :2].mean())
            errors.append(sum(cells) / len(cells))
    importance = [decay ** (len(errors) - 1 - k) for k in range(len(errors))]
    return sum(i * e for i, e in zip(importance, errors, strict=True)) / sum(importance)


@pytest.mark.parametrize(("decay", "matrix_weight"), [(0.8, 0.0), (0.5, 0.25), (1.0, 1.0)])
def test_synthetic_equals_the_slow_loop(levels, decay, matrix_weight):
    got = synthetic_loss(*levels, decay=decay, matrix_weight=matrix_weight)
    np.testing.assert_allclose(got, slow_synthetic(*levels, decay, matrix_weight), rtol=1e-5)


def test_synthetic_without_decay_sees_the_last_field_alone(levels):
    history, truth, valid = levels
    last = synthetic_loss([history[1][-1:]], truth[1:], valid[1:], decay=0.7)
    np.testing.assert_allclose(synthetic_loss(history, truth, valid, decay=0.0), last, rtol=1e-6)


def test_synthetic_by_hand():
    """Translations off by 0.2 in x and 0.4 in y, matrices off by 0.1."""
    truth = jnp.zeros((1, 2, 2, 2, 3))
    history = truth + jnp.array([[0.1, 0.1, 0.2], [0.1, 0.1, 0.4]])
    valid = jnp.ones((1, 2, 2), bool)
    np.testing.assert_allclose(synthetic_loss([history[None]], [truth], [valid]), 0.3, rtol=1e-6)
    np.testing.assert_allclose(synthetic_loss([history[None]], [truth], [valid], matrix_weight=0.5), 0.35, rtol=1e-6)


def test_synthetic_of_the_truth_is_zero(levels):
    _, truth, valid = levels
    history = [jnp.stack([true, true]) for true in truth]
    assert synthetic_loss(history, truth, valid, matrix_weight=1.0) == 0


def test_synthetic_ignores_what_lies_outside(levels):
    history, truth, valid = levels
    spoiled = [
        jnp.where(inside[None, ..., None, None], field, 1e3) for field, inside in zip(history, valid, strict=True)
    ]
    np.testing.assert_allclose(synthetic_loss(spoiled, truth, valid), synthetic_loss(history, truth, valid), rtol=1e-6)
    nothing = [jnp.zeros_like(inside) for inside in valid]
    assert synthetic_loss(history, truth, nothing) == 0


def test_synthetic_gradients_and_jit(x64, levels):
    history, truth, valid = levels
    history = jax.tree.map(lambda x: x.astype(jnp.float64), history)
    loss = jax.jit(partial(synthetic_loss, truth=truth, valid=valid, matrix_weight=0.3))
    np.testing.assert_allclose(loss(history), synthetic_loss(history, truth, valid, matrix_weight=0.3), rtol=1e-6)
    check_grads(loss, (history,), order=1, modes=("fwd", "rev"), eps=1e-7, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h, t, v: (h[:1], t, v), r"^history, truth, valid: expected one entry per level, got 1, 2, 2"),
        (lambda h, t, v: (h, t[::-1], v), r"^truth, valid: expected \(2, 2, 3, 2, 3\) and \(2, 2, 3\), got "),
        (lambda h, t, v: (h, t, v[::-1]), r"^truth, valid: .* and \(2, 4, 6\)"),
    ],
)
def test_synthetic_refuses(unchecked, levels, change, match):
    with pytest.raises(ValueError, match=match):
        synthetic_loss(*change(*levels))
