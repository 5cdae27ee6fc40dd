"""The benchmark made of warped photos: its pairs are true, repeatable, and usable."""

from __future__ import annotations

import numpy as np
import pytest

from rtn_jax.coordinates import grid_points
from rtn_jax.data.held_out import POINTS_PER_SIDE, held_out_benchmark
from rtn_jax.data.synthetic import WarpRange
from tests import oracle

SHAPE = (48, 64)


def smooth_photo(phase):
    y, x = np.mgrid[:60, :80] / 20
    return np.stack([128 + 100 * np.sin(x + phase), 128 + 100 * np.cos(y + phase), 30 * (x + y)], -1).astype(np.uint8)


PHOTOS = {"one": smooth_photo(0.0), "two": smooth_photo(1.5)}


def build(photos=PHOTOS, **options):
    return held_out_benchmark(photos, **{"shape": SHAPE, "pairs_per_photo": 2, **options})


@pytest.fixture(scope="module")
def benchmark():
    return build()


def test_what_it_holds(benchmark):
    assert (benchmark.thresholds, benchmark.protocol, len(benchmark.pairs)) == (("img",), "keypoints", 4)
    assert [(pair.tgt, pair.category) for pair in benchmark.pairs] == [("one", "one")] * 2 + [("two", "two")] * 2
    assert [pair.id for pair in benchmark.pairs] == ["one warp 0", "one warp 1", "two warp 0", "two warp 1"]
    assert len({pair.src for pair in benchmark.pairs}) == 4
    for name in benchmark.images:
        image = benchmark.files.image(name)
        assert (image.shape, image.dtype) == ((*SHAPE, 3), np.uint8)


def test_points_are_those_of_the_grid_whose_place_is_inside(benchmark):
    grid = {tuple(point) for point in grid_points(SHAPE, POINTS_PER_SIDE)}
    for pair in benchmark.pairs:
        assert {tuple(point) for point in pair.src_points} <= grid
        assert (pair.tgt_points >= 0).all()
        assert (pair.tgt_points <= [SHAPE[1] - 1, SHAPE[0] - 1]).all()
    assert min(len(pair.src_points) for pair in benchmark.pairs) < POINTS_PER_SIDE**2  # some warp looks outside
    assert np.abs(benchmark.pairs[0].src_points - benchmark.pairs[0].tgt_points).max() > 2


def test_corresponding_points_look_alike(benchmark):
    for pair in benchmark.pairs:
        src, tgt = (benchmark.files.image(name).astype(np.float64) for name in (pair.src, pair.tgt))
        # A half-pixel ring is left out: there the source's own neighbourhood mixes with its mirror image.
        here = np.array([oracle.bilinear(src, *point) for point in pair.src_points])
        there = np.array([oracle.bilinear(tgt, *point) for point in pair.tgt_points])
        assert np.abs(here - there).mean() < 1, pair.src
        assert np.abs(here - there[::-1]).mean() > 10, pair.src


def test_the_seed_decides(benchmark):
    again, other = build(), build(seed=1)
    for first, second in zip(benchmark.pairs, again.pairs, strict=True):
        np.testing.assert_array_equal(first.tgt_points, second.tgt_points)
        np.testing.assert_array_equal(benchmark.files.image(first.src), again.files.image(second.src))
    assert not np.array_equal(benchmark.pairs[0].tgt_points, other.pairs[0].tgt_points)
    assert not np.array_equal(benchmark.files.image("one warp 0"), other.files.image("one warp 0"))


def test_a_photo_keeps_its_warps_when_others_are_added(benchmark):
    alone = build({"one": PHOTOS["one"]})
    for pair, same in zip(alone.pairs, benchmark.pairs, strict=False):
        np.testing.assert_array_equal(pair.tgt_points, same.tgt_points)


def test_the_smallest_range_is_the_identity():
    none = WarpRange(scale=(1.0, 1.0), rotation=0.0, shear=0.0, translation=0.0, bend=0.0)
    still = build({"one": PHOTOS["one"]}, pairs_per_photo=1, limits=none)
    (pair,) = still.pairs
    assert len(pair.src_points) == POINTS_PER_SIDE**2
    np.testing.assert_allclose(pair.tgt_points, pair.src_points, atol=1e-4)
    np.testing.assert_array_equal(still.files.image(pair.src), still.files.image(pair.tgt))


def test_refuses(unchecked):
    with pytest.raises(ValueError, match=r"^photos: expected at least one, got none"):
        build({})
    far = WarpRange(scale=(1.0, 1.0), rotation=0.0, shear=0.0, translation=100.0, bend=0.0)
    with pytest.raises(ValueError, match=r"^src_points of 'one warp 0': expected \[n, 2\] with n >= 1"):
        build({"one": PHOTOS["one"]}, limits=far, pairs_per_photo=1)
