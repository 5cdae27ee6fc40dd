"""Networks of a few channels for the tests of the readers, and files of them as other programs lay them out.

The names of arrays are written out here once more, independently of the readers' tables.
"""

from __future__ import annotations

import h5py
import numpy as np
from safetensors.numpy import save_file

from rtn_jax import backbones

BACKBONES = ("vgg", "vgg16", "resnet", "resnet50", "resnet152")
VGGS, RESNETS = BACKBONES[:2], BACKBONES[2:]
CHANNELS = {32: 2, 64: 2, 128: 3, 256: 4, 512: 5, 1024: 6, 2048: 7}

KERAS_2016 = ("{0}/{0}_W_1:0", "{0}/{0}_b_1:0")  # the published VGGs
TF_KERAS = ("{0}/{0}/kernel:0", "{0}/{0}/bias:0")  # save_weights
ROLES = ("project", "reduce", "3x3", "expand")


def shapes(backbone):
    """As `full_weight_shapes`, with the channels of `CHANNELS`."""
    return {
        layer: {name: tuple(CHANNELS.get(size, size) for size in shape) for name, shape in parts.items()}
        for layer, parts in backbones.full_weight_shapes(backbone).items()
    }


def use_narrow(monkeypatch):
    """Has the readers compare files with these shapes."""
    monkeypatch.setattr("rtn_jax.weights.architectures.full_weight_shapes", shapes)


def vgg(backbone="vgg", seed=0):
    """Random layers of a VGG, or the convolutions of FCSS."""
    rng = np.random.default_rng(seed)
    return {
        layer: {name: rng.standard_normal(shape, np.float32) for name, shape in parts.items()}
        for layer, parts in shapes(backbone).items()
        if layer.startswith("conv")
    }


def resnet(backbone, seed=0):
    """Random layers of a ResNet before folding: `kernel`, `conv_bias`, `gamma`, `beta`, `mean`, `variance`."""
    rng = np.random.default_rng(seed)
    raw = {}
    for layer, parts in shapes(backbone).items():
        draw = {name: rng.standard_normal(parts["bias"]) for name in ("conv_bias", "gamma", "beta", "mean")}
        draw |= {"variance": rng.uniform(0.01, 2, parts["bias"]), "kernel": rng.standard_normal(parts["kernel"])}
        raw[layer] = {name: array.astype(np.float32) for name, array in draw.items()}
    return raw


def folded(raw, epsilon, conv_bias=True):
    """What `scale * conv(x) + bias` must be."""
    layers = {}
    for layer, parts in raw.items():
        wide = {name: array.astype(np.float64) for name, array in parts.items()}
        scale = wide["gamma"] / np.sqrt(wide["variance"] + epsilon)
        bias = wide["beta"] + scale * ((wide["conv_bias"] if conv_bias else 0) - wide["mean"])
        layers[layer] = {"kernel": parts["kernel"], "scale": scale, "bias": bias}
    return layers


def assert_same_layers(found, expected, rtol=0.0):
    assert list(found) == list(expected)
    for layer, arrays in expected.items():
        assert set(found[layer]) == set(arrays), layer
        for name, array in arrays.items():
            assert found[layer][name].dtype == np.float32 and found[layer][name].flags.c_contiguous
            np.testing.assert_allclose(found[layer][name], array, rtol=rtol, atol=rtol, err_msg=f"{layer} {name}")


# ---- Keras ----------------------------------------------------------------------------------------------------------


def keras_vgg(tree, names=KERAS_2016):
    """{place in the file: array}, conv1_1 turned to BGR input as in Keras' files."""
    placed = {}
    for layer, arrays in tree.items():
        group = f"block{layer[4]}_conv{layer[6]}"
        kernel = arrays["kernel"][:, :, ::-1] if layer == "conv1_1" else arrays["kernel"]
        placed[names[0].format(group)], placed[names[1].format(group)] = kernel, arrays["bias"]
    return placed


def keras_resnet(raw):
    """{place in the file: array}, as Keras 2 writes them."""
    placed = {}
    for layer, parts in raw.items():
        block, _, role = layer.rpartition("_")
        place = f"{block.replace('_', '_block')}_{ROLES.index(role)}" if block else "conv1"
        kernel = parts["kernel"] if block else parts["kernel"][:, :, ::-1]
        placed |= {
            f"{place}_conv/{place}_conv/kernel:0": kernel,
            f"{place}_conv/{place}_conv/bias:0": parts["conv_bias"],
        }
        for theirs, ours in (("gamma",) * 2, ("beta",) * 2, ("moving_mean", "mean"), ("moving_variance", "variance")):
            placed[f"{place}_bn/{place}_bn/{theirs}:0"] = parts[ours]
    return placed


def write_h5(path, placed):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"input_1", b"block1_conv1", b"block1_pool"]
        file.create_group("block1_pool")
        for place, array in placed.items():
            file[place] = array
    return path


