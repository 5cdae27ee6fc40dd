"""The reader of safetensors files in torchvision's and timm's naming, against PyTorch itself where it is installed."""

from __future__ import annotations

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rtn_jax import backbones, weights
from rtn_jax.config import Config, Level
from rtn_jax.convolution import convolve
from tests.weights.narrow import (
    BACKBONES,
    RESNETS,
    assert_same_layers,
    resnet,
    shapes,
    torch_file,
    torch_resnet,
    torch_vgg,
    use_narrow,
    vgg,
)

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@pytest.fixture
def narrow(monkeypatch):
    """Networks of a few channels: the reader compares files with their shapes."""
    use_narrow(monkeypatch)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_depth(narrow, tmp_path, backbone):
    state, expected = torch_file(tmp_path / "any.safetensors", backbone)
    for asked in (None, backbone):
        contents = weights.read(tmp_path / "any.safetensors", asked)
        assert (contents.format, contents.backbone) == ("torchvision or timm", backbone)
        assert_same_layers(contents.layers, expected, rtol=1e-6)
    counters = sorted(name for name in state if name.endswith("num_batches_tracked"))
    assert sorted(contents.ignored) == counters and contents.used == len(state) - len(counters)
    np.testing.assert_allclose(contents.settings["pixel_mean"], 255 * MEAN, rtol=1e-6)
    assert contents.settings.get("stride_in") == ("3x3" if backbone in RESNETS else None)
    Config(backbone=backbone, **contents.settings)


@pytest.mark.parametrize(
    "heads",
    [
        ["classifier.0", "classifier.3", "classifier.6"],  # torchvision's VGGs
        ["pre_logits.fc1", "pre_logits.fc2", "head.fc"],  # timm's
    ],
)
def test_classifiers_are_left_out(narrow, tmp_path, heads):
    tree = vgg()
    extra = {f"{head}.{part}": np.ones(3, np.float32) for head in heads for part in ("weight", "bias")}
    save_file(torch_vgg("vgg", tree) | extra, tmp_path / "vgg.safetensors")
    contents = weights.read(tmp_path / "vgg.safetensors")
    assert contents.backbone == "vgg" and sorted(contents.ignored) == sorted(extra)


# ---- against PyTorch: modules laid out as torchvision's, whose names PyTorch makes ----------------------------------


def torch_features(torch, backbone):
    """torchvision's VGG up to its last ReLU."""
    steps, before = [], None
    for layer, parts in shapes(backbone).items():
        if before is not None and before[4] != layer[4]:
            steps.append(torch.nn.MaxPool2d(2, 2))
        steps += [torch.nn.Conv2d(*parts["kernel"][2:], 3, padding=1), torch.nn.ReLU()]
        before = layer
    module = torch.nn.Module()
    module.features = torch.nn.Sequential(*steps)
    return module


def torch_bottlenecks(torch, backbone):
    """torchvision's ResNet up to its last block."""

    class Bottleneck(torch.nn.Module):
        def __init__(self, before, width, after, stride, first):
            super().__init__()
            self.conv1, self.bn1 = torch.nn.Conv2d(before, width, 1, bias=False), torch.nn.BatchNorm2d(width)
            self.conv2 = torch.nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
            self.bn2 = torch.nn.BatchNorm2d(width)
            self.conv3, self.bn3 = torch.nn.Conv2d(width, after, 1, bias=False), torch.nn.BatchNorm2d(after)
            if first:
                convolution = torch.nn.Conv2d(before, after, 1, stride, bias=False)
                self.downsample = torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(after))

        def forward(self, x):
            y = self.bn1(self.conv1(x)).relu()
            y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
            return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()

    module, sizes = torch.nn.Module(), shapes(backbone)
    channels = sizes["conv1"]["bias"][0]
    module.conv1 = torch.nn.Conv2d(3, channels, 7, 2, padding=3, bias=False)
    module.bn1 = torch.nn.BatchNorm2d(channels)
    for stage in range(2, 6):
        blocks = []
        for layer in sizes:
            if layer.startswith(f"conv{stage}_") and layer.endswith("_expand"):
                width, after = sizes[layer]["kernel"][2:]
                first = not blocks
                blocks.append(Bottleneck(channels, width, after, 2 if first and stage > 2 else 1, first))
                channels = after
        setattr(module, f"layer{stage - 1}", torch.nn.Sequential(*blocks))
    return module


