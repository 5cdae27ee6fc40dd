"""Named figures from answers, against slow loops over pairs and points."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rtn_jax.evaluation import Answer, by_category, normalised_errors, per_pair
from rtn_jax.evaluation.matchers import Transfer
from rtn_jax.evaluation.scores import answer, figures
from tests.benchmarks_small import SHAPES, dense_benchmark, keypoint_benchmark


def noisy_answers(benchmark, size=6.0):
    rng = np.random.default_rng(1)
    return [Answer(points=pair.tgt_points + rng.normal(0, size, pair.tgt_points.shape)) for pair in benchmark.pairs]


def lengths(pair, kind):
    if kind == "img":
        return max(SHAPES[pair.tgt])
    if kind == "bbox":
        return max(pair.tgt_box[2] - pair.tgt_box[0], pair.tgt_box[3] - pair.tgt_box[1])
    xs, ys = pair.tgt_points.T
    return max(xs.max() - xs.min(), ys.max() - ys.min())


def correct(pair, given, kind, alpha):
    return [
        np.hypot(*(p - t)) <= alpha * lengths(pair, kind) for p, t in zip(given.points, pair.tgt_points, strict=True)
    ]


@pytest.mark.parametrize("kind", ["img", "bbox", "bbox-kp"])
def test_pck_per_pair_per_point_and_leak_free(kind):
    benchmark = keypoint_benchmark(thresholds=(kind,), alphas=(0.2, 0.35))
    answers = noisy_answers(benchmark)
    found = {f.name: f.percent for f in figures(benchmark, answers)}
    expected = {}
    for alpha in (0.2, 0.35):
        right = [correct(pair, given, kind, alpha) for pair, given in zip(benchmark.pairs, answers, strict=True)]
        expected[f"PCK@{alpha:.2f} ({kind})"] = 100 * np.mean([np.mean(r) for r in right])
        expected[f"PCK@{alpha:.2f} ({kind}, leak-free)"] = 100 * np.mean([np.mean(r) for r in right[2:]])
        expected[f"PCK@{alpha:.2f} ({kind}, per point)"] = 100 * np.mean(np.concatenate(right))
    assert found.keys() == expected.keys()
    assert len({round(value, 3) for value in expected.values()}) == 6, "the averages differ, so mixing them up is seen"
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_all_thresholds_side_by_side():
    benchmark = keypoint_benchmark(thresholds=("img", "bbox", "bbox-kp"))
    names = [figure.name for figure in figures(benchmark, noisy_answers(benchmark))]
    assert names[0] == "PCK@0.10 (img)", "the first threshold is the headline"
    assert len(names) == len(set(names)) == 18


def test_by_category_is_the_figure_over_the_pairs_of_a_class():
    benchmark = keypoint_benchmark()
    answers = noisy_answers(benchmark)
    classes = by_category(benchmark, answers)
    assert list(classes) == ["x", "y"]
    for category, start in (("x", 0), ("y", 1)):
        shares = [
            np.mean(correct(pair, given, "bbox-kp", 0.5))
            for pair, given in zip(benchmark.pairs[start::2], answers[start::2], strict=True)
        ]
        assert classes[category]["PCK@0.50 (bbox-kp)"] == pytest.approx(100 * np.mean(shares))


def test_normalised_errors_are_in_units_of_the_threshold():
    benchmark = keypoint_benchmark()
    answers = noisy_answers(benchmark)
    for pair, given, errors in zip(
        benchmark.pairs, answers, normalised_errors(benchmark, answers, "bbox-kp"), strict=True
    ):
        for point, true, error in zip(given.points, pair.tgt_points, errors, strict=True):
            assert error == pytest.approx(np.hypot(*(point - true)) / lengths(pair, "bbox-kp"))


def test_a_point_without_an_answer_is_wrong():
    benchmark = keypoint_benchmark(1, alphas=(1e6,))
    points = benchmark.pairs[0].tgt_points.copy()
    points[0] = np.nan
    assert per_pair(benchmark, [Answer(points=points)])["PCK@1000000.00 (bbox-kp)"][0] == pytest.approx(2 / 3)


def test_flow_figures_by_subset_and_without_mirrored_pairs():
    benchmark = dense_benchmark("flow")
    accuracy = [0.1, 0.3, 0.5, 0.7, 0.2, 0.9]
    answers = [Answer(values={"accuracy": a}) for a in accuracy]
    found = {f.name: f.percent for f in figures(benchmark, answers)}
    expected = {
        "one": 20,
        "two": 100 * 1.4 / 3,
        "three": 90,
        "mean": 100 * (0.2 + 1.4 / 3 + 0.9) / 3,
        "one (without mirrored pairs)": 20,
        "two (without mirrored pairs)": 60,
        "three (without mirrored pairs)": 90,
        "mean (without mirrored pairs)": 100 * (0.2 + 0.6 + 0.9) / 3,
    }
    assert found == pytest.approx(expected)
    assert list(found)[:4] == ["one", "two", "three", "mean"]


def test_a_mean_of_some_subsets_does_not_pass_for_that_of_all():
    benchmark = dense_benchmark("flow").replace(subsets=("one", "two", "three", "four"))
    answers = [Answer(values={"accuracy": 0.5})] * 6
    assert [f.name for f in figures(benchmark, answers) if "mean" in f.name] == []
    whole = dense_benchmark("flow").replace(subsets=("one", "two", "three"))
    without = whole.replace(pairs=tuple(p for p in whole.pairs if p.subset != "two" or p.mirrored))
    names = [f.name for f in figures(without, answers[: len(without.pairs)])]
    assert "mean" in names
    assert "mean (without mirrored pairs)" not in names


def test_pck_by_subset():
    benchmark = keypoint_benchmark(alphas=(0.3,))
    pairs = [dataclasses.replace(pair, subset="ab"[i > 3], leaked=False) for i, pair in enumerate(benchmark.pairs)]
    answers = noisy_answers(benchmark)
    found = {f.name: f.percent for f in figures(benchmark.replace(pairs=tuple(pairs)), answers)}
    shares = [np.mean(correct(pair, a, "bbox-kp", 0.3)) for pair, a in zip(pairs, answers, strict=True)]
    assert found["PCK@0.30 (bbox-kp, a)"] == pytest.approx(100 * np.mean(shares[:4]))
    assert found["PCK@0.30 (bbox-kp, b)"] == pytest.approx(100 * np.mean(shares[4:]))


def test_a_flow_is_scored_where_the_truth_is_known():
    benchmark = dense_benchmark("flow")
    pair = benchmark.pairs[1]  # b -> c, whose longer side is 56: five per cent are 2.8 pixels
    true = benchmark.files.flow(pair.id)
    known = np.isfinite(true).all(-1)
    moved = np.nan_to_num(true)
    rows, columns = np.nonzero(known)
    moved[rows[:10], columns[:10], 0] += 2.79
    moved[rows[10:30], columns[10:30], 1] -= 2.81
    moved[~known] += 1000
    given = answer(benchmark, pair, Transfer(lambda points: points, given_flow=lambda: moved))
    assert given.values["accuracy"] == pytest.approx(1 - 20 / known.sum())


def test_masks_are_transferred_on_the_source():
    benchmark = dense_benchmark("masks")
    pair = benchmark.pairs[0]
    src_mask, tgt_mask = benchmark.files.mask(pair.src), benchmark.files.mask(pair.tgt)
    given = answer(benchmark, pair, Transfer(lambda points: points + np.array([3.0, -2.0])))
    height, width = SHAPES[pair.src]
    pulled = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            inside = 0 <= y - 2 < tgt_mask.shape[0] and 0 <= x + 3 < tgt_mask.shape[1]
            pulled[y, x] = inside and tgt_mask[y - 2, x + 3]
    assert given.values["LT-ACC"] == pytest.approx((pulled == src_mask).mean())
    assert given.values["IoU"] == pytest.approx((pulled & src_mask).sum() / (pulled | src_mask).sum())
    assert [f.name for f in figures(benchmark.replace(pairs=(pair,)), [given])] == ["LT-ACC", "IoU", "LOC-ERR"]


def test_a_pair_without_a_localisation_error_does_not_count_in_it():
    benchmark = dense_benchmark("masks")
    values = [{"LT-ACC": 0.5, "IoU": 0.25, "LOC-ERR": error} for error in (0.1, np.nan, 0.3, 0.5, np.nan, 0.1)]
    found = {f.name: f for f in figures(benchmark, [Answer(values=v) for v in values])}
    assert (found["LOC-ERR"].percent, found["LOC-ERR"].pairs) == (pytest.approx(25), 4)
    assert found["IoU"].pairs == 6
