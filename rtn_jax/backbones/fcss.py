"""FCSS and CAT-FCSS: fully convolutional self-similarity, with or without a convolutional affine transformer.

Three levels of VGG-19 (conv2_2, conv3_2 and conv3_4 before ReLU) each give 64 self-similarities of every cell, whose
pattern of places is learned. `fcss` is the descriptor of the whole image at every pixel. For matching it is evaluated
on a grid, at the cells alone: there a pattern can follow the field, cell by cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rtn_jax.affine import field_centres, identity_field
from rtn_jax.backbones.base import Redone, Shapes, Weights
from rtn_jax.backbones.self_similarity import self_similarity
from rtn_jax.backbones.vgg import VGG, weight_shapes
from rtn_jax.config import CAFFE_MEAN
from rtn_jax.convolution import convolve
from rtn_jax.coordinates import Normalization, Shape, clip_points, contract, pixel_grid, resize_points
from rtn_jax.correlation import l2_normalize
from rtn_jax.sampling import bilinear_sample, resize_bilinear

PAIRS = 64
"""Of places, per level."""
BANDWIDTH = 0.5
"""At the start; learned."""
SPREADS = {"conv2_2": 9.0, "conv3_2": 7.0, "conv3_4": 5.0}
"""The levels, and the standard deviation of their patterns at the start, in their cells."""

STRIDES = {"stride4": 4, "stride8": 8, "stride16": 16}
"""Layers: the grids on which the descriptor is offered, in image pixels per cell."""

PATTERNS = tuple(f"pattern{i}" for i in range(1, len(SPREADS) + 1))
_AFFINE: dict[str, tuple[int, ...]] = {"affine1": (3, 3, 256, 32), "affine2": (3, 3, 32, 4)}
"""The transformer's convolutions."""


def fcss(weights: Weights, images: Float[Array, "b H W 3"], *, mean: tuple[float, ...] = CAFFE_MEAN) -> Array:
    """The descriptor of every pixel.

    Args:
        weights: of `FCSSBackbone`; with layers `affine1` and `affine2` it is CAT-FCSS.
        images: `[b, H, W, 3]` RGB in 0..255, sides multiples of 4.
        mean: colour that is subtracted.

    Returns:
        `[b, H, W, 192]` of unit length, but for the 0.01 under the root.

    Raises:
        ValueError: for sides that are not multiples of 4.

    Source: the released FCSS network: self-similarities, exp(-x / bandwidth), 2x2 max pooling with stride 1, bilinear
    upsampling to the image's size, each level and then all of them normalised.
    """
    shape = images.shape[1:3]
    if shape[0] % 4 or shape[1] % 4:
        raise ValueError(f"images: expected sides that are multiples of 4, got {shape}")
    inputs = _inputs(weights, images, "affine1" in weights, mean, jnp.float32)
    levels = []
    for features, pattern in zip(inputs["features"], PATTERNS, strict=True):
        grid = jnp.broadcast_to(
            jnp.asarray(pixel_grid(features.shape[1:3])), (images.shape[0], *features.shape[1:3], 2)
        )
        similar = _level(features, weights[pattern], grid, _matrices(inputs, grid, features.shape[1:3]))
        levels.append(l2_normalize(resize_bilinear(similar, shape)))
    return l2_normalize(jnp.concatenate(levels, -1))


