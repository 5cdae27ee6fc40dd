"""Positions in photos of any size, the way there and back, and that bands are the whole."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

import rtn_jax
from rtn_jax.coordinates import flip_points, pixel_grid
from rtn_jax.matching import match_photos
from rtn_jax.matching.answer import bands, reliable
from rtn_jax.params import Params
from tests.networks import photos


def constant(flow):
    return np.broadcast_to(np.asarray(flow, np.float32), (32, 32, 2)).copy()


def test_positions_are_those_of_the_network(params, answered):
    """At its own size exactly; at the photos' sizes but for cells' corners between two of its pixels."""
    src, tgt = photos(np.random.default_rng(0), 2)
    features = [rtn_jax.encode(params, image) for image in (src, tgt)]
    for shapes in [((32, 32), (32, 32)), ((40, 90), (70, 50))]:
        out = rtn_jax.match(params, *(f.of_image(shape) for f, shape in zip(features, shapes, strict=True)))
        assert np.abs(np.asarray(out.flow)).max() > 1
        difference = np.abs(answered.mapping(*shapes) - np.asarray(out.mapping)[0])
        assert difference.max() < (1e-3 if shapes[0] == (32, 32) else 1.0)
        assert difference.mean() < 0.06
    points = np.asarray([[3.0, 4.0], [60.0, 38.0]])
    np.testing.assert_allclose(answered.move(points), answered.mapping(*shapes)[[4, 38], [3, 60]], atol=1e-3)
    np.testing.assert_allclose(
        answered.move_back(points[:1]), answered.back_mapping((70, 50), (40, 90))[4, 3][None], atol=1e-3
    )
    out = rtn_jax.match(params, features[1].of_image((70, 50)), features[0].of_image((40, 90)))
    assert np.abs(answered.back_mapping((70, 50), (40, 90)) - np.asarray(out.mapping)[0]).mean() < 0.06


def test_bands_are_the_whole(answered):
    large = replace(answered, src_shape=(600, 35))
    flow = np.concatenate(list(large.flow_bands()))
    assert len(list(bands((600, 35)))) == 3
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow, large.mapping((600, 35), (70, 50)) - pixel_grid((600, 35)), atol=1e-4)


def test_the_error_is_in_pixels_of_the_source(answered):
    """Two of the network's 32 pixels are missed by: in x 2 * 90 / 32 pixels of the source, in y 2 * 40 / 32."""
    points = np.asarray([[20.0, 10.0], [44.0, 20.0]])
    for missed, expected in [((2, 0), 5.625), ((0, 2), 2.5), ((0, 0), 0)]:
        answer = replace(answered, flow=constant((3, 1)), back=constant(np.asarray((-3, -1)) + missed))
        np.testing.assert_allclose(answer.errors(points), expected, atol=1e-5)
        np.testing.assert_allclose(answer.confidences(points), 2.0 ** -((expected / 4.5) ** 2), rtol=1e-5)
    leaving = replace(answered, flow=constant((20, 0)), back=constant((-20, 0)))
    np.testing.assert_array_equal(np.isinf(leaving.errors(points)), [False, True])
    np.testing.assert_array_equal(leaving.confidences(points) > 0, [True, False])


def test_the_map_of_confidence_is_that_of_its_points(answered):
    assert answered.tolerance == pytest.approx(0.05 * 90)
    sure = answered.confidence_at((40, 90))
    centres = np.asarray([[x, y] for x in (8.0, 33.0, 80.0) for y in (5.0, 30.0)])
    at = sure[centres[:, 1].astype(int), centres[:, 0].astype(int)]
    assert np.ptp(sure) > 0.2
    np.testing.assert_allclose(at, answered.confidences(centres), atol=0.15)
    np.testing.assert_array_equal(reliable(np.asarray([0.5, 0.49])), [True, False])


def test_iterations_end_where_the_answer_is(params, answered):
    steps = answered.iterations(params.config)
    assert [caption for caption, _ in steps] == ["before the first of 2", "1 of 2, conv3_1", "2 of 2, conv3_1"]
    assert not steps[0][1].any()
    np.testing.assert_allclose(steps[-1][1], answered.flow, atol=1e-4)
    assert np.abs(steps[1][1] - steps[2][1]).max() > 0.05
    caption, flow = answered.iterations(params.config.replace(search=True))[-1]
    assert caption == "search"
    np.testing.assert_array_equal(flow, answered.flow)


def test_an_answer_about_the_mirror_image_is_about_the_target(params):
    """As if the target had been mirrored, and then everything that was said of it mirrored back."""
    src, tgt = photos(np.random.default_rng(0), 2)
    features = rtn_jax.encode(params, src), rtn_jax.encode(params, tgt[:, ::-1])
    plain, mirrored = (
        match_photos(params, *features, (40, 90), (70, 50), tolerance=0.05, mirrored=mirrored)
        for mirrored in (False, True)
    )
    points = np.asarray([[3.0, 4.0], [60.0, 38.0], [44.5, 20.0]])
    np.testing.assert_allclose(mirrored.move(points), flip_points(plain.move(points), 50), atol=1e-3)
    back = np.asarray([[3.0, 4.0], [40.0, 60.0], [25.0, 33.0]])
    np.testing.assert_allclose(mirrored.move_back(back), plain.move_back(flip_points(back, 50)), atol=1e-3)
    assert np.abs(mirrored.move(points) - plain.move(points)).max() > 3
    np.testing.assert_array_equal(mirrored.confidence, plain.confidence)
    np.testing.assert_allclose(mirrored.errors(points), plain.errors(points), atol=1e-3)
    surest = np.sort(np.asarray(plain.output.confidence).ravel())[-256:]  # a quarter of 32x32
    assert mirrored.sureness == plain.sureness == pytest.approx(surest.mean(), rel=1e-5)
    steps = mirrored.iterations(params.config)
    grid = pixel_grid((32, 32))
    np.testing.assert_allclose(steps[0][1] + grid, flip_points(grid, 32))
    np.testing.assert_allclose(steps[-1][1], mirrored.flow, atol=1e-4)


def test_a_network_that_has_diverged_is_named(params):
    weights = jax.tree.map(np.asarray, params.weights)
    weights["geometry"]["conv10"] = jax.tree.map(lambda x: np.full_like(x, np.nan), weights["geometry"]["conv10"])
    features = rtn_jax.encode(params, photos(np.random.default_rng(0))[0])
    with pytest.raises(ValueError, match="the network's answer is not finite"):
        match_photos(Params(weights, params.config), features, features, (32, 32), (32, 32), tolerance=0.05)
