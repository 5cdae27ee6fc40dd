"""The network and the floors: what they answer."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import rtn_jax
from rtn_jax import evaluation
from rtn_jax.coordinates import flip_points, pixel_grid, resize_points
from rtn_jax.data.files import ArrayFiles
from rtn_jax.data.pairs import Pair
from rtn_jax.data.pf_willow import pf_willow
from rtn_jax.evaluation import matchers
from rtn_jax.params import init
from tests import oracle
from tests.benchmarks_small import SHAPES, keypoint_benchmark, small_images
from tests.networks import moving_params, photos, small_config


@pytest.fixture(scope="module")
def benchmark():
    return keypoint_benchmark(5)


@pytest.fixture(scope="module")
def features(benchmark):
    return evaluation.ImageFeatures(moving_params(), benchmark.files)


def moved(matcher, pairs):
    answers = [t for start in range(0, len(pairs), 4) for t in matcher(pairs[start : start + 4])]
    return [t.move(pair.src_points) for t, pair in zip(answers, pairs, strict=True)]


def test_identity_is_the_scaled_position(benchmark):
    for pair, predicted in zip(
        benchmark.pairs, moved(evaluation.identity(benchmark.files), benchmark.pairs), strict=True
    ):
        expected = resize_points(pair.src_points, SHAPES[pair.src], SHAPES[pair.tgt])
        np.testing.assert_array_equal(predicted, expected)


def test_an_untrained_network_answers_as_identity(benchmark):
    features = evaluation.ImageFeatures(init(jax.random.key(0), small_config()), benchmark.files)
    network = evaluation.evaluate("network", evaluation.network(features), benchmark)
    identity = evaluation.evaluate("identity", evaluation.identity(benchmark.files), benchmark)
    assert network.metrics == identity.metrics


def test_the_network_answers_what_apply_says(benchmark, features):
    pairs = benchmark.pairs[:2]  # `apply` is compiled for each size of images
    for pair, predicted in zip(pairs, moved(evaluation.network(features), pairs), strict=True):
        out = rtn_jax.apply(features.params, benchmark.files.image(pair.src), benchmark.files.image(pair.tgt))
        expected = rtn_jax.transfer_keypoints(out, pair.src_points.astype(np.float32))
        np.testing.assert_allclose(predicted, expected, atol=0.3)  # resized on the host, and interpolated once more


def test_nearest_is_the_best_cell_by_cosine(benchmark, features):
    for pair, predicted in zip(benchmark.pairs, moved(evaluation.nearest(features), benchmark.pairs), strict=True):
        (src, src_shape), (tgt, tgt_shape) = features(pair.src), features(pair.tgt)
        a, b = (oracle.l2_normalize(np.asarray(f.taps["conv3_1"].output[0], np.float64)) for f in (src, tgt))
        for (x, y), answer in zip(pair.src_points, predicted, strict=True):
            cell_x, cell_y = (x + 0.5) / src_shape[1] * 8 - 0.5, (y + 0.5) / src_shape[0] * 8 - 0.5
            scores = b @ oracle.bilinear(a, cell_x, cell_y)
            row, column = np.unravel_index(scores.argmax(), scores.shape)
            centre = ((column + 0.5) / 8 * tgt_shape[1] - 0.5, (row + 0.5) / 8 * tgt_shape[0] - 0.5)
            np.testing.assert_allclose(answer, centre, atol=1e-6)


@pytest.mark.parametrize("make", [evaluation.nearest, evaluation.network])
def test_the_flow_is_the_answer_for_every_pixel(benchmark, features, make):
    pair = benchmark.pairs[0]
    transfer = make(features)([pair])[0]
    flow = transfer.flow(SHAPES[pair.src])
    assert (flow.shape, flow.dtype) == ((*SHAPES[pair.src], 2), np.float32)
    assert transfer.flow(SHAPES[pair.src]) is flow, "computed once"
    grid = pixel_grid(SHAPES[pair.src], np.float64)
    for x, y in ((0, 0), (47, 39), (13, 8)):
        np.testing.assert_allclose(grid[y, x] + flow[y, x], transfer.move(grid[y, x][None])[0], atol=1e-4)


@pytest.mark.parametrize("count", [1, 16, 17, matchers.CHUNK, matchers.CHUNK + 5])
def test_points_come_back_one_by_one_however_many(features, benchmark, count):
    """Few are padded, many are cut into chunks."""
    points = np.random.default_rng(0).uniform(0, 30, (count, 2))
    transfer = evaluation.nearest(features)([benchmark.pairs[0]])[0]
    answers = transfer.move(points)
    assert answers.shape == (count, 2)
    assert count < 16 or len(np.unique(answers, axis=0)) > 1
    for i in {0, count // 2, count - 1}:
        np.testing.assert_array_equal(answers[i], transfer.move(points[i : i + 1])[0])


def test_a_point_is_carried_by_the_pixels_that_have_a_share_in_it():
    """Against a loop over the four neighbours; one without a share may be unknown."""
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 3, (6, 9, 2)).astype(np.float32)
    flow[:, 3] = np.nan
    points = np.array([[2, 2], [2.5, 2], [4, 1.5], [3, 0], [-4, 7.5], [8.5, -1], [1.25, 4.75]])
    for point, moved in zip(points, matchers.carried(flow, points), strict=True):
        x, y = min(max(point[0], 0), 8), min(max(point[1], 0), 5)
        expected = np.zeros(2)
        for column in range(9):
            for row in range(6):
                share = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
                if share:
                    expected += share * flow[row, column]
        np.testing.assert_allclose(moved, point + expected, atol=1e-9)
    assert np.isnan(matchers.carried(flow, points)).any(-1).tolist() == [False, True, False, True, False, False, False]


def test_features_are_computed_once_per_image(benchmark, monkeypatch):
    counted = []
    encode = matchers.encode
    features = evaluation.ImageFeatures(moving_params(), benchmark.files)
    monkeypatch.setattr(matchers, "encode", lambda params, image: counted.append(1) or encode(params, image))
    for matcher in (evaluation.nearest(features), evaluation.network(features)):
        evaluation.evaluate("x", matcher, benchmark)
    assert len(counted) == 3


class TestMirrored:
    """Against the target's mirror image: answers come back in the target as it is."""

    @pytest.mark.parametrize("make", [evaluation.nearest, evaluation.network])
    def test_the_mirror_image_of_a_mirrored_target_is_the_target(self, benchmark, features, make):
        pair = benchmark.pairs[0]
        turned = ArrayFiles(small_images() | {pair.tgt: small_images()[pair.tgt][:, ::-1]})
        mirrored = make(evaluation.ImageFeatures(features.params, turned), mirrored=True)
        expected = flip_points(make(features)([pair])[0].move(pair.src_points), SHAPES[pair.tgt][1])
        np.testing.assert_allclose(mirrored([pair])[0].move(pair.src_points), expected, atol=1e-4)

    def test_the_more_confident_answer_is_kept(self):
        src = photos(np.random.default_rng(8), 1, 32, 32)[0]
        files = ArrayFiles({"a": src, "b": src, "m": src[:, ::-1]})
        features = evaluation.ImageFeatures(moving_params(scale=0.0), files)
        aware = evaluation.mirror_aware(evaluation.network(features), evaluation.network(features, mirrored=True))
        first, second = aware([Pair(id="plain", src="a", tgt="b"), Pair(id="mirrored", src="a", tgt="m")])
        points = np.array([[3.0, 4.0], [20.0, 11.0]])
        np.testing.assert_allclose(first.move(points), points, atol=1e-4)
        np.testing.assert_allclose(second.move(points), [[28.0, 4.0], [11.0, 11.0]], atol=1e-4)

    def test_identity_knows_no_confidence(self, benchmark):
        identity = evaluation.identity(benchmark.files)
        with pytest.raises(ValueError, match="mirror_aware"):
            evaluation.mirror_aware(identity, identity)(benchmark.pairs[:1])


def test_pf_willow_identity_floor_on_the_real_data(data_dir):
    if not (data_dir / "PF-WILLOW").is_dir():
        pytest.skip(f"PF-WILLOW is not in {data_dir}")
    benchmark = pf_willow(data_dir / "PF-WILLOW")
    result = evaluation.evaluate("identity", evaluation.identity(benchmark.files), benchmark)
    assert len(result.answers) == 900
    assert [round(value, 1) for value in result.metrics.values()] == [12.2, 27.0, 41.7]
