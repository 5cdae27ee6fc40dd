"""VGG-19 against Keras' and the slow loop, and its last convolution redone under a field."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is imported

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest
from jax.test_util import check_grads

from rtn_jax.affine import identity_field
from rtn_jax.backbones import Backbone, backbone
from rtn_jax.backbones.vgg import LAYERS, VGGBackbone, weight_shapes
from rtn_jax.config import CAFFE_MEAN, Config, Level
from rtn_jax.weights import fetch, read_backbone
from rtn_jax.weights.assets import PUBLISHED
from tests import oracle

TAPS = ("conv1_1", "conv2_2", "conv3_3", "conv4_1", "conv4_4", "conv5_1", "conv5_4")
SHAPES = [(64, 64), (67, 50)]


def block_name(layer):
    """Keras' name of a convolution."""
    return f"block{layer[4]}_conv{layer[6]}"


@pytest.fixture(scope="module")
def weights():
    """Random He-scaled weights of every convolution, biases too, float32."""
    rng = np.random.default_rng(0)
    return {
        name: {
            "kernel": rng.standard_normal(shapes["kernel"], np.float32) * np.sqrt(2 / np.prod(shapes["kernel"][:3])),
            "bias": rng.standard_normal(shapes["bias"], np.float32),
        }
        for name, shapes in weight_shapes().items()
    }


@pytest.fixture(scope="module")
def taps_of(weights):
    """Our taps of a batch of images, compiled once per shape."""
    network = VGGBackbone(layers=TAPS)
    compiled = jax.jit(network.taps)
    return lambda images, tree=weights: compiled(tree, jnp.asarray(images, jnp.float32))


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


@pytest.fixture(scope="module")
def keras_model(keras):
    model = keras.applications.VGG19(weights=None, include_top=False)
    return keras.Model(model.input, [model.get_layer(block_name(layer)).output for layer in TAPS])


def assert_same_taps(keras, model, taps, images):
    bgr = keras.applications.vgg19.preprocess_input(np.array(images, np.float32))
    for layer, expected in zip(TAPS, model(bgr), strict=True):
        expected = np.asarray(expected)
        got = taps[layer][1]
        assert got.shape == expected.shape, layer
        assert expected.max() > 0, layer
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3 * np.abs(expected).max(), err_msg=layer)


@pytest.mark.parametrize("shape", SHAPES)
def test_taps_equal_keras(keras, keras_model, weights, taps_of, rng, shape):
    for layer, arrays in weights.items():
        kernel = arrays["kernel"][:, :, ::-1] if layer == "conv1_1" else arrays["kernel"]  # Keras' reads BGR
        keras_model.get_layer(block_name(layer)).set_weights([kernel, arrays["bias"]])
    images = rng.integers(0, 256, (2, *shape, 3))
    assert_same_taps(keras, keras_model, taps_of(images), images)


def test_published_weights_equal_keras(keras, keras_model, taps_of, rng):
    folder = Path(os.environ.get(fetch.CACHE_VARIABLE) or pooch.os_cache("rtn_jax"))
    path = folder / PUBLISHED["vgg"].name
    if not path.is_file() or path.stat().st_size != PUBLISHED["vgg"].size:
        pytest.skip(f"no published weights in {folder}: `rtn_jax.weights.pretrained('vgg')` fetches them")
    images = rng.integers(0, 256, (2, *SHAPES[0], 3))
    keras_model.load_weights(path)
    assert_same_taps(keras, keras_model, taps_of(images, read_backbone(path)), images)


def test_taps_equal_the_slow_loop(weights, taps_of, rng):
    image = rng.integers(0, 256, (1, 35, 50, 3))
    expected = oracle.vgg_taps(weights, image[0])
    taps = taps_of(image)
    assert tuple(taps) == TAPS
    for layer, (inputs, output) in taps.items():
        slow = expected[layer.replace("conv", "relu")]
        np.testing.assert_allclose(output[0], slow, rtol=0, atol=1e-4 * slow.max(), err_msg=layer)
        if layer != "conv1_1":
            slow = oracle.layer_input(expected, layer)
            np.testing.assert_allclose(inputs[0], slow, rtol=0, atol=1e-4 * slow.max(), err_msg=layer)
    np.testing.assert_allclose(taps["conv1_1"][0][0], image[0] - np.array(CAFFE_MEAN), atol=1e-4)


def test_the_fill_colour_is_nothing(weights):
    network = VGGBackbone(layers=("conv1_1",))
    image = jnp.broadcast_to(jnp.asarray(network.fill), (1, 4, 4, 3))
    np.testing.assert_array_equal(network.taps(weights, image)["conv1_1"][0], 0)


def test_half_precision(weights, rng):
    image = jnp.asarray(rng.integers(0, 256, (1, 8, 8, 3)), jnp.float32)
    half = VGGBackbone(layers=("conv2_1",), dtype="bfloat16").taps(weights, image)["conv2_1"]
    full = VGGBackbone(layers=("conv2_1",)).taps(weights, image)["conv2_1"]
    for got, expected in zip(half, full, strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=0.03 * float(expected.max()))


# --- the shape of the network


def test_names_and_strides():
    assert len(LAYERS) == 16
    network = VGGBackbone(layers=("conv4_1",))
    assert [network.stride(f"conv{block}_1") for block in range(1, 6)] == [1, 2, 4, 8, 16]
    assert list(network.weight_shapes()) == list(LAYERS)[: list(LAYERS).index("conv4_1") + 1]
    assert network.weight_shapes()["conv4_1"] == {"kernel": (3, 3, 256, 512), "bias": (512,)}
    expected = oracle.random_weights(np.random.default_rng(0), last_layer="conv5_4", divisor=64)["backbone"]
    assert list(weight_shapes()) == list(expected)


