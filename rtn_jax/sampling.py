"""Bilinear sampling and resizing: the only interpolation in the library."""

from __future__ import annotations

from functools import reduce
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rtn_jax.coordinates import Shape, contract, resize_positions

Border = Literal["edge", "zero"]


def bilinear_sample(image: Float[Array, "b h w c"], points: Float[Array, "b *n 2"]) -> Float[Array, "b *n c"]:
    """Samples an image at fractional positions; what lies outside the image is zero.

    Exact at the border: the centre of the last pixel returns that pixel, and the value falls linearly to zero within
    one pixel outside, as if the image were surrounded by zeros.

    Args:
        image: `[b, h, w, c]`, any float dtype. Interpolation happens in this dtype.
        points: `[b, ..., 2]` positions (x, y) in pixels of `image`.

    Returns:
        `[b, ..., c]` in the dtype of `image`.

    Raises:
        ValueError: if the ranks or the batches do not fit.

    Source: the bilinear sampler of spatial transformer networks (Jaderberg et al. 2015, eq. 5) with zero padding, as
    the release samples its features.
    """
    if image.ndim != 4:
        raise ValueError(f"image: expected [b, h, w, c], got shape {image.shape}")
    if points.ndim < 2 or points.shape[-1] != 2 or points.shape[0] != image.shape[0]:
        raise ValueError(f"points: expected [{image.shape[0]}, ..., 2], got shape {points.shape}")
    b, h, w, c = image.shape
    # One ring of zeros makes every position inside [-1, n] an ordinary interpolation; clipping sends the rest there.
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(b, (h + 2) * (w + 2), c)
    flat = points.reshape(b, -1, 2)
    x, y = jnp.clip(flat[..., 0], -1, w), jnp.clip(flat[..., 1], -1, h)
    left, top = jnp.clip(jnp.floor(x), -1, w - 1), jnp.clip(jnp.floor(y), -1, h - 1)
    fx, fy = (x - left).astype(image.dtype), (y - top).astype(image.dtype)
    first = (top.astype(jnp.int32) + 1) * (w + 2) + left.astype(jnp.int32) + 1  # [b, n], index of the top-left tap

    def weighted_tap(offset: int, weight: Float[Array, "b n"]) -> Float[Array, "b n c"]:
        tap = jnp.take_along_axis(padded, (first + offset)[..., None], axis=1, mode="promise_in_bounds")
        # A product written as a contraction: its gradient by the weight is then a dot product, which the CPU computes
        # many times faster than a multiplication followed by a sum over the channels.
        return contract("bnc,bn->bnc", tap, weight)

    upper = weighted_tap(0, (1 - fx) * (1 - fy)) + weighted_tap(1, fx * (1 - fy))
    lower = weighted_tap(w + 2, (1 - fx) * fy) + weighted_tap(w + 3, fx * fy)
    return (upper + lower).reshape(*points.shape[:-1], c)


def resize_bilinear(
    image: Float[Array, "b h w c"], shape: Shape, *, border: Border = "edge", scale: float | None = None
) -> Float[Array, "b H W c"]:
    """Resizes by half-pixel bilinear interpolation, without smoothing when it shrinks.

    Args:
        image: `[b, h, w, c]`.
        shape: `(H, W)` of the result.
        border: see `resample`. With `zero` a doubled image comes out at 0.75 of its value along the border and 0.5625
            in the corners: the release's transposed 4x4 convolution.
        scale: samples per original pixel; `shape / (h, w)` unless given. With `scale=2` and an odd `shape` the doubled
            image is cropped at the bottom and right instead of being squeezed.

    Returns:
        `[b, H, W, c]` in the dtype of `image`.

    Raises:
        ValueError: if `image` is not of rank 4 or `border` is unknown.
    """
    if image.ndim != 4:
        raise ValueError(f"image: expected [b, h, w, c], got shape {image.shape}")
    rows = resize_positions(shape[0], image.shape[1], scale)
    columns = resize_positions(shape[1], image.shape[2], scale)
    return resample(image, rows, columns, border=border)


def average_pool(image: Float[Array, "b h w c"], factor: int) -> Float[Array, "b _ _ c"]:
    """Reduces an image by a whole factor: the mean over each block of `factor` x `factor` pixels.

    Raises:
        ValueError: if a side is no multiple of the factor.
    """
    b, h, w, c = image.shape
    if h % factor or w % factor:
        raise ValueError(f"image: expected sides that are multiples of {factor}, got {h} x {w}")
    return image.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))


def max_pool(
    x: Float[Array, "b h w c"], size: int, padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
) -> Float[Array, "b _ _ c"]:
    """Maxima over windows of `size` x `size` cells, two cells apart; rows and columns that fill no window are dropped.

    Args:
        x: `[b, h, w, c]`.
        size: of the windows, in cells.
        padding: cells above and below, and left and right, that are never the largest.
    """
    if jax.default_backend() != "cpu" or jnp.finfo(x.dtype).bits >= 32:
        around = ((0, 0), *padding, (0, 0))
        return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, (1, size, size, 1), (1, 2, 2, 1), around)
    # XLA of jax 0.11 and 0.12 fuses a reduction with what comes before it, and reads memory that nothing has written
    # where that are several convolutions in half precision.
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-np.inf)
    down, right = ((cells - size) // 2 * 2 + 1 for cells in padded.shape[1:3])
    shifts = [padded[:, i : i + down : 2, j : j + right : 2] for i in range(size) for j in range(size)]
    return reduce(jnp.maximum, shifts)


def resample(
    image: Float[Array, "b h w c"],
    rows: Float[np.ndarray, " H"],
    columns: Float[np.ndarray, " W"],
    *,
    border: Border = "edge",
) -> Float[Array, "b H W c"]:
    """Bilinear interpolation on a grid of rows and columns known while tracing: two small matrix products.

    Args:
        image: `[b, h, w, c]`.
        rows, columns: positions in pixels of `image`.
        border: `edge` repeats the border pixels outside, `zero` continues with zeros.

    Raises:
        ValueError: if `image` is not of rank 4 or `border` is unknown.
    """
    if image.ndim != 4:
        raise ValueError(f"image: expected [b, h, w, c], got shape {image.shape}")
    vertical = jnp.asarray(interpolation_weights(rows, image.shape[1], border), image.dtype)
    horizontal = jnp.asarray(interpolation_weights(columns, image.shape[2], border), image.dtype)
    return contract("Hh,bhwc,Ww->bHWc", vertical, image, horizontal)


def interpolation_weights(
    positions: Float[np.ndarray, " n"], length: int, border: Border
) -> Float[np.ndarray, "n length"]:
    """Bilinear interpolation along one axis as a matrix: `weights @ values` are the values at `positions`.

    Args:
        positions: in pixels of an axis of `length` pixels.
        border: as for `resample`.

    Raises:
        ValueError: if `border` is unknown.
    """
    if border == "edge":
        positions = np.clip(positions, 0, length - 1)
    elif border != "zero":
        raise ValueError(f"border: expected 'edge' or 'zero', got {border!r}")
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(length)))
