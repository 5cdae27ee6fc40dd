"""VGG-19 from the HDF5 files of Keras Applications.

Two layouts of the same arrays exist: the published file's of 2016, `block4_conv1/block4_conv1_W_1:0` with `_b_1:0`, and
what later versions write, `block4_conv1/block4_conv1/kernel:0` with `bias:0` (whole models below `model_weights/`).
"""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

import h5py
import numpy as np

from rtn_jax.weights import layout
from rtn_jax.weights.containers import UnusableFile, container, inner_dataset, open_hdf5

KERNEL, BIAS = "{} kernel", "{} bias"
FULLY_CONNECTED = tuple(name.format(layer) for layer in ("fc1", "fc2", "predictions") for name in (KERNEL, BIAS))

_DATASET = re.compile(
    r"(?:model_weights/)?(?P<layer>block\d_conv\d|fc1|fc2|predictions)/"
    r"(?:(?P=layer)_(?P<old>[Wb])(?:_\d+)?|(?:vgg19/)?(?P=layer)/(?P<new>kernel|bias))(?::0)?"
)


def read_vgg(path: str | PathLike[str]) -> layout.Layers:
    """The convolutions of VGG-19, for RGB input, from a Keras file (whose kernels are for BGR input).

    Returns:
        `{"conv1_1": {"kernel": [3, 3, 3, 64], "bias": [64]}, ..., "conv5_4": ...}`, float32. The fully connected layers
        of a file that has them are left out.

    Raises:
        ValueError: no such file, not HDF5, truncated, or its arrays are not those of VGG-19 (all differences listed).
    """
    path = Path(path)
    kind = container(path)
    if kind != "hdf5":
        raise UnusableFile(f"{path}: expected a Keras HDF5 file, found {kind}")
    layers = layout.vgg19_layers()
    with open_hdf5(path) as file:
        expected = layout.expected_arrays(layers, KERNEL, BIAS)
        arrays = layout.collect(path, _entries(file), expected, ignored=FULLY_CONNECTED)
    tree = layout.layer_tree(arrays, layers, KERNEL, BIAS)
    first = tree["conv1_1"]
    first["kernel"] = np.ascontiguousarray(first["kernel"][:, :, ::-1])  # BGR -> RGB
    return tree


def _entries(file: h5py.File) -> list[layout.Entry]:
    """Every dataset of the file; one whose place is not known keeps its path as its name, so that it is reported."""
    entries: list[layout.Entry] = []

    def visit(place: str, node: h5py.Group | h5py.Dataset) -> None:  # follows no soft and no external link
        if isinstance(node, h5py.Dataset):
            dataset = inner_dataset(node)
            entries.append(
                layout.Entry(
                    name=_name(place), shape=dataset.shape or (), dtype=dataset.dtype, read=lambda: dataset[()]
                )
            )

    file.visititems(visit)
    return entries


def _name(place: str) -> str:
    """`block4_conv1/block4_conv1_W_1:0` -> `conv4_1 kernel`."""
    match = _DATASET.fullmatch(place)
    if match is None:
        return place
    kernel = match["old"] == "W" or match["new"] == "kernel"
    layer = re.sub(r"block(\d)_conv(\d)", r"conv\1_\2", match["layer"])
    return (KERNEL if kernel else BIAS).format(layer)
