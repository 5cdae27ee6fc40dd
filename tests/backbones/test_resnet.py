"""ResNets against Keras' and a slow loop, and their dilation."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is imported

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.affine import identity_field
from rtn_jax.backbones.resnet import ResNetBackbone, blocks_of
from rtn_jax.weights import read_backbone
from tests import oracle


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


def randomised(keras, model, rng):
    """Weights under which activations neither vanish nor explode, and no statistic of batch norm is trivial."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            shape = layer.kernel.shape
            kernel = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:3]))
            layer.set_weights([kernel, 0.1 * rng.standard_normal(shape[3])])
        elif isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape
            last = 0.2 if layer.name.endswith("_3_bn") else 1.0
            gamma, variance = last * rng.uniform(0.7, 1.3, n), rng.uniform(0.7, 1.3, n)
            layer.set_weights([gamma, 0.1 * rng.standard_normal(n), 0.1 * rng.standard_normal(n), variance])


def keras_features(keras, model, layer, images):
    bgr = keras.applications.resnet.preprocess_input(np.array(images, np.float32))
    inner = keras.Model(model.input, model.get_layer(f"{layer.replace('_', '_block')}_out").output)
    variables = [[v.value for v in group] for group in (inner.trainable_variables, inner.non_trainable_variables)]
    return np.asarray(jax.jit(lambda x: inner.stateless_call(*variables, x)[0])(bgr))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside Keras
