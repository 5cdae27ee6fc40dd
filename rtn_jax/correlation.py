"""The windowed correlation volume and the norms around it."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NORM_EPSILON = 0.01
"""Added to the sum of squares under the root, as in the release; it also keeps the gradient finite at zero."""


def l2_normalize(x: Float[Array, "*s c"], epsilon: float = NORM_EPSILON) -> Float[Array, "*s c"]:
    """`x / sqrt(sum(x^2) + epsilon)` over the last axis; the sum is taken in float32 at least.

    Source: the release's normalisation of features and of correlation volumes (epsilon 0.01).
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * lax.rsqrt(jnp.sum(wide * wide, axis=-1, keepdims=True) + epsilon)).astype(x.dtype)


def window_correlation(
    src: Float[Array, "b h w c"], tgt: Float[Array, "b h w c"], *, radius: int
) -> Float[Array, "b h w m"]:
    """Inner products of every source cell with the target cells in a window around the same place.

    `volume[b, y, x, m] = <src[b, y, x], tgt[b, y + dy, x + dx]>`, zero where the target ends. With features of unit
    length these are cosines: the *raw* volume; `l2_normalize` of it is the constrained correlation of the paper.

    Args:
        src, tgt: `[b, h, w, c]` of one shape. The target's features are to be warped already, each cell with its own
            transformation.
        radius: of the window, in cells, at least 0.

    Returns:
        `[b, h, w, (2 * radius + 1)^2]`, offsets row by row (`coordinates.window_offsets`), accumulated and returned in
        float32 at least.

    Raises:
        ValueError: if shapes differ, are not of rank 4, or the radius is negative.

    Source: the numerator of the constrained correlation, RTN section 3.2.
    """
    if src.ndim != 4 or src.shape != tgt.shape:
        raise ValueError(f"src, tgt: expected two arrays [b, h, w, c] of one shape, got {src.shape} and {tgt.shape}")
    if radius < 0:
        raise ValueError(f"radius: expected at least 0, got {radius}")
    b, h, w, _ = src.shape
    side = 2 * radius + 1
    # One matrix product per row offset compares a source row with a whole target row, of which a band is kept: four
    # times the multiplications of 81 shifted products, but as matrix products, and far faster on every platform.
    padded = jnp.pad(tgt, ((0, 0), (radius, radius), (0, 0), (0, 0)))
    bands = [
        _band(
            jnp.einsum(
                "bhwc,bhvc->bhwv",
                src,
                padded[:, dy : dy + h],
                preferred_element_type=jnp.promote_types(src.dtype, jnp.float32),
            ),
            radius,
        )
        for dy in range(side)
    ]
    return jnp.stack(bands, axis=3).reshape(b, h, w, side * side)


def _band(matrix: Float[Array, "b h w w"], radius: int) -> Float[Array, "b h w s"]:
    """The `2r + 1` diagonals around the main one: `band[..., i, d] = matrix[..., i, i + d - r]`, zero outside.

    Rows of length n + 1 laid over rows of length n shift by one per row: the band becomes a rectangle by reshaping, and
    its gradient needs no scatter.
    """
    b, h, w, _ = matrix.shape
    n = w + 2 * radius
    wide = jnp.pad(matrix, ((0, 0), (0, 0), (0, 0), (radius, radius))).reshape(b, h, w * n)
    skewed = jnp.pad(wide, ((0, 0), (0, 0), (0, w))).reshape(b, h, w, n + 1)
    return skewed[..., : 2 * radius + 1]
