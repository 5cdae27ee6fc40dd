"""A file of weights, whichever of the known formats it has; its content decides, not its name."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from rtn_jax.weights.architectures import title
from rtn_jax.weights.containers import container
from rtn_jax.weights.formats import Contents, read_entries
from rtn_jax.weights.keras import KERAS, KERAS_2016, open_keras
from rtn_jax.weights.layout import Layers
from rtn_jax.weights.matlab import open_network
from rtn_jax.weights.own import own_format
from rtn_jax.weights.tensors import open_tensors
from rtn_jax.weights.torchvision import TORCHVISION


def read(path: str | PathLike[str], backbone: str | None = None) -> Contents:
    """The weights in a file: Keras HDF5, safetensors or MATLAB.

    Args:
        path: of the file.
        backbone: the one it must hold; `fcss` and `cat-fcss` take VGG-19's file as well, for their convolutions. None:
            whichever the file's arrays are those of.

    Returns:
        `Contents`: layers `{name: {"kernel": HWIO, ...}}` in float32, for RGB images less the mean in its settings.

    Raises:
        ValueError: no such file, another format, damaged, another network, or other arrays than expected.
    """
    if backbone is not None:
        title(backbone)
    path = Path(path)
    kind = container(path)
    if kind == "hdf5":
        with open_keras(path) as entries:
            return read_entries(path, entries, (KERAS, KERAS_2016), backbone)
    if kind == "safetensors":
        with open_tensors(path) as file:
            own = own_format(path, file.metadata)
            return read_entries(path, file.entries(), (own or TORCHVISION,), backbone)
    with open_network(path) as (entries, formats):
        return read_entries(path, entries, formats, backbone)


def read_backbone(path: str | PathLike[str], backbone: str | None = None) -> Layers:
    """The backbone's layers in a file, as `read` finds them; in the released network they end at conv5_1."""
    return read(path, backbone).layers
