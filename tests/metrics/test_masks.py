"""Label transfer against slow loops, by hand, by properties, and wrong input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtn_jax.metrics import intersection_over_union, label_accuracy, localization_error, transfer_mask
from tests import oracle_metrics as oracle

seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def random_mask(rng, shape):
    mask = rng.random(shape) < rng.uniform(0.1, 0.9)
    mask[tuple(rng.integers(shape))] = True
    return mask


def identity(shape):
    return np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1).astype(np.float64)


def random_mapping(rng, shape, tgt_shape):
    """Positions inside and up to two pixels outside; some on pixel centres, on borders, halfway, and not finite."""
    mapping = rng.uniform(-2, np.array(tgt_shape[::-1]) + 1, (*shape, 2))
    kind = rng.integers(0, 5, shape)
    mapping[kind == 0] = np.round(mapping[kind == 0])
    mapping[kind == 1] = np.round(2 * mapping[kind == 1]) / 2
    mapping[kind == 2, rng.integers(2)] = rng.choice([0, tgt_shape[1] - 1, np.nan, np.inf, -1e300])
    return mapping


# --- transfer


@settings(max_examples=100, deadline=None)
@given(seeds, shapes, shapes)
def test_transfer_equals_the_slow_loop(seed, shape, tgt_shape):
    rng = np.random.default_rng(seed)
    mask, mapping = random_mask(rng, tgt_shape), random_mapping(rng, shape, tgt_shape)
    got = transfer_mask(mask, mapping)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, oracle.transfer_mask(mask, mapping))


def test_transfer_by_hand():
    mask = np.array([[True, False, True], [True, False, False]])
    x = [0, 0.49, 0.5, 1.51, 2, 2.49, 2.5, -0.49, -0.5, np.nan]
    got = transfer_mask(mask, np.stack([x, np.zeros(10)], -1)[None])
    np.testing.assert_array_equal(got, [[True, True, False, True, True, True, False, True, False, False]])
    # Between the two rows: 0.75 of the left column, 0.25 of the right one's upper half.
    assert transfer_mask(mask, np.array([[[0.25, 0.5]]])).all()
    assert not transfer_mask(mask, np.array([[[2.0, 0.5]]])).any()


@settings(max_examples=50, deadline=None)
@given(seeds, shapes)
def test_transfer_through_the_identity_and_by_whole_pixels(seed, shape):
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, shape)
    np.testing.assert_array_equal(transfer_mask(mask, identity(shape)), mask)
    shift = rng.integers(-3, 4, 2)
    moved = transfer_mask(mask, identity(shape) + shift)
    framed = np.pad(mask, 3)
    rows, columns = np.arange(shape[0]) + 3 + shift[1], np.arange(shape[1]) + 3 + shift[0]
    np.testing.assert_array_equal(moved, framed[np.ix_(rows, columns)])


def test_transfer_far_outside_is_background():
    mapping = np.array([[[1e300, 0], [-1e300, 0], [0, 1e30], [np.inf, np.nan], [0, -np.inf]]])
    assert not transfer_mask(np.ones((4, 4), bool), mapping).any()


# --- comparing masks


@settings(max_examples=100, deadline=None)
@given(seeds, shapes)
def test_accuracy_and_intersection_equal_the_slow_loops(seed, shape):
    rng = np.random.default_rng(seed)
    predicted, true = random_mask(rng, shape), random_mask(rng, shape)
    assert label_accuracy(predicted, true) == oracle.label_accuracy(predicted, true)
    assert intersection_over_union(predicted, true) == oracle.intersection_over_union(predicted, true)
    assert label_accuracy(true, true) == intersection_over_union(true, true) == 1
    assert intersection_over_union(predicted, true) == intersection_over_union(true, predicted)
    assert label_accuracy(~true, true) == intersection_over_union(~true, true) == 0
    order = rng.permutation(true.size)
    shuffled = [mask.reshape(1, -1)[:, order] for mask in (predicted, true)]
    assert label_accuracy(*shuffled) == label_accuracy(predicted, true)
    assert intersection_over_union(*shuffled) == intersection_over_union(predicted, true)


def test_accuracy_and_intersection_by_hand():
    predicted = np.array([[True, True, False, False, False]])
    true = np.array([[True, False, True, False, False]])
    assert label_accuracy(predicted, true) == 3 / 5
    assert intersection_over_union(predicted, true) == 1 / 3
    assert intersection_over_union(np.zeros_like(true), true) == 0
    assert label_accuracy(np.zeros_like(true), np.zeros_like(true)) == 1


# --- localisation


@settings(max_examples=100, deadline=None)
@given(seeds, shapes, shapes)
def test_localization_equals_the_slow_loop(seed, shape, tgt_shape):
    rng = np.random.default_rng(seed)
    src_mask, tgt_mask = random_mask(rng, shape), random_mask(rng, tgt_shape)
    mapping = random_mapping(rng, shape, tgt_shape)
    expected = oracle.localization_error(mapping, src_mask, tgt_mask)
    np.testing.assert_allclose(localization_error(mapping, src_mask, tgt_mask), expected, rtol=1e-12)


def test_localization_by_hand():
    # Source object: columns 1..2 of one row. Target object: columns 0..3. One pixel up and half a box to the right.
    src, tgt = np.array([[False, True, True, False]]), np.zeros((3, 6), bool)
    tgt[:2, :4] = True
    mapping = np.full((1, 4, 2), np.nan)
    mapping[0, 1] = 1.0, 1.0  # its own place is (1/2, 1), its partner's (2/4, 2/2): right
    assert localization_error(mapping, src, tgt) == 0
    mapping[0, 2] = 4.0, 0.5  # (1, 1) against (5/4, 1/2)
    assert localization_error(mapping, src, tgt) == (0 + 0.25 + 0.5) / 2
    mapping[0, 0] = 2.999, 2.0  # on the centres of the last row: not counted
    assert localization_error(mapping, src, tgt) == 0.375
    mapping[0, 0] = 2.999, 0.999  # truncated to (2, 0): (0, 1) against (3/4, 1/2); background counts like the object
    assert localization_error(mapping, src, tgt) == (0.75 + 1.25) / 3


@settings(max_examples=50, deadline=None)
@given(seeds, shapes, st.integers(1, 3))
def test_a_right_mapping_has_no_localization_error(seed, shape, factor):
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, shape)
    assert not localization_error(identity(shape), mask, mask) > 0  # NaN where the border is all there is
    # The last of the `factor` pixels a pixel was enlarged to is at the same place in its box.
    enlarged = np.repeat(np.repeat(mask, factor, 0), factor, 1)
    mapping = (identity(shape) + 1) * factor - 1
    assert not localization_error(mapping, mask, enlarged) > 1e-12
    # Two images moved alike: the same object elsewhere in a larger target.
    framed = np.pad(mask, ((2, 1), (1, 3)))
    np.testing.assert_allclose(localization_error(identity(shape) + np.array([1, 2]), mask, framed), 0, atol=1e-12)


def test_localization_without_a_pixel_that_counts_is_not_a_number():
    mask = np.ones((2, 2), bool)
    assert math.isnan(localization_error(np.full((2, 2, 2), np.nan), mask, mask))
    assert math.isnan(localization_error(np.full((2, 2, 2), -1e-9), mask, mask))


# --- wrong input

MASK, MAPPING, EMPTY = np.ones((2, 3), bool), np.zeros((2, 3, 2)), np.zeros((2, 3), bool)


@pytest.mark.parametrize(
    ("function", "arguments", "match"),
    [
        (transfer_mask, (MASK.astype(np.uint8), MAPPING), r"^tgt_mask: expected a Boolean \[H, W\].*got uint8"),
        (transfer_mask, (MASK[0], MAPPING), r"^tgt_mask: expected a Boolean .* shape \[3\]"),
        (transfer_mask, (MASK[:0], MAPPING), "^tgt_mask: expected .* at least one pixel"),
        (transfer_mask, (MASK, MAPPING[..., 0]), r"^mapping: expected \[H, W, 2\]"),
        (label_accuracy, (MASK, MASK[:1]), r"^predicted: expected the shape of true, \[1, 3\], got \[2, 3\]"),
        (label_accuracy, (MASK * 255, MASK), "^predicted: expected a Boolean"),
        (intersection_over_union, (MASK, MASK * 1.0), "^true: expected a Boolean"),
        (intersection_over_union, (MASK[:1], MASK), "^predicted: expected the shape of true"),
        (intersection_over_union, (EMPTY, EMPTY), "^true: expected a foreground pixel"),
        (
            localization_error,
            (MAPPING[:1], MASK, MASK),
            r"^mapping: expected the size of src_mask, \(2, 3\), got \(1, 3\)",
        ),
        (localization_error, (MAPPING, EMPTY, MASK), "^src_mask: expected a foreground pixel"),
        (localization_error, (MAPPING, MASK, EMPTY), "^tgt_mask: expected a foreground pixel"),
        (localization_error, (MAPPING, MASK, MASK * 1), "^tgt_mask: expected a Boolean"),
        (localization_error, (MASK, MASK, MASK), r"^mapping: expected \[H, W, 2\]"),
    ],
)
def test_refuses(unchecked, function, arguments, match):
    with pytest.raises(ValueError, match=match):
        function(*arguments)
