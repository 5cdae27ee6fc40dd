"""Convolutions: the ordinary one, in whichever form the platform computes fastest, and the one under a field."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rtn_jax.sampling import bilinear_sample

_SMALL_GRID = 64  # cells
_SMALL_KERNEL = 9  # taps


def convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], *_: Any, **__: Any
) -> Float[Array, "b h w o"]:
    """Cross-correlation with stride 1 and zero padding that keeps the size (odd kernels).

    Fits `flax.linen.Conv(conv_general_dilated=convolve)`, whose further arguments describe just this case.

    On the CPU, XLA's convolution of a grid of a few cells is up to twenty times slower than the same thing written as
    one matrix product over gathered neighbourhoods, and its gradient likewise; on larger grids it runs at the machine's
    limit.
    """
    height, width, channels = kernel.shape[:3]
    small = x.shape[1] * x.shape[2] <= _SMALL_GRID and height * width <= _SMALL_KERNEL
    if not small or jax.default_backend() != "cpu":
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    padded = jnp.pad(x, ((0, 0), (height // 2, height // 2), (width // 2, width // 2), (0, 0)))
    h, w = x.shape[1:3]
    shifts = [padded[:, i : i + h, j : j + w] for i in range(height) for j in range(width)]
    neighbourhoods = jnp.concatenate(shifts, axis=-1)  # [b, h, w, kh * kw * i]
    return neighbourhoods @ kernel.reshape(height * width * channels, -1)


def warped_convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], positions: Float[Array, "b H W m 2"]
) -> Float[Array, "b H W o"]:
    """A convolution whose `m = k * k` neighbours of every cell lie at given positions of its input, zero outside.

    Args:
        x: `[b, h, w, i]`.
        kernel: `[k, k, i, o]`.
        positions: `[b, H, W, k * k, 2]` in cells of `x`, row by row: `affine.sampling_positions`.

    Source: the affine-warped convolution of the release, which samples nine positions per cell and convolves them with
    stride 3.
    """
    samples = bilinear_sample(x, positions)
    flat = samples.reshape(*samples.shape[:3], -1)
    return flat @ kernel.reshape(flat.shape[-1], -1)
