"""The loss of the features stage against a slow loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax.losses import correspondence_loss

TEMPERATURE = 3.0


@pytest.fixture
def pair(rng):
    """Two pairs of unit features that resemble each other in another order, and masks that leave cells out."""
    src = rng.standard_normal((2, 3, 4, 5))
    tgt = src[:, ::-1, ::-1] + 0.7 * rng.standard_normal(src.shape)
    masks = [(rng.random((2, 3, 4)) < 0.7).astype(float) for _ in range(2)]
    return [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (src, tgt)] + masks


def slow(src, tgt, src_mask, tgt_mask):
    values, shares = [], []
    for a, b, in_src, in_tgt in zip(src, tgt, src_mask, tgt_mask, strict=True):
        a, b = a[in_src > 0], b[in_tgt > 0]  # cells that count, in a row
        errors = []
        if len(a) and len(b):
            cosines = a @ b.T
            for i, row in enumerate(cosines):
                j = int(np.argmax(row))
                if int(np.argmax(cosines[:, j])) == i:
                    for candidates in (row, cosines[:, j]):
                        chance = np.exp(TEMPERATURE * row[j]) / np.exp(TEMPERATURE * candidates).sum()
                        errors.append(-np.log(chance))
        values.append(np.mean(errors) if errors else 0.0)
        shares.append(len(errors) / 2 / max(len(a), 1))
    return np.mean(values), np.mean(shares)


def given(*arrays, dtype=None):
    return [jnp.asarray(array, dtype) for array in arrays]


def test_equals_the_slow_loop(x64, pair):
    got = correspondence_loss(*given(*pair), temperature=TEMPERATURE)
    np.testing.assert_allclose(got, slow(*pair), rtol=1e-12)
    assert 0 < got[1] < 1, "some cells have a match, and some have none"
    np.testing.assert_allclose(jax.jit(correspondence_loss)(*given(*pair)), correspondence_loss(*given(*pair)))


def test_without_masks_every_cell_counts(x64, pair):
    ones = np.ones((2, 3, 4))
    got = correspondence_loss(*given(*pair[:2]), temperature=TEMPERATURE)
    np.testing.assert_allclose(got, slow(*pair[:2], ones, ones), rtol=1e-12)


def test_is_the_mean_of_the_parts_of_a_batch(x64, pair):
    parts = [correspondence_loss(*given(*(x[i : i + 1] for x in pair)))[0] for i in range(2)]
    np.testing.assert_allclose(correspondence_loss(*given(*pair))[0], np.mean(parts), rtol=1e-12)


@pytest.mark.parametrize("empty", [2, 3])
def test_a_pair_with_an_empty_mask_is_zero(x64, pair, empty):
    pair[empty][0] = 0
    np.testing.assert_allclose(correspondence_loss(*given(*pair), temperature=TEMPERATURE), slow(*pair), rtol=1e-12)
    gradient = jax.grad(lambda src: correspondence_loss(src, *given(*pair[1:]))[0])(jnp.asarray(pair[0]))
    np.testing.assert_array_equal(gradient[0], 0)
    assert bool(jnp.isfinite(gradient).all())


def test_gradients(x64, pair):
    masks = given(*pair[2:])

    def loss(src, tgt):
        return correspondence_loss(src, tgt, *masks, temperature=TEMPERATURE)[0]

    # So small a step that no nearest neighbour changes.
    check_grads(jax.jit(loss), given(*pair[:2]), order=1, modes=("rev",), eps=1e-6, atol=1e-6, rtol=1e-6)


def test_cells_outside_the_masks_change_nothing(pair):
    other = [x.copy() for x in pair]
    other[0][pair[2] == 0] *= -1
    other[1][pair[3] == 0] *= -1
    got, expected = (correspondence_loss(*given(*x, dtype=jnp.float32)) for x in (other, pair))
    np.testing.assert_array_equal(got[0], expected[0])


def test_features_that_tell_cells_apart_cost_less(pair):
    sharp = jnp.eye(12).reshape(1, 3, 4, 12)
    blurred = (sharp + 1) / jnp.linalg.norm(sharp + 1, axis=-1, keepdims=True)
    costs = [float(correspondence_loss(x, x, temperature=20.0)[0]) for x in (sharp, blurred)]
    assert costs[0] < 1e-3 < costs[1]


@pytest.mark.parametrize(
    ("position", "shape", "match"),
    [
        (0, (2, 3, 4), r"^src, tgt: expected .* of one shape, got \(2, 3, 4\) and \(2, 3, 4, 5\)"),
        (1, (2, 3, 4, 6), r"^src, tgt: .* \(2, 3, 4, 5\) and \(2, 3, 4, 6\)"),
        (2, (2, 3, 3), r"^src_mask: expected \(2, 3, 4\), got \(2, 3, 3\)"),
        (3, (1, 3, 4), r"^tgt_mask: expected \(2, 3, 4\), got \(1, 3, 4\)"),
    ],
)
def test_refuses(unchecked, pair, position, shape, match):
    pair[position] = np.ones(shape)
    with pytest.raises(ValueError, match=match):
        correspondence_loss(*given(*pair))
