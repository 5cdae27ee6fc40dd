"""What `rtn_jax.init` is given: the weights of a backbone, fetched or from a file, and its settings."""

from __future__ import annotations

import re

import pytest

from rtn_jax import weights
from rtn_jax.backbones import Pretrained
from rtn_jax.weights import assets
from rtn_jax.weights.architectures import TITLES
from tests.weights.narrow import (
    BACKBONES,
    RESNETS,
    assert_same_layers,
    folded,
    keras_resnet,
    keras_vgg,
    resnet,
    shapes,
    torch_file,
    use_narrow,
    vgg,
    write_h5,
)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    """Networks of a few channels."""
    use_narrow(monkeypatch)


@pytest.mark.parametrize("backbone", TITLES)
def test_the_published_file(monkeypatch, tmp_path, backbone):
    """Of the right network; FCSS and CAT-FCSS take the convolutions of VGG-19's."""
    asked = []

    def fetched(asset):
        asked.append(asset)
        placed = keras_resnet(resnet(backbone)) if backbone in RESNETS else keras_vgg(vgg(asset.backbone))
        return write_h5(tmp_path / asset.name, placed)

    monkeypatch.setattr(weights, "fetch_asset", fetched)
    found = weights.pretrained(backbone)
    assert isinstance(found, Pretrained) and asked == [assets.PUBLISHED[backbone]]
    assert asked[0].backbone == (backbone if backbone in BACKBONES else "vgg")
    expected = folded(resnet(backbone), 1.001e-5) if backbone in RESNETS else vgg()
    if backbone in ("vgg16", "fcss", "cat-fcss"):
        expected = {layer: vgg(asked[0].backbone)[layer] for layer in shapes(backbone) if layer.startswith("conv")}
    assert_same_layers(found.layers, expected, rtol=1e-6)
    assert found.settings["pixel_mean"] == (123.680, 116.779, 103.939)
    assert found.settings.get("stride_in") == ("1x1" if backbone in RESNETS else None)


def test_a_file_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "fetch_asset", lambda asset: pytest.fail("nothing is to be fetched"))
    monkeypatch.setenv("HOME", str(tmp_path))
    _, expected = torch_file(tmp_path / "own.safetensors", "resnet50")
    for source in (str(tmp_path / "own.safetensors"), "~/own.safetensors"):
        found = weights.pretrained("resnet50", source)
        assert_same_layers(found.layers, expected, rtol=1e-6)
        assert found.settings["stride_in"] == "3x3"
    with pytest.raises(ValueError, match=r"own\.safetensors: expected ResNet-101, found what looks like ResNet-50"):
        weights.pretrained("resnet", str(tmp_path / "own.safetensors"))
    for missing in ("none.h5", str(tmp_path)):
        with pytest.raises(ValueError, match=re.escape(f"{missing}: no such file")):
            weights.pretrained("vgg", missing)


def test_an_unknown_backbone(monkeypatch):
    monkeypatch.setattr(weights, "fetch_asset", lambda asset: pytest.fail("nothing is to be fetched"))
    with pytest.raises(ValueError, match=r"backbone: expected one of vgg, .*cat-fcss, got 'alexnet'"):
        weights.pretrained("alexnet")
