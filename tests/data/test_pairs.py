"""Pairs and benchmarks check what they are given and cannot be changed afterwards."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rtn_jax.data.files import ArrayFiles
from rtn_jax.data.pairs import SLACK, Benchmark, Files, Pair, check_box_inside, check_inside

POINTS = np.array([[1.0, 2.0], [3.0, 4.5]])
BOX = np.array([0.0, 0.0, 5.0, 6.0])


def make_pair(**changes):
    fields = {"id": "cat/a-b", "src": "a.png", "tgt": "b.png", "src_points": POINTS, "tgt_points": POINTS}
    return Pair(**{**fields, **changes})


def make_benchmark(**changes):
    files = ArrayFiles({name: np.zeros((4, 6, 3), np.uint8) for name in ("a", "b", "c")})
    fields = {"name": "tiny", "pairs": (make_pair(),), "files": files, "thresholds": ("img",), "alphas": (0.1,)}
    return Benchmark(**{**fields, **changes})


def test_pair_keeps_a_read_only_copy_of_its_arrays():
    points = np.array([[1.0, 2.0], [3.0, 4.0]])
    pair = make_pair(src_points=points, src_box=BOX, tgt_box=BOX)
    points[:] = 0
    np.testing.assert_array_equal(pair.src_points, [[1, 2], [3, 4]])
    assert pair.src_points.dtype == np.float64
    for array in (pair.src_points, pair.tgt_points, pair.src_box, pair.tgt_box):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.src = "c.png"


def test_a_pair_needs_nothing_but_names():
    pair = Pair(id="x", src="a", tgt="b")
    assert (pair.src_points, pair.tgt_points, pair.src_box, pair.tgt_box) == (None,) * 4
    assert (pair.category, pair.subset) == ("", "")
    flags = ("has_masks", "has_flow", "mirrored", "leaked", "src_flipped", "tgt_flipped")
    assert not any(getattr(pair, flag) for flag in flags)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"src_points": [[1, 2, 3]] * 2}, r"src_points of 'cat/a-b': expected \[n, 2\].*got shape \[2, 3\]"),
        ({"tgt_points": [1.0, 2.0]}, r"tgt_points .*expected \[n, 2\].*got shape \[2\]"),
        ({"src_points": np.zeros((0, 2)), "tgt_points": np.zeros((0, 2))}, "src_points .*n >= 1"),
        ({"tgt_points": [[1, 2]]}, "tgt_points .*expected as many as src_points, 2, got 1"),
        ({"tgt_points": None}, "src_points, tgt_points of 'cat/a-b': expected both or neither"),
        ({"src_points": None}, "src_points, tgt_points of 'cat/a-b': expected both or neither"),
        ({"tgt_points": [[1, 2], [np.nan, 0]]}, "tgt_points .*expected finite numbers"),
        ({"src_points": [[1, np.inf], [0, 0]]}, "src_points .*expected finite numbers"),
        ({"src_points": "points"}, "src_points .*expected an array of numbers"),
        ({"src_points": [[1, 2], [3]]}, "src_points .*expected an array of numbers"),
        ({"src_points": [[10**400, 2], [3, 4]]}, "src_points .*expected an array of numbers"),
        ({"src_box": (0, 0, 5)}, r"src_box .*expected \(left, top, right, bottom\), got \[0.0, 0.0, 5.0\]"),
        ({"tgt_box": (5, 0, 5, 3)}, "tgt_box .*expected"),
        ({"tgt_box": (0, 3, 5, 1)}, "tgt_box .*expected"),
        ({"tgt_box": (0, 0, 5, np.nan)}, "tgt_box .*expected finite"),
        ({"id": ""}, "id: expected a name"),
        ({"src": ""}, "src: expected a name"),
        ({"tgt": ""}, "tgt: expected a name"),
    ],
)
def test_pair_refuses(unchecked, changes, match):
    with pytest.raises(ValueError, match=match) as caught:
        make_pair(**changes)
    assert "\n" not in str(caught.value)


def test_benchmark_lists_every_image_once_in_the_order_of_use():
    pairs = [make_pair(id=a + b, src=a, tgt=b) for a, b in (("b", "a"), ("a", "b"), ("b", "c"))]
    benchmark = make_benchmark(pairs=tuple(pairs))
    assert benchmark.images == ("b", "a", "c")
    assert benchmark.files.shape("a") == (4, 6)


def test_lists_are_taken_too(unchecked):
    pair = make_pair(src_points=[[1, 2], [3, 4]], tgt_box=[0, 0, 5, 6])
    assert pair.src_points.shape == (2, 2)
    assert pair.tgt_box.dtype == np.float64
    benchmark = make_benchmark(pairs=[pair], alphas=[0.05, 0.1], thresholds=["img"])
    assert (benchmark.pairs, benchmark.alphas, benchmark.thresholds) == ((pair,), (0.05, 0.1), ("img",))


def test_benchmark_with_boxes_may_use_them():
    pair = make_pair(tgt_box=BOX)
    assert make_benchmark(pairs=(pair,)).replace(thresholds=("img", "bbox")).thresholds == ("img", "bbox")


def test_each_protocol_asks_for_what_it_measures():
    bare = {"src_points": None, "tgt_points": None}
    for protocol, has in (("flow", {"has_flow": True}), ("masks", {"has_masks": True}), (None, {})):
        pair = make_pair(**bare, **has)
        assert make_benchmark(pairs=(pair,), protocol=protocol, thresholds=()).protocol == protocol
    with pytest.raises(ValueError, match="protocol 'flow' needs has_flow for every pair, 'cat/a-b' has none"):
        make_benchmark(protocol="flow")
    with pytest.raises(ValueError, match="protocol 'masks' needs has_masks for every pair, 'cat/a-b' has none"):
        make_benchmark(protocol="masks")
    with pytest.raises(ValueError, match="protocol 'keypoints' needs src_points for every pair, 'cat/a-b' has none"):
        make_benchmark(pairs=(make_pair(**bare),))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pairs": ()}, "pairs: benchmark 'tiny' needs at least one"),
        ({"pairs": (make_pair(), make_pair())}, "pairs: expected every id once, got 'cat/a-b' twice"),
        ({"protocol": "boxes"}, "protocol: expected one of keypoints, flow, masks or None, got 'boxes'"),
        ({"thresholds": ()}, "thresholds: expected at least one of img, bbox, bbox-kp, got none"),
        ({"thresholds": ("img", "box")}, "thresholds: expected some of img, bbox, bbox-kp, got 'box'"),
        ({"thresholds": ("bbox",)}, "pairs: threshold 'bbox' needs tgt_box for every pair, 'cat/a-b' has none"),
        ({"alphas": ()}, "alphas: expected positive"),
        ({"alphas": (0.1, -0.1)}, "alphas: expected positive"),
        ({"alphas": (float("nan"),)}, "alphas: expected positive"),
    ],
)
def test_benchmark_refuses(unchecked, changes, match):
    with pytest.raises(ValueError, match=match):
        make_benchmark(**changes)


def test_keypoints_may_lie_a_little_outside():
    shape = (10, 40)  # outer edges at -0.5, 9.5 and 39.5; 5 % of the longer side are 2 pixels
    assert SLACK == 0.05
    check_inside("p", np.array([[-2.4, 0.0], [41.4, 11.4], [0.0, -2.4]]), shape)
    for outside in ([-2.6, 0.0], [41.6, 0.0], [0.0, 11.6], [0.0, -2.6]):
        x, y = (f"{number:g}" for number in outside)
        expected = rf"^p: keypoint 2 at \({x}, {y}\) lies outside the image of 40 x 10 pixels"
        with pytest.raises(ValueError, match=expected):
            check_inside("p", np.array([[0.0, 0.0], outside]), shape)


def test_boxes_are_checked_by_their_corners():
    check_box_inside("b", np.array([-1.0, -1.0, 41.0, 11.0]), (10, 40))
    with pytest.raises(ValueError, match=r"^b: corner 2 at \(50, 9\) lies outside the image of 40 x 10"):
        check_box_inside("b", np.array([0.0, 0.0, 50.0, 9.0]), (10, 40))


def test_files_know_no_masks_and_flows_unless_they_say_so():
    with pytest.raises(ValueError, match=r"^a\.png: no mask is known"):
        Files().mask("a.png")
    with pytest.raises(ValueError, match=r"^cat/a-b: no flow is known"):
        Files().flow("cat/a-b")
