"""torchvision's and timm's VGGs and ResNets, as they stand in safetensors files.

Both name the convolutions alike; timm's VGGs differ in the fully connected layers, which are not read. Kernels are
`[out, in, h, w]`. The weights are for images `(x / 255 - mean) / std`, and the ResNets have a stage's stride in the 3x3
convolution of its first block, where the original has it in the 1x1 before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from rtn_jax.weights.architectures import RESNETS, VGGS, place, shapes
from rtn_jax.weights.folding import TORCH_MEAN, fold_batch_norm, from_unit_variance
from rtn_jax.weights.formats import Format, Table, vectors
from rtn_jax.weights.layout import AnyArray, Wanted

EPSILON = 1e-5  # of torch.nn.BatchNorm2d

_CLASSIFIERS = ("classifier.0", "classifier.3", "classifier.6", "pre_logits.fc1", "pre_logits.fc2", "head.fc", "fc")
_COUNTER = "num_batches_tracked"


def _table(backbone: str) -> Table:
    return _vgg_table(backbone) if backbone in VGGS else _resnet_table(backbone)


def _vgg_table(backbone: str) -> Table:
    """`conv3_1` is `features.10`: a convolution, a ReLU, a convolution, ..., and a pooling after every block."""
    table: Table = {}
    index = 0
    for layer, parts in shapes(backbone).items():
        if layer.endswith("_1") and table:
            index += 1
        kernel = Wanted(f"features.{index}.weight", _stored(parts["kernel"]))
        table[layer] = {"kernel": kernel, "bias": Wanted(f"features.{index}.bias", parts["bias"])}
        index += 2
    return table


def _resnet_table(backbone: str) -> Table:
    """`conv4_23_expand` is `layer3.22.conv3` and its batch norm `layer3.22.bn3`."""
    table: Table = {}
    for layer, parts in shapes(backbone).items():
        convolution, norm = _resnet_names(layer)
        table[layer] = {"kernel": Wanted(f"{convolution}.weight", _stored(parts["kernel"]))} | vectors(
            {
                "gamma": f"{norm}.weight",
                "beta": f"{norm}.bias",
                "mean": f"{norm}.running_mean",
                "variance": f"{norm}.running_var",
            },
            parts["bias"][0],
        )
    return table


def _resnet_names(layer: str) -> tuple[str, str]:
    at = place(layer)
    if at is None:
        return "conv1", "bn1"
    block = f"layer{at.stage - 1}.{at.block - 1}"
    if at.role == "project":
        return f"{block}.downsample.0", f"{block}.downsample.1"
    number = {"reduce": 1, "3x3": 2, "expand": 3}[at.role]
    return f"{block}.conv{number}", f"{block}.bn{number}"


def _ignored(table: Table) -> Collection[str]:
    norms = [parts["mean"].name.removesuffix("running_mean") for parts in table.values() if "mean" in parts]
    heads = [f"{layer}.{part}" for layer in _CLASSIFIERS for part in ("weight", "bias")]
    return {*heads, *(norm + _COUNTER for norm in norms)}


def _build(parts: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    kernel = np.ascontiguousarray(parts["kernel"].transpose(2, 3, 1, 0))
    return fold_batch_norm({**parts, "kernel": kernel}, EPSILON)


def _stored(kernel: tuple[int, ...]) -> tuple[int, ...]:
    height, width, channels_in, channels_out = kernel
    return channels_out, channels_in, height, width


def _settings(backbone: str) -> dict[str, Any]:
    mean = tuple(round(255 * value, 6) for value in TORCH_MEAN)
    return {"pixel_mean": mean} | ({"stride_in": "3x3"} if backbone in RESNETS else {})


TORCHVISION = Format(
    title="torchvision or timm",
    backbones=(*VGGS, *RESNETS),
    table=_table,
    build=_build,
    finish=from_unit_variance,
    ignored=_ignored,
    settings=_settings,
)
