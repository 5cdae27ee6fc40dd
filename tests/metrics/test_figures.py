"""A figure over many pairs, and its bootstrap interval, against slow loops and all possible draws."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtn_jax.metrics import Figure, pck
from tests import oracle_metrics as oracle


@st.composite
def figures(draw):
    """Correct keypoints, keypoints, and groups in any order that leave some pairs out."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.integers(0, 20, draw(st.integers(1, 30))).astype(np.float64)
    weights[0] = max(weights[0], 1)
    values = np.floor(rng.uniform(0, weights + 1 - 1e-9))
    cuts = np.sort(rng.integers(0, len(weights) + 1, draw(st.integers(0, 3))))
    groups = np.split(rng.permutation(len(weights)), cuts)
    return values, weights, tuple(group for group in groups if weights[group].any())


# --- the figure


def test_figure_by_hand():
    assert Figure("mean", np.array([0.5, 1.0, 0.0, 0.25])).percent == 43.75
    # 3 of 4 keypoints and 1 of 12: per point 4 of 16.
    assert Figure("per point", np.array([3.0, 1.0]), np.array([4.0, 12.0])).percent == 25
    # Groups weigh the same: (1/2 + (1 + 0 + 0 + 0)/4) / 2.
    groups = (np.array([0, 1]), np.array([2, 3, 4, 5]))
    assert Figure("groups", np.array([1.0, 0, 1, 0, 0, 0]), groups=groups).percent == 37.5
    assert Figure("some", np.array([0.0, 1.0, 0.5]), groups=(np.array([2, 0]),)).percent == 25


@settings(max_examples=100, deadline=None)
@given(figures())
def test_figure_equals_the_slow_loop(drawn):
    values, weights, groups = drawn
    figure = Figure("any", values, weights, groups)
    np.testing.assert_allclose(figure.percent, oracle.ratio(values, weights, groups), rtol=1e-12)
    assert figure.pairs == sum(int(weights[i] > 0) for group in groups for i in group)
    low, high = figure.interval(samples=20)
    assert 0 <= low <= high <= 100 + 1e-9
    # Neither the order of the groups nor that of the pairs within them matters.
    shuffled = tuple(np.random.default_rng(0).permutation(group) for group in groups[::-1])
    np.testing.assert_allclose(Figure("any", values, weights, shuffled).percent, figure.percent, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(figures())
def test_all_right_is_100_and_none_right_is_0(drawn):
    _, weights, groups = drawn
    for share, percent in ((1, 100), (0, 0)):
        figure = Figure("any", share * weights, weights, groups)
        np.testing.assert_allclose([figure.percent, *figure.interval(samples=10)], percent, rtol=1e-12)


def test_every_pair_weighs_the_same_however_many_points_it_has():
    one = pck([[0, 0]], [[0, 0]], threshold_length=1.0, alpha=0.1)
    nine = pck(np.ones((9, 2)), np.zeros((9, 2)), threshold_length=1.0, alpha=0.1)
    assert Figure("per image", np.array([one, nine])).percent == 50
    assert Figure("per point", np.array([1.0, 0.0]), np.array([1.0, 9.0])).percent == 10


def test_pairs_that_do_not_count_change_nothing():
    values, weights = np.array([1.0, 0.5, 2.0, 0.0]), np.array([1.0, 2.0, 3.0, 1.0])
    figure = Figure("few", values, weights)
    padded = Figure(
        "more", np.append(values, [0, 9, np.nan, np.nan]), np.append(weights, [0, 9, 9, 0]), (np.arange(5),)
    )
    assert (padded.percent, padded.pairs, padded.interval()) == (figure.percent, 4, figure.interval())


def test_figure_keeps_copies_that_cannot_be_written():
    values, group = np.array([0.0, 1.0]), np.array([0, 1])
    figure = Figure("kept", values, groups=(group,))
    values[:], group[:] = 1, 0
    assert figure.percent == 50
    for array in (figure.values, figure.weights, *figure.groups):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_figure_takes_lists(unchecked):
    assert Figure("list", [1, 0], [1, 3], ([0, 1],)).percent == 25


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"values": []}, r"^values: expected \[pairs\]"),
        ({"values": np.zeros((2, 2))}, r"^values: expected \[pairs\].*\[2, 2\]"),
        ({"values": ["a", "b"]}, "^values: expected numbers"),
        ({"values": [0.5, np.nan]}, r"^values of 'PCK': expected finite numbers, got nan at index \[1\]"),
        ({"weights": [1.0]}, "^weights: expected one for each of 2 pairs"),
        ({"weights": [1.0, np.inf]}, "^weights of 'PCK': expected finite"),
        ({"weights": [1.0, -1.0]}, "^weights of 'PCK': expected numbers >= 0, got -1"),
        ({"weights": [1.0, 0.0]}, "^weights of 'PCK': expected a value of 0"),
        ({"values": [0, 0], "weights": [0, 0]}, r"^groups\[0\] of 'PCK': expected a pair whose weight is not zero"),
        ({"groups": ()}, "^groups of 'PCK': expected a tuple of index arrays with at least one"),
        ({"groups": np.array([0, 1])}, "^groups of 'PCK': expected a tuple"),
        ({"groups": ([0], [])}, r"^groups\[1\] of 'PCK': expected indices of at least one pair"),
        ({"groups": ([[0]],)}, r"^groups\[0\] of 'PCK': expected indices"),
        ({"groups": ([True, False],)}, r"^groups\[0\] of 'PCK': expected whole numbers, got bool"),
        ({"groups": ([0, 2],)}, r"^groups\[0\] of 'PCK': expected indices in 0..1, got 0..2"),
        ({"groups": ([0, -1],)}, r"^groups\[0\] of 'PCK': expected indices in 0..1, got -1..0"),
        ({"groups": ([0], [1, 0])}, "^groups of 'PCK': expected every pair at most once, got pair 0 again"),
        ({"groups": ([1, 1],)}, "^groups of 'PCK': expected every pair at most once, got pair 1 again"),
    ],
)
def test_figure_refuses(unchecked, change, match):
    with pytest.raises(ValueError, match=match):
        Figure(**({"name": "PCK", "values": [0.5, 1.0]} | change))


