"""Batch norm with fixed statistics, and what is done to images before the first convolution, taken into the weights.

`gamma (conv(x) + b - mean) / sqrt(variance + epsilon) + beta` is `scale conv(x) + bias` with one scale and one bias per
channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from rtn_jax.weights.layout import AnyArray, Layers, float32

TORCH_MEAN = (0.485, 0.456, 0.406)
TORCH_STD = (0.229, 0.224, 0.225)
"""Of RGB images in 0..1: what torchvision's and timm's ImageNet weights were trained with."""


def fold_batch_norm(parts: Mapping[str, AnyArray], epsilon: float = 0.0) -> dict[str, AnyArray]:
    """A convolution and its batch norm as `{"kernel", "scale", "bias"}`; without batch norm, kernel and bias alone.

    Args:
        parts: `kernel`, perhaps `bias`; `gamma`, `beta` and either `mean` and `variance`, or `moments [c, 2]`: mean and
            standard deviation, in which epsilon is contained.
        epsilon: added to the variance.

    A variance below zero, or a standard deviation that is not above it, gives NaN.
    """
    if "gamma" not in parts:
        return {"kernel": parts["kernel"], "bias": parts["bias"]}
    wide = {name: array.astype(np.float64) for name, array in parts.items() if name != "kernel"}
    with np.errstate(all="ignore"):  # the result is checked: none is finite without a true variance
        if "moments" in wide:
            mean, deviation = wide["moments"].T
            deviation = np.where(deviation > 0, deviation, np.nan)
        else:
            mean, variance = wide["mean"], wide["variance"]
            deviation = np.sqrt(np.where(variance >= 0, variance, np.nan) + epsilon)
        scale = wide["gamma"] / deviation
        bias = wide["beta"] + (wide.get("bias", 0.0) - mean) * scale
    return {"kernel": parts["kernel"], "scale": float32(scale), "bias": float32(bias)}


def bgr_to_rgb(layers: Layers) -> Layers:
    """Weights for BGR images to those for RGB ones."""
    return _with_first_kernel(layers, lambda kernel: kernel[:, :, ::-1])


def from_unit_variance(layers: Layers) -> Layers:
    """Weights for images `(x / 255 - mean) / std` to those for `x - 255 mean`."""
    deviation = 255 * np.asarray(TORCH_STD)
    return _with_first_kernel(layers, lambda kernel: kernel / deviation[:, None])


def _with_first_kernel(layers: Layers, change: Callable[[AnyArray], AnyArray]) -> Layers:
    first = next(iter(layers))
    return layers | {first: layers[first] | {"kernel": float32(change(layers[first]["kernel"]))}}
