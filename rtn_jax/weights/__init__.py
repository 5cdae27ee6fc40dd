"""Pretrained weights: fetching with checksums, and readers of Keras and MATLAB files that execute nothing."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from rtn_jax.weights import keras, matlab
from rtn_jax.weights.containers import container
from rtn_jax.weights.fetch import WeightsUnavailable, fetch_vgg19
from rtn_jax.weights.layout import Layers
from rtn_jax.weights.matfile import has_variable

__all__ = ["WeightsUnavailable", "fetch_vgg19", "pretrained", "read", "read_backbone"]


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


def pretrained(backbone: str, source: str = "pretrained") -> Layers:
    """Weights of a backbone for `rtn_jax.init(..., backbone_weights=)`.

    Args:
        backbone: `vgg`.
        source: `pretrained` fetches the published file on first use; anything else is the path of a file.

    Raises:
        ValueError: if the backbone is unknown, or the file is missing or is not of this backbone.
        WeightsUnavailable: (a `ValueError`) if the file is to be fetched and no source answers.
    """
    if backbone != "vgg":
        raise ValueError(f"backbone: expected vgg, got {backbone!r}")
    return read_backbone(fetch_vgg19(None if source == "pretrained" else source))
