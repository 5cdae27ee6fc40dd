"""VGGs and ResNets from the HDF5 files of Keras Applications, whose kernels are for BGR images.

Three layouts of the same arrays exist: the published files' of 2016, `block4_conv1/block4_conv1_W_1:0`; what later
versions write, `block4_conv1/block4_conv1/kernel:0` (whole models below `model_weights/`); and Keras 3's
`.weights.h5`, `layers/conv2d_8/vars/0`, which keeps the layer's name as an attribute. The ResNet-50 of 2016 has the
layer names of the original besides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py

from rtn_jax.weights.architectures import RESNETS, VGGS, caffe_names, place, shapes
from rtn_jax.weights.containers import UnusableFile, container, inner_dataset, open_hdf5
from rtn_jax.weights.folding import bgr_to_rgb, fold_batch_norm
from rtn_jax.weights.formats import Format, Table, caffe_settings, vectors
from rtn_jax.weights.layout import Entry, Wanted

EPSILON = 1.001e-5
"""Of Keras' ResNets."""

_CONVOLUTION, _NORM = ("kernel", "bias"), ("gamma", "beta", "moving_mean", "moving_variance")
_OLD = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
"""Of 2016; `running_std` was a variance already."""
_BY_CLASS = {"conv2d": _CONVOLUTION, "dense": _CONVOLUTION, "batch_normalization": _NORM}
_OPTIMIZER = "state of the optimiser"

_OLD_DATASET = re.compile(
    r"(?P<layer>\w+)/(?P=layer)_(?P<part>W|b|gamma|beta|running_mean|running_std)(?:_\d+)?(?::0)?"
)
_DATASET = re.compile(
    r"(?:model_weights/)?(?P<layer>\w+)/(?:(?:vgg|resnet)\d+/)?(?P=layer)(?:_\d+)?/"
    r"(?P<part>kernel|bias|gamma|beta|moving_mean|moving_variance)(?::0)?"
)
_KERAS3_DATASET = re.compile(r"layers/(?P<class>conv2d|dense|batch_normalization)(?:_\d+)?/vars/(?P<number>\d)")


class _Names(NamedTuple):
    convolution: str
    norm: str


def _names(layer: str) -> _Names:
    """`conv4_23_expand` is `conv4_block23_3_conv` and `conv4_block23_3_bn`."""
    at = place(layer)
    if at is None:
        return _Names("conv1_conv", "conv1_bn")
    number = ("project", "reduce", "3x3", "expand").index(at.role)
    return _Names(f"conv{at.stage}_block{at.block}_{number}_conv", f"conv{at.stage}_block{at.block}_{number}_bn")


def _table(backbone: str) -> Table:
    return _vgg_table(backbone) if backbone in VGGS else _resnet_table(backbone, caffe=False)


def _vgg_table(backbone: str) -> Table:
    """`conv4_1` is `block4_conv1`."""
    return {
        layer: {part: Wanted(f"block{layer[4:].replace('_', '_conv')} {part}", shape) for part, shape in parts.items()}
        for layer, parts in shapes(backbone).items()
    }


def _resnet_table(backbone: str, *, caffe: bool) -> Table:
    table: Table = {}
    for layer, parts in shapes(backbone).items():
        convolution, norm = caffe_names(backbone, layer) if caffe else _names(layer)
        table[layer] = {"kernel": Wanted(f"{convolution} kernel", parts["kernel"])} | vectors(
            {
                "bias": f"{convolution} bias",
                "gamma": f"{norm} gamma",
                "beta": f"{norm} beta",
                "mean": f"{norm} moving_mean",
                "variance": f"{norm} moving_variance",
            },
            parts["bias"][0],
        )
    return table


def _ignored(table: Table) -> set[str]:
    heads = ("fc1", "fc2", "predictions", "probs", "fc1000")
    return {_OPTIMIZER} | {f"{layer} {part}" for layer in heads for part in _CONVOLUTION}


KERAS = Format(
    title="Keras HDF5",
    backbones=(*VGGS, *RESNETS),
    table=_table,
    build=lambda parts: fold_batch_norm(parts, EPSILON),
    finish=bgr_to_rgb,
    ignored=_ignored,
    settings=caffe_settings,
)
KERAS_2016 = Format(
    title="Keras HDF5 of 2016",
    backbones=("resnet50",),
    table=lambda backbone: _resnet_table(backbone, caffe=True),
    build=lambda parts: fold_batch_norm(parts, EPSILON),
    finish=bgr_to_rgb,
    ignored=_ignored,
    settings=caffe_settings,
)


@contextmanager
def open_keras(path: Path) -> Iterator[list[Entry]]:
    """All arrays of a Keras file, to be read inside the `with` block.

    Raises:
        UnusableFile: no such file, not HDF5, or truncated.
    """
    kind = container(path)
    if kind != "hdf5":
        raise UnusableFile(f"{path}: expected a Keras HDF5 file, found {kind}")
    with open_hdf5(path) as file:
        yield _entries(file)


def _entries(file: h5py.File) -> list[Entry]:
    """Every dataset of the file; one whose place is not known keeps its path as its name, so that it is reported."""
    entries: list[Entry] = []

    def visit(where: str, node: h5py.Group | h5py.Dataset) -> None:  # follows no soft and no external link
        if isinstance(node, h5py.Dataset):
            dataset = inner_dataset(node)
            name = _name(where, node)
            entries.append(
                Entry(name=name, shape=dataset.shape or (), dtype=dataset.dtype.name, read=lambda: dataset[()])
            )

    file.visititems(visit)
    return entries


def _name(where: str, node: h5py.Dataset) -> str:
    """`block4_conv1/block4_conv1_W_1:0` -> `block4_conv1 kernel`."""
    if where.startswith(("optimizer/", "optimizer_weights/")):
        return _OPTIMIZER
    if match := _OLD_DATASET.fullmatch(where):
        return f"{match['layer']} {_OLD.get(match['part'], match['part'])}"
    if match := _DATASET.fullmatch(where):
        return f"{match['layer']} {match['part']}"
    match = _KERAS3_DATASET.fullmatch(where)
    layer = node.parent.attrs.get("name")
    if match is None or layer is None or int(match["number"]) >= len(_BY_CLASS[match["class"]]):
        return where
    return f"{layer} {_BY_CLASS[match['class']][int(match['number'])]}"
