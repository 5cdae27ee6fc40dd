"""Our own safetensors files: what is converted is read back exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rtn_jax import weights
from rtn_jax.weights import layout, own
from rtn_jax.weights.formats import Contents
from tests.weights import released_files as files
from tests.weights.narrow import BACKBONES, assert_same_layers, shapes, torch_file, use_narrow, vgg

METADATA = {"rtn_jax": '{"backbone": "vgg", "settings": {"pixel_mean": [1.0, 2.5, 3.0]}}'}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    """Networks of a few channels."""
    use_narrow(monkeypatch)


def own_arrays(layers):
    return {f"{layer}/{name}": array for layer, arrays in layers.items() for name, array in arrays.items()}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_converted_is_read_back_exactly(tmp_path, backbone):
    torch_file(tmp_path / "theirs.safetensors", backbone)
    converted = weights.read(tmp_path / "theirs.safetensors")
    own.write(tmp_path / "ours.safetensors", converted)
    for asked in (None, backbone):
        contents = weights.read(tmp_path / "ours.safetensors", asked)
        assert (contents.format, contents.backbone) == ("rtn_jax safetensors", backbone)
        assert contents.settings == converted.settings and contents.ignored == ()
        assert_same_layers(contents.layers, converted.layers)
    own.write(tmp_path / "again.safetensors", contents)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "ours.safetensors").read_bytes()


@pytest.mark.parametrize("backbone", ["fcss", "cat-fcss"])
def test_descriptors(tmp_path, rng, backbone):
    layers = {
        layer: {name: rng.standard_normal(shape, np.float32) for name, shape in parts.items()}
        for layer, parts in shapes(backbone).items()
    }
    settings = {"pixel_mean": (123.680, 116.779, 103.939)}
    written = Contents(format="any", backbone=backbone, layers=layers, settings=settings)
    own.write(tmp_path / "ours.safetensors", written)
    contents = weights.read(tmp_path / "ours.safetensors")
    assert (contents.backbone, contents.settings) == (backbone, settings)
    assert_same_layers(contents.layers, layers)
    assert set(load_file(tmp_path / "ours.safetensors")) == set(own_arrays(layers))


def test_another_backbone_is_refused(tmp_path):
    save_file(own_arrays(vgg()), tmp_path / "vgg.safetensors", METADATA)
    assert weights.read(tmp_path / "vgg.safetensors", "fcss").settings == {"pixel_mean": (1.0, 2.5, 3.0)}
    with pytest.raises(ValueError, match=r"expected ResNet-101, found what looks like VGG-19 \(rtn_jax safetensors\)"):
        weights.read(tmp_path / "vgg.safetensors", "resnet")


def test_arrays_of_another_network_than_it_says(tmp_path):
    save_file(own_arrays(vgg("vgg16")), tmp_path / "vgg.safetensors", METADATA)
    text = r"not those of VGG-19 \(rtn_jax safetensors\); missing: conv3_4/kernel, conv3_4/bias, conv4_4/kernel"
    with pytest.raises(ValueError, match=text):
        weights.read(tmp_path / "vgg.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"backbone": "alexnet", "settings": {}}', "backbone: expected one of vgg, .*, got 'alexnet'"),
        ('{"backbone": ["vgg"], "settings": {}}', "expected a backbone and its settings"),
        ('{"backbone": "vgg"}', "'settings'"),
        ('{"backbone": "vgg", "settings": [1]}', "expected a backbone and its settings"),
        ('{"backbone": "vgg", "settings": {"radius": 3}}', "expected settings pixel_mean, stride_in, found radius"),
        ('{"backbone": "vgg", "settings": {"pixel_mean": [1, 2]}}', "pixel_mean: expected three numbers"),
        ('{"backbone": "vgg", "settings": {"pixel_mean": ["a", 1, 2]}}', "expected a backbone and its settings"),
        ('{"backbone": "vgg", "settings": {"stride_in": "5x5"}}', "stride_in: expected one of 1x1, 3x3, got '5x5'"),
        ("[]", "expected a backbone and its settings"),
        ("{", "expected a backbone and its settings, found '{'"),
    ],
)
def test_absurd_metadata(unchecked, tmp_path, text, message):
    save_file(own_arrays(vgg()), tmp_path / "vgg.safetensors", {"rtn_jax": text})
    with pytest.raises(ValueError, match=message) as caught:
        weights.read(tmp_path / "vgg.safetensors")
    assert str(caught.value).startswith(f"{tmp_path / 'vgg.safetensors'}: ")


def test_a_whole_network_is_not_converted(tmp_path, monkeypatch):
    geometry = {"conv1": (3, 9, 4), "conv10": (3, 4, 6)}
    monkeypatch.setattr(layout, "GEOMETRY", geometry)
    layers = vgg()
    tree = {
        "backbone": {layer: layers[layer] for layer in list(layers)[:13]},
        "geometry": {
            layer: {"kernel": np.ones((side, side, before, after), np.float32), "bias": np.ones(after, np.float32)}
            for layer, (side, before, after) in geometry.items()
        },
    }
    files.write_v7(tmp_path / "net.mat", files.dagnn(files.released_params(tree)))
    with pytest.raises(ValueError, match="holds a whole network, not a backbone"):
        own.write(tmp_path / "ours.safetensors", weights.read(tmp_path / "net.mat"))
    part = Contents(format="any", backbone="vgg", layers=tree["backbone"], settings={})
    with pytest.raises(ValueError, match="expected all layers of VGG-19, found none of conv5_2, conv5_3, conv5_4"):
        own.write(tmp_path / "ours.safetensors", part)
    assert not (tmp_path / "ours.safetensors").exists()


def test_the_metadata_can_be_read_by_others(tmp_path):
    """It is text and JSON: what safetensors shows of a file says what it is."""
    torch_file(tmp_path / "theirs.safetensors", "resnet50")
    own.write(tmp_path / "ours.safetensors", weights.read(tmp_path / "theirs.safetensors"))
    header = (tmp_path / "ours.safetensors").read_bytes()
    found = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    assert json.loads(found["rtn_jax"]) == {
        "backbone": "resnet50",
        "settings": {"pixel_mean": [123.675, 116.28, 103.53], "stride_in": "3x3"},
    }
