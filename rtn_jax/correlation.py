"""The windowed correlation volume and the norms around it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rtn_jax.coordinates import window_offsets

_ROWS = 4
"""Of the source that are compared at once: with more, more is multiplied in vain, with fewer, products are smaller."""
_SMALL = 16
"""Rows of a grid that are all compared at once: four blocks would take as long, and longer to compile."""
NORM_EPSILON = 0.01
"""Added to the sum of squares under the root, as in the release; it also keeps the gradient finite at zero."""


def mutual_nearest(cosines: Float[Array, "b n m"]) -> tuple[Int[Array, "b n"], Bool[Array, "b n"]]:
    """Every source cell's most similar target cell, and whether the source cell is that one's most similar, too."""
    best = jnp.argmax(cosines, axis=2)
    back = jnp.take_along_axis(jnp.argmax(cosines, axis=1), best, axis=1)
    return best, back == jnp.arange(best.shape[1])


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
    if w < side:  # too narrow for the reshaping in `_windows`
        src, tgt = (jnp.pad(x, ((0, 0), (0, 0), (0, side - w), (0, 0))) for x in (src, tgt))
        return window_correlation(src, tgt, radius=radius)[:, :, :w]
    # A few source rows are compared with all cells of the target rows within their reach, by one matrix product, of
    # which the windows are kept: at a radius of 4 and 32 columns five times the multiplications of 81 shifted products,
    # but several times faster, because they are large matrix products. The target is cut once: slices that overlap
    # would each have a gradient of the target's size.
    block = h if h <= _SMALL else _ROWS
    tops = list(range(0, h, block))
    reach = [(max(0, top - radius), min(h, top + block + radius)) for top in tops]
    cuts = sorted({end for ends in reach for end in ends} - {0, h})
    pieces = dict(zip([0, *cuts], jnp.split(tgt, cuts, axis=1), strict=True))  # by their first row
    volumes = []
    for top, (first, end), rows in zip(tops, reach, jnp.split(src, tops[1:], axis=1), strict=True):
        within = jnp.concatenate([piece for row, piece in pieces.items() if first <= row < end], axis=1)
        similar = jnp.einsum(
            "bic,bjc->bij",
            rows.reshape(b, -1, rows.shape[-1]),
            within.reshape(b, -1, within.shape[-1]),
            preferred_element_type=jnp.promote_types(src.dtype, jnp.float32),
        )
        missing = first - (top - radius), top + rows.shape[1] + radius - end  # rows above and below the target
        volumes.append(_windows(similar, radius, w, missing))
    columns = np.arange(w)[:, None] + window_offsets(radius)[:, 0]
    inside = (columns >= 0) & (columns < w)
    return jnp.where(inside, jnp.concatenate(volumes, axis=1), 0)


def _windows(
    similar: Float[Array, "b i j"], radius: int, w: int, missing: tuple[int, int]
) -> Float[Array, "b rows w m"]:
    """Of some rows of source cells against whole rows of target cells, what lies in each source cell's window.

    Cells count row by row, `missing` rows of the target above and below are zero. Target cell (y + dy, x + dx) comes
    dy * w + dx after (y, x). So rows of the matrix, laid over rows that are longer by one, are windows one below the
    other: they become a rectangle by reshaping, and its gradient needs no scatter. Columns beyond the border are those
    of the next row; the caller drops them.
    """
    b, i, j = similar.shape
    side = 2 * radius + 1
    above, below = (rows * w + radius for rows in missing)
    length = above + j + below
    flat = jnp.pad(similar, ((0, 0), (0, 0), (above, below))).reshape(b, i * length)
    skewed = jnp.pad(flat, ((0, 0), (0, i))).reshape(b, i, length + 1)[..., : side * w]
    return skewed.reshape(b, i // w, w, side, w)[..., :side].reshape(b, i // w, w, side * side)
