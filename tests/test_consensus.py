"""The global first look against a slow search, on features that were moved and on such that say nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax import consensus
from rtn_jax.affine import identity_field
from rtn_jax.consensus import affine_consensus, affine_field
from rtn_jax.coordinates import denormalize_vectors
from rtn_jax.model import apply, pair_confidence
from rtn_jax.params import init
from tests.networks import moving_params, photos, small_config

COMPUTED = jax.jit(affine_consensus)


def places(shape):
    """(x, y) of every cell from the middle, in halves of the longer side."""
    height, width = shape
    cells = np.array([(x - (width - 1) / 2, y - (height - 1) / 2) for y in range(height) for x in range(width)])
    return cells / (max(shape) / 2)


def moved_features(rng, shape, map_, *, noise=0.0, wrong=0.0):
    """Features of a source, and of a target in which every cell of the source is found where the map takes it."""
    field, there = rng.standard_normal((40, 40, 48)), places(shape) @ map_[:, :2].T + map_[:, 2]

    def look(points):
        """A smooth pattern over the plane, at points in the units of a map."""
        at = (points + 2) * 9.5
        low = np.floor(at).astype(int)
        share = (at - low)[:, :, None]
        (x, y), (a, b) = low.T, share.transpose(1, 0, 2)
        rows = (field[y, x] * (1 - a) + field[y, x + 1] * a, field[y + 1, x] * (1 - a) + field[y + 1, x + 1] * a)
        return rows[0] * (1 - b) + rows[1] * b

    src = look(there) + noise * rng.standard_normal((len(there), 48))
    spoilt = rng.random(len(src)) < wrong
    src[spoilt] = rng.standard_normal((spoilt.sum(), 48))
    return src.reshape(1, *shape, 48), look(places(shape)).reshape(1, *shape, 48)


def slow_consensus(src, tgt, draws):
    """One pair: singular values, distances and squares by NumPy's own solvers, one map after the other."""
    shape = src.shape[:2]
    at = places(shape)
    a, b = (x.reshape(len(at), -1) / np.sqrt((x.reshape(len(at), -1) ** 2).sum(1) + 0.01)[:, None] for x in (src, tgt))
    cosines = a @ b.T
    best = [int(np.argmax(row)) for row in cosines]
    matches = [i for i, j in enumerate(best) if int(np.argmax(cosines[:, j])) == i]
    s, t = at[matches], at[[best[i] for i in matches]]

    def speaking(map_):
        missed = ((s @ map_[:, :2].T + map_[:, 2] - t) ** 2).sum(1)
        return np.array([max(0.0, 1 - e / 0.3**2) for e in missed])

    found, support = None, 0.0
    for draw in draws:
        three = [int(u * len(matches)) for u in draw]
        corners = np.column_stack([s[three], np.ones(3)])
        if abs(np.linalg.det(corners)) <= 0.04:
            continue
        map_ = np.linalg.solve(corners, t[three]).T
        u, (greatest, least), v = np.linalg.svd(map_[:, :2])
        turned = (u @ v)[0, 0]
        sensible = np.linalg.det(map_[:, :2]) > 0 and least > 0.4 and greatest < 2.5 and greatest < 2 * least
        if sensible and turned > 0.5 and speaking(map_).sum() > support:
            found, support = map_, speaking(map_).sum()
    for _ in range(5 if found is not None else 0):
        root = np.sqrt(speaking(found))[:, None]
        if (root > 0).sum() >= 6:
            found = np.linalg.lstsq(np.column_stack([s, np.ones(len(s))]) * root, t * root, rcond=None)[0].T
    return np.eye(2, 3) if found is None or (speaking(found) > 0).sum() < 6 else found


MAPS = {
    "nothing": [[1, 0, 0], [0, 1, 0]],
    "shift": [[1, 0, 0.4], [0, 1, -0.25]],
    "larger": [[0.6, 0, 0.1], [0, 0.65, 0.1]],
    "smaller": [[1.5, 0.1, 0], [-0.1, 1.4, 0.2]],
    "turned": [[0.8, -0.5, 0.1], [0.5, 0.8, 0]],
}


