"""A network in the layout of the release: the parameters of its `net-epoch.mat`, for MATLAB or `rtn_jax.load`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Shaped

from rtn_jax.config import Config, released
from rtn_jax.coordinates import released_window_order, to_released_affine
from rtn_jax.params import Params, check_shapes, expected_shapes

# The order of `net.params`. It matters: the released training's second stage takes the first's 70 values by number.
_GEOMETRY = (
    *("conv1", "conv1b", "conv2", "conv2b", "conv3", "conv3b", "conv4", "conv4b", "conv5", "conv5b", "deconv1"),
    *("conv6", "conv6b", "deconv2", "conv7", "conv7b", "deconv3", "conv8", "conv8b", "deconv4", "conv9", "conv9b"),
    "conv10",
)
_FIELD_FILTERS = (("deconv_aff_x2", 6), ("deconv_f_x2", 2))  # of the whole field, and of its translations

_BACKBONE_RATE = _LAST_RATE = 0.1  # what the release multiplies its learning rate with; its fixed filters have 0
_NETWORK = ("backbone", "layers", "radius", "geometry_width", "residual_units")  # for which the weights are
_WITHOUT_EFFECT = ("remat", "unroll", "resnet_stride", "stride_in")  # on what VGG-19 computes

Parameter = tuple[str, Shaped[np.ndarray, "..."], float]
"""Name, value and factor of the learning rate."""


def save_released(params: Params, path: str | os.PathLike[str]) -> None:
    """Writes what was trained with the preset `released` as the MATLAB code's `net-epoch.mat`.

    The file has a struct `net` whose struct array `params` holds, as `DagNN.saveobj` gives them and in that order, the
    name, value, learningRate and weightDecay of all 70 parameters, the six fixed bilinear filters among them.
    `rtn_jax.load` gives back the same weights, bit for bit. The graph of layers is not in the file: MATLAB builds it
    with the release's `init_RTNs` and takes the values by name.

    Args:
        params: with the config that `rtn_jax.config.released()` gives; another would not survive, since the file has no
            place for it.
        path: of the file, ending in `.mat`; one that is there is replaced when the new one is whole.

    Raises:
        ValueError: if the network is not the released one or has other conventions (all differences named), its
            weights are not finite float32, or the path cannot be written.
    """
    if Path(path).suffix != ".mat":  # MATLAB takes anything else for a text
        raise ValueError(f"{path}: expected a name that ends in .mat, got {Path(path).suffix!r}")
    _check_config(params.config)
    _check_weights(params)
    _write(path, _parameters(jax.tree.map(np.asarray, params.weights)))


def _write(path: str | os.PathLike[str], parameters: list[Parameter]) -> None:
    import scipy.io

    from rtn_jax.images import write_atomically

    fields = ("name", "value", "learningRate", "weightDecay")
    listed = np.zeros((1, len(parameters)), [(field, object) for field in fields])
    for i, (name, value, rate) in enumerate(parameters):
        listed[0, i] = (name, value, rate, 1.0)
    # Compressed, the file would be a quarter smaller, and take seven times as long to write.
    write_atomically(path, lambda file: scipy.io.savemat(file, {"net": {"params": listed}}, do_compression=False))


def _parameters(weights: dict[str, Any]) -> list[Parameter]:
    parameters: list[Parameter] = []
    for layer in sorted(weights["backbone"]):
        parameters += _layer(f"{layer}f", f"{layer}b", weights["backbone"][layer], _BACKBONE_RATE)
    geometry = _in_released_order(weights["geometry"])
    channels = 0
    for name in _GEOMETRY:
        if name.startswith("deconv"):
            parameters.append((f"geo_{name}_f", _bilinear(channels), 0.0))
            continue
        rate = _LAST_RATE if name == "conv10" else 1.0
        parameters += _layer(f"geo_{name}_f", f"geo_{name}_b", geometry[name], rate)
        channels = geometry[name]["bias"].size
    return parameters + [(name, _bilinear(channels), 0.0) for name, channels in _FIELD_FILTERS]


def _layer(kernel: str, bias: str, arrays: dict[str, Any], rate: float) -> list[Parameter]:
    return [(kernel, arrays["kernel"], rate), (bias, arrays["bias"][:, None], rate)]  # MatConvNet's biases are columns


def _in_released_order(geometry: dict[str, Any]) -> dict[str, Any]:
    """The geometry network with the channels of its ends as the release numbers them, the vertical direction first."""
    first, last = geometry["conv1"], geometry["conv10"]
    radius = (round(first["kernel"].shape[2] ** 0.5) - 1) // 2
    ours = np.argsort(released_window_order(radius))
    return geometry | {
        "conv1": first | {"kernel": first["kernel"][:, :, ours]},
        "conv10": {name: _released_field(array) for name, array in last.items()},
    }


def _released_field(array: Float[np.ndarray, "*other 6"]) -> Float[np.ndarray, "*other 6"]:
    return np.asarray(to_released_affine(array.reshape(*array.shape[:-1], 2, 3)))


def _bilinear(channels: int) -> Float32[np.ndarray, "4 4 c c"]:
    """The transposed convolution that doubles every channel by itself: in one group, so that all others are zero."""
    line = np.asarray([0.25, 0.75, 0.75, 0.25], np.float32)
    return (line[:, None, None, None] * line[:, None, None]) * np.eye(channels, dtype=np.float32)


def _check_config(config: Config) -> None:
    found, wanted = _described(config), _described(released())
    different = {
        name: f"{name} {found[name]!r}, expected {value!r}" for name, value in wanted.items() if found[name] != value
    }
    network = [different[name] for name in _NETWORK if name in different]
    if network:
        raise ValueError(f"config: only the released network can be written in its layout; found {'; '.join(network)}")
    if different:
        raise ValueError(
            f"config: with these weights the MATLAB code would compute something else; found "
            f"{'; '.join(different.values())}. If that is meant, `configure` the params so before"
        )


def _described(config: Config) -> dict[str, Any]:
    """The fields that say what is computed, the levels in two."""
    fields = {name: value for name, value in vars(config).items() if name not in (*_WITHOUT_EFFECT, "levels")}
    return fields | {"layers": tuple("+".join(level.taps) for level in config.levels), "iterations": config.iterations}


def _check_weights(params: Params) -> None:
    check_shapes("weights", params.weights, expected_shapes(params.config))
    leaves = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params.weights)
    ]
    problems = [f"{name} is {leaf.dtype}, expected float32" for name, leaf in leaves if leaf.dtype != np.float32]
    problems += [f"{name} is not finite" for name, leaf in leaves if not np.isfinite(leaf.astype(np.float32)).all()]
    if problems:
        raise ValueError(f"weights: {'; '.join(problems)}")
