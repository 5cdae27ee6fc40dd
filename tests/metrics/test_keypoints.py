"""PCK against slow loops, figures worked out by hand, properties, and wrong input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtn_jax.metrics import correct_points, pck, pck_length, pck_name, point_errors
from tests import oracle_metrics as oracle


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
        expected = [oracle.pck(predicted.tolist(), true.tolist(), length, alpha) for alpha in alphas]
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


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_errors_and_correct_points_are_what_pck_is_made_of(seed):
    rng = np.random.default_rng(seed)
    predicted, true = random_pair(rng)
    missing = rng.random(len(true)) < 0.2
    predicted[missing, rng.integers(2)] = rng.choice([np.nan, np.inf, -np.inf])
    errors = point_errors(predicted, true)
    answered = ~missing
    np.testing.assert_allclose(errors[answered], oracle.point_errors(predicted[answered], true[answered]), rtol=1e-12)
    assert (errors[missing] == np.inf).all()
    curve = correct_points(predicted, true, threshold_length=200.0, alpha=(0.05, 0.1, 0.2))
    np.testing.assert_array_equal(curve, [errors <= 10, errors <= 20, errors <= 40])
    np.testing.assert_array_equal(
        curve.mean(axis=1), pck(predicted, true, threshold_length=200.0, alpha=[0.05, 0.1, 0.2])
    )
    np.testing.assert_array_equal(correct_points(predicted, true, threshold_length=200.0, alpha=0.1), curve[1])


def test_the_error_of_any_number_is_a_number():
    np.testing.assert_array_equal(
        point_errors([[3, 4], [np.nan, 4], [1e308, -1e308], [0, -np.inf]], [[0, 0], [0, 0], [-1e308, 1e308], [0, 0]]),
        [5, np.inf, np.inf, np.inf],
    )


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
        ({"threshold_length": [3.0, 4.0]}, "threshold_length: expected one number"),
        ({"alpha": 0.0}, "alpha: expected positive finite"),
        ({"alpha": (0.1, np.inf)}, "alpha: expected positive finite"),
        ({"alpha": ()}, "alpha: expected a number or a sequence"),
    ],
)
def test_pck_refuses(unchecked, change, match):
    arguments = {"predicted": np.zeros((2, 2)), "true": np.ones((2, 2)), "threshold_length": 10.0, "alpha": 0.1}
    arguments.update(change)
    with pytest.raises(ValueError, match=match):
        pck(arguments["predicted"], arguments["true"], **{k: arguments[k] for k in ("threshold_length", "alpha")})
    if {"predicted", "true"} & set(change):
        with pytest.raises(ValueError, match=match):
            point_errors(arguments["predicted"], arguments["true"])


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
    assert pck_name(0.1, "bbox", detail="per point") == "PCK@0.10 (bbox, per point)"
    assert pck_name(0.1, "img", detail="leak-free") == "PCK@0.10 (img, leak-free)"
    with pytest.raises(ValueError, match="kind: expected one of"):
        pck_name(0.1, "box")
