"""FCSS and CAT-FCSS against the slow loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax.backbones.fcss import PATTERNS, SPREADS, FCSSBackbone, fcss
from rtn_jax.backbones.self_similarity import self_similarity
from tests import oracle, oracle_fcss

KINDS = pytest.mark.parametrize("affine", [False, True], ids=["fcss", "cat-fcss"])


def random_weights(rng, affine):
    """Float64, of another scale in every place where a scale could be forgotten."""
    network = FCSSBackbone(layers=("stride4",), affine=affine)
    weights = jax.tree.map(np.float64, jax.device_get(network.init(jax.random.key(1))))
    for i, name in enumerate(PATTERNS, 1):
        weights[name] = {
            "u": 3 * rng.standard_normal((64, 2)),
            "v": 3 * rng.standard_normal((64, 2)),
            "bandwidth": np.array([0.3 * i]),
        }
    if affine:
        weights["affine2"] = {"kernel": rng.standard_normal((3, 3, 32, 4)), "bias": np.array([0.3, -0.2, 0.1, 0.4])}
    return weights


@KINDS
def test_the_descriptor_equals_the_slow_reading(rng, affine):
    weights, image = random_weights(rng, affine), rng.uniform(0, 255, (12, 16, 3))
    single = jax.tree.map(jnp.float32, weights)
    got = jax.jit(fcss)(single, jnp.asarray(image[None], jnp.float32))
    assert got.shape == (1, 12, 16, 192)
    np.testing.assert_allclose(got[0], oracle_fcss.fcss(weights, image), atol=1e-4)


@KINDS
def test_under_a_field_it_equals_the_slow_reading(rng, affine):
    weights, image = random_weights(rng, affine), rng.uniform(0, 255, (16, 24, 3))
    field = np.eye(2, 3) + 0.4 * rng.standard_normal((4, 6, 2, 3))
    network = FCSSBackbone(layers=("stride4",), affine=affine)
    single = jax.tree.map(jnp.float32, weights)
    inputs, _ = network.taps(single, jnp.asarray(image[None], jnp.float32))["stride4"]
    got = network.redo(single, "stride4", inputs, "centers")(jnp.asarray(field[None], jnp.float32))
    expected = oracle_fcss.fcss_under_field(weights, image, field, 4)
    np.testing.assert_allclose(got[0], expected, atol=1e-4)


def test_cat_starts_as_fcss(rng):
    image = jnp.asarray(rng.uniform(0, 255, (1, 32, 32, 3)), jnp.float32)
    cat, plain = (FCSSBackbone(layers=("stride8",), affine=affine) for affine in (True, False))
    weights = cat.init(jax.random.key(0))
    without = {name: layer for name, layer in weights.items() if not name.startswith("affine")}
    described, expected = (
        network.taps(tree, image)["stride8"][1] for network, tree in ((cat, weights), (plain, without))
    )
    np.testing.assert_allclose(described, expected, atol=1e-6)
    assert list(weights) == list(cat.weight_shapes())


def test_the_transformer_turns_the_pattern(rng):
    """A transformer that sees a quarter turn everywhere does what turning the pattern does."""
    image = jnp.asarray(rng.uniform(0, 255, (1, 32, 32, 3)), jnp.float32)
    cat, plain = (FCSSBackbone(layers=("stride8",), affine=affine) for affine in (True, False))
    weights = cat.init(jax.random.key(0))
    weights["affine2"]["bias"] = jnp.asarray([-1.0, -1.0, 1.0, -1.0])  # with the identity: (x, y) -> (-y, x)
    turned = {name: layer for name, layer in weights.items() if not name.startswith("affine")}
    for name in PATTERNS:
        turned[name] = {side: weights[name][side] @ jnp.asarray([[0.0, 1.0], [-1.0, 0.0]]) for side in ("u", "v")} | {
            "bandwidth": weights[name]["bandwidth"]
        }
    described = cat.taps(weights, image)["stride8"][1]
    np.testing.assert_allclose(described, plain.taps(turned, image)["stride8"][1], atol=1e-5)
    assert np.abs(described - plain.taps(weights, image)["stride8"][1]).max() > 0.01


def test_patterns_start_as_wide_as_the_release_has_them():
    weights = FCSSBackbone(layers=("stride4",)).init(jax.random.key(0))
    for name, spread in zip(PATTERNS, SPREADS.values(), strict=True):
        drawn = np.concatenate([weights[name]["u"], weights[name]["v"]])
        assert abs(drawn.std() / spread - 1) < 0.15
        np.testing.assert_allclose(weights[name]["bandwidth"], 0.5)


def test_refuses(unchecked):
    with pytest.raises(ValueError, match=r"^layer: FCSS has stride4, stride8, stride16; got 'conv4_1'"):
        FCSSBackbone(layers=("stride8", "conv4_1"))
    with pytest.raises(ValueError, match=r"^images: expected sides that are multiples of 4, got \(12, 18\)"):
        fcss({}, jnp.zeros((1, 12, 18, 3)))


# --- self-similarity


@pytest.fixture
def scene(rng):
    """Features of two images, a pattern, places inside and outside, and matrices."""
    return {
        "features": rng.standard_normal((2, 5, 7, 3)),
        "first": 2 * rng.standard_normal((4, 2)),
        "second": 2 * rng.standard_normal((4, 2)),
        "centres": rng.uniform(-3, 9, (2, 6, 2)),
        "matrices": rng.standard_normal((2, 6, 2, 2)),
    }


def slow(features, first, second, centres, matrices):
    out = np.zeros((*centres.shape[:2], len(first)))
    for image, place, pair in np.ndindex(out.shape):
        q, a = centres[image, place], matrices[image, place]
        sides = [oracle.bilinear(features[image], *(q + a @ shift[pair])) for shift in (first, second)]
        out[image, place, pair] = np.sum((sides[0] - sides[1]) ** 2)
    return out


def test_self_similarity_equals_the_slow_loop(x64, scene):
    given = {name: jnp.asarray(array) for name, array in scene.items()}
    np.testing.assert_allclose(self_similarity(**given), slow(**scene), atol=1e-12)
    np.testing.assert_allclose(jax.jit(self_similarity)(**given), slow(**scene), atol=1e-12)
    scene["matrices"] = np.broadcast_to(np.eye(2), (2, 6, 2, 2))
    del given["matrices"]
    np.testing.assert_allclose(self_similarity(**given), slow(**scene), atol=1e-12)


def test_self_similarity_gradients(x64, scene):
    given = [jnp.asarray(array) for array in scene.values()]
    # So small a step that no sample moves to other taps.
    check_grads(jax.jit(self_similarity), given, order=1, modes=("rev",), eps=1e-7, atol=1e-5, rtol=1e-5)


def test_self_similarity_in_half_precision(scene):
    given = {name: jnp.asarray(array, jnp.float32) for name, array in scene.items()}
    given["features"] = given["features"].astype(jnp.bfloat16)
    got = self_similarity(**given)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, slow(**scene), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("name", "shape", "match"),
    [
        ("features", (5, 7, 3), r"^features, first, second: .* got \(5, 7, 3\), \(4, 2\) and \(4, 2\)"),
        ("second", (3, 2), r"^features, first, second: .* \(4, 2\) and \(3, 2\)"),
        ("centres", (1, 6, 2), r"^centres: expected \[2, \.\.\., 2\], got \(1, 6, 2\)"),
        ("matrices", (2, 6, 2), r"^matrices: expected \(2, 6, 2, 2\), got \(2, 6, 2\)"),
    ],
)
def test_self_similarity_refuses(unchecked, scene, name, shape, match):
    with pytest.raises(ValueError, match=match):
        self_similarity(**{**scene, name: np.zeros(shape)})