@pytest.mark.parametrize("shape", [(10, 12), (12, 9)])
@pytest.mark.parametrize("name", MAPS)
def test_equals_a_slow_search(x64, monkeypatch, rng, name, shape):
    monkeypatch.setattr(consensus, "HYPOTHESES", 60)
    src, tgt = moved_features(rng, shape, np.array(MAPS[name]), noise=0.5, wrong=0.3)
    draws = np.asarray(jax.random.uniform(jax.random.key(0), (60, 3), jnp.float64))
    expected = slow_consensus(src[0], tgt[0], draws)
    got = affine_consensus(jnp.asarray(src), jnp.asarray(tgt))
    np.testing.assert_allclose(got[0], expected, atol=1e-9)
    if name != "nothing":
        assert np.abs(expected - np.eye(2, 3)).max() > 0.1


def test_maps_that_are_tried_are_of_the_kind_that_is_looked_for(x64, rng):
    """Of maps through three matches that miss by a lot: neither mirrored, nor turned, stretched or scaled too far."""
    src, noise = (jnp.asarray(rng.uniform(-1, 1, (60, 2))) for _ in range(2))
    tgt = src + 0.7 * noise
    maps, allowed = consensus._hypotheses(src, tgt, jnp.ones(60, bool))
    u, values, v = np.linalg.svd(np.asarray(maps)[..., :2])
    upright, mirrored = (u @ v)[:, 0, 0] > 0.5, np.linalg.det(np.asarray(maps)[..., :2]) < 0
    limits = {
        "turned": upright,
        "mirrored": ~mirrored,
        "small": values[:, 1] > 0.4,
        "large": values[:, 0] < 2.5,
        "stretched": values[:, 0] < 2 * values[:, 1],
    }
    kept = np.asarray(allowed)
    assert kept.sum() > 10
    for name, within in limits.items():
        assert within[kept].all(), name
        others = np.all([limit for other, limit in limits.items() if other != name], axis=0)
        if name not in ("mirrored", "turned"):  # what is mirrored or turned is told apart by either
            assert (others & ~within).any(), f"{name}: decides nothing here"


@pytest.mark.parametrize("name", MAPS)
def test_finds_how_features_were_moved_though_half_of_them_say_something_else(rng, name):
    src, tgt = moved_features(rng, (16, 16), np.array(MAPS[name]), noise=0.3, wrong=0.5)
    got = COMPUTED(jnp.asarray(src, jnp.float32), jnp.asarray(tgt, jnp.float32))
    np.testing.assert_allclose(got[0], MAPS[name], atol=0.06)


@pytest.mark.parametrize("map_", [[[-1, 0, 0], [0, 1, 0]], [[0, -1, 0], [1, 0, 0]]], ids=["mirrored", "quarter turn"])
def test_maps_that_are_not_looked_for_are_not_found(rng, map_):
    src, tgt = moved_features(rng, (16, 16), np.array(map_))
    (got,) = np.asarray(COMPUTED(jnp.asarray(src), jnp.asarray(tgt)))
    assert np.abs(got - map_).max() > 0.5
    assert np.linalg.det(got[:, :2]) > 0


def test_features_that_say_nothing_move_nothing():
    one = jnp.ones((1, 8, 8, 4))
    for src, tgt in ((one, one), (jnp.zeros_like(one), one)):
        np.testing.assert_array_equal(COMPUTED(src, tgt)[0], np.eye(2, 3))


def test_pairs_do_not_depend_on_each_other(rng):
    pairs = [moved_features(rng, (10, 10), np.array(MAPS[name])) for name in ("shift", "larger")]
    src, tgt = (jnp.asarray(np.concatenate(side), jnp.float32) for side in zip(*pairs, strict=True))
    together = COMPUTED(src, tgt)
    for i in range(2):
        np.testing.assert_allclose(together[i], COMPUTED(src[i : i + 1], tgt[i : i + 1])[0], atol=1e-5)
        np.testing.assert_allclose(together[i], affine_consensus(src, tgt)[i], atol=1e-5)


