"""The page's core: photos in, matches out, nothing computed twice and nothing that grows."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import rtn_jax
from rtn_jax.demo import matcher as matcher_module
from rtn_jax.demo.matcher import Choice, Matcher, Recent
from rtn_jax.demo.photos import Photo
from rtn_jax.images import resize
from tests.networks import ONE_LEVEL, moving_params, photos, small_config

CHOICE = Choice("one")


def as_photo(image) -> Photo:
    """As it is: the page enlarges small ones."""
    return Photo(image, image.shape[:2])


@pytest.fixture(scope="module")
def params():
    return moving_params(small_config(levels=ONE_LEVEL, residual_units="image"), scale=0.05)


@pytest.fixture(scope="module")
def three():
    rng = np.random.default_rng(3)
    return [as_photo(photos(rng, 1, height, width)[0]) for height, width in ((60, 80), (90, 50), (40, 40))]


@pytest.fixture
def encoded(monkeypatch):
    """The shapes of the images whose features were computed."""
    shapes, encode = [], matcher_module.encode

    def recorded(params, image):
        shapes.append(image.shape[:2])
        return encode(params, image)

    monkeypatch.setattr(matcher_module, "encode", recorded)
    return shapes


def test_points_go_where_the_network_says(params, three):
    src, tgt, _ = three
    match = Matcher({"one": params}).match(src, tgt, CHOICE)
    out = rtn_jax.apply(params, src.image, tgt.image)
    points = np.random.default_rng(0).uniform((0, 0), (79, 59), (50, 2))
    expected = np.asarray(rtn_jax.transfer_keypoints(out, points))
    still = points * (50 / 80, 90 / 60)
    assert np.abs(expected - still).mean() > 1, "the network moves something"
    np.testing.assert_allclose(match.carry(points), expected, atol=1.0)
    assert np.abs(match.carry(points) - expected).mean() < 0.25
    x, y = np.rint(points).astype(int).T
    np.testing.assert_allclose(match.sureness(points), np.asarray(out.confidence)[0, y, x], atol=0.1)
    assert np.ptp(match.sureness(points)) > 0.1


def test_without_motion_the_source_lies_on_the_target(three):
    still = rtn_jax.init(jax.random.key(0), small_config(levels=ONE_LEVEL))
    match = Matcher({"one": still}).match(three[0], three[0], CHOICE)
    points = np.asarray([[0.0, 0.0], [30.5, 20.25], [79.0, 59.0]])
    np.testing.assert_allclose(match.carry(points), points, atol=1e-3)
    assert match.covered[1:-1, 1:-1].all()
    difference = np.abs(match.warped - resize(three[0].image, match.covered.shape))
    assert difference[1:-1, 1:-1].max() < 1


def test_chosen_points_lie_in_the_source_where_the_match_is_sure(params, three):
    match = Matcher({"one": params}).match(three[0], three[1], CHOICE)
    points = match.good_points(10)
    assert 5 <= len(points) <= 10
    assert (points >= 0).all() and (points <= (79, 59)).all()
    everywhere = match.sureness(np.random.default_rng(0).uniform((0, 0), (79, 59), (500, 2)))
    assert match.sureness(points).mean() > everywhere.mean()


def test_features_are_computed_once_per_photo_and_matches_once_per_pair(params, three, encoded):
    a, b, c = three
    matcher = Matcher({"one": params})
    first = matcher.match(a, b, CHOICE)
    assert len(encoded) == 2
    matcher.match(b, a, CHOICE)
    matcher.match(a, c, CHOICE)
    matcher.match(a, b, Choice("one", iterations=3))
    assert len(encoded) == 3
    assert matcher.match(as_photo(a.image.copy()), b, CHOICE) is first
    matcher.match(a, b, Choice("one", image_size=48))
    assert encoded[3:] == [(48, 48)] * 2


def test_a_choice_is_what_is_computed(params, three):
    matcher = Matcher({"one": params, "still": rtn_jax.init(jax.random.key(0), small_config(levels=ONE_LEVEL))})
    a, b, _ = three
    points = np.asarray([[20.0, 20.0]])
    plain, still = (matcher.match(a, b, Choice(name)) for name in ("one", "still"))
    longer, larger = (matcher.match(a, b, Choice("one", **other)) for other in ({"iterations": 3}, {"image_size": 48}))
    assert larger.flow.shape == (48, 48, 2) != longer.flow.shape
    moved = [match.carry(points)[0] for match in (plain, still, longer, larger)]
    assert all(np.abs(moved[i] - moved[j]).max() > 0.05 for i in range(4) for j in range(i))
    assert Matcher({"two": moving_params()}).params(Choice("two", image_size=64, iterations=4)).config == (
        small_config(image_size=64).replace(iterations=(4, 4))
    )
    with pytest.raises(ValueError, match="network: expected one of one, still, got 'two'"):
        matcher.match(a, b, Choice("two"))
    with pytest.raises(ValueError, match="image_size"):
        matcher.match(a, b, Choice("one", image_size=8))
    with pytest.raises(ValueError, match="expected at least one"):
        Matcher({})


def test_the_mirror_image_is_kept_where_it_fits_better(three, encoded):
    still = Matcher({"one": rtn_jax.init(jax.random.key(0), small_config(levels=ONE_LEVEL))})
    src = three[0]
    other = as_photo(np.ascontiguousarray(src.image[:, ::-1]))
    points = np.asarray([[20.0, 30.0], [70.5, 3.0]])
    for tgt, aware, mirrored in ((other, True, True), (other, False, False), (src, True, False)):
        match = still.match(src, tgt, Choice("one", mirror_aware=aware))
        assert match.mirrored is mirrored
        expected = points * [-1, 1] + [79, 0] if mirrored else points
        np.testing.assert_allclose(match.carry(points), expected, atol=1e-2)
        turned = src.image if tgt is src or not mirrored else src.image[:, ::-1]
        assert np.abs(match.warped.astype(float) - resize(turned, match.warped.shape[:2]))[match.covered].mean() < 3
    assert len(encoded) == 4, "either photo and its mirror image, once"


def test_memory_is_bounded(params, encoded):
    rng = np.random.default_rng(0)
    crowd = [as_photo(photo) for photo in photos(rng, 6, 30, 40)]
    matcher = Matcher({"one": params}, feature_bytes=1, match_bytes=60_000)
    for photo in crowd[1:]:
        matcher.match(photo, crowd[0], CHOICE)
    assert len(matcher._features) == 1
    assert 1 < len(matcher._matches) < 5
    assert matcher._matches.nbytes <= 60_000
    before = len(encoded)
    matcher.match(crowd[5], crowd[0], CHOICE)
    assert len(encoded) == before, "the newest is kept"
    matcher.match(crowd[1], crowd[0], CHOICE)
    assert len(encoded) > before, "the oldest is not"


def test_compiled_programs_are_bounded(params, three, monkeypatch):
    cleared, still = [], SimpleNamespace(flow=np.zeros((1, 32, 32, 2)), confidence=np.ones((1, 32, 32)))
    monkeypatch.setattr(matcher_module, "MAX_PROGRAMS", 2)
    monkeypatch.setattr(matcher_module, "match", lambda *_: still)
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    matcher = Matcher({"one": params})
    for iterations in (None, 1, None, 1):
        matcher.match(three[0], three[1], Choice("one", iterations=iterations))
    assert not cleared
    matcher.match(three[0], three[1], Choice("one", iterations=3))
    assert cleared == [True]
    assert len(matcher._programs) == 1


def test_many_at_once_wait_for_one(params, three, encoded):
    matcher, found = Matcher({"one": params}), []
    threads = [
        threading.Thread(target=lambda: found.append(matcher.match(three[0], three[1], CHOICE))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(encoded) == 2
    assert len(found) == 8 and all(match is found[0] for match in found)


def test_recent_keeps_what_was_used_last():
    recent, made = Recent(10, lambda value: value), []

    def make(key, value):
        return recent.get(key, lambda: made.append(key) or value)

    assert [make("a", 4), make("b", 4), make("a", 9), make("c", 4)] == [4, 4, 4, 4]
    assert (len(recent), recent.nbytes) == (2, 8)
    make("a", 4)
    assert made == ["a", "b", "c"], "a was used after b, which made room"
    make("d", 50)
    assert (len(recent), recent.nbytes) == (1, 50), "the newest stays, however large"
