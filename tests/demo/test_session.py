"""A visitor's table as a value, and its pictures."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from rtn_jax.demo.drawing import blended, jpeg_address, marked, picture, png_address, table
from rtn_jax.demo.matcher import Choice, Matcher
from rtn_jax.demo.photos import LONGEST, Photo, as_photo
from rtn_jax.demo.session import MAX_POINTS, Session
from rtn_jax.images import resize
from rtn_jax.visualize.drawing import PALETTE
from tests.networks import ONE_LEVEL, moving_params, photos, small_config

CHOICE = Choice("one")


@pytest.fixture(scope="module")
def matcher():
    return Matcher({"one": moving_params(small_config(levels=ONE_LEVEL, residual_units="image"), scale=0.05)})


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(5)
    return as_photo(photos(rng, 1, 480, 2 * LONGEST)[0]), Photo(photos(rng, 1, 200, 150)[0], (200, 150))


@pytest.fixture
def session(pair):
    return Session(CHOICE, *pair)


def decoded(address):
    kind, content = re.fullmatch(r"data:image/(\w+);base64,([\w+/=]+)", address).groups()
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert image.format == kind.upper()
    return np.asarray(image)


def test_points_come_and_go(session):
    two = session.clicked(3, 4).clicked(10.5, 20)
    assert two.points == ((3, 4), (10.5, 20))
    assert two.undone().points == ((3, 4),)
    assert two.cleared().points == session.points == session.undone().points == ()
    assert session.clicked(-7, 10_000).points == ((0, 239),)


def test_points_are_bounded_and_the_oldest_makes_room(session):
    for i in range(MAX_POINTS + 3):
        session = session.clicked(i, 0)
    assert [x for x, _ in session.points] == list(range(3, MAX_POINTS + 3))


def test_another_source_takes_the_points_with_it(session, pair):
    one = session.clicked(3, 4)
    assert one.with_photo("target", pair[0]).points == ((3, 4),)
    assert one.with_photo("target", pair[0]).tgt is pair[0]
    assert one.with_photo("source", pair[1]).points == ()
    assert one.with_photo("source", None).clicked(3, 4).points == ()


def test_what_was_asked_for_earlier_and_comes_later_changes_nothing(session, pair):
    one, other = pair
    newer = session.with_photo("source", other, since=5.0).clicked(3, 4)
    assert newer.with_photo("source", None, since=4.0) is newer
    assert newer.with_photo("source", one, since=4.0) is newer
    assert newer.with_photo("target", None, since=4.0).tgt is None, "each side has a time of its own"
    assert newer.with_photo("source", None, since=6.0).src is None
    both = newer.with_photos(one, other, since=7.0)
    assert (both.src, both.tgt, both.points) == (one, other, ())
    assert all(both.with_photo(side, None, since=6.0) is both for side in ("source", "target"))


def test_there_is_a_match_where_there_are_two_photos(session, matcher):
    assert session.match(matcher).src == session.src.shape
    assert session.with_photo("source", None).match(matcher) is None
    assert session.with_photo("target", None).match(matcher) is None
    chosen = session.marked(session.match(matcher)).points
    assert 5 <= len(chosen) <= 10


def test_dots_lie_on_the_points_and_nothing_else_changes(pair):
    photo = pair[0]
    points = np.asarray([[100.0, 50.0], [600.0, 180.0]])
    drawn = marked(photo, points)
    for (x, y), color in zip(points.astype(int), PALETTE, strict=False):
        np.testing.assert_allclose(drawn[y - 1 : y + 2, x - 1 : x + 2], np.broadcast_to(color, (3, 3, 3)), atol=2)
    changed = np.argwhere((drawn != photo.image).any(-1))[:, ::-1]
    assert np.linalg.norm(changed[:, None] - points, axis=-1).min(1).max() < 60
    assert marked(photo, np.zeros((0, 2))) is photo.image


def test_the_slider_goes_from_the_target_to_the_warped_source(session, matcher):
    match = session.match(matcher)
    target = resize(session.tgt.image, match.covered.shape)
    assert np.abs(blended(session.tgt, match, 0.0) - target).max() <= 0.5
    whole = blended(session.tgt, match, 1.0)
    np.testing.assert_array_equal(whole[match.covered], match.warped[match.covered])
    assert (whole[~match.covered] == 128).all()
    half = blended(session.tgt, match, 0.5)
    assert np.abs(half - (target + whole) / 2).max() <= 0.51


def test_the_table_tells_pixels_of_the_files(session, matcher):
    session = session.clicked(100, 50).clicked(300, 200)
    match = session.match(matcher)
    text = re.sub(r"<[^>]+>", " ", table(session, match))
    rows = re.findall(r"(\d+)\s+(-?\d+), (-?\d+)\s+(-?\d+), (-?\d+)\s+(\d\.\d\d)", text)
    assert [row[0] for row in rows] == ["2", "1"], "the newest first"
    carried = match.carry(session.src_points)
    for row, (x, y), there in zip(rows, [(300, 200), (100, 50)], carried[::-1], strict=True):
        np.testing.assert_allclose([int(row[1]), int(row[2])], (2 * x + 0.5, 2 * y + 0.5), atol=0.51)
        np.testing.assert_allclose([int(row[3]), int(row[4])], there, atol=0.51)
    assert "similarity" in text and "confidence" not in text, "which is that of `match`, of another kind"
    alone = re.sub(r"<[^>]+>", " ", table(session.with_photo("target", None), None))
    assert len(re.findall(r"\d+, \d+", alone)) == 2
    assert table(session.cleared(), match) == ""


def test_what_is_taken_away_shows_both_photos(session, matcher):
    session = session.clicked(100, 50)
    shown = picture(session, session.match(matcher))
    assert shown.shape[0] == 640
    np.testing.assert_array_equal(decoded(png_address(shown)), shown)
    without = picture(session.cleared(), session.match(matcher))
    assert 500 < (shown != without).any(-1).sum() < 60_000
    with pytest.raises(ValueError, match="expected two photos"):
        picture(session.with_photo("target", None), session.match(matcher))


def test_pictures_are_their_own_addresses(pair):
    assert np.abs(decoded(jpeg_address(pair[0].image)).astype(int) - pair[0].image).mean() < 2