def test_no_gradient_goes_through_it(rng):
    src, tgt = (jnp.asarray(x, jnp.float32) for x in moved_features(rng, (8, 8), np.array(MAPS["shift"])))
    gradients = jax.grad(lambda *x: affine_consensus(*x).sum(), argnums=(0, 1))(src, tgt)
    assert not any(gradient.any() for gradient in gradients)


def test_features_of_different_shapes_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"^src, tgt: expected two arrays \[b, h, w, c\] of one shape, got \(1, 4, 4"):
        affine_consensus(jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 5, 2)))


@pytest.mark.parametrize("normalization", ["centers", "corners"])
@pytest.mark.parametrize("shape", [(6, 6), (4, 7)])
def test_the_field_of_a_map_takes_every_cell_where_the_map_does(x64, shape, normalization):
    map_ = np.array(MAPS["smaller"], float)
    field = np.asarray(affine_field(jnp.asarray(map_)[None], shape, normalization=normalization))[0]
    there = places(shape) @ map_[:, :2].T + map_[:, 2]
    moved = denormalize_vectors(field[..., 2], shape, normalization).reshape(-1, 2) / (max(shape) / 2)
    np.testing.assert_allclose(moved, there - places(shape), atol=1e-12)
    np.testing.assert_array_equal(field[..., :2], np.broadcast_to(map_[:, :2], (*shape, 2, 2)))


def test_the_field_of_no_motion_is_the_identity():
    np.testing.assert_array_equal(affine_field(jnp.eye(2, 3)[None], (4, 6)), identity_field(1, (4, 6)))


class TestNetwork:
    """A new network's last layer is zero: it leaves a field as it was begun."""

    PAIR = photos(np.random.default_rng(8), 2)

    def test_begins_where_it_is_told(self, monkeypatch):
        asked = jnp.asarray([MAPS["shift"], MAPS["larger"]], jnp.float32)
        monkeypatch.setattr("rtn_jax.model.affine_consensus", lambda src, tgt: asked[: len(src)])
        config = small_config(starts=("consensus",), geometry_width=6)  # no other test's program, which is kept
        out = apply(init(jax.random.key(0), config), self.PAIR, self.PAIR[::-1])
        expected = affine_field(asked, out.affine.shape[1:3])
        inner = (slice(None), slice(1, -1), slice(1, -1))  # a field is doubled with its border continued
        np.testing.assert_allclose(out.affine[inner], expected[inner], atol=1e-5)

    def test_keeps_the_surer_result_of_each_pair(self):
        params = moving_params(scale=0.05)
        src, tgt = photos(np.random.default_rng(11), 4), photos(np.random.default_rng(12), 4)
        alone = [apply(params.configure(starts=(start,)), src, tgt) for start in ("identity", "consensus")]
        both = apply(params.configure(starts=("identity", "consensus")), src, tgt)
        centre = alone[0].correlation.shape[-1] // 2

        def sure(out):
            """The mean of the greatest quarter of the cosines."""
            cosines = np.sort(np.asarray(out.correlation)[..., centre].reshape(len(src), -1), -1)
            return cosines[:, -cosines.shape[1] // 4 :].mean(-1)

        kept = (sure(alone[1]) > sure(alone[0])).astype(int)
        assert np.abs(np.asarray(alone[0].affine) - np.asarray(alone[1].affine)).max((1, 2, 3, 4)).min() > 1e-3
        for pair, start in enumerate(kept):
            for one, other in zip(jax.tree.leaves(both), jax.tree.leaves(alone[start]), strict=True):
                axis = 1 if one.ndim == 6 else 0
                got, expected = (np.take(np.asarray(x), pair, axis) for x in (one, other))
                np.testing.assert_allclose(got, expected, atol=2e-4)


def test_confidence_of_a_pair_is_that_of_its_surest_quarter(rng):
    out = apply(moving_params(scale=0.05), *np.split(photos(rng, 4), 2))
    confidence = np.sort(np.asarray(out.confidence, np.float64).reshape(2, -1), -1)
    expected = confidence[:, -confidence.shape[1] // 4 :].mean(-1)
    np.testing.assert_allclose(pair_confidence(out), expected, rtol=1e-5)
    assert (expected > confidence.mean(-1)).all()
