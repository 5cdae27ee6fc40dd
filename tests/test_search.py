"""The last look around against a slow search, on features that were moved and on such that say nothing."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax import search as module
from rtn_jax.config import Level, Search
from rtn_jax.coordinates import normalize_vectors, pixel_grid
from rtn_jax.correlation import l2_normalize
from rtn_jax.model import apply
from rtn_jax.sampling import resize_bilinear
from rtn_jax.search import local_search
from tests.networks import moving_params, photos, small_config

SMALL = Search(radius=2, reach=1.5, temperature=10.0)


def features(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow_search(src, tgt, positions, search):
    """One pair: every cell and candidate by itself."""
    h, w, _ = src.shape
    centred = src - src.reshape(h * w, -1).mean(0)
    side = range(-search.radius, search.radius + 1)
    offsets = [(dx, dy) for dy in side for dx in side]

    def sampled(cosines, x, y):
        total = 0.0
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= row < h and 0 <= column < w:
                    total += cosines[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
        return total

    alone = np.empty((h, w, len(offsets)))
    for y in range(h):
        for x in range(w):
            cosines = np.tensordot(tgt, centred[y, x], 1)
            for m, (dx, dy) in enumerate(offsets):
                alone[y, x, m] = sampled(cosines, positions[y, x, 0] + dx, positions[y, x, 1] + dy)
    found = np.empty((h, w, 2))
    for y in range(h):
        for x in range(w):
            rows, columns = (np.clip([i - 1, i, i + 1], 0, n - 1) for i, n in ((y, h), (x, w)))
            likely = search.temperature * np.mean([alone[r, c] for r in rows for c in columns], axis=0)
            allowed = []
            for m, (dx, dy) in enumerate(offsets):
                at = positions[y, x] + (dx, dy)
                if (dx, dy) == (0, 0) or (-0.5 <= at[0] <= w - 0.5 and -0.5 <= at[1] <= h - 0.5):
                    allowed.append(m)
            best = max(allowed, key=lambda m: likely[m] - np.hypot(*offsets[m]) / search.reach)
            near = [m for m in allowed if max(np.abs(np.subtract(offsets[m], offsets[best]))) <= 1]
            weights = np.exp(likely[near] - likely[near].max())
            found[y, x] = weights @ np.asarray([offsets[m] for m in near]) / weights.sum()
    return found


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("shape", [(6, 7), (3, 9), (1, 1)])
def test_finds_what_a_slow_search_finds(rng, jit, shape, x64):
    src, tgt = features(rng, 2, *shape, 5), features(rng, 2, *shape, 5)
    positions = pixel_grid(shape) + rng.normal(0, 1.5, (2, *shape, 2))
    positions[0, 0, 0] = -9.0, 2.0  # nothing of its window is inside
    search = partial(local_search, search=SMALL)
    got = (jax.jit(search) if jit else search)(jnp.asarray(src), jnp.asarray(tgt), jnp.asarray(positions))
    expected = np.stack([slow_search(*pair, SMALL) for pair in zip(src, tgt, positions, strict=True)])
    np.testing.assert_allclose(got, expected, atol=1e-9)
    np.testing.assert_array_equal(got[0, 0, 0], 0)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_few_rows_at_a_time(rng, monkeypatch, rows, x64):
    src, tgt = (jnp.asarray(features(rng, 2, 7, 5, 4)) for _ in range(2))
    positions = jnp.asarray(pixel_grid((7, 5)) + rng.normal(0, 1, (2, 7, 5, 2)))
    whole = local_search(src, tgt, positions, SMALL)
    monkeypatch.setattr(module, "_ENTRIES", rows * 5 * 7 * 5)
    np.testing.assert_allclose(local_search(src, tgt, positions, SMALL), whole, atol=1e-12)


def test_follows_what_has_moved_farther_than_the_field_knows(rng):
    src = features(rng, 1, 16, 16, 32)
    tgt = np.roll(src, (-2, 5), (1, 2))
    there = jnp.asarray(pixel_grid((16, 16))[None] + [2.0, 0.0])
    moved = local_search(jnp.asarray(src), jnp.asarray(tgt), there, Search(radius=6))
    np.testing.assert_allclose(moved[0, 4:12, 3:9], np.broadcast_to([3.0, -2.0], (8, 6, 2)), atol=0.05)


def test_stays_where_all_places_are_alike():
    alike = jnp.ones((1, 6, 6, 4)) / 2
    at = jnp.asarray(pixel_grid((6, 6))[None], jnp.float32)
    inner = local_search(alike, alike, at, SMALL)[0, 2:-2, 2:-2]
    np.testing.assert_allclose(inner, 0, atol=1e-6)


def test_what_all_places_share_does_not_count(rng, x64):
    """Features that the whole source has would draw every cell to where the target has most of them."""
    own, tgt, common = (jnp.asarray(features(rng, *shape)) for shape in ((1, 6, 6, 8), (1, 6, 6, 8), (8,)))
    at = jnp.asarray(pixel_grid((6, 6))[None], float)
    shared = own + common
    np.testing.assert_allclose(local_search(shared, tgt, at, SMALL), local_search(own, tgt, at, SMALL), atol=1e-9)


def test_near_is_likelier_than_far(rng, x64):
    src, tgt = (jnp.asarray(features(rng, 1, 12, 12, 6)) for _ in range(2))
    at = jnp.asarray(pixel_grid((12, 12))[None], float)
    ways = [float(jnp.abs(local_search(src, tgt, at, Search(radius=5, reach=reach))).mean()) for reach in (0.3, 2, 50)]
    assert ways[0] < 0.5 * ways[1] < 0.5 * ways[2]


def test_gradients(rng, x64):
    src, tgt = (jnp.asarray(features(rng, 1, 4, 5, 3)) for _ in range(2))
    at = jnp.asarray(pixel_grid((4, 5)) + rng.uniform(0.2, 0.4, (1, 4, 5, 2)))
    check_grads(jax.jit(partial(local_search, search=SMALL)), (src, tgt, at), order=1, modes=("fwd", "rev"), eps=1e-6)


def test_refuses_shapes_that_do_not_belong_together(unchecked):
    x = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(ValueError, match=r"^src, tgt: expected two arrays \[b, h, w, c\] of one shape"):
        local_search(x, x[:, :3], jnp.zeros((1, 4, 4, 2)), SMALL)
    with pytest.raises(ValueError, match=r"^positions: expected \(1, 4, 4, 2\), got \(1, 3, 4, 2\)"):
        local_search(x, x, jnp.zeros((1, 3, 4, 2)), SMALL)


class TestNetwork:
    LEVELS = (
        Level(layer="conv3_1", iterations=1, downscale=2),
        Level(layer="conv3_1", iterations=1),
        Level(layer="conv2_1", iterations=1),
    )

    def test_moves_the_field_by_what_all_layers_of_the_images_as_they_are_say(self):
        params = moving_params(small_config(levels=self.LEVELS), scale=0.05)
        src, tgt = photos(np.random.default_rng(4), 2), photos(np.random.default_rng(5), 2)
        without = apply(params, src, tgt)
        out = apply(params.configure(search=SMALL), src, tgt)
        shape = out.affine.shape[1:3]

        def joined(images):
            from rtn_jax.model import encode

            taps = encode(params, images).taps
            both = [l2_normalize(resize_bilinear(taps[name].output, shape)) for name in ("conv3_1", "conv2_1")]
            return jnp.concatenate(both, -1) / np.sqrt(2)

        way = np.asarray(without.affine[..., 2]) * np.asarray(shape[::-1]) / 2
        moved = local_search(joined(src), joined(tgt), jnp.asarray(pixel_grid(shape) + way, jnp.float32), SMALL)
        expected = without.affine.at[..., 2].add(normalize_vectors(moved, shape, "centers"))
        np.testing.assert_allclose(out.affine, expected, atol=1e-4)
        assert np.abs(out.affine - without.affine).max() > 0.02
        for name in ("confidence", "correlation"):  # how sure the recurrence is
            np.testing.assert_allclose(getattr(out, name), getattr(without, name), atol=1e-5)
        for one, other in zip(out.history, without.history, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)

    def test_of_reduced_images_alone_it_takes_the_last_level(self):
        params = moving_params(small_config(levels=self.LEVELS[:1], search=SMALL), scale=0.05)
        out = apply(params, *photos(np.random.default_rng(4), 2)[:, None])
        assert np.isfinite(out.mapping).all()
        assert np.abs(out.affine - out.history[-1][-1]).max() > 0.01
