"""Benchmarks through matchers to named figures."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import rtn_jax
from rtn_jax import evaluation
from rtn_jax.coordinates import resize_points
from rtn_jax.data.pairs import Benchmark, KeypointPair
from rtn_jax.data.pf_willow import pf_willow
from rtn_jax.params import init
from tests import oracle
from tests.networks import moving_params, photos, small_config


@pytest.fixture(scope="module")
def benchmark():
    rng = np.random.default_rng(3)
    images = {"a": photos(rng, 1, 40, 48)[0], "b": photos(rng, 1, 32, 64)[0], "c": photos(rng, 1, 56, 36)[0]}
    names = [("a", "b"), ("b", "c"), ("c", "a"), ("a", "c"), ("b", "a")]
    pairs = tuple(
        KeypointPair(
            src=src,
            tgt=tgt,
            src_points=rng.uniform(0, 30, (n, 2)),
            tgt_points=rng.uniform(0, 30, (n, 2)),
            category="x",
        )
        for n, (src, tgt) in enumerate(names, 3)
    )
    return Benchmark(name="test", pairs=pairs, read_image=images.__getitem__, threshold="bbox-kp", alphas=(0.1, 0.5))


def by_hand(benchmark, predict_one):
    rows = []
    for pair in benchmark.pairs:
        length = np.ptp(pair.tgt_points, axis=0).max()
        predicted = predict_one(pair)
        rows.append([oracle.pck(predicted, pair.tgt_points, alpha * length) for alpha in benchmark.alphas])
    return 100 * np.mean(rows, axis=0)


def test_identity_is_the_scaled_position(benchmark):
    sizes = evaluation.image_sizes(benchmark)
    result = evaluation.evaluate("identity", evaluation.identity(sizes), benchmark, sizes)
    expected = by_hand(benchmark, lambda p: resize_points(p.src_points, sizes(p.src), sizes(p.tgt)))
    assert result.names == ("PCK@0.10 (bbox-kp)", "PCK@0.50 (bbox-kp)")
    np.testing.assert_allclose(list(result.metrics.values()), expected)
    for name, (low, high) in result.intervals.items():
        assert low <= result.metrics[name] <= high


def test_an_untrained_network_scores_as_identity(benchmark):
    sizes = evaluation.image_sizes(benchmark)
    features = evaluation.ImageFeatures(init(jax.random.key(0), small_config()), benchmark)
    network = evaluation.evaluate("network", evaluation.network(features), benchmark, sizes)
    identity = evaluation.evaluate("identity", evaluation.identity(sizes), benchmark, sizes)
    np.testing.assert_array_equal(network.per_pair, identity.per_pair)


def test_the_network_predicts_what_apply_says(benchmark):
    params = moving_params()
    predict = evaluation.network(evaluation.ImageFeatures(params, benchmark))
    answers = [points for start in (0, 4) for points in predict(benchmark.pairs[start : start + 4])]
    for pair, predicted in zip(benchmark.pairs, answers, strict=True):
        out = rtn_jax.apply(params, benchmark.read_image(pair.src), benchmark.read_image(pair.tgt))
        expected = rtn_jax.transfer_keypoints(out, pair.src_points.astype(np.float32))
        np.testing.assert_allclose(predicted, expected, atol=0.3)  # resized on the host, and interpolated once more


def test_nearest_is_the_best_cell_by_cosine(benchmark):
    params = moving_params()
    features = evaluation.ImageFeatures(params, benchmark)
    for pair, predicted in zip(benchmark.pairs, evaluation.nearest(features)(benchmark.pairs), strict=True):
        (src, src_shape), (tgt, tgt_shape) = features(pair.src), features(pair.tgt)
        a, b = (oracle.l2_normalize(np.asarray(f.taps["conv3_1"].output[0], np.float64)) for f in (src, tgt))
        for (x, y), answer in zip(pair.src_points, predicted, strict=True):
            cell_x, cell_y = (x + 0.5) / src_shape[1] * 8 - 0.5, (y + 0.5) / src_shape[0] * 8 - 0.5
            scores = b @ oracle.bilinear(a, cell_x, cell_y)
            row, column = np.unravel_index(scores.argmax(), scores.shape)
            centre = ((column + 0.5) / 8 * tgt_shape[1] - 0.5, (row + 0.5) / 8 * tgt_shape[0] - 0.5)
            np.testing.assert_allclose(answer, centre, atol=1e-6)


def test_features_are_computed_once_per_image(benchmark, monkeypatch):
    counted = []
    encode = evaluation.encode
    monkeypatch.setattr(evaluation, "encode", lambda params, image: counted.append(1) or encode(params, image))
    features = evaluation.ImageFeatures(moving_params(), benchmark)
    sizes = evaluation.image_sizes(benchmark)
    for predict in (evaluation.nearest(features), evaluation.network(features)):
        evaluation.evaluate("x", predict, benchmark, sizes)
    assert len(counted) == 3


def test_pf_willow_identity_floor_on_the_real_data(data_dir):
    if not (data_dir / "PF-WILLOW").is_dir():
        pytest.skip(f"PF-WILLOW is not in {data_dir}")
    benchmark = pf_willow(data_dir / "PF-WILLOW")
    sizes = evaluation.image_sizes(benchmark)
    result = evaluation.evaluate("identity", evaluation.identity(sizes), benchmark, sizes)
    assert len(result.per_pair) == 900
    assert [round(value, 1) for value in result.metrics.values()] == [12.2, 27.0, 41.7]