# ---- torchvision and timm -------------------------------------------------------------------------------------------


FEATURES = {  # of torchvision's VGGs: where the convolutions stand
    "vgg": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}


def torch_vgg(backbone, tree):
    """The state dict, its first kernel as it is for normalised images."""
    state = {}
    for index, arrays in zip(FEATURES[backbone], tree.values(), strict=True):
        state[f"features.{index}.weight"] = np.ascontiguousarray(arrays["kernel"].transpose(3, 2, 0, 1))
        state[f"features.{index}.bias"] = arrays["bias"]
    return state


def torch_resnet(raw):
    state = {}
    for layer, parts in raw.items():
        conv, norm = "conv1", "bn1"
        if layer != "conv1":
            block, _, role = layer.rpartition("_")
            stage, _, index = block.removeprefix("conv").partition("_")
            names = (("downsample.0", "downsample.1"), ("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
            conv, norm = (f"layer{int(stage) - 1}.{int(index) - 1}.{name}" for name in names[ROLES.index(role)])
        state[f"{conv}.weight"] = np.ascontiguousarray(parts["kernel"].transpose(3, 2, 0, 1))
        state |= {f"{norm}.weight": parts["gamma"], f"{norm}.bias": parts["beta"]}
        state |= {f"{norm}.running_mean": parts["mean"], f"{norm}.running_var": parts["variance"]}
        state[f"{norm}.num_batches_tracked"] = np.array(7)
    return state


def torch_file(path, backbone):
    """A file of random weights as torchvision's, and what it must be read as."""
    if backbone in VGGS:
        tree = vgg(backbone)
        state, expected = torch_vgg(backbone, tree), {layer: dict(arrays) for layer, arrays in tree.items()}
    else:
        raw = resnet(backbone)
        state, expected = torch_resnet(raw), folded(raw, 1e-5, conv_bias=False)
    first = next(iter(expected))
    expected[first]["kernel"] = expected[first]["kernel"] / (255 * np.array([0.229, 0.224, 0.225]))[:, None]
    save_file(state, path)
    return state, expected


# ---- MatConvNet -----------------------------------------------------------------------------------------------------


def _numbered(stage, count):
    return [f"{stage}a", *(f"{stage}b{i}" for i in range(1, count))]


_FEW = (["2a", "2b", "2c"], ["5a", "5b", "5c"])
BLOCKS = {  # of the original ResNets, in order
    "resnet50": [*_FEW[0], "3a", "3b", "3c", "3d", "4a", "4b", "4c", "4d", "4e", "4f", *_FEW[1]],
    "resnet": [*_FEW[0], *_numbered(3, 4), *_numbered(4, 23), *_FEW[1]],
    "resnet152": [*_FEW[0], *_numbered(3, 8), *_numbered(4, 36), *_FEW[1]],
}


def caffe_layers(backbone):
    """(convolution, batch norm) of the original, in the order of our layers."""
    names = [("conv1", "bn_conv1")]
    for block in BLOCKS[backbone]:
        branches = ("1", "2a", "2b", "2c") if block.endswith("a") else ("2a", "2b", "2c")
        names += [(f"res{block}_branch{branch}", f"bn{block}_branch{branch}") for branch in branches]
    return names


def dagnn_params(backbone, raw):
    """(name, value) of a MatConvNet ResNet; only conv1 of the 50 layer net has a bias."""
    params = []
    for (conv, norm), (layer, parts) in zip(caffe_layers(backbone), raw.items(), strict=True):
        params.append((f"{conv}_filter", parts["kernel"]))
        if backbone == "resnet50" and layer == "conv1":
            params.append(("conv1_bias", parts["conv_bias"][:, None]))
        moments = np.stack([parts["mean"], np.sqrt(parts["variance"] + np.float32(1e-5))], axis=1)
        params += [(f"{norm}_mult", parts["gamma"][:, None]), (f"{norm}_bias", parts["beta"][:, None])]
        params.append((f"{norm}_moments", moments))
    return [*params, ("fc1000_filter", np.ones((1, 1, 3, 2), np.float32)), ("fc1000_bias", np.ones((2, 1)))]


def fcss_params(tree, patterns):
    """(name, value) of an FCSS network; its dx is the vertical shift."""
    params = []
    for layer, arrays in tree.items():
        params += [(f"{layer}f", arrays["kernel"]), (f"{layer}b", arrays["bias"][None])]
    for level, pattern in enumerate(patterns, start=1):
        for ours, theirs in (("u", "s"), ("v", "t")):
            for pair, (x, y) in enumerate(pattern[ours], start=1):
                params.append((f"sf_{theirs}_dx{pair:02d}_level{level}", np.reshape(y, (1, 1))))
                params.append((f"sf_{theirs}_dy{pair:02d}_level{level}", np.reshape(x, (1, 1))))
        params.append((f"lambda{level}", pattern["bandwidth"][None]))
    return params
