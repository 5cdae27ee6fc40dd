"""PCK against a slow loop, figures worked out by hand, properties, and wrong input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtn_jax.metrics import bootstrap_interval, pck, pck_length, pck_name, summarize


def slow_pck(predicted, true, length, alpha):
    """One keypoint at a time, in plain Python."""
    correct = 0
    for (px, py), (x, y) in zip(predicted, true, strict=True):
        if math.sqrt((px - x) ** 2 + (py - y) ** 2) <= alpha * length:
            correct += 1
    return correct / len(true)


def random_pair(rng, n=None):
    n = n or int(rng.integers(1, 30))
    true = rng.uniform(0, 300, (n, 2))
    return true + rng.normal(0, 20, (n, 2)), true


# --- pck


def test_pck_equals_the_slow_loop():
    rng = np.random.default_rng(0)
    for _ in range(200):
        predicted, true = random_pair(rng)
        length, alphas = rng.uniform(20, 400), sorted(rng.uniform(0.01, 0.3, 4))
        expected = [slow_pck(predicted.tolist(), true.tolist(), length, alpha) for alpha in alphas]
        np.testing.assert_array_equal(pck(predicted, true, threshold_length=length, alpha=alphas), expected)


def test_pck_by_hand():
    true = [[0, 0], [10, 10], [50, 20], [7, 3]]
    predicted = [[3, 4], [10, 10], [50, 30], [7, 3.5]]  # 5, 0, 10 and 0.5 pixels away
    assert pck(predicted, true, threshold_length=100.0, alpha=0.05) == 0.75
    assert pck(predicted, true, threshold_length=100.0, alpha=0.04) == 0.5
    np.testing.assert_array_equal(
        pck(predicted, true, threshold_length=100.0, alpha=(0.001, 0.05, 0.1)), np.array([0.25, 0.75, 1.0])
    )


def test_pck_counts_a_point_on_the_threshold_and_none_beyond():
    assert pck([[3.0, 4.0]], [[0.0, 0.0]], threshold_length=10.0, alpha=0.5) == 1
    assert pck([[3.0, np.nextafter(4.0, 5.0)]], [[0.0, 0.0]], threshold_length=10.0, alpha=0.5) == 0


def test_pck_of_one_alpha_is_a_float_and_of_several_an_array():
    assert isinstance(pck([[0, 0]], [[0, 0]], threshold_length=1.0, alpha=0.1), float)
    assert pck([[0, 0]], [[0, 0]], threshold_length=1.0, alpha=[0.1]).shape == (1,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_prediction_that_is_not_finite_is_wrong_and_no_error(value):
    true = np.zeros((2, 2))
    np.testing.assert_array_equal(pck([[0, value], [0, 0]], true, threshold_length=9.0, alpha=[0.1, 9.0]), [0.5, 0.5])
    assert pck([[value, value], [value, 0]], true, threshold_length=9.0, alpha=1.0) == 0


def test_pck_takes_the_arrays_of_jax():
    import jax.numpy as jnp

    predicted = jnp.asarray([[1.0, 1.0], [9.0, 9.0]])
    assert pck(predicted, np.ones((2, 2)), threshold_length=10.0, alpha=0.1) == 0.5


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.25, 2.0, 8.0]))
def test_pck_properties(seed, scale):
    rng = np.random.default_rng(seed)
    predicted, true = random_pair(rng)
    alphas = np.linspace(0.02, 0.5, 9).tolist()
    shares = pck(predicted, true, threshold_length=100.0, alpha=alphas)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (np.diff(shares) >= 0).all()  # grows with alpha
    order = rng.permutation(len(true))
    np.testing.assert_array_equal(pck(predicted[order], true[order], threshold_length=100.0, alpha=alphas), shares)
    # An enlargement by a power of two changes nothing, not even by rounding.
    enlarged = pck(predicted * scale, true * scale, threshold_length=100.0 * scale, alpha=alphas)
    np.testing.assert_array_equal(enlarged, shares)
    np.testing.assert_array_equal(pck(true, true, threshold_length=100.0, alpha=alphas), np.ones(9))
    np.testing.assert_array_equal(pck(predicted[:, ::-1], true[:, ::-1], threshold_length=100.0, alpha=alphas), shares)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"predicted": np.zeros((3, 2))}, r"predicted: expected the shape of true, \[2, 2\], got \[3, 2\]"),
        ({"predicted": np.zeros((2, 3))}, r"predicted: expected \[n, 2\]"),
        ({"predicted": [["a", "b"]] * 2}, "predicted: expected numbers"),
        ({"predicted": np.zeros((0, 2)), "true": np.zeros((0, 2))}, r"predicted: expected \[n, 2\].*n >= 1"),
        ({"true": np.zeros(2)}, r"true: expected \[n, 2\]"),
        ({"true": [[0, 0], [0, np.nan]]}, r"true: expected finite numbers, got nan at index \[1, 1\]"),
        ({"true": [[0, np.inf], [0, 0]]}, r"true: expected finite numbers, got inf at index \[0, 1\]"),
        ({"threshold_length": 0.0}, "threshold_length: expected a positive"),
        ({"threshold_length": -3.0}, "threshold_length: expected a positive"),
        ({"threshold_length": np.nan}, "threshold_length: expected a positive"),
        ({"alpha": 0.0}, "alpha: expected positive finite"),
        ({"alpha": (0.1, np.inf)}, "alpha: expected positive finite"),
        ({"alpha": ()}, "alpha: expected a number or a sequence"),
    ],
)
def test_pck_refuses(unchecked, change, match):
    arguments = {"predicted": np.zeros((2, 2)), "true": np.ones((2, 2)), "threshold_length": 10.0, "alpha": 0.1}
    arguments.update(change)
    with pytest.raises(ValueError, match=match):
        pck(arguments.pop("predicted"), arguments.pop("true"), **arguments)


# --- the length of the threshold


def test_length_by_hand():
    points = [[10, 5], [40, 25], [22, 7]]
    assert pck_length("bbox-kp", tgt_points=points) == 30
    assert pck_length("bbox-kp", tgt_points=np.asarray(points)[:, ::-1]) == 30
    assert pck_length("bbox", tgt_box=[10, 20, 60, 50]) == 50
    assert pck_length("bbox", tgt_box=[10, 20, 20, 95.5]) == 75.5
    assert pck_length("img", tgt_shape=(240, 320)) == 320
    assert pck_length("img", tgt_shape=(480, 320, 3)) == 480


def test_length_looks_only_at_what_its_kind_needs():
    everything = {"tgt_points": [[0, 0], [3, 4]], "tgt_shape": (10, 20), "tgt_box": (0, 0, 7, 5)}
    assert [pck_length(kind, **everything) for kind in ("img", "bbox", "bbox-kp")] == [20, 7, 4]
    assert pck_length("img", tgt_shape=(10, 20), tgt_points=[[np.nan, 0]]) == 20


def test_length_of_the_box_does_not_move_with_it():
    points = np.random.default_rng(1).uniform(0, 100, (10, 2))
    moved = pck_length("bbox-kp", tgt_points=points + np.array([1000, -500]))
    np.testing.assert_allclose(moved, pck_length("bbox-kp", tgt_points=points), rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "given", "match"),
    [
        ("image", {}, "kind: expected one of img, bbox, bbox-kp, got 'image'"),
        ("img", {"tgt_points": [[0, 0]]}, "tgt_shape: needed for the length of 'img'"),
        ("bbox", {"tgt_shape": (3, 4)}, "tgt_box: needed for the length of 'bbox'"),
        ("bbox-kp", {"tgt_box": (0, 0, 1, 1)}, "tgt_points: needed for the length of 'bbox-kp'"),
        ("img", {"tgt_shape": (0, 4)}, "tgt_shape: expected"),
        ("img", {"tgt_shape": (4,)}, "tgt_shape: expected"),
        ("bbox", {"tgt_box": (0, 0, 1)}, "tgt_box: expected"),
        ("bbox", {"tgt_box": (0, 0, np.nan, 1)}, "tgt_box: expected finite"),
        ("bbox", {"tgt_box": (5, 5, 2, 2)}, "the length of 'bbox' must be positive"),
        ("bbox-kp", {"tgt_points": [[3, 4]]}, "the length of 'bbox-kp' must be positive"),
        ("bbox-kp", {"tgt_points": [[3, 4], [np.nan, 1]]}, "tgt_points: expected finite"),
    ],
)
def test_length_refuses(unchecked, kind, given, match):
    with pytest.raises(ValueError, match=match):
        pck_length(kind, **given)


def test_name(unchecked):
    assert pck_name(0.1, "bbox-kp") == "PCK@0.10 (bbox-kp)"
    assert pck_name(0.05, "img") == "PCK@0.05 (img)"
    assert pck_name(0.125, "bbox") == "PCK@0.125 (bbox)"  # never rounded to another alpha
    with pytest.raises(ValueError, match="kind: expected one of"):
        pck_name(0.1, "box")


# --- many pairs


def test_every_pair_weighs_the_same_however_many_points_it_has():
    one = pck([[0, 0]], [[0, 0]], threshold_length=1.0, alpha=[0.1])
    nine = pck(np.ones((9, 2)), np.zeros((9, 2)), threshold_length=1.0, alpha=[0.1])
    np.testing.assert_array_equal(summarize([one, nine]), [0.5])


def test_summary_by_hand():
    np.testing.assert_allclose(summarize([[0, 0.5, 1], [0.5, 0.5, 1], [0.25, 0.8, 1]]), [0.25, 0.6, 1], rtol=1e-15)


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros(3), [[0.5], [np.nan]], [["x"]]])
def test_summary_refuses(unchecked, values):
    with pytest.raises(ValueError, match="per_pair: expected"):
        summarize(values)


def test_interval_of_equal_values_is_that_value():
    np.testing.assert_array_equal(bootstrap_interval(np.full(7, 0.5)), [0.5, 0.5])
    np.testing.assert_array_equal(bootstrap_interval(np.full((7, 3), 0.25)), np.full((2, 3), 0.25))


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(2).uniform(0, 1, 400)
    low, high = bootstrap_interval(values, samples=4000)
    half = 1.959964 * values.std() / np.sqrt(400)
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.1 * half)


def test_interval_against_all_draws():
    """Of three values there are 27 equally likely draws; the quantiles of their means are known without sampling."""
    values = np.array([0.0, 0.3, 1.0])
    means = [(a + b + c) / 3 for a in values for b in values for c in values]
    exact = np.quantile(means, [0.1, 0.9])
    np.testing.assert_allclose(bootstrap_interval(values, confidence=0.8, samples=20000), exact, atol=1e-9)


def test_interval_is_nested_repeatable_and_draws_whole_rows():
    values = np.random.default_rng(3).uniform(0, 1, (60, 2))
    wide, narrow = bootstrap_interval(values, confidence=0.99), bootstrap_interval(values, confidence=0.5)
    assert (wide[0] < narrow[0]).all()
    assert (narrow[0] < values.mean(axis=0)).all()
    assert (values.mean(axis=0) < narrow[1]).all()
    assert (narrow[1] < wide[1]).all()
    np.testing.assert_array_equal(bootstrap_interval(values), bootstrap_interval(values))
    assert (bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)).any()
    # A column and its complement sum to one in every draw only if both are drawn together.
    low, high = bootstrap_interval(np.stack([values[:, 0], 1 - values[:, 0]], axis=1))
    np.testing.assert_allclose(low, 1 - high[::-1], atol=1e-12)


@pytest.mark.parametrize(
    ("values", "options", "match"),
    [
        ([], {}, "values: expected"),
        (np.zeros((2, 2, 2)), {}, "values: expected"),
        ([0.1, np.nan], {}, "values: expected finite"),
        ([0.1], {"confidence": 1.0}, "confidence: expected"),
        ([0.1], {"confidence": 0.0}, "confidence: expected"),
        ([0.1], {"samples": 0}, "samples: expected"),
    ],
)
def test_interval_refuses(unchecked, values, options, match):
    with pytest.raises(ValueError, match=match):
        bootstrap_interval(values, **options)