@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras recommends its newer format
def test_features_equal_keras(keras, rng, tmp_path):
    """From a saved model's file on; tests/weights has other depths."""
    model = keras.applications.ResNet101(weights=None, include_top=False, input_shape=(None, None, 3))
    randomised(keras, model, rng)
    model.save(tmp_path / "saved.h5")
    weights = read_backbone(tmp_path / "saved.h5", "resnet")
    images = rng.integers(0, 256, (1, 97, 65, 3))
    taps = jax.jit(ResNetBackbone(layers=("conv4_23",)).taps)(weights, jnp.asarray(images, jnp.float32))
    expected = keras_features(keras, model, "conv4_23", images)
    assert taps["conv4_23"][1].shape == expected.shape
    np.testing.assert_allclose(taps["conv4_23"][1], expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def random_weights(network, rng):
    shapes = network.weight_shapes()
    return {
        layer: {
            "kernel": rng.standard_normal(parts["kernel"]) * np.sqrt(1 / np.prod(parts["kernel"][:3])),
            "scale": rng.uniform(0.5, 1.5, parts["scale"]),
            "bias": 0.1 * rng.standard_normal(parts["bias"]),
        }
        for layer, parts in shapes.items()
    }


def test_redone_equals_the_slow_loop(x64, rng):
    network = ResNetBackbone(layers=("conv2_2",), depth=50, dtype="float64")
    weights = random_weights(network, rng)
    reduced, shortcut = rng.standard_normal((5, 7, 64)), rng.standard_normal((5, 7, 256))
    field = np.eye(2, 3) + 0.4 * rng.standard_normal((5, 7, 2, 3))
    got = network.redo(
        weights,
        "conv2_2",
        {"reduced": jnp.asarray(reduced[None]), "shortcut": jnp.asarray(shortcut[None])},
        "centers",
    )(jnp.asarray(field[None]))
    middle, expand = weights["conv2_2_3x3"], weights["conv2_2_expand"]
    y = oracle.affine_warped_convolution(reduced, middle["kernel"] * middle["scale"], middle["bias"], field, "centers")
    y = oracle.conv2d(y, expand["kernel"] * expand["scale"], expand["bias"])  # the oracle's has its ReLU
    for i, j in np.ndindex(5, 7):
        y[i, j] += oracle.bilinear(shortcut, j + field[i, j, 0, 2] * 7 / 2, i + field[i, j, 1, 2] * 5 / 2)
    np.testing.assert_allclose(got[0], oracle.relu(y), atol=1e-10)


@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
def test_a_finer_grid_has_the_features_of_the_coarse_one(rng, stride_in):
    """Dilated as it should be, every other cell of conv4 is what it was."""
    coarse, fine = (
        ResNetBackbone(layers=("conv4_3",), depth=50, stride_in=stride_in, deepest_stride=stride) for stride in (16, 8)
    )
    assert (coarse.stride("conv4_3"), fine.stride("conv4_3")) == (16, 8)
    weights = jax.tree.map(jnp.float32, random_weights(coarse, rng))
    image = jnp.asarray(rng.uniform(0, 255, (1, 64, 96, 3)), jnp.float32)
    expected = coarse.taps(weights, image)["conv4_3"][1]
    inputs, got = fine.taps(weights, image)["conv4_3"]
    assert got.shape == (1, 8, 12, 1024)
    np.testing.assert_allclose(got[:, ::2, ::2], expected, rtol=0, atol=1e-5 * float(expected.max()))
    again = fine.redo(weights, "conv4_3", inputs, "centers")(identity_field(1, (8, 12)))
    np.testing.assert_allclose(again, got, rtol=0, atol=1e-5 * float(got.max()))


def test_where_the_stride_is_matters(rng):
    original, other = (ResNetBackbone(layers=("conv3_2",), depth=50, stride_in=where) for where in ("1x1", "3x3"))
    assert original.weight_shapes() == other.weight_shapes()
    weights = jax.tree.map(jnp.float32, random_weights(original, rng))
    image = jnp.asarray(rng.uniform(0, 255, (1, 32, 32, 3)), jnp.float32)
    one, two = (network.taps(weights, image)["conv3_2"][1] for network in (original, other))
    assert one.shape == two.shape
    assert float(jnp.abs(one - two).max()) > 0.1 * float(one.max())


@pytest.fixture(scope="module")
def drawn():
    """Features from random weights: of an image of patches, and of the same moved by a third of a cell."""
    network = ResNetBackbone(layers=("conv2_3", "conv4_23"))
    patches = np.random.default_rng(0).uniform(0, 255, (1, 24, 24, 3))
    image = np.kron(patches, np.ones((1, 8, 8, 1))).astype(np.float32)
    both = jnp.asarray(np.concatenate([image[:, :128, :128], image[:, 5:133, 5:133]]))
    return {layer: out for layer, (_, out) in network.taps(network.init(jax.random.key(0)), both).items()}


def test_random_weights_keep_activations_in_bounds(drawn):
    """23 blocks that each double the variance would end at ten million times what came in."""
    early, late = (float(jnp.std(drawn[layer])) for layer in ("conv2_3", "conv4_23"))
    assert 0.1 * early < late < 10 * early


def test_random_weights_tell_cells_apart_and_know_them_again(drawn):
    """Or training from them has nothing to match by."""
    features = np.asarray(drawn["conv4_23"], np.float64).reshape(2, 64, -1)
    one, two = features / np.linalg.norm(features, axis=-1, keepdims=True)
    cosines = one @ two.T
    assert cosines.mean() < 0.8
    assert np.mean(cosines.argmax(1) == np.arange(64)) > 0.5


def test_names_and_strides(unchecked):
    assert [len(blocks_of(depth)) for depth in (50, 101, 152)] == [16, 33, 50]
    network = ResNetBackbone(layers=("conv4_23",))
    assert [network.stride(f"conv{stage}_2") for stage in (2, 3, 4, 5)] == [4, 8, 16, 32]
    assert network.weight_shapes()["conv4_1_project"]["kernel"] == (1, 1, 512, 1024)
    assert network.weight_shapes()["conv4_23_3x3"]["kernel"] == (3, 3, 256, 256)
    with pytest.raises(ValueError, match=r"^layer: ResNet-101 has conv2_2, .*; got 'conv4_1'"):
        ResNetBackbone(layers=("conv4_1",))
