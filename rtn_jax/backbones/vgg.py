"""VGG-19 (Simonyan and Zisserman 2015), the backbone of the released network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rtn_jax.affine import sampling_positions
from rtn_jax.convolution import convolve
from rtn_jax.coordinates import Normalization
from rtn_jax.sampling import bilinear_sample

RGB_MEAN = (123.680, 116.779, 103.939)
"""Subtracted from RGB images in 0..255: the mean the Oxford weights were trained with."""

_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # (channels, convolutions) between two poolings
LAYERS: dict[str, int] = {
    f"conv{block}_{i}": channels for block, (channels, n) in enumerate(_BLOCKS, 1) for i in range(1, n + 1)
}
"""Every convolution in order, with its number of output channels."""


def weight_shapes(last: str = "conv5_4") -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of kernels (HWIO) and biases of all convolutions up to `last`."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    channels = 3
    for name, features in LAYERS.items():
        shapes[name] = {"kernel": (3, 3, channels, features), "bias": (features,)}
        if name == last:
            break
        channels = features
    return shapes


class VGG19(nn.Module):
    """The convolutions up to the deepest of `layers`; weights are named after the convolutions."""

    layers: tuple[str, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b H W 3"]) -> dict[str, tuple[Array, Array]]:
        x = (images - jnp.asarray(RGB_MEAN, images.dtype)).astype(self.dtype)
        taps = {}
        for name in weight_shapes(_deepest(self.layers)):
            if name.endswith("_1") and name != "conv1_1":
                x = _pool(x)
            inputs = x
            x = nn.relu(
                nn.Conv(
                    LAYERS[name],
                    (3, 3),
                    dtype=self.dtype,
                    conv_general_dilated=convolve,
                    kernel_init=nn.initializers.he_normal(),
                    name=name,
                )(inputs)
            )
            if name in self.layers:
                taps[name] = (inputs, x)
        return taps


@dataclass(frozen=True, kw_only=True)
class VGGBackbone:
    """VGG-19 as `backbones.Backbone`."""

    layers: tuple[str, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for layer in self.layers:
            self.stride(layer)

    @property
    def fill(self) -> tuple[float, float, float]:
        """The mean colour."""
        return RGB_MEAN

    @property
    def _module(self) -> VGG19:
        return VGG19(layers=self.layers, dtype=jnp.dtype(self.dtype))

    def stride(self, layer: str) -> int:
        """Image pixels per cell: the layers of a block share a grid."""
        if layer not in LAYERS:
            raise ValueError(f"layer: VGG-19 has {', '.join(LAYERS)}; got {layer!r}")
        return 2 ** (int(layer[4]) - 1)

    def init(self, key: Array) -> dict[str, Any]:
        """He-normal weights, zero biases."""
        return self._module.init(key, jnp.zeros((1, 16, 16, 3)))["params"]

    def weight_shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Shapes by convolution, up to the deepest layer that is used."""
        return weight_shapes(_deepest(self.layers))

    def taps(self, weights: dict[str, Any], images: Float[Array, "b H W 3"]) -> dict[str, tuple[Array, Array]]:
        """Input and output (after ReLU) of every convolution in `layers`; pooling drops an odd last row or column."""
        taps: dict[str, tuple[Array, Array]] = self._module.apply({"params": weights}, images)  # type: ignore[assignment]
        return taps

    def redo(
        self,
        weights: dict[str, Any],
        layer: str,
        inputs: Float[Array, "b h w i"],
        field: Float[Array, "b h w 2 3"],
        normalization: Normalization,
    ) -> Float[Array, "b h w c"]:
        """The convolution with its 3x3 neighbourhoods sampled through the local affines, then ReLU.

        Source: the affine-warped convolution of the release, which samples nine positions per cell and convolves them
        with stride 3.
        """
        kernel, bias = (jnp.asarray(weights[layer][name], inputs.dtype) for name in ("kernel", "bias"))
        samples = bilinear_sample(inputs, sampling_positions(field, normalization=normalization))  # [b, h, w, 9, i]
        flat = samples.reshape(*samples.shape[:3], -1)
        return nn.relu(flat @ kernel.reshape(flat.shape[-1], -1) + bias)


def _deepest(layers: tuple[str, ...]) -> str:
    return max(layers, key=list(LAYERS).index)


def _pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """2x2 max pooling; an odd last row or column is dropped, as the original does."""
    return jax.lax.reduce_window(x, np.array(-np.inf, x.dtype), jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
