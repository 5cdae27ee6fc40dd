"""What holds for every backbone there is; a new one is tested by having a name."""

from __future__ import annotations

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import rtn_jax
from rtn_jax.affine import identity_field
from rtn_jax.backbones import Backbone, Pretrained, backbone, full_weight_shapes
from rtn_jax.config import PRESETS, BackboneName, Config, Level
from rtn_jax.params import Params, expected_shapes
from tests.networks import moving_params, photos

NAMES = get_args(BackboneName)
SHALLOW = {name: ("conv3_1", "conv2_1") for name in ("vgg", "vgg16")} | {
    name: ("conv3_2", "conv2_2") for name in ("resnet", "resnet50", "resnet152")
}
"""Cheaper layers than the default's, where there are; a backbone that is not named has the default's."""

OTHER_DEPTHS = ("vgg16", "resnet50", "resnet152", "fcss")
"""Left out where a test takes long and another depth, or the transformer besides, says the same."""

every_backbone = pytest.mark.parametrize("name", NAMES)
every_kind = pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHER_DEPTHS])


def small(name, **changes):
    """Two levels on shallow layers."""
    chosen = SHALLOW.get(name) or [level.layer for level in Config(backbone=name).levels]
    levels = tuple(Level(layer=layer, iterations=1) for layer in chosen)
    return Config(backbone=name, levels=levels, radius=1, image_size=32, geometry_width=2).replace(**changes)


@pytest.fixture(scope="module", params=NAMES)
def built(request):
    """A backbone with random weights that leave nothing at zero or one, and the taps of two images."""
    config = small(request.param)
    network = backbone(config)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda x: x + 0.1 * jnp.abs(x).mean() * rng.standard_normal(x.shape).astype(np.float32),
        jax.jit(network.init)(jax.random.key(0)),
    )
    images = jnp.asarray(photos(rng, 2, 48, 64), jnp.float32)
    taps = jax.jit(network.taps)(weights, images)
    return network, weights, images, taps


