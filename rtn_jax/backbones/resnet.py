"""ResNet-50, -101 and -152 (He et al. 2016), batch norm folded into a scale and a bias per channel.

The original network (Caffe's and Keras') has the stride of a stage in the first 1x1 convolution of its first block,
torchvision's in the 3x3 one: `stride_in`. Weights fit either, features do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rtn_jax.affine import field_centres, sampling_positions
from rtn_jax.backbones.base import Redone, Shapes
from rtn_jax.config import CAFFE_MEAN, ResNetStride, StrideIn
from rtn_jax.convolution import convolve, warped_convolution
from rtn_jax.coordinates import Normalization
from rtn_jax.sampling import bilinear_sample, max_pool

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # by depth, in the stages conv2 to conv5
_DILATED = 4
"""The first stage that `deepest_stride=8` dilates."""
_EXPANSION = 4

Layer = Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """One bottleneck, `conv{stage}_{index}`."""

    stage: int
    index: int
    inputs: int
    """Channels that come in."""

    @property
    def name(self) -> str:
        """Of its output, `conv4_23`."""
        return f"conv{self.stage}_{self.index}"

    @property
    def width(self) -> int:
        """Channels between its 1x1 convolutions."""
        return 64 * 2 ** (self.stage - 2)

    def shapes(self) -> Shapes:
        """Of its convolutions: kernels HWIO, scales and biases."""
        kernels = {
            f"{self.name}_reduce": (1, 1, self.inputs, self.width),
            f"{self.name}_3x3": (3, 3, self.width, self.width),
            f"{self.name}_expand": (1, 1, self.width, _EXPANSION * self.width),
        }
        if self.index == 1:
            kernels = {f"{self.name}_project": (1, 1, self.inputs, _EXPANSION * self.width)} | kernels
        return {name: {"kernel": k, "scale": k[-1:], "bias": k[-1:]} for name, k in kernels.items()}


def blocks_of(depth: int) -> tuple[Block, ...]:
    """All bottlenecks in order."""
    blocks: list[Block] = []
    for stage, count in enumerate(_BLOCKS[depth], 2):
        for index in range(1, count + 1):
            blocks.append(Block(stage, index, _EXPANSION * blocks[-1].width if blocks else 64))
    return tuple(blocks)


@dataclass(frozen=True, kw_only=True)
class ResNetBackbone:
    """ResNet-50, -101 or -152 as `backbones.Backbone`.

    Its last part is a whole bottleneck: under a field the 3x3 convolution samples the affine neighbourhood, its 1x1
    convolutions and the shortcut follow the field's centre.
    """

    layers: tuple[str, ...]
    depth: int = 101
    mean: tuple[float, float, float] = CAFFE_MEAN
    dtype: str = "float32"
    deepest_stride: ResNetStride = 16
    stride_in: StrideIn = "1x1"

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

    def stride(self, layer: str) -> int:
        """Image pixels per cell: the blocks of a stage share a grid."""
        # The first block of a stage reads another grid than it writes, and has no neighbourhood of its own on either.
        known = {block.name: block for block in blocks_of(self.depth) if block.index > 1}
        if layer not in known:
            raise ValueError(f"layer: ResNet-{self.depth} has {', '.join(known)}; got {layer!r}")
        return self._stride(known[layer].stage)

    def _stride(self, stage: int) -> int:
        full = 2**stage
        return full if self.deepest_stride == 16 else min(full, self.deepest_stride)

    def _dilation(self, block: Block) -> int:
        """Of the 3x3 convolution, so that it reads what it would read on the original, coarser grid.

        With the stride in the 3x3 convolution, a stage's first one still stands on the grid of the stage before.
        """
        before = block.index == 1 and self.stride_in == "3x3"
        return 2 ** (block.stage - before) // self._stride(block.stage - before)

    def _used(self) -> Iterator[Block]:
        """The blocks up to the deepest that is used."""
        left = set(self.layers)
        for block in blocks_of(self.depth):
            if not left:
                return
            yield block
            left.discard(block.name)

    def weight_shapes(self) -> Shapes:
        """Shapes by convolution, up to the deepest block that is used."""
        shapes: Shapes = {"conv1": {"kernel": (7, 7, 3, 64), "scale": (64,), "bias": (64,)}}
        for block in self._used():
            shapes |= block.shapes()
        return shapes

    def init(self, key: Array) -> dict[str, Any]:
        """Smooth random kernels of He's variance that sum to zero, scales of one, zero biases.

        Smooth, as trained ones are: what is read every 16 pixels must not hang on where in between an image lies. Their
        sum is zero but for the first's, which reads the image: after a ReLU all inputs are positive, and what they have
        in common would grow from block to block until any two cells have a cosine of 0.93.

        The last scale of a block is small: a stage then about doubles the variance it is given, where as many blocks
        that each double it would end in infinity.
        """
        shapes = self.weight_shapes()
        sizes = [math.prod(parts["kernel"]) for parts in shapes.values()]
        # One draw, cut up: a hundred of them take a minute to compile.
        drawn = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
        weights = {}
        for numbers, (name, parts) in zip(drawn, shapes.items(), strict=True):
            kernel, channels = parts["kernel"], parts["bias"]
            stage = int(name[4]) - 2 if name.endswith("_expand") else None
            numbers = numbers.reshape(kernel)
            if kernel[0] > 1:
                numbers = _smooth(numbers)
            if name != "conv1":
                numbers -= numbers.mean((0, 1, 2))
            weights[name] = {
                "kernel": math.sqrt(2 / math.prod(kernel[:3])) * numbers / numbers.std(),
                "scale": jnp.full(channels, 1.0 if stage is None else _BLOCKS[self.depth][stage] ** -0.5),
                "bias": jnp.zeros(channels),
            }
        return weights

    def taps(self, weights: dict[str, Any], images: Float[Array, "b H W 3"]) -> dict[str, tuple[Any, Array]]:
        """Per block in `layers`: what its 3x3 convolution and its shortcut read, and the block's output (after ReLU).

        As Keras pads: three zeros around the (mean-subtracted) image, one around the first pooling.
        """
        dtype = jnp.dtype(self.dtype)
        x = (images - jnp.asarray(self.mean, images.dtype)).astype(dtype)
        first = _cast(weights["conv1"], dtype)
        x = jax.nn.relu(_normed(_convolve(x, first["kernel"], stride=2, padding=3), first))
        x = max_pool(x, 3, ((1, 1), (1, 1)))
        taps = {}
        for block in self._used():
            reduced, shortcut = self._entered(weights, block, x)
            middle = _cast(weights[f"{block.name}_3x3"], dtype)
            strided = self.stride_in == "3x3" and self._halves(block)
            dilation = self._dilation(block)
            y = _convolve(reduced, middle["kernel"], stride=1 + strided, padding=dilation, dilation=dilation)
            x = self._left(weights, block, y, shortcut)
            if block.name in self.layers:
                taps[block.name] = ({"reduced": reduced, "shortcut": shortcut}, x)
        return taps

    def redo(
        self, weights: dict[str, Any], layer: str, inputs: dict[str, Array], normalization: Normalization
    ) -> Redone:
        """The bottleneck under the local affines."""
        block = next(block for block in blocks_of(self.depth) if block.name == layer)
        kernel = jnp.asarray(weights[f"{layer}_3x3"]["kernel"], inputs["reduced"].dtype)
        convolution = warped_convolution(inputs["reduced"], kernel)

        def under(field: Float[Array, "b h w 2 3"]) -> Float[Array, "b h w c"]:
            positions = sampling_positions(field, dilation=self._dilation(block), normalization=normalization)
            centres = field_centres(field, normalization=normalization)
            return self._left(weights, block, convolution(positions), bilinear_sample(inputs["shortcut"], centres))

        return under

    def _halves(self, block: Block) -> bool:
        """Whether its grid is coarser than the one before."""
        return block.index == 1 and block.stage > 2 and self._stride(block.stage) > self._stride(block.stage - 1)

    def _entered(self, weights: dict[str, Any], block: Block, x: Array) -> tuple[Array, Array]:
        """A block's first half: what its 3x3 convolution and its shortcut read."""
        reduce, coarser = _cast(weights[f"{block.name}_reduce"], x.dtype), x
        if self._halves(block):
            coarser = x[:, ::2, ::2]
        if block.index == 1:
            project = _cast(weights[f"{block.name}_project"], x.dtype)
            shortcut = _normed(coarser @ project["kernel"][0, 0], project)
        else:
            shortcut = x
        read = coarser if self.stride_in == "1x1" else x
        return jax.nn.relu(_normed(read @ reduce["kernel"][0, 0], reduce)), shortcut

    def _left(self, weights: dict[str, Any], block: Block, y: Array, shortcut: Array) -> Array:
        """A block's second half, after the product with the 3x3 kernel."""
        middle, expand = (_cast(weights[f"{block.name}_{name}"], y.dtype) for name in ("3x3", "expand"))
        y = jax.nn.relu(_normed(y, middle))
        return jax.nn.relu(_normed(y @ expand["kernel"][0, 0], expand) + shortcut)


def _smooth(kernel: Float[Array, "k k i o"]) -> Float[Array, "k k i o"]:
    """Blurred with a Gaussian as wide as a cell."""
    at = np.arange(len(kernel))
    blur = np.exp(-((at - at[:, None]) ** 2) / 2)
    return jnp.einsum("yv,xw,vwio->yxio", blur, blur, kernel)


def _cast(layer: Layer, dtype: Any) -> Layer:
    return {name: jnp.asarray(array, dtype) for name, array in layer.items()}


def _normed(x: Array, layer: Layer) -> Array:
    """What is left of batch norm."""
    return x * layer["scale"] + layer["bias"]


def _convolve(x: Array, kernel: Array, *, stride: int, padding: int, dilation: int = 1) -> Array:
    if stride == dilation == 1:
        return convolve(x, kernel)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
