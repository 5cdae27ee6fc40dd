"""The networks whose weights are read: what they are called and how their layers are numbered."""

from __future__ import annotations

import re
from typing import NamedTuple

from rtn_jax.backbones import Shapes, full_weight_shapes

TITLES = {
    "vgg": "VGG-19",
    "vgg16": "VGG-16",
    "resnet": "ResNet-101",
    "resnet50": "ResNet-50",
    "resnet152": "ResNet-152",
    "fcss": "FCSS",
    "cat-fcss": "CAT-FCSS",
}
VGGS = ("vgg", "vgg16")
RESNETS = ("resnet", "resnet50", "resnet152")
SERVES = {"fcss": ("fcss", "vgg"), "cat-fcss": ("cat-fcss", "fcss", "vgg")}
"""The architectures whose files give a backbone its first layers, where that is not only its own."""

_CONVOLUTION = re.compile(r"conv(?P<stage>\d)_(?P<block>\d+)_(?P<role>project|reduce|3x3|expand)")


class Place(NamedTuple):
    """Of a ResNet's convolution in a bottleneck."""

    stage: int
    """2 to 5."""
    block: int
    """From 1."""
    role: str
    """`project`, `reduce`, `3x3` or `expand`."""


def title(backbone: str) -> str:
    """`VGG-19`.

    Raises:
        ValueError: no such backbone.
    """
    if backbone not in TITLES:
        raise ValueError(f"backbone: expected one of {', '.join(TITLES)}, got {backbone!r}")
    return TITLES[backbone]


def shapes(backbone: str) -> Shapes:
    """`{layer: {name: shape}}` of everything that a file of the backbone may hold."""
    title(backbone)
    return full_weight_shapes(backbone)  # type: ignore[arg-type]


def place(layer: str) -> Place | None:
    """Where a ResNet's layer stands; None for `conv1`, which stands before all blocks."""
    match = _CONVOLUTION.fullmatch(layer)
    return Place(int(match["stage"]), int(match["block"]), match["role"]) if match else None


def caffe_names(backbone: str, layer: str) -> tuple[str, str]:
    """What the original ResNets call a convolution and its batch norm: `res4b22_branch2c` and `bn4b22_branch2c`.

    Blocks have letters, but for stages 3 and 4 of the two deeper networks: a, b1, b2, ...
    """
    at = place(layer)
    if at is None:
        return "conv1", "bn_conv1"
    numbered = backbone != "resnet50" and at.stage in (3, 4)
    letter = chr(ord("a") + at.block - 1)
    block = (f"b{at.block - 1}" if at.block > 1 else "a") if numbered else letter
    branch = {"project": "1", "reduce": "2a", "3x3": "2b", "expand": "2c"}[at.role]
    return f"res{at.stage}{block}_branch{branch}", f"bn{at.stage}{block}_branch{branch}"