@dataclass(frozen=True, kw_only=True)
class FCSSBackbone:
    """FCSS, or with `affine` CAT-FCSS, as `backbones.Backbone`.

    Its last part is the sampling pattern: under a field every cell's pattern is `A A_cat u` around `p + t`, where
    `A_cat` is what the transformer sees at that place of the image. The pooling then compares neighbouring cells, each
    with its own pattern, and every level loses its mean: similarities are all positive, so that without it any two
    cells have a cosine of 0.76 on average, and a window of cosines hardly differs from a constant.
    """

    layers: tuple[str, ...]
    affine: bool = False
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
        """The patterns, and the transformer."""
        return PATTERNS + (tuple(_AFFINE) if self.affine else ())

    def stride(self, layer: str) -> int:
        """Image pixels per cell."""
        if layer not in STRIDES:
            raise ValueError(f"layer: FCSS has {', '.join(STRIDES)}; got {layer!r}")
        return STRIDES[layer]

    def weight_shapes(self) -> Shapes:
        """Shapes by convolution and pattern."""
        shapes = weight_shapes([*SPREADS][-1])
        shapes |= {name: {"u": (PAIRS, 2), "v": (PAIRS, 2), "bandwidth": (1,)} for name in PATTERNS}
        if self.affine:
            shapes |= {name: {"kernel": kernel, "bias": kernel[-1:]} for name, kernel in _AFFINE.items()}
        return shapes

    def init(self, key: Array) -> Weights:
        """He-normal convolutions and normal patterns; the transformer starts as the identity, so as plain FCSS."""
        vgg_key, pattern_key, affine_key = jax.random.split(key, 3)
        weights: Weights = dict(_vgg(self.mean).init(vgg_key, jnp.zeros((1, 16, 16, 3)))["params"])
        drawn = jax.random.normal(pattern_key, (len(SPREADS), 2, PAIRS, 2))
        for name, spread, (u, v) in zip(PATTERNS, SPREADS.values(), drawn, strict=True):
            weights[name] = {"u": spread * u, "v": spread * v, "bandwidth": jnp.full((1,), BANDWIDTH)}
        if self.affine:
            first, last = _AFFINE.values()
            kernel = jax.nn.initializers.he_normal()(affine_key, first, jnp.float32)
            weights["affine1"] = {"kernel": kernel, "bias": jnp.zeros(first[-1:])}
            weights["affine2"] = {"kernel": jnp.zeros(last), "bias": jnp.zeros(last[-1:])}
        return weights

    def taps(self, weights: Weights, images: Float[Array, "b H W 3"]) -> dict[str, tuple[Any, Array]]:
        """Per grid: the levels' normalised features (and the transformer's matrices), and the descriptor.

        The features and the matrices are the same for every grid.
        """
        inputs = _inputs(weights, images, self.affine, self.mean, jnp.dtype(self.dtype))
        taps = {}
        for layer in self.layers:
            shape = tuple(size // self.stride(layer) for size in images.shape[1:3])
            identity = identity_field(images.shape[0], shape, jnp.promote_types(images.dtype, jnp.float32))
            taps[layer] = inputs, self._descriptor(weights, inputs, identity, "centers")
        return taps

    def redo(self, weights: Weights, layer: str, inputs: dict[str, Any], normalization: Normalization) -> Redone:
        """The descriptor with every cell's pattern under the cell's affine."""
        return lambda field: self._descriptor(weights, inputs, field, normalization)

    def _descriptor(
        self, weights: Weights, inputs: dict[str, Any], field: Float[Array, "b h w 2 3"], normalization: Normalization
    ) -> Float[Array, "b h w 192"]:
        shape = field.shape[1:3]
        centres = field_centres(field, normalization=normalization)
        matrices = field[..., :2]
        own = _matrices(inputs, centres, shape)
        matrices = matrices if own is None else contract("...ij,...jk->...ik", matrices, own.astype(field.dtype))
        levels = []
        for features, pattern in zip(inputs["features"], PATTERNS, strict=True):
            places = resize_points(centres, shape, features.shape[1:3])
            similar = _level(features, weights[pattern], places, matrices)
            levels.append(l2_normalize(similar - similar.mean(-1, keepdims=True)))
        return l2_normalize(jnp.concatenate(levels, -1)).astype(self.dtype)


def _vgg(mean: tuple[float, ...], dtype: Any = jnp.float32) -> VGG:
    return VGG(layers=tuple(SPREADS), mean=mean, dtype=dtype)  # type: ignore[arg-type]


def _inputs(weights: Weights, images: Array, affine: bool, mean: tuple[float, ...], dtype: Any) -> dict[str, Any]:
    """The levels' features, and with `affine` the 2x2 matrices that the transformer sees in the last of them."""
    taps: Mapping[str, Any] = _vgg(mean, dtype).apply({"params": weights}, images)  # type: ignore[assignment]
    features = tuple(l2_normalize(taps[layer][1]) for layer in SPREADS)
    if not affine:
        return {"features": features}
    x = features[-1]
    for name in _AFFINE:
        kernel, bias = (jnp.asarray(weights[name][part], x.dtype) for part in ("kernel", "bias"))
        x = convolve(x if name == "affine1" else nn.relu(x), kernel) + bias
    return {"features": features, "matrices": jnp.eye(2, dtype=x.dtype) + x.reshape(*x.shape[:3], 2, 2)}


def _matrices(inputs: Mapping[str, Any], places: Float[Array, "b h w 2"], shape: Shape) -> Array | None:
    """The transformer's matrices at places of a grid of `shape`; those of the border outside. None without one."""
    if "matrices" not in inputs:
        return None
    grid = inputs["matrices"]
    at = clip_points(resize_points(places, shape, grid.shape[1:3]), grid.shape[1:3])
    return bilinear_sample(grid.reshape(*grid.shape[:3], 4), at).reshape(*places.shape, 2)


def _level(
    features: Array, pattern: Mapping[str, Array], places: Float[Array, "b h w 2"], matrices: Array | None
) -> Float[Array, "b h w l"]:
    """One level's similarities at places of its features, pooled over 2x2 neighbouring places."""
    distances = self_similarity(features, pattern["u"], pattern["v"], places, matrices)
    similar = jnp.exp(-distances / pattern["bandwidth"])
    for axis in (1, 2):  # the last row and column have no neighbour, and are pooled without one
        following, last = (lax.slice_in_dim(similar, start, None, axis=axis) for start in (1, -1))
        following = jnp.concatenate([following, last], axis)
        similar = jnp.maximum(similar, following)
    return similar