# --- its interval


def test_interval_of_equal_shares_is_that_share():
    assert Figure("same", np.full(7, 0.5)).interval() == (50, 50)
    low, high = Figure("same", np.array([1.0, 2.0, 3.0]), np.array([4.0, 8.0, 12.0])).interval()
    np.testing.assert_allclose([low, high], 25)
    # Two groups, equal within: stratified draws never mix them, so nothing varies.
    halves = Figure("strata", np.repeat([0.0, 1.0], 10), groups=(np.arange(10), np.arange(10, 20)))
    assert halves.interval() == (50, 50)


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(2).uniform(0, 1, 400)
    low, high = Figure("many", values).interval(samples=4000)
    half = 1.959964 * values.std() / np.sqrt(400)
    expected = 100 * np.array([values.mean() - half, values.mean() + half])
    np.testing.assert_allclose([low, high], expected, atol=10 * half)


@pytest.mark.parametrize(
    ("values", "weights", "groups"),
    [
        ([0.0, 0.3, 1.0], [1.0, 1.0, 1.0], [[0, 1, 2]]),  # 27 equally likely draws
        ([0.0, 2.0, 3.0], [1.0, 5.0, 3.0], [[0, 1, 2]]),  # value and weight stay together
        ([0.0, 1.0, 2.0, 1.0, 9.0], [2.0, 3.0, 3.0, 1.0, 9.0], [[3, 0, 1], [2, 4]]),  # 27 x 4
    ],
)
def test_interval_against_all_draws(values, weights, groups):
    exact = np.quantile(list(oracle.all_draws(values, weights, groups)), [0.1, 0.9])
    figure = Figure("few", np.array(values), np.array(weights), tuple(np.array(group) for group in groups))
    np.testing.assert_allclose(figure.interval(confidence=0.8, samples=20000), exact, atol=1e-9)


def test_every_draw_is_equally_likely():
    """Five pairs of which one is right: the chance of drawing it k times is binomial."""
    figure = Figure("one", np.array([1.0, 0, 0, 0, 0]))
    draws = np.array([figure.interval(samples=1, seed=seed)[0] for seed in range(2000)])
    chance = [np.isclose(draws, 20 * k).mean() for k in (0, 1)]
    np.testing.assert_allclose(chance, [0.8**5, 5 * 0.2 * 0.8**4], atol=0.03)


def test_interval_is_nested_and_repeatable():
    figure = Figure("any", np.random.default_rng(3).uniform(0, 1, 60))
    (low, high), (inner_low, inner_high) = figure.interval(confidence=0.99), figure.interval(confidence=0.5)
    assert low < inner_low < figure.percent < inner_high < high
    assert figure.interval() == figure.interval()
    assert figure.interval(seed=1) != figure.interval(seed=2)
    # The same draws for another figure of the same pairs: a figure and its complement add up to 100.
    low, high = figure.interval()
    rest_low, rest_high = Figure("rest", 1 - figure.values).interval()
    np.testing.assert_allclose([low + rest_high, high + rest_low], 100)


def test_interval_of_the_largest_benchmark_takes_little_time_and_memory():
    rng = np.random.default_rng(4)
    weights = rng.integers(3, 30, 12234).astype(np.float64)
    figure = Figure(
        "SPair-71k", np.floor(weights * rng.uniform(size=12234)), weights, tuple(np.arange(12234).reshape(-1, 6).T)
    )
    started = time.perf_counter()
    figure.interval()
    assert time.perf_counter() - started < 3
    tracemalloc.start()
    Figure("one group", figure.values, weights).interval(samples=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # bytes; all draws at once would take a hundred million and more


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"confidence": 1.0}, "^confidence: expected"),
        ({"confidence": 0.0}, "^confidence: expected"),
        ({"confidence": float("nan")}, "^confidence: expected"),
        ({"samples": 0}, "^samples: expected"),
    ],
)
def test_interval_refuses(unchecked, options, match):
    with pytest.raises(ValueError, match=match):
        Figure("any", np.array([0.1, 0.2])).interval(**options)
