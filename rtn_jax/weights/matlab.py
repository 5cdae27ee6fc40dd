"""Weights from MATLAB files: the released network's `net-epoch.mat`, and MatConvNet's VGG-19.

MatConvNet keeps a kernel as [vertical, horizontal, in, out], which is the layout JAX's convolutions take, and both
files are for RGB input. Only the two ends of the geometry network differ from ours: the release numbers the window and
the field with the vertical direction first (`rtn_jax.coordinates`).
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from rtn_jax.coordinates import RELEASED_AFFINE_CHANNELS, released_window_order
from rtn_jax.weights import layout
from rtn_jax.weights.containers import UnusableFile
from rtn_jax.weights.matfile import open_variable
from rtn_jax.weights.values import Value

RELEASED_LAST = "conv5_1"  # the deepest convolution of VGG-19 in the released network
RELEASED_VGG = ("{}f", "{}b")
RELEASED_GEOMETRY = ("geo_{}_f", "geo_{}_b")
RELEASED_FIXED = (  # bilinear upsampling, never trained: rtn_jax computes it
    "geo_deconv1_f",
    "geo_deconv2_f",
    "geo_deconv3_f",
    "geo_deconv4_f",
    "deconv_f_x2",
    "deconv_aff_x2",
)
SIMPLENN_VGG = ("{} kernel", "{} bias")
FULLY_CONNECTED = tuple(name.format(layer) for layer in ("fc6", "fc7", "fc8") for name in SIMPLENN_VGG)


def read_released(path: str | PathLike[str]) -> dict[str, layout.Layers]:
    """The released network from its `net-epoch.mat` (MATLAB v7 or v7.3).

    Returns:
        `{"backbone": conv1_1 ... conv5_1, "geometry": conv1 ... conv10}`, each layer `{"kernel": HWIO, "bias"}` in
        float32; the window channels entering geometry conv1 and the field channels leaving conv10 are in our order.

    Raises:
        ValueError: not a MATLAB file, truncated, not a saved DagNN, or its arrays are not those of the released network
            (all differences listed).
    """
    path = Path(path)
    backbone, geometry = layout.vgg19_layers(RELEASED_LAST), layout.GEOMETRY
    expected = layout.expected_arrays(backbone, *RELEASED_VGG) | layout.expected_arrays(geometry, *RELEASED_GEOMETRY)
    with open_variable(path, "net") as net:
        arrays = layout.collect(path, _dagnn_entries(net), expected, ignored=RELEASED_FIXED)
    return {
        "backbone": layout.layer_tree(arrays, backbone, *RELEASED_VGG),
        "geometry": _in_our_order(layout.layer_tree(arrays, geometry, *RELEASED_GEOMETRY)),
    }


def read_vgg(path: str | PathLike[str]) -> layout.Layers:
    """The convolutions of VGG-19, for RGB input, from MatConvNet's `imagenet-vgg-verydeep-19.mat`.

    Returns:
        `{"conv1_1": {"kernel": [3, 3, 3, 64], "bias": [64]}, ..., "conv5_4": ...}`, float32; fc6-8 are left out.

    Raises:
        ValueError: not a MATLAB file, truncated, not a SimpleNN, or its arrays are not those of VGG-19 (all differences
            listed).
    """
    path = Path(path)
    layers = layout.vgg19_layers()
    expected = layout.expected_arrays(layers, *SIMPLENN_VGG)
    with open_variable(path, "layers") as cells:
        arrays = layout.collect(path, _simplenn_entries(cells), expected, ignored=FULLY_CONNECTED)
    return layout.layer_tree(arrays, layers, *SIMPLENN_VGG)


def _dagnn_entries(net: Value) -> list[layout.Entry]:
    """The parameters of a saved DagNN: a struct array `net.params` with `name` and `value`."""
    params = net.only("params")
    names, values = params.field("name"), params.field("value")
    if len(names) != len(values):
        raise UnusableFile(f"{params.where}: expected one value per name, found {len(values)} for {len(names)}")
    named = [(name.text(), value) for name, value in zip(names, values, strict=True)]
    return [_entry(name, value, vector=name.endswith("b")) for name, value in named]


def _simplenn_entries(layers: Value) -> list[layout.Entry]:
    """The parameters of a SimpleNN: a cell array of layers, where convolutions have `weights = {kernel, bias}`."""
    entries: list[layout.Entry] = []
    for layer in layers.cells():
        if not layer.has_field("weights"):
            continue
        name, weights = layer.only("name").text(), layer.only("weights").cells()
        if not weights:  # pooling and ReLU layers of some versions
            continue
        if len(weights) != 2:
            raise UnusableFile(f"{layer.where}: expected a kernel and a bias in {name!r}, found {len(weights)} arrays")
        for format_, value, vector in zip(SIMPLENN_VGG, weights, (False, True), strict=True):
            entries.append(_entry(format_.format(name), value, vector))
    return entries


def _entry(name: str, value: Value, vector: bool) -> layout.Entry:
    """MATLAB knows no vectors (a bias is a row or a column) and drops trailing axes of one."""
    shape = value.shape
    if vector and sum(size != 1 for size in shape) <= 1:
        shape = (int(np.prod(shape)),)
    elif not vector:
        shape = shape + (1,) * (4 - len(shape))
    return layout.Entry(name=name, shape=shape, dtype=value.dtype, read=value.read)


def _in_our_order(geometry: layout.Layers) -> layout.Layers:
    """The released geometry network with its input and output channels in our order."""
    first, last = geometry["conv1"], geometry["conv10"]
    radius = (round(first["kernel"].shape[2] ** 0.5) - 1) // 2
    window, affine = released_window_order(radius), np.asarray(RELEASED_AFFINE_CHANNELS)
    return geometry | {
        "conv1": {"kernel": np.ascontiguousarray(first["kernel"][:, :, window]), "bias": first["bias"]},
        "conv10": {"kernel": np.ascontiguousarray(last["kernel"][..., affine]), "bias": last["bias"][affine]},
    }
