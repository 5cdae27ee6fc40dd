"""What the authors' programs save: the released network and FCSS, both a MatConvNet DagNN called `net`.

Kernels are as in JAX and for RGB images. Only directions differ from ours: the release numbers the window and the field
with the vertical one first (`rtn_jax.coordinates`), and `dx` in the names of FCSS' shifts is the vertical one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rtn_jax.coordinates import RELEASED_AFFINE_CHANNELS, released_window_order
from rtn_jax.weights import layout
from rtn_jax.weights.architectures import shapes
from rtn_jax.weights.formats import GEOMETRY_LAYER, Format, Table, caffe_settings
from rtn_jax.weights.layout import AnyArray, Layers, Wanted

LAST = "conv5_1"
"""The deepest convolution of VGG-19 in the released network."""
FIXED = (  # bilinear upsampling, never trained: rtn_jax computes it
    "geo_deconv1_f",
    "geo_deconv2_f",
    "geo_deconv3_f",
    "geo_deconv4_f",
    "deconv_f_x2",
    "deconv_aff_x2",
)


def _vgg_layer(layer: str, parts: Mapping[str, tuple[int, ...]]) -> dict[str, Wanted]:
    return {"kernel": Wanted(f"{layer}f", parts["kernel"]), "bias": Wanted(f"{layer}b", parts["bias"])}


def _released_table(backbone: str) -> Table:
    table: Table = {}
    for layer, parts in shapes(backbone).items():
        table[layer] = _vgg_layer(layer, parts)
        if layer == LAST:
            break
    for layer, (side, before, after) in layout.GEOMETRY.items():
        table[GEOMETRY_LAYER + layer] = {
            "kernel": Wanted(f"geo_{layer}_f", (side, side, before, after)),
            "bias": Wanted(f"geo_{layer}_b", (after,)),
        }
    return table


def _in_our_order(layers: Layers) -> Layers:
    """The released geometry network with its input and output channels in our order."""
    first, last = GEOMETRY_LAYER + "conv1", GEOMETRY_LAYER + "conv10"
    radius = (round(layers[first]["kernel"].shape[2] ** 0.5) - 1) // 2
    window, affine = released_window_order(radius), np.asarray(RELEASED_AFFINE_CHANNELS)
    kernel, bias = layers[last]["kernel"], layers[last]["bias"]
    return layers | {
        first: layers[first] | {"kernel": np.ascontiguousarray(layers[first]["kernel"][:, :, window])},
        last: {"kernel": np.ascontiguousarray(kernel[..., affine]), "bias": bias[affine]},
    }


def _fcss_table(backbone: str) -> Table:
    """The shifts stand one by one: `sf_s_dx01_level1` is u of the first pair of the first pattern, down."""
    table: Table = {}
    for layer, parts in shapes(backbone).items():
        if not layer.startswith("pattern"):
            table[layer] = _vgg_layer(layer, parts)
            continue
        level = layer.removeprefix("pattern")
        table[layer] = {"bandwidth": Wanted(f"lambda{level}", (1,))}
        for ours, theirs in (("u", "s"), ("v", "t")):
            for axis, direction in (("x", "dy"), ("y", "dx")):
                for pair in range(1, parts[ours][0] + 1):
                    name = f"sf_{theirs}_{direction}{pair:02}_level{level}"
                    table[layer][f"{ours}_{axis}{pair:02}"] = Wanted(name, (1,))
    return table


def _build_fcss(parts: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    if "kernel" in parts:
        return dict(parts)
    pattern = {name: np.stack([_joined(parts, f"{name}_{axis}") for axis in "xy"], axis=-1) for name in ("u", "v")}
    return pattern | {"bandwidth": parts["bandwidth"]}


def _joined(parts: Mapping[str, AnyArray], prefix: str) -> AnyArray:
    return np.concatenate([array for name, array in parts.items() if name.startswith(prefix)])  # in the table's order


RELEASED = Format(
    title="net-epoch.mat of the release",
    backbones=("vgg",),
    table=_released_table,
    build=dict,
    finish=_in_our_order,
    ignored=lambda _: FIXED,
    settings=caffe_settings,
)
FCSS = Format(
    title="FCSS of its authors", backbones=("fcss",), table=_fcss_table, build=_build_fcss, settings=caffe_settings
)