def test_random_weights_have_the_promised_shapes():
    network = VGGBackbone(layers=("conv3_1",))
    tree = jax.eval_shape(network.init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.shape, tree) == network.weight_shapes()


def test_backbone_of_a_config():
    network = backbone(Config())
    assert isinstance(network, Backbone)
    assert network == VGGBackbone(layers=("conv5_1", "conv4_1"))
    hash(network)


def test_refuses(unchecked):
    with pytest.raises(ValueError, match=r"^layer: VGG-19 has conv1_1, .*; got 'conv6_1'"):
        VGGBackbone(layers=("conv4_1", "conv6_1"))
    fine_to_coarse = tuple(Level(layer=layer, iterations=1) for layer in ("conv4_1", "conv5_1"))
    with pytest.raises(ValueError, match=r"^levels: expected coarse to fine, got strides \[8, 16\]"):
        backbone(Config(levels=fine_to_coarse))


# --- the affine-warped convolution


@pytest.fixture
def layer(rng):
    """A thin stand-in for conv5_1, and inputs on a grid of 5 x 7."""
    kernel, bias = rng.standard_normal((3, 3, 4, 6)), rng.standard_normal(6)
    return {"conv5_1": {"kernel": kernel, "bias": bias}}, rng.standard_normal((2, 5, 7, 4))


def redo(layer, field, normalization="centers"):
    weights, inputs = layer
    network = VGGBackbone(layers=("conv5_1",))
    return network.redo(weights, "conv5_1", jnp.asarray(inputs), normalization)(field)


@pytest.mark.parametrize("normalization", ["corners", "centers"])
def test_redone_equals_the_slow_loop(x64, layer, rng, normalization):
    weights, inputs = layer
    field = np.eye(2, 3) + 0.4 * rng.standard_normal((2, 5, 7, 2, 3))
    expected = [
        oracle.affine_warped_convolution(one, *weights["conv5_1"].values(), affine, normalization)
        for one, affine in zip(inputs, field, strict=True)
    ]
    np.testing.assert_allclose(redo(layer, jnp.asarray(field), normalization), np.stack(expected), atol=1e-10)


def test_redone_under_the_identity_is_the_ordinary_convolution(layer):
    weights, inputs = layer
    ordinary = [oracle.relu(oracle.conv2d(one, *weights["conv5_1"].values())) for one in inputs]
    np.testing.assert_allclose(redo(layer, identity_field(2, (5, 7))), np.stack(ordinary), atol=1e-5)


def test_redone_under_the_identity_is_the_tap(weights, taps_of, rng):
    network = VGGBackbone(layers=TAPS)
    inputs, output = taps_of(rng.integers(0, 256, (2, *SHAPES[0], 3)))["conv5_1"]
    again = network.redo(weights, "conv5_1", inputs, "centers")(identity_field(2, inputs.shape[1:3]))
    np.testing.assert_allclose(again, output, rtol=0, atol=1e-5 * float(output.max()))


@pytest.mark.parametrize(("normalization", "cells"), [("corners", (6, 4)), ("centers", (7, 5))])
def test_redone_under_a_translation_is_shifted(layer, normalization, cells):
    """One cell to the right and one down: the features of the next cell, except where the border's zeros come in."""
    t = 2 / np.array(cells)  # one cell in normalised units
    field = identity_field(2, (5, 7)).at[..., 2].set(t)
    ordinary = redo(layer, identity_field(2, (5, 7)))
    np.testing.assert_allclose(redo(layer, field, normalization)[:, :-1, :-1], ordinary[:, 1:, 1:], atol=1e-5)


def test_redone_under_a_quarter_turn_turns_the_neighbourhood(layer):
    """A o takes right (1, 0) to down (0, 1): the tap that reads to the right reads below."""
    weights, inputs = layer
    kernel, bias = weights["conv5_1"].values()
    field = jnp.broadcast_to(jnp.array([[0.0, -1, 0], [1, 0, 0]]), (2, 5, 7, 2, 3))
    turned = np.rot90(kernel, -1)  # the entry at the right moves to the bottom
    np.testing.assert_array_equal(turned[2, 1], kernel[1, 2])
    expected = [oracle.relu(oracle.conv2d(one, turned, bias)) for one in inputs]
    np.testing.assert_allclose(redo(layer, field), np.stack(expected), atol=1e-5)


def test_redone_gradients_and_jit(x64, layer, rng):
    weights, inputs = layer
    inputs = jnp.asarray(inputs[:1, :3, :3, :2])
    kernel = jnp.asarray(weights["conv5_1"]["kernel"][:, :, :2, :3])
    field = jnp.asarray(np.eye(2, 3) + 0.2 * rng.standard_normal((1, 3, 3, 2, 3)))

    def redone(kernel, inputs, field):
        tree = {"conv5_1": {"kernel": kernel, "bias": jnp.ones(3)}}
        return VGGBackbone(layers=("conv5_1",)).redo(tree, "conv5_1", inputs, "centers")(field)

    compiled = jax.jit(redone)
    np.testing.assert_allclose(compiled(kernel, inputs, field), redone(kernel, inputs, field), atol=1e-12)
    # So small a step that neither a ReLU nor a sampling position changes sides.
    check_grads(compiled, (kernel, inputs, field), order=1, modes=("fwd", "rev"), eps=1e-7, atol=1e-5, rtol=1e-5)
