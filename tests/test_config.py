"""Configs are checked, hashable, and survive JSON."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from rtn_jax.config import PRESETS, Config, Level, Search, default, joint, paper, released, wide

CHANGED = Config(
    levels=(Level(layer="conv4_4", iterations=5),),
    radius=2,
    image_size=(64, 96),
    geometry_width=8,
    normalization="corners",
    upsampling="zero",
    residual_units="image",
    final_correlation=False,
    compute_dtype="bfloat16",
    remat=True,
    unroll=False,
    resnet_stride=8,
    pixel_mean=(1.0, 2.0, 3.0),
    stride_in="3x3",
    starts=("consensus", "identity"),
    search=Search(radius=3, reach=1.5),
)


def test_presets():
    assert default() == Config() == PRESETS["default"]()
    assert default().levels == (Level(layer="conv5_1", iterations=2), Level(layer="conv4_1", iterations=3))
    assert default().iterations == (2, 3)
    assert paper("vgg").levels == (Level(layer="conv4_4", iterations=5),)
    assert released() == PRESETS["released"](backbone="vgg")
    assert (released().normalization, released().upsampling, released().final_correlation) == ("corners", "zero", False)
    assert released().levels == default().levels
    assert (default().residual_units, released().residual_units) == ("window", "image")
    assert [level.taps for level in wide().levels] == [("conv5_1/2",), ("conv5_1",), ("conv4_4",)]
    assert wide().iterations == (2, 2, 3)
    assert [level.taps for level in joint().levels] == [
        ("conv5_1/2", "conv5_3/2"),
        ("conv5_1", "conv5_3"),
        ("conv4_4",),
    ]
    assert joint().iterations == (2, 2, 3)
    assert joint("vgg16").levels[2].layer == "conv4_3"
    with pytest.raises(ValueError, match=r"^backbone: joint has been tried with vgg and vgg16, got 'resnet'"):
        joint("resnet")


@pytest.mark.parametrize("layer", ["", "conv5_1+", "+conv5_1", "conv5_1+conv5_1"])
def test_layers_that_cannot_be_joined(layer):
    with pytest.raises(ValueError, match=r"^layer: expected a layer, or different ones joined by \+, got '"):
        Level(layer=layer, iterations=1)


@pytest.mark.parametrize("config", [default(), paper(), released(), wide(), joint(), CHANGED])
def test_json_and_back(config):
    text = config.to_json()
    assert Config.from_json(text) == config
    assert Config.from_json(text).to_json() == text
    assert hash(Config.from_json(text)) == hash(config)


def test_configs_from_before_there_were_residual_units():
    fields = json.loads(released().to_json())
    del fields["residual_units"]
    assert Config.from_json(json.dumps(fields)) == released()


def test_every_field_is_written():
    default_values = dataclasses.asdict(Config())
    written = json.loads(CHANGED.to_json())
    assert set(written) == set(default_values)
    unchanged = {name for name in written if written[name] == json.loads(Config().to_json())[name]}
    assert unchanged == {"backbone"}  # a new field belongs into CHANGED


def test_numbers_and_lists_become_what_the_fields_say(unchecked):
    assert Config(image_size=64).image_size == (64, 64)
    config = Config(image_size=[64, 96], levels=[Level(layer="conv4_1", iterations=1)])
    assert config.image_size == (64, 96)
    assert config.levels == (Level(layer="conv4_1", iterations=1),)
    hash(config)


def test_a_config_is_frozen_and_static_under_jit():
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.radius = 5
    traced = []

    def double(x, config):
        traced.append(config.radius)
        return 2 * x

    jitted = jax.jit(double, static_argnums=1)
    for given in (Config(), Config(), Config(radius=5)):
        jitted(jnp.ones(2), given)
    assert traced == [4, 5]


def test_replace():
    config = Config().replace(radius=3, image_size=64, iterations=(1, 7))
    assert (config.radius, config.image_size, config.iterations) == (3, (64, 64), (1, 7))
    assert [level.layer for level in config.levels] == ["conv5_1", "conv4_1"]
    assert Config().replace() == Config()
    both = Config().replace(levels=(Level(layer="conv4_4", iterations=1),), iterations=(4,))
    assert both.levels == (Level(layer="conv4_4", iterations=4),)


def test_replace_refuses(unchecked):
    with pytest.raises(ValueError, match=r"^config: no such field: colour, size"):
        Config().replace(size=3, colour="red", radius=2)
    with pytest.raises(ValueError, match=r"^iterations: expected 2 numbers, one per level, got \(1, 2, 3\)"):
        Config().replace(iterations=(1, 2, 3))
    with pytest.raises(ValueError, match=r"^iterations: expected a whole number of at least 1, got 0"):
        Config().replace(iterations=(0, 2))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"backbone": "alexnet"}, r"^backbone: expected one of vgg, .*, cat-fcss, got 'alexnet'"),
        ({"normalization": "pixels"}, r"^normalization: expected one of corners, centers, got 'pixels'"),
        ({"upsampling": "cubic"}, r"^upsampling: expected one of edge, zero, got 'cubic'"),
        ({"compute_dtype": "float8"}, r"^compute_dtype: expected one of float32, bfloat16, float64, got 'float8'"),
        ({"levels": ()}, r"^levels: expected at least one Level, got \(\)"),
        ({"levels": ("conv5_1",)}, r"^levels: expected at least one Level, got \('conv5_1',\)"),
        ({"image_size": 16}, r"^image_size: .* at least 32, got \(16, 16\)"),
        ({"image_size": (64, 64, 3)}, r"^image_size: .* got \(64, 64, 3\)"),
        ({"image_size": (64.0, 64.0)}, r"^image_size: .* got \(64\.0, 64\.0\)"),
        ({"starts": ()}, r"^starts: expected one or more of identity, consensus, got \(\)"),
        ({"starts": ("identity", "identity")}, r"^starts: expected one or more of .*, got \('identity', 'identity'\)"),
        ({"starts": ("mirror",)}, r"^starts: expected one or more of identity, consensus, got \('mirror',\)"),
        ({"search": 3}, r"^search: expected a Search, True or False, got 3"),
        ({"search": None}, r"^search: expected a Search, True or False, got None"),
        ({"radius": 0}, r"^radius: expected a whole number of at least 1, got 0"),
        ({"radius": 1.5}, r"^radius: expected a whole number of at least 1, got 1\.5"),
        ({"geometry_width": 0}, r"^geometry_width: expected a whole number of at least 1, got 0"),
    ],
)
def test_refuses(unchecked, fields, match):
    with pytest.raises(ValueError, match=match):
        Config(**fields)


def test_a_search_by_its_name(unchecked):
    assert Config(search=True) == Config(search=Search()) != Config()
    assert Config.from_json(Config(search=True).to_json()).search == Search()
    assert Config(search=True).replace(search=False) == Config()
    for fields, message in (
        ({"radius": 0}, r"^radius: expected a whole number of at least 1, got 0"),
        ({"reach": 0}, r"^reach: expected a number above 0, got 0"),
        ({"reach": float("inf")}, r"^reach: expected a number above 0, got inf"),
        ({"temperature": "20"}, r"^temperature: expected a number above 0, got '20'"),
    ):
        with pytest.raises(ValueError, match=message):
            Search(**fields)


@pytest.mark.parametrize("iterations", [0, -1, 1.5, True, None, "2"])
def test_a_level_refuses(unchecked, iterations):
    for name in ("iterations", "downscale"):
        with pytest.raises(ValueError, match=rf"^{name}: expected a whole number of at least 1, got "):
            Level(**{"layer": "conv5_1", "iterations": 1, name: iterations})


def edited(**changes):
    return json.dumps({**json.loads(Config().to_json()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "{}",
        "null",
        edited(colour="red"),
        edited(levels=None),
        edited(levels=["conv5_1"]),
        edited(levels=[{"layer": "conv5_1"}]),
        edited(levels=[{"layer": "conv5_1", "iterations": 1, "colour": "red"}]),
    ],
)
def test_what_is_no_config_is_refused(unchecked, text):
    with pytest.raises(ValueError, match=r"^config: not a config of this version of rtn_jax: "):
        Config.from_json(text)


def test_invalid_values_in_json_are_named(unchecked):
    with pytest.raises(ValueError, match=r"^radius: expected"):
        Config.from_json(edited(radius=0))
