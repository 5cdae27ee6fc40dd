"""VGG-19 and VGG-16 (Simonyan and Zisserman 2015); VGG-19 is the backbone of the released network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rtn_jax.affine import sampling_positions
from rtn_jax.backbones.base import Redone, Shapes
from rtn_jax.config import CAFFE_MEAN
from rtn_jax.convolution import convolve, warped_convolution
from rtn_jax.coordinates import Normalization
from rtn_jax.sampling import max_pool

_CHANNELS = (64, 128, 256, 512, 512)  # of the blocks between two poolings
_CONVOLUTIONS = {19: (2, 2, 4, 4, 4), 16: (2, 2, 3, 3, 3)}  # by depth, in each of the blocks


def layers_of(depth: int) -> dict[str, int]:
    """Every convolution in order, with its number of output channels."""
    blocks = zip(_CHANNELS, _CONVOLUTIONS[depth], strict=True)
    return {f"conv{block}_{i}": channels for block, (channels, n) in enumerate(blocks, 1) for i in range(1, n + 1)}


LAYERS = layers_of(19)


def weight_shapes(last: str | None = None, *, depth: int = 19) -> Shapes:
    """Shapes of kernels (HWIO) and biases of all convolutions up to `last`; of all of them unless given."""
    shapes: Shapes = {}
    channels = 3
    for name, features in layers_of(depth).items():
        shapes[name] = {"kernel": (3, 3, channels, features), "bias": (features,)}
        if name == last:
            break
        channels = features
    return shapes


class VGG(nn.Module):
    """The convolutions up to the deepest of `layers`; weights are named after the convolutions.

    Of every layer asked for: its input, and its output before ReLU.
    """

    layers: tuple[str, ...]
    depth: int = 19
    mean: tuple[float, float, float] = CAFFE_MEAN
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b H W 3"]) -> dict[str, tuple[Array, Array]]:
        x = (images - jnp.asarray(self.mean, images.dtype)).astype(self.dtype)
        taps = {}
        for name, shapes in weight_shapes(deepest(self.layers, self.depth), depth=self.depth).items():
            if name.endswith("_1") and name != "conv1_1":
                x = max_pool(x, 2)  # an odd last row or column is dropped, as in the original
            convolution = nn.Conv(
                shapes["bias"][0],
                (3, 3),
                dtype=self.dtype,
                conv_general_dilated=convolve,
                kernel_init=nn.initializers.he_normal(),
                name=name,
            )
            inputs, x = x, convolution(x)
            if name in self.layers:
                taps[name] = (inputs, x)
            x = nn.relu(x)
        return taps


@dataclass(frozen=True, kw_only=True)
class VGGBackbone:
    """VGG-19 or VGG-16 as `backbones.Backbone`."""

    layers: tuple[str, ...]
    depth: int = 19
    mean: tuple[float, float, float] = CAFFE_MEAN
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for layer in self.layers:
            self.stride(layer)

    @property
    def fill(self) -> tuple[float, float, float]:
        """The mean colour."""
        return self.mean

    @property
    def head(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def _module(self) -> VGG:
        return VGG(layers=self.layers, depth=self.depth, mean=self.mean, dtype=jnp.dtype(self.dtype))

    def stride(self, layer: str) -> int:
        """Image pixels per cell: the layers of a block share a grid."""
        known = layers_of(self.depth)
        if layer not in known:
            raise ValueError(f"layer: VGG-{self.depth} has {', '.join(known)}; got {layer!r}")
        return 2 ** (int(layer[4]) - 1)

    def init(self, key: Array) -> dict[str, Any]:
        """He-normal weights, zero biases."""
        return self._module.init(key, jnp.zeros((1, 16, 16, 3)))["params"]

    def weight_shapes(self) -> Shapes:
        """Shapes by convolution, up to the deepest layer that is used."""
        return weight_shapes(deepest(self.layers, self.depth), depth=self.depth)

    def taps(self, weights: dict[str, Any], images: Float[Array, "b H W 3"]) -> dict[str, tuple[Array, Array]]:
        """Input and output (after ReLU) of every convolution in `layers`; pooling drops an odd last row or column."""
        taps: dict[str, tuple[Array, Array]] = self._module.apply({"params": weights}, images)  # type: ignore[assignment]
        return {layer: (inputs, nn.relu(output)) for layer, (inputs, output) in taps.items()}

    def redo(
        self, weights: dict[str, Any], layer: str, inputs: Float[Array, "b h w i"], normalization: Normalization
    ) -> Redone:
        """The convolution with its 3x3 neighbourhoods sampled through the local affines, then ReLU.

        Source: the affine-warped convolution of the release, which samples nine positions per cell and convolves them
        with stride 3.
        """
        kernel, bias = (jnp.asarray(weights[layer][name], inputs.dtype) for name in ("kernel", "bias"))
        convolution = warped_convolution(inputs, kernel)

        def under(field: Float[Array, "b h w 2 3"]) -> Float[Array, "b h w c"]:
            return nn.relu(convolution(sampling_positions(field, normalization=normalization)) + bias)

        return under


def deepest(layers: tuple[str, ...], depth: int) -> str:
    """The last of some layers on the way through the network."""
    return max(layers, key=list(layers_of(depth)).index)
