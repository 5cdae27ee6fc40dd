"""Training learns: a new network, two levels on random features, is taught one pair until it matches it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rtn_jax
from rtn_jax import Level, Params
from rtn_jax.coordinates import pixel_grid
from rtn_jax.data.synthetic import WarpRange, inside, random_warps, warp_mapping, warp_photos
from rtn_jax.metrics import pck
from rtn_jax.training.recipes import Recipe
from rtn_jax.training.step import init_state, make_step, parallel
from tests.networks import photos, small_config

SIZE = 48
STEPS = 34
RECIPE = Recipe(steps=STEPS, learning_rate=1e-2)
LEVELS = (Level(layer="conv4_1", iterations=1), Level(layer="conv3_1", iterations=1))


def test_one_pair_is_learned():
    """PCK@0.05 (img) of every other pixel whose true position lies in the target, from nearly nothing to all."""
    config = small_config(levels=LEVELS, image_size=SIZE, radius=3)
    params = rtn_jax.init(jax.random.key(0), config)
    photo, seeds = photos(np.random.default_rng(3), 1, SIZE, SIZE), np.array([1], np.uint32)

    warp = random_warps(jax.vmap(jax.random.key)(seeds), WarpRange(translation=RECIPE.translation))
    src = warp_photos(warp, jnp.asarray(photo, jnp.float32))
    points = pixel_grid((SIZE, SIZE), np.float64)[::2, ::2].reshape(-1, 2)
    true = np.asarray(warp_mapping(warp, points, (SIZE, SIZE)))[0]
    seen = np.asarray(inside(true, (SIZE, SIZE)))

    def score(weights):
        found = rtn_jax.transfer_keypoints(rtn_jax.apply(Params(weights, config), src, photo), points[None])[0]
        return 100 * pck(np.asarray(found)[seen], true[seen], threshold_length=SIZE, alpha=0.05)

    state = init_state(params, RECIPE, STEPS)
    assert score(state.weights) < 10
    step, losses = parallel(make_step(config, "synthetic", RECIPE, STEPS), 1), []
    for _ in range(STEPS):
        state, metrics = step(state, {"photos": photo, "seeds": seeds})
        losses.append(float(metrics["loss"]))
    assert score(state.weights) >= 95
    assert losses[-1] < 0.2 * losses[0]
    determinant = float(metrics["mean_determinant"])
    assert determinant == pytest.approx(np.linalg.det(warp.affine[0, :, :2]), abs=0.1), "the 2x2 part is learned too"
