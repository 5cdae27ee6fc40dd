"""Points as they are written on a command line, and those chosen where the match can be relied on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rtn_jax.matching.points import check_inside, chosen_points, parse_points


def test_points_are_a_number_or_positions():
    assert parse_points("12") == 12
    assert parse_points(" 3 ") == 3
    for text in ("120,80 40.5,60", "120,80; 40.5,60", "1.2e2,80\n40.5,+60"):
        np.testing.assert_array_equal(parse_points(text), [[120, 80], [40.5, 60]])


@pytest.mark.parametrize("text", ["", " ", "1.5", "1,2,3", "120, 80", "a,b", "1,nan", "1,2 3", "inf,1", "1;2", "0x1,2"])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match='points: expected a number, or x,y of each point such as "120,80 40,60"'):
        parse_points(text)


def test_points_outside_the_photo_are_refused():
    with pytest.raises(ValueError, match="points: expected at least 1, got -2"):
        parse_points("-2")
    check_inside(np.asarray([[0.0, 0.0], [89.0, 39.0], [89.5, -0.5]]), (40, 90), "cat.jpg")
    with pytest.raises(ValueError, match=r"points: 90,3 is outside cat\.jpg, which has 90 x 40 pixels"):
        check_inside(np.asarray([[1.0, 1.0], [90.0, 3.0], [1.0, 99.0]]), (40, 90), "cat.jpg")


def test_points_are_chosen_where_the_match_is_reliable(answered):
    sure = np.full((32, 32), 0.3, np.float32)  # not so low that it alone would keep points away
    sure[:, :16] = 0.9
    still = np.zeros((32, 32, 2), np.float32)
    half = replace(answered, flow=still, back=still, confidence=sure)
    points = chosen_points(half, 12, (80, 180))
    assert 8 <= len(points) <= 12
    assert points[:, 0].max() < 48
    assert np.ptp(points, axis=0).min() > 15
    mask = np.zeros((80, 180), bool)
    mask[40:, :60] = True
    on_object = chosen_points(half, 5, (80, 180), mask)
    assert (on_object[:, 1] > 19).all() and (on_object[:, 0] < 30).all()
    nowhere = chosen_points(replace(half, confidence=0 * sure), 5, (80, 180), mask)
    assert len(nowhere) >= 3 and (nowhere[:, 0] < 30).all(), "something is shown all the same"
    leaving = replace(half, flow=still + np.asarray([-8, 0], np.float32), confidence=sure * 0 + 1)
    assert chosen_points(leaving, 8, (80, 180))[:, 0].min() > 22, "what leaves the target has no match to show"


def test_chosen_points_are_not_heaped_up_where_little_is_reliable(answered):
    sure = np.zeros((32, 32), np.float32)
    sure[2:6, :2] = 0.9
    still = np.zeros((32, 32, 2), np.float32)
    corner = replace(answered, flow=still, back=still, confidence=sure)
    points = chosen_points(corner, 12, (80, 180))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(len(points))
    assert 1 <= len(points) < 12
    assert distances.min() > 0.04 * 90, "a share of the source's longer side"
