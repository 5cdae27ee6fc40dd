"""Endpoint errors, TSS's accuracy and rescaling against slow loops, by hand, by properties and on TSS itself."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtn_jax.metrics import endpoint_error, flow_accuracy, rescale_flow
from tests import oracle_metrics as oracle

seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
UNKNOWN = (np.nan, np.inf, -np.inf, 1e9, 1e10, -2e9)


def random_flow(rng, shape, missing=0.2, spread=10.0):
    """Some vectors carry a mark of the unknown, in one component or both."""
    flow = rng.normal(0, spread, (*shape, 2))
    for mark in UNKNOWN:
        places = rng.random((*shape, 2)) < missing / 2 / len(UNKNOWN)
        flow[places] = mark
    return flow


# --- errors and accuracy


@settings(max_examples=60, deadline=None)
@given(seeds, shapes, st.tuples(st.integers(1, 500), st.integers(1, 500)))
def test_errors_and_accuracy_equal_the_slow_loops(seed, shape, tgt_shape):
    rng = np.random.default_rng(seed)
    true, predicted = random_flow(rng, shape), random_flow(rng, shape)
    true[0, 0] = 1, 2
    error = endpoint_error(predicted, true)
    np.testing.assert_allclose(error, oracle.endpoint_error(predicted, true), rtol=1e-12)
    accuracy = flow_accuracy(predicted, true, tgt_shape=tgt_shape, threshold=5.0)
    np.testing.assert_allclose(accuracy, oracle.flow_accuracy(predicted, true, tgt_shape, 5.0), rtol=1e-12)


def test_accuracy_by_hand():
    # Four known pixels; the flow points into an image of 40 x 200, so 5 of 100 pixels are 10 of its own.
    true = np.zeros((1, 6, 2))
    true[0, 4:] = 1e10, np.nan
    predicted = np.array([[[10, 0], [6, 8.001], [0, 0], [-6, -8], [0, 0], [0, 0]]], np.float32)
    assert flow_accuracy(predicted, true, tgt_shape=(40, 200)) == 0.75
    assert flow_accuracy(predicted, true, tgt_shape=(40, 200, 3), threshold=4.9) == 0.25
    assert flow_accuracy(predicted, true, tgt_shape=(200, 199), threshold=5.1) == 1
    assert flow_accuracy(predicted, true, tgt_shape=(40, 100)) == 0.25
    np.testing.assert_allclose(endpoint_error(predicted, true)[0], [10, np.hypot(6, 8.001), 0, 10, np.nan, np.nan])


@pytest.mark.parametrize("longer", [60, 300, 333, 640, 641])
def test_an_error_on_the_threshold_is_right_and_any_beyond_is_wrong(longer):
    limit = 5 * longer / 100
    true, predicted = np.zeros((1, 1, 2)), np.array([[[0, limit]]])
    assert flow_accuracy(predicted, true, tgt_shape=(longer, 1)) == 1
    assert flow_accuracy(np.nextafter(predicted, 1e3), true, tgt_shape=(longer, 1)) == 0


@pytest.mark.parametrize("mark", UNKNOWN)
def test_a_prediction_that_is_missing_is_wrong_where_the_truth_is_known(mark):
    true = np.zeros((1, 3, 2))
    true[0, 2] = 1e10
    predicted = np.zeros((1, 3, 2))
    predicted[0, 1:, 1] = mark
    assert flow_accuracy(predicted, true, tgt_shape=(9, 9), threshold=1e6) == 0.5
    np.testing.assert_array_equal(endpoint_error(predicted, true), [[0, np.inf, np.nan]])


@settings(max_examples=50, deadline=None)
@given(seeds, shapes, st.sampled_from([0.25, 2.0, 8.0]))
def test_accuracy_properties(seed, shape, scale):
    rng = np.random.default_rng(seed)
    true, predicted = random_flow(rng, shape), random_flow(rng, shape)
    true[0, 0] = predicted[0, 0] = 0
    tgt_shape = (8 * int(rng.integers(1, 30)), 8)
    share = flow_accuracy(predicted, true, tgt_shape=tgt_shape)
    assert 0 < share <= 1
    assert flow_accuracy(true, true, tgt_shape=tgt_shape) == 1
    assert share <= flow_accuracy(predicted, true, tgt_shape=tgt_shape, threshold=7.5)
    # Which pixel is where does not matter, nor does the unit: an enlargement by a power of two is exact.
    order = rng.permutation(shape[0] * shape[1])
    moved = [flow.reshape(-1, 1, 2)[order] for flow in (predicted, true)]
    assert flow_accuracy(*moved, tgt_shape=tgt_shape) == share
    flipped = [flow * np.array([-1, 1]) for flow in (predicted, true)]
    assert flow_accuracy(*flipped, tgt_shape=tgt_shape) == share
    enlarged = tuple(int(side * scale) for side in tgt_shape)
    larger = [np.where(np.abs(flow) < 1e9, flow * scale, np.nan) for flow in (predicted, true)]
    assert flow_accuracy(*larger, tgt_shape=enlarged) == share


def test_arrays_of_jax_and_lists():
    import jax.numpy as jnp

    assert flow_accuracy(jnp.zeros((2, 2, 2)), np.ones((2, 2, 2)), tgt_shape=(100, 9)) == 1
    assert endpoint_error([[[3, 4]]], [[[0, 0]]]) == 5
    assert rescale_flow(jnp.ones((1, 1, 2)), (2, 2)).dtype == np.float64


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"predicted": np.zeros((2, 3, 2))}, r"^predicted: expected the shape of true, \[2, 2, 2\], got \[2, 3, 2\]"),
        ({"predicted": np.zeros((2, 2, 3))}, r"^predicted: expected \[H, W, 2\]"),
        ({"true": np.zeros((2, 2))}, r"^true: expected \[H, W, 2\]"),
        ({"true": np.zeros((0, 2, 2))}, r"^true: expected \[H, W, 2\] with at least one pixel"),
        ({"true": "flow"}, "^true: expected numbers, got str"),
        ({"true": np.full((2, 2, 2), 1e10)}, "^true: expected a flow that is known"),
        ({"true": np.full((2, 2, 2), np.nan)}, "^true: expected a flow that is known"),
        ({"tgt_shape": (0, 3)}, r"^tgt_shape: expected \(H, W\)"),
        ({"tgt_shape": (3,)}, r"^tgt_shape: expected \(H, W\)"),
        ({"threshold": 0.0}, "^threshold: expected a positive finite"),
        ({"threshold": np.nan}, "^threshold: expected a positive finite"),
        ({"threshold": [1.0, 2.0]}, "^threshold: expected one number"),
    ],
)
def test_accuracy_refuses(unchecked, change, match):
    given = {"predicted": np.zeros((2, 2, 2)), "true": np.zeros((2, 2, 2)), "tgt_shape": (4, 4), "threshold": 5.0}
    given |= change
    with pytest.raises(ValueError, match=match):
        flow_accuracy(given.pop("predicted"), given.pop("true"), **given)


# --- rescaling


@settings(max_examples=100, deadline=None)
@given(seeds, shapes, st.tuples(st.integers(1, 20), st.integers(1, 20)), st.sampled_from([0.0, 0.1, 0.5]))
def test_rescaling_equals_the_slow_loop(seed, shape, new, missing):
    flow = random_flow(np.random.default_rng(seed), shape, missing)
    np.testing.assert_allclose(rescale_flow(flow, new), oracle.rescale_flow(flow, new), atol=1e-7)


def test_rescaling_by_hand():
    # Twice as wide: samples at -0.25, 0.25, 0.75, 1.25 of two columns, x components doubled, y components kept.
    wide = rescale_flow([[[0, 5], [4, 7]]], (1, 4))
    np.testing.assert_allclose(wide[0], [[0, 5], [2, 5.5], [6, 6.5], [8, 7]])
    # Half as high: between the rows, y components halved.
    np.testing.assert_allclose(rescale_flow([[[1, 2]], [[3, 6]]], (1, 1)), [[[2, 2]]])


@settings(max_examples=50, deadline=None)
@given(seeds, shapes)
def test_the_same_size_changes_nothing_but_the_marks(seed, shape):
    flow = random_flow(np.random.default_rng(seed), shape)
    known = (np.abs(flow) < 1e9).all(-1)
    same = rescale_flow(flow, shape)
    np.testing.assert_array_equal(same[known], flow[known])
    assert np.isnan(same[~known]).all()


@settings(max_examples=50, deadline=None)
@given(seeds, st.tuples(st.integers(4, 12), st.integers(4, 12)), st.tuples(st.integers(4, 24), st.integers(4, 24)))
def test_an_affine_flow_sampled_coarsely_is_recovered_between_the_samples(seed, small, large):
    """Half-pixel positions on both sides: only then do the two samplings of one flow agree."""
    rng = np.random.default_rng(seed)
    matrix, shift = rng.normal(0, 0.3, (2, 2)), rng.normal(0, 5, 2)
    ratio = np.array([large[1] / small[1], large[0] / small[0]])

    def grid(shape):
        return np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1)

    coarse = (((grid(small) + 0.5) * ratio - 0.5) @ matrix.T + shift) / ratio
    expected = grid(large) @ matrix.T + shift
    inside = (np.abs((grid(large) + 0.5) / ratio - np.array(small[::-1]) / 2) <= np.array(small[::-1]) / 2 - 0.5).all(
        -1
    )
    assert inside.any()
    np.testing.assert_allclose(rescale_flow(coarse, large)[inside], expected[inside], atol=1e-9)
    accuracy = flow_accuracy(
        rescale_flow(coarse, large), np.where(inside[..., None], expected, np.nan), tgt_shape=large, threshold=1e-6
    )
    assert accuracy == 1


def test_pixels_next_to_unknown_ones_stay_unknown_and_no_others():
    flow = np.ones((3, 3, 2))
    flow[1, 1, 0] = 1e10
    known = ~np.isnan(rescale_flow(flow, (6, 6))).any(-1)
    expected = np.zeros((6, 6), bool)
    expected[[0, 5]] = expected[:, [0, 5]] = True  # the border samples lie beyond the outermost centres
    np.testing.assert_array_equal(known, expected)
    # Three times as large: every third sample lies exactly on one of the given ones, and those are all known but one.
    exact = ~np.isnan(rescale_flow(flow, (9, 9))).any(-1)[1::3, 1::3]
    np.testing.assert_array_equal(exact, [[True, True, True], [True, False, True], [True, True, True]])


@pytest.mark.parametrize(("old", "new"), [(7, 9), (9, 21), (11, 25), (13, 15), (46, 10), (45, 35)])
def test_rounding_lets_no_unknown_neighbour_in(old, new):
    """Wherever a sample falls exactly on a given one, that one alone decides."""
    at = [divmod((2 * i + 1) * old - new, 2 * new) for i in range(new)]  # the given sample, and what lies beyond it
    on_sample = [i for i, (_, beyond) in enumerate(at) if beyond == 0]
    assert on_sample
    for unknown in range(old):
        flow = np.ones((1, old, 2))
        flow[0, unknown] = np.nan
        got = np.isnan(rescale_flow(flow, (1, new)))[0, on_sample, 0]
        np.testing.assert_array_equal(got, [at[i][0] == unknown for i in on_sample])


@pytest.mark.parametrize(
    ("flow", "shape", "match"),
    [
        (np.zeros((2, 2)), (4, 4), r"^flow: expected \[H, W, 2\]"),
        (np.zeros((2, 0, 2)), (4, 4), r"^flow: expected \[H, W, 2\] with at least one pixel"),
        (np.zeros((2, 2, 2)), (4, 0), r"^shape: expected \(H, W\)"),
        (np.zeros((2, 2, 2)), (4,), r"^shape: expected \(H, W\)"),
    ],
)
def test_rescaling_refuses(unchecked, flow, shape, match):
    with pytest.raises(ValueError, match=match):
        rescale_flow(flow, shape)


# --- the real thing


def read_flo(path):
    raw = path.read_bytes()
    magic, width, height = struct.unpack("<fii", raw[:12])
    assert magic == 202021.25
    return np.frombuffer(raw[12:], "<f4").reshape(height, width, 2)


@pytest.mark.parametrize("pair", ["FG3DCar/001_021", "JODS/car_01_02", "PASCAL/bike_01_02"])
def test_truth_half_the_truth_and_nothing_on_tss(data_dir, pair):
    folder = data_dir / "TSS-sample" / "TSS_CVPR2016" / pair
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    true, backward = read_flo(folder / "flow1.flo"), read_flo(folder / "flow2.flo")
    tgt_shape = backward.shape[:2]
    assert 0.3 < (np.abs(true) < 1e9).all(-1).mean() < 0.5, "the object, not the image"
    assert flow_accuracy(true, true, tgt_shape=tgt_shape) == 1
    nothing = np.zeros_like(true)
    zero = flow_accuracy(nothing, true, tgt_shape=tgt_shape)
    np.testing.assert_allclose(zero, oracle.flow_accuracy(nothing, true, tgt_shape, 5.0), rtol=1e-12)
    back = rescale_flow(rescale_flow(true, (true.shape[0] // 2, true.shape[1] // 2)), true.shape[:2])
    assert zero < 0.2 < 0.94 < flow_accuracy(back, true, tgt_shape=tgt_shape) < 1  # the object's rim is lost
    answered = np.isfinite(back).all(-1, keepdims=True)
    assert flow_accuracy(back, np.where(answered, true, np.nan), tgt_shape=tgt_shape) > 0.999
    assert flow_accuracy(2 * back, true, tgt_shape=tgt_shape) < 0.2
