"""Feature extractors. Nothing outside this package knows which one runs."""

from __future__ import annotations

from collections.abc import Callable

from rtn_jax.backbones.base import Backbone, Pretrained, Shapes, Tap, Weights
from rtn_jax.backbones.fcss import FCSSBackbone
from rtn_jax.backbones.resnet import ResNetBackbone
from rtn_jax.backbones.vgg import VGGBackbone
from rtn_jax.config import BackboneName, Config

__all__ = ["Backbone", "Pretrained", "Shapes", "Tap", "Weights", "backbone", "full_weight_shapes", "level_strides"]


def _vgg(config: Config, layers: tuple[str, ...], depth: int) -> VGGBackbone:
    return VGGBackbone(layers=layers, depth=depth, dtype=config.compute_dtype, mean=config.pixel_mean)


def _resnet(config: Config, layers: tuple[str, ...], depth: int) -> ResNetBackbone:
    return ResNetBackbone(
        layers=layers,
        depth=depth,
        dtype=config.compute_dtype,
        mean=config.pixel_mean,
        deepest_stride=config.resnet_stride,
        stride_in=config.stride_in,
    )


def _fcss(config: Config, layers: tuple[str, ...], affine: bool) -> FCSSBackbone:
    return FCSSBackbone(layers=layers, affine=affine, dtype=config.compute_dtype, mean=config.pixel_mean)


_BACKBONES: dict[BackboneName, Callable[[Config, tuple[str, ...]], Backbone]] = {
    "vgg": lambda config, layers: _vgg(config, layers, 19),
    "vgg16": lambda config, layers: _vgg(config, layers, 16),
    "resnet": lambda config, layers: _resnet(config, layers, 101),
    "resnet50": lambda config, layers: _resnet(config, layers, 50),
    "resnet152": lambda config, layers: _resnet(config, layers, 152),
    "fcss": lambda config, layers: _fcss(config, layers, False),
    "cat-fcss": lambda config, layers: _fcss(config, layers, True),
}

_LAST = {
    "vgg": "conv5_4",
    "vgg16": "conv5_3",
    "resnet": "conv5_3",
    "resnet50": "conv5_3",
    "resnet152": "conv5_3",
    "fcss": "stride4",
    "cat-fcss": "stride4",
}


def backbone(config: Config) -> Backbone:
    """The backbone a config names, computing the layers of its levels at whatever scale.

    Raises:
        ValueError: if a level's layer does not exist, the levels are not ordered from coarse to fine, or a stride of
            ResNets is asked for of another backbone.
    """
    built = _BACKBONES[config.backbone](config, tuple(layer for level in config.levels for layer in level.layers))
    if config.resnet_stride != Config.resnet_stride and not isinstance(built, ResNetBackbone):
        raise ValueError(f"resnet_stride: {config.backbone} is no ResNet and has none, got {config.resnet_stride}")
    strides = _strides(built, config)
    if strides != sorted(strides, reverse=True):
        raise ValueError(f"levels: expected coarse to fine, got strides {strides}")
    return built


def level_strides(config: Config) -> list[int]:
    """Per level, pixels of the network's image per cell. Raises ValueError as `backbone`."""
    return _strides(backbone(config), config)


def _strides(built: Backbone, config: Config) -> list[int]:
    strides = []
    for level in config.levels:
        of_layers = {layer: built.stride(layer) for layer in level.layers}
        if len(set(of_layers.values())) > 1:
            found = ", ".join(f"{layer} {stride}" for layer, stride in of_layers.items())
            raise ValueError(f"levels: expected layers of one grid to be joined, got pixels per cell {found}")
        strides.append(level.downscale * next(iter(of_layers.values())))
    return strides


def full_weight_shapes(name: BackboneName) -> Shapes:
    """Shape of every weight of a backbone, its deepest layers included: what a file of it holds at most."""
    return _BACKBONES[name](Config(backbone=name), (_LAST[name],)).weight_shapes()
