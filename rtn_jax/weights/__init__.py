"""Pretrained weights: fetching with checksums, and readers of Keras and MATLAB files that execute nothing."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from rtn_jax.weights import keras, matlab
from rtn_jax.weights.containers import container
from rtn_jax.weights.fetch import WeightsUnavailable, fetch_vgg19
from rtn_jax.weights.layout import Layers
from rtn_jax.weights.matfile import has_variable

__all__ = ["WeightsUnavailable", "fetch_vgg19", "read", "read_backbone"]


def read(path: str | PathLike[str]) -> dict[str, Layers]:
    """The weights in a file, whichever of the known formats it has; its content decides, not its name.

    Returns:
        `{"backbone": layers}` for Keras' and MatConvNet's VGG-19, `{"backbone": layers, "geometry": layers}` for the
        released network's `net-epoch.mat`. Layers are `{name: {"kernel": HWIO, "bias"}}`, float32, for RGB input.

    Raises:
        ValueError: no such file, another format, damaged, or other arrays than expected.
    """
    path = Path(path)
    if container(path) == "hdf5":
        return {"backbone": keras.read_vgg(path)}
    if has_variable(path, "layers"):
        return {"backbone": matlab.read_vgg(path)}
    return matlab.read_released(path)


def read_backbone(path: str | PathLike[str]) -> Layers:
    """The VGG-19 convolutions in a file, as `read` finds them: up to conv5_4, or conv5_1 in the released network."""
    return read(path)["backbone"]