def randomised(torch, module):
    """Weights at which activations neither vanish nor grow; all batch norms with statistics of their own."""
    torch.manual_seed(0)
    for name, tensor in module.state_dict().items():
        if name.endswith(("running_var", "weight")) and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 4:
            torch.nn.init.kaiming_normal_(tensor)
        elif tensor.ndim == 1:
            tensor.uniform_(-0.2, 0.2)
    return module.eval()


def saved(torch, module, path):
    from safetensors.torch import save_file as save_torch

    save_torch(module.state_dict(), path)
    return path


def normalised(torch, images):
    """What torchvision's transforms make of RGB images in 0..255, channels first."""
    return torch.from_numpy((((images / 255) - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("backbone", ["vgg", "vgg16"])
def test_vgg_computes_what_pytorch_computes(narrow, tmp_path, rng, backbone):
    torch = pytest.importorskip("torch")
    module = randomised(torch, torch_features(torch, backbone))
    contents = weights.read(saved(torch, module, tmp_path / "vgg.safetensors"), backbone)
    images = rng.integers(0, 256, (1, 64, 48, 3)).astype(np.float32)
    with torch.no_grad():
        expected = module.features(normalised(torch, images)).numpy().transpose(0, 2, 3, 1)
    x, before = jnp.asarray(images - np.float32(contents.settings["pixel_mean"])), "conv1_1"
    for layer, arrays in contents.layers.items():
        if layer[:5] != before[:5]:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = jax.nn.relu(convolve(x, jnp.asarray(arrays["kernel"])) + arrays["bias"])
        before = layer
    np.testing.assert_allclose(x, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("backbone", ["resnet50", "resnet"])
def test_resnet_computes_what_pytorch_computes(narrow, tmp_path, rng, backbone):
    torch = pytest.importorskip("torch")
    module = randomised(torch, torch_bottlenecks(torch, backbone))
    contents = weights.read(saved(torch, module, tmp_path / "resnet.safetensors"), backbone)
    images = rng.integers(0, 256, (1, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        x = module.bn1(module.conv1(normalised(torch, images))).relu()
        x = torch.nn.functional.max_pool2d(x, 3, 2, padding=1)
        for layer in (module.layer1, module.layer2, module.layer3):
            x = layer(x)
    expected = x.numpy().transpose(0, 2, 3, 1)
    last = {"resnet50": "conv4_6", "resnet": "conv4_23"}[backbone]
    config = Config(backbone=backbone, levels=(Level(layer=last, iterations=1),), **contents.settings)
    layers = jax.tree.map(jnp.asarray, contents.layers)
    _, found = backbones.backbone(config).taps(layers, jnp.asarray(images))[last]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


# ---- files that are something else ----------------------------------------------------------------------------------


def test_all_differences_in_one_error(narrow, tmp_path):
    state = torch_resnet(resnet("resnet50"))
    del state["layer1.0.downsample.0.weight"], state["layer3.5.bn3.running_var"]
    state["layer2.0.conv1.weight"] = np.ascontiguousarray(state["layer2.0.conv1.weight"].transpose(2, 3, 1, 0))
    state["layer2.0.bn2.weight"] = state["layer2.0.bn2.weight"].astype(np.int32)
    state["layer5.0.conv1.weight"] = np.ones(3, np.float32)
    save_file(state, tmp_path / "resnet.safetensors")
    with pytest.raises(ValueError) as caught:
        weights.read(tmp_path / "resnet.safetensors", "resnet50")
    assert str(caught.value).split("not those of ResNet-50 (torchvision or timm); ")[1].split("; ") == [
        "missing: layer1.0.downsample.0.weight, layer3.5.bn3.running_var",
        "unexpected: layer5.0.conv1.weight",
        "of the wrong shape: layer2.0.conv1.weight (found 1x1x4x3, expected 3x4x1x1)",
        "of the wrong type: layer2.0.bn2.weight (found I32, expected floating point)",
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(narrow, tmp_path, value):
    state = torch_vgg("vgg", vgg())
    state["features.5.bias"][1] = value
    save_file(state, tmp_path / "vgg.safetensors")
    with pytest.raises(ValueError, match=r"not finite: features\.5\.bias$"):
        weights.read(tmp_path / "vgg.safetensors")


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_precisions(narrow, tmp_path, dtype):
    state = {name: array.astype(jnp.dtype(dtype)) for name, array in torch_vgg("vgg", vgg()).items()}
    save_file(state, tmp_path / "vgg.safetensors")
    found = weights.read_backbone(tmp_path / "vgg.safetensors")
    assert found["conv1_2"]["bias"].dtype == np.float32
    np.testing.assert_array_equal(found["conv1_2"]["bias"], state["features.2.bias"].astype(np.float32))


def header_and_data(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_headers_that_lie(narrow, tmp_path):
    save_file(torch_vgg("vgg", vgg()), tmp_path / "vgg.safetensors")
    header, data = header_and_data(tmp_path / "vgg.safetensors")
    first, second = "features.0.weight", "features.2.weight"

    def changed(name, **change):
        return header | {name: header[name] | change}

    begin, end = header[first]["data_offsets"]
    for lie in (
        changed(first, shape=[1 << 40]),
        changed(first, shape=[2, 3, 3, 4]),
        changed(first, dtype="F64"),
        changed(first, dtype="F99"),
        changed(first, data_offsets=[begin, end + (1 << 40)]),
        changed(first, data_offsets=[end, begin]),
        changed(second, data_offsets=[begin, begin + 1]),
        {**header, "more": {"dtype": "F32", "shape": [2], "data_offsets": [begin, begin + 8]}},
        {"features.0.weight": 3},
        [],
    ):
        path = with_header(tmp_path / "lie.safetensors", lie, data)
        with pytest.raises(ValueError, match=r"lie\.safetensors: "):
            weights.read(path)
    assert weights.read(with_header(tmp_path / "true.safetensors", header, data)).backbone == "vgg"


def test_truncated_and_damaged_files(narrow, tmp_path, rng):
    save_file(torch_vgg("vgg16", vgg("vgg16")), tmp_path / "vgg.safetensors")
    content = (tmp_path / "vgg.safetensors").read_bytes()
    for length in [0, 4, 8, 9, 100, *np.linspace(600, len(content) - 1, 20).astype(int)]:
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.safetensors: "):
            weights.read(tmp_path / "cut.safetensors")
    (tmp_path / "long.safetensors").write_bytes(content + b"more")
    with pytest.raises(ValueError, match=r"truncated or damaged"):
        weights.read(tmp_path / "long.safetensors")
    (length,) = struct.unpack("<Q", content[:8])
    for _ in range(100):  # damaged in the header: read or refused, never another exception
        damaged = bytearray(content)
        for position in rng.integers(8, 8 + length, 3):
            damaged[position] ^= int(rng.integers(1, 256))
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        try:
            weights.read(tmp_path / "damaged.safetensors")
        except ValueError as error:
            assert "damaged.safetensors: " in str(error)


def test_nothing_of_the_wrong_shape_is_read(narrow, tmp_path, monkeypatch):
    state = torch_vgg("vgg", vgg())
    state["features.0.weight"] = np.zeros((1, 1), np.float32)
    save_file(state, tmp_path / "vgg.safetensors")
    monkeypatch.setattr("rtn_jax.weights.layout.float32", lambda array: pytest.fail("an array was read"))
    with pytest.raises(ValueError, match=r"features\.0\.weight \(found 1x1, expected 2x3x3x3\)"):
        weights.read(tmp_path / "vgg.safetensors")


def test_pickles_are_refused_and_safetensors_offered(tmp_path):
    (tmp_path / "resnet101.pth").write_bytes(b"PK\x03\x04..archive/data.pkl..")
    with pytest.raises(ValueError, match=r"looks like a pickle .* refused; give .* a safetensors file"):
        weights.read(tmp_path / "resnet101.pth", "resnet")


def test_a_safetensors_file_is_told_by_its_content(narrow, tmp_path):
    save_file(torch_vgg("vgg", vgg()), tmp_path / "vgg.bin")
    assert weights.read(tmp_path / "vgg.bin").format == "torchvision or timm"
