"""Pairs and benchmarks check what they are given and cannot be changed afterwards."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rtn_jax.data.pairs import Benchmark, KeypointPair


def make_pair(**changes):
    points = np.array([[1.0, 2.0], [3.0, 4.5]])
    fields = {"src": "a.png", "tgt": "b.png", "src_points": points, "tgt_points": points, "category": "cat"}
    return KeypointPair(**{**fields, **changes})


def read_black(name):
    return np.zeros((4, 6, 3), np.uint8)


def make_benchmark(**changes):
    fields = {"name": "tiny", "pairs": (make_pair(),), "read_image": read_black, "threshold": "img", "alphas": (0.1,)}
    return Benchmark(**{**fields, **changes})


def test_pair_keeps_a_read_only_copy_of_its_points():
    points = np.array([[1.0, 2.0], [3.0, 4.0]])
    pair = make_pair(src_points=points, tgt_box=np.array([0.0, 0.0, 5.0, 6.0]))
    points[:] = 0
    np.testing.assert_array_equal(pair.src_points, [[1, 2], [3, 4]])
    assert pair.src_points.dtype == np.float64
    for array in (pair.src_points, pair.tgt_points, pair.tgt_box):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.src = "c.png"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"src_points": [[1, 2, 3]] * 2}, r"src_points of 'a.png' -> 'b.png': expected \[n, 2\].*got shape \[2, 3\]"),
        ({"tgt_points": [1.0, 2.0]}, r"tgt_points .*expected \[n, 2\].*got shape \[2\]"),
        ({"src_points": np.zeros((0, 2)), "tgt_points": np.zeros((0, 2))}, "src_points .*n >= 1"),
        ({"tgt_points": [[1, 2]]}, "tgt_points .*expected as many as src_points, 2, got 1"),
        ({"tgt_points": [[1, 2], [np.nan, 0]]}, "tgt_points .*expected finite numbers"),
        ({"src_points": [[1, np.inf], [0, 0]]}, "src_points .*expected finite numbers"),
        ({"src_points": "points"}, "src_points .*expected an array of numbers"),
        ({"src_points": [[1, 2], [3]]}, "src_points .*expected an array of numbers"),
        ({"tgt_box": (0, 0, 5)}, "tgt_box .*expected"),
        ({"tgt_box": (5, 0, 5, 3)}, "tgt_box .*expected"),
        ({"tgt_box": (0, 0, 5, np.nan)}, "tgt_box .*expected finite"),
        ({"src": ""}, "src: expected the name of an image"),
        ({"tgt": ""}, "tgt: expected the name of an image"),
    ],
)
def test_pair_refuses(unchecked, changes, match):
    with pytest.raises(ValueError, match=match):
        make_pair(**changes)


def test_benchmark_lists_every_image_once_in_the_order_of_use():
    pairs = [make_pair(src=a, tgt=b) for a, b in (("b", "a"), ("a", "b"), ("b", "c"))]
    benchmark = make_benchmark(pairs=tuple(pairs))
    assert benchmark.images == ("b", "a", "c")
    assert benchmark.read_image("a").shape == (4, 6, 3)


def test_lists_are_taken_too(unchecked):
    pair = make_pair(src_points=[[1, 2], [3, 4]], tgt_box=[0, 0, 5, 6])
    assert pair.src_points.shape == (2, 2)
    assert pair.tgt_box.dtype == np.float64
    benchmark = make_benchmark(pairs=[pair], alphas=[0.05, 0.1])
    assert (benchmark.pairs, benchmark.alphas) == ((pair,), (0.05, 0.1))


def test_benchmark_with_boxes_may_use_them():
    pair = make_pair(tgt_box=np.array([0.0, 0.0, 5.0, 6.0]))
    assert make_benchmark(pairs=(pair,), threshold="bbox").pairs == (pair,)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pairs": ()}, "pairs: benchmark 'tiny' needs at least one"),
        ({"threshold": "box"}, "threshold: expected one of img, bbox, bbox-kp, got 'box'"),
        ({"threshold": "bbox"}, "pairs: threshold 'bbox' needs a tgt_box for every pair, 'a.png' -> 'b.png' has none"),
        ({"alphas": ()}, "alphas: expected positive"),
        ({"alphas": (0.1, -0.1)}, "alphas: expected positive"),
        ({"alphas": (float("nan"),)}, "alphas: expected positive"),
    ],
)
def test_benchmark_refuses(unchecked, changes, match):
    with pytest.raises(ValueError, match=match):
        make_benchmark(**changes)