def filled(shapes):
    """Different numbers for every weight, without compiling anything."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s, np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple))


def redone(built, layer, field, normalization="centers"):
    network, weights, _, taps = built
    return network.redo(weights, layer, taps[layer][0], normalization)(field)


def close(got, expected, scale=1e-5):
    np.testing.assert_allclose(got, expected, rtol=0, atol=scale * float(jnp.abs(expected).max()))


def test_it_is_a_backbone(built):
    network, weights, _, taps = built
    assert isinstance(network, Backbone)
    hash(network)
    assert jax.tree.map(jnp.shape, weights) == network.weight_shapes()
    assert set(network.head) <= set(weights)
    for layer, (inputs, output) in taps.items():
        stride = network.stride(layer)
        assert output.shape[:3] == (2, 48 // stride, 64 // stride)
        assert bool(jnp.isfinite(output).all())
        assert float(output.std(axis=(1, 2)).max()) > 0, "features that are the same everywhere match nothing"
        assert {leaf.shape[0] for leaf in jax.tree.leaves(inputs)} == {2}


def test_redone_under_the_identity_nothing_changes(built):
    """At the border too: what lies outside is zero either way."""
    for layer, (_, output) in built[3].items():
        for normalization in ("centers", "corners"):
            close(redone(built, layer, identity_field(2, output.shape[1:3]), normalization), output)


def test_redone_under_a_translation_the_features_are_the_next_cells(built):
    """One cell to the right and down, but for the last two cells, where a neighbour is missing."""
    for layer, (_, output) in built[3].items():
        shape = output.shape[1:3]
        cell = {"centers": 2 / np.array(shape[::-1]), "corners": 2 / (np.array(shape[::-1]) - 1)}
        for normalization, t in cell.items():
            moved = identity_field(2, shape).at[..., 2].set(t)
            got = redone(built, layer, moved, normalization)
            close(got[:, :-2, :-2], output[:, 1:-1, 1:-1])


def test_a_turn_and_a_stretch_change_the_features(built):
    layer, (_, output) = next(iter(built[3].items()))
    field = identity_field(2, output.shape[1:3]).at[..., :2].set(jnp.array([[0.0, -1.5], [1.5, 0.0]]))
    got = redone(built, layer, field)
    assert float(jnp.abs(got - output).max()) > 0.01 * float(jnp.abs(output).max())


def test_images_of_a_batch_do_not_mix(built):
    network, weights, images, taps = built
    alone = jax.jit(network.taps)(weights, images[1:])
    for layer, (_, output) in alone.items():
        close(output, taps[layer][1][1:])


def test_gradients_with_respect_to_the_field(x64, built):
    network, weights, _, taps = built
    network = type(network)(**{**vars(network), "dtype": "float64"})
    layer, (inputs, output) = next(iter(taps.items()))
    weights, inputs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (weights, inputs))
    noise = np.random.default_rng(0).standard_normal((2, *output.shape[1:3], 2, 3))
    field = jnp.asarray(np.eye(2, 3) + 0.1 * noise)
    channels = output.shape[-1]
    mixed = np.random.default_rng(1).standard_normal((channels, 2)) / channels

    def features(field):
        return network.redo(weights, layer, inputs, "centers")(field) @ mixed

    # So small a step that no sample moves to other taps, and no ReLU changes sides.
    check_grads(jax.jit(features), (field,), order=1, modes=("rev",), eps=1e-7, atol=1e-5, rtol=1e-4)


@every_kind
def test_the_whole_network_matches(name):
    out = jax.jit(rtn_jax.apply)(moving_params(small(name)), *photos(np.random.default_rng(0), 2))
    assert bool(jnp.isfinite(out.mapping).all())
    assert float(jnp.abs(out.flow).max()) > 0.01


@every_backbone
def test_presets_name_layers_that_exist(name):
    for preset in ("default", "paper"):
        config = PRESETS[preset](name)
        network = backbone(config)
        shapes, full = network.weight_shapes(), full_weight_shapes(name)
        assert list(full)[: len(shapes)] == list(shapes)
        assert {layer: full[layer] for layer in shapes} == shapes
        assert min(network.stride(level.layer) for level in config.levels) >= 8


@every_kind
def test_the_head_is_drawn_where_weights_lack_it_and_settings_go_with_weights(name):
    config = small(name)
    shapes, head = backbone(config).weight_shapes(), backbone(config).head
    weights = filled(shapes)
    given = Pretrained({k: v for k, v in weights.items() if k not in head}, {"pixel_mean": (1.0, 2.0, 3.0)})
    params = rtn_jax.init(jax.random.key(0), config, backbone_weights=given)
    assert params.config == config.replace(pixel_mean=(1.0, 2.0, 3.0))
    assert jax.tree.map(jnp.shape, params.weights["backbone"]) == shapes
    for layer in head:
        assert any(np.ptp(array) > 0 for array in params.weights["backbone"][layer].values()) or "affine" in layer
    for layer in given.layers:
        jax.tree.map(np.testing.assert_array_equal, params.weights["backbone"][layer], weights[layer])
    first = next(iter(given.layers))
    lacking = {k: v for k, v in given.layers.items() if k != first}
    with pytest.raises(ValueError, match=rf"^backbone_weights: {first}/.* is missing"):
        rtn_jax.init(jax.random.key(0), config, backbone_weights=lacking)


@every_backbone
def test_layers_that_do_not_exist_are_refused(name):
    with pytest.raises(ValueError, match=r"^layer: .* has .*; got 'conv9_9'"):
        backbone(small(name).replace(levels=(Level(layer="conv9_9", iterations=1),)))


@every_backbone
def test_a_stride_of_resnets_is_theirs_alone(name):
    config = small(name, resnet_stride=8)
    if name.startswith("resnet"):
        assert backbone(config).deepest_stride == 8
        return
    with pytest.raises(ValueError, match=rf"^resnet_stride: {name} is no ResNet and has none, got 8"):
        backbone(config)


@every_backbone
def test_a_checkpoint_round_trips(name, tmp_path):
    config = small(name, pixel_mean=(1.0, 2.0, 3.0))
    params = Params(filled(expected_shapes(config)), config)
    rtn_jax.save(tmp_path / "there", params)
    again = rtn_jax.load(tmp_path / "there")
    assert again.config == params.config
    jax.tree.map(np.testing.assert_array_equal, again.weights, params.weights)


@every_backbone
def test_expected_shapes_are_those_of_a_new_network(name):
    config = small(name)
    weights = jax.eval_shape(lambda: rtn_jax.init(jax.random.key(0), config).weights)
    assert jax.tree.map(lambda leaf: leaf.shape, weights) == expected_shapes(config)


@every_kind
def test_half_precision(name):
    config = small(name)
    weights = jax.jit(backbone(config).init)(jax.random.key(0))
    image = jnp.asarray(photos(np.random.default_rng(0)), jnp.float32)
    full = jax.jit(backbone(config).taps)(weights, image)
    half = jax.jit(backbone(config.replace(compute_dtype="bfloat16")).taps)(weights, image)
    for layer, (_, output) in half.items():
        assert output.dtype == jnp.bfloat16
        close(output.astype(jnp.float32), full[layer][1], 0.1)
