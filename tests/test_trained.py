"""Networks that come with the package: a small file, the published backbone beside it, and a name to load them by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rtn_jax
from rtn_jax import trained
from rtn_jax.backbones import Pretrained
from rtn_jax.config import PRESETS, Level
from rtn_jax.params import Params
from rtn_jax.trained.command import PackConfig, pack
from rtn_jax.weights.tensors import write_tensors
from tests.networks import TWO_LEVELS, moving_params, small_config


@pytest.fixture
def params(monkeypatch):
    """A network whose backbone is what `pretrained` gives."""
    params = moving_params(small_config(image_size=64))
    layers = jax.tree.map(np.asarray, params.weights["backbone"])
    published = Pretrained(layers | {"conv5_4": {}}, {"pixel_mean": params.config.pixel_mean})
    monkeypatch.setattr(trained, "pretrained", lambda backbone: {"vgg": published}[backbone])
    return params


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Instead of the package's, empty."""
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(trained, "FOLDER", tmp_path / "package")
    return tmp_path / "package"


def test_it_comes_back_rounded_to_bfloat16(params, tmp_path):
    trained.write_trained(tmp_path / "a.safetensors", params)
    again = trained.read_trained(tmp_path / "a.safetensors")
    assert again.config == params.config
    jax.tree.map(np.testing.assert_array_equal, again.weights["backbone"], params.weights["backbone"])
    for ours, theirs in zip(*(jax.tree.leaves(p.weights["geometry"]) for p in (again, params)), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs.astype(jnp.bfloat16).astype(jnp.float32))
    sizes = [leaf.size for leaf in jax.tree.leaves(params.weights["geometry"])]
    assert (tmp_path / "a.safetensors").stat().st_size < 2 * sum(sizes) + 12_000, "two bytes for a weight"


def test_by_its_path(params, tmp_path):
    """What `pack` wrote is a checkpoint like any other."""
    trained.write_trained(tmp_path / "own.safetensors", params)
    ours, theirs = rtn_jax.load(tmp_path / "own.safetensors"), trained.read_trained(tmp_path / "own.safetensors")
    assert ours.config == params.config
    jax.tree.map(np.testing.assert_array_equal, ours.weights, theirs.weights)


def test_by_name(params, folder, tmp_path, monkeypatch):
    trained.write_trained(folder / "vgg.safetensors", params)
    assert trained.names() == ("vgg",)
    monkeypatch.chdir(tmp_path)
    assert rtn_jax.load("vgg").config == params.config
    rtn_jax.save("vgg", params.configure(image_size=32))
    assert rtn_jax.load("vgg").config.image_size == (32, 32), "what lies in the working directory comes first"
    with pytest.raises(
        ValueError, match=r"^other: no such checkpoint \(train\.py writes them; with the package comes vgg\)"
    ):
        rtn_jax.load("other")
    with pytest.raises(ValueError, match=r"^expected one of vgg, got 'other'"):
        trained.load_trained("other")


def test_a_trained_backbone_is_refused(params, tmp_path):
    changed = jax.tree.map(jnp.copy, params.weights)
    changed["backbone"]["conv2_1"]["bias"] += 1
    with pytest.raises(ValueError, match=r"^params: conv2_1/bias is not the published"):
        trained.write_trained(tmp_path / "a.safetensors", Params(changed, params.config))
    with pytest.raises(ValueError, match=r"^config: the published backbone is used with another pixel_mean"):
        trained.write_trained(
            tmp_path / "a.safetensors", Params(params.weights, params.config.replace(pixel_mean=(1.0, 2.0, 3.0)))
        )
    assert not list(tmp_path.iterdir())


def test_on_levels_that_need_more_of_the_published_backbone(params):
    coarse = (Level(layer="conv2_1", iterations=1),)
    layers = {name: params.weights["backbone"][name] for name in ("conv1_1", "conv1_2", "conv2_1")}
    shallow = Params({**params.weights, "backbone": layers}, params.config.replace(levels=coarse))
    again = trained.on_levels(shallow, params.config.levels)
    assert again.config == params.config
    jax.tree.map(np.testing.assert_array_equal, again.weights, params.weights)
    layers["conv1_1"] = jax.tree.map(lambda x: x + 1, layers["conv1_1"])
    with pytest.raises(ValueError, match=r"^params: conv1_1/(bias|kernel) is not the published"):
        trained.on_levels(shallow, params.config.levels)


def test_files_that_are_something_else(params, tmp_path):
    (tmp_path / "text").write_text("no")
    with pytest.raises(ValueError, match=r"a safetensors file .*, found a file that begins with"):
        trained.read_trained(tmp_path / "text")
    write_tensors(tmp_path / "other.safetensors", {"a": np.zeros(3, np.float32)}, {})
    with pytest.raises(ValueError, match="expected a network of rtn_jax"):
        trained.read_trained(tmp_path / "other.safetensors")
    trained.write_trained(tmp_path / "a.safetensors", params)
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="truncated or damaged"):
        trained.read_trained(tmp_path / "a.safetensors")


def test_the_command(params, tmp_path, capsys, monkeypatch):
    rtn_jax.save(tmp_path / "run", params)
    pack(
        PackConfig(
            ckpt=tmp_path / "run", out=tmp_path / "b.safetensors", image_size=96, starts=("consensus",), search=True
        )
    )
    changed = params.config.replace(image_size=96, starts=("consensus",), search=True)
    assert trained.read_trained(tmp_path / "b.safetensors").config == changed
    assert capsys.readouterr().out.startswith(f"{tmp_path}/b.safetensors: ")
    monkeypatch.setitem(PRESETS, "paper", lambda backbone: small_config(levels=TWO_LEVELS[1:]))
    pack(PackConfig(ckpt=tmp_path / "run", out=tmp_path / "c.safetensors", preset="paper"))
    assert trained.read_trained(tmp_path / "c.safetensors").config == params.config.replace(levels=TWO_LEVELS[1:])
    with pytest.raises(ValueError, match=r"^out: expected a name that ends in \.safetensors"):
        pack(PackConfig(ckpt=tmp_path / "run", out=tmp_path / "b.npz"))


@pytest.mark.parametrize("name", trained.names())
def test_every_network_of_the_package_is_small(name):
    assert (trained.FOLDER / f"{name}.safetensors").stat().st_size < 45e6
