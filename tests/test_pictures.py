"""Pictures of a benchmark's matches: which pairs and points are shown, and what is called the truth."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rtn_jax import evaluation, pictures
from rtn_jax.evaluation.matchers import BATCH
from rtn_jax.params import Params
from rtn_jax.pictures import matches_picture
from tests.benchmarks_small import SHAPES, dense_benchmark, keypoint_benchmark
from tests.networks import ONE_LEVEL, moving_params, small_config


@pytest.fixture(scope="module")
def params():
    return moving_params(small_config(levels=ONE_LEVEL))


@pytest.fixture
def drawn(monkeypatch):
    """What is given to be drawn, one entry per pair."""
    calls, draw = [], pictures.draw_matches

    def recorded(src, tgt, src_points, tgt_points, *, true_points):
        calls.append((src, tgt, src_points, tgt_points, true_points))
        return draw(src, tgt, src_points, tgt_points, true_points=true_points)

    monkeypatch.setattr(pictures, "draw_matches", recorded)
    return calls


def answers(params, benchmark, pairs):
    """By the matcher itself, one pair at a time."""
    matcher = evaluation.network(evaluation.ImageFeatures(params, benchmark.files))
    return [matcher([pair])[0] for pair in pairs]


@pytest.mark.parametrize(
    ("rows", "shown"), [(4, (0, 2, 3, 5)), (1, (0,)), (6, range(6)), (9, range(6)), (5, (0, 1, 2, 4, 5))]
)
def test_pairs_are_evenly_spread(params, drawn, rows, shown):
    benchmark = keypoint_benchmark(6)
    picture = matches_picture(params, benchmark, rows=rows)
    assert [(src.shape[:2], tgt.shape[:2]) for src, tgt, *_ in drawn] == [
        (SHAPES[benchmark.pairs[i].src], SHAPES[benchmark.pairs[i].tgt]) for i in shown
    ]
    assert (picture.dtype, picture.shape[2]) == (np.uint8, 3)
    assert picture.shape[0] == len(shown) * (480 + 10)


def test_keypoints_are_shown_with_theirs(params, drawn):
    benchmark = keypoint_benchmark(6)
    shown = [benchmark.pairs[i] for i in range(6)]
    matches_picture(params, benchmark, rows=6, points=4)
    assert len(shown) > BATCH
    for pair, transfer, (*_, starts, ends, truth) in zip(shown, answers(params, benchmark, shown), drawn, strict=True):
        assert len(starts) == min(4, len(pair.src_points)) == len({tuple(point) for point in starts})
        order = [pair.src_points.tolist().index(point) for point in starts.tolist()]
        assert order == sorted(order), "numbered in the order of the benchmark"
        partner = {tuple(a): b for a, b in zip(pair.src_points, pair.tgt_points, strict=True)}
        np.testing.assert_array_equal(truth, [partner[tuple(point)] for point in starts])
        np.testing.assert_allclose(ends, transfer.move(starts), atol=1e-3)
        assert np.abs(ends - starts).max() > 0.1


def test_where_the_flow_is_known_its_ends_are_the_truth(params, drawn):
    benchmark = dense_benchmark("flow")
    matches_picture(params, benchmark, points=9)
    shown = [benchmark.pairs[i] for i in (0, 2, 3, 5)]
    for pair, transfer, (*_, starts, ends, truth) in zip(shown, answers(params, benchmark, shown), drawn, strict=True):
        flow = benchmark.files.flow(pair.id)
        assert 5 <= len(starts) <= 9
        for (x, y), end, true in zip(starts, ends, truth, strict=True):
            assert np.isfinite(flow[int(y), int(x)]).all() and x == int(x) and y == int(y)
            np.testing.assert_allclose(true, (x + flow[int(y), int(x), 0], y + flow[int(y), int(x), 1]))
            np.testing.assert_allclose(end, transfer.move(np.array([[x, y]]))[0], atol=1e-3)


def test_with_masks_alone_points_lie_on_the_object_and_nothing_is_called_true(params, drawn):
    masks = dense_benchmark("masks")
    benchmark = masks.replace(pairs=tuple(pair.__class__(**{**vars(pair), "has_flow": False}) for pair in masks.pairs))
    matches_picture(params, benchmark)
    for number, (*_, starts, _, truth) in zip((0, 2, 3, 5), drawn, strict=True):
        mask = benchmark.files.mask(benchmark.pairs[number].src)
        assert truth is None
        assert len(starts) > 5
        assert all(mask[round(y), round(x)] for x, y in starts)


def test_pairs_of_which_nothing_is_known_are_shown(params, drawn):
    pairs = tuple(pair.__class__(id=pair.id, src=pair.src, tgt=pair.tgt) for pair in keypoint_benchmark(2).pairs)
    benchmark = keypoint_benchmark(2).replace(pairs=pairs, protocol=None, thresholds=())
    matches_picture(params, benchmark)
    assert all(len(starts) > 5 and truth is None for *_, starts, _, truth in drawn)


def test_a_network_that_has_diverged_has_a_picture(params):
    weights = jax.tree.map(np.asarray, params.weights)
    weights["geometry"]["conv10"] = jax.tree.map(lambda x: np.full_like(x, np.nan), weights["geometry"]["conv10"])
    benchmark = keypoint_benchmark(2)
    picture = matches_picture(Params(weights, params.config), benchmark)
    assert picture.shape[0] == 2 * (480 + 10)


def test_pairs_of_all_sizes_share_a_program(params, monkeypatch):
    shapes = set()
    batch = evaluation.ImageFeatures.batch

    def recorded(self, names, mirrored=False):
        features, sizes = batch(self, names, mirrored)
        shapes.add((features.image_shape, *[leaf.shape for leaf in jax.tree.leaves(features.taps)]))
        return features, sizes

    monkeypatch.setattr(evaluation.ImageFeatures, "batch", recorded)
    matches_picture(params, keypoint_benchmark(6), rows=6)
    assert len(shapes) == 1
