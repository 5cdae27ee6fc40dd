"""A last look around: where, near the place that the recurrence ended at, a source cell's features fit the target best.

The geometry network reads a window of correlations and answers with a smooth field: neighbours move alike, and what it
has once lost it does not find again. Ears, paws and noses do not move alike. Here every cell looks for itself, in a
window of several times the reach, with its neighbours' word for it and at a price for every cell of distance.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from rtn_jax.config import Search
from rtn_jax.coordinates import contract, outer_edges, window_offsets
from rtn_jax.sampling import bilinear_sample

_ENTRIES = 2**22
"""Of the matrix of all pairs of cells that are held at once, per pair of images: 16 MB in float32."""


def local_search(
    src: Float[Array, "b h w c"], tgt: Float[Array, "b h w c"], positions: Float[Array, "b h w 2"], search: Search
) -> Float[Array, "b h w 2"]:
    """How far from `positions` the target fits each source cell best.

    With `V(p, d) = <src(p) - mean of src, tgt(positions(p) + d)>`, averaged over the 3x3 cells around `p` at the same
    `d`, it is the `d` with the greatest `temperature * V(p, d) - |d| / reach`: matches are as likely as a softmax of
    the cosines says, and likelier the nearer. The mean is taken off because features that every place of the source
    has say nothing about where one of them went. Between cells, `d` is the softmax's mean over the 3x3 candidates
    around the greatest.

    Args:
        src, tgt: `[b, h, w, c]` features of unit length on grids of one size, such as `model.unit_features` joins.
        positions: `[b, h, w, 2]` (x, y) in cells of the target: where each source cell is looked for first.
        search: radius of the window, temperature and reach.

    Returns:
        `[b, h, w, 2]` (x, y) in cells, at most the radius and one in either direction. Candidates outside the target
        are left out, but for `positions` itself. The gradient is that of the mean over the 3x3 candidates.

    Raises:
        ValueError: for shapes that do not belong together.

    Source: beyond the paper, which ends with the recurrence's field.
    """
    if src.ndim != 4 or src.shape != tgt.shape:
        raise ValueError(f"src, tgt: expected two arrays [b, h, w, c] of one shape, got {src.shape} and {tgt.shape}")
    if positions.shape != (*src.shape[:3], 2):
        raise ValueError(f"positions: expected {(*src.shape[:3], 2)}, got {positions.shape}")
    b, h, w, _ = src.shape
    dtype = jnp.promote_types(src.dtype, jnp.float32)
    centred = (src.astype(dtype) - src.astype(dtype).mean((1, 2), keepdims=True)).astype(src.dtype)
    offsets = jnp.asarray(window_offsets(search.radius), dtype)  # [m, 2]
    places = positions.astype(dtype)[..., None, :] + offsets

    def of_row(row: tuple[Float[Array, "b w c"], Float[Array, "b w m 2"]]) -> Float[Array, "b w m"]:
        similar = jnp.einsum("bic,bhwc->bihw", row[0], tgt, preferred_element_type=dtype)
        images = similar.reshape(b * w, h, w, 1)
        return bilinear_sample(images, row[1].reshape(b * w, -1, 2)).reshape(b, w, -1)

    rows = centred.swapaxes(0, 1), places.swapaxes(0, 1)
    at_once = max(1, _ENTRIES // (w * h * w))
    volume = jax.vmap(of_row)(rows) if h <= at_once else lax.map(of_row, rows, batch_size=at_once)
    likely = search.temperature * _box(volume.swapaxes(0, 1))
    low, high = outer_edges((h, w))
    inside = ((places >= low) & (places <= high)).all(-1) | (offsets == 0).all(-1)
    return _peak(likely, inside, offsets, search.reach)


def _box(x: Float[Array, "b h w m"]) -> Float[Array, "b h w m"]:
    """The mean over 3x3 cells, the border's repeated outside."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9


def _peak(
    likely: Float[Array, "b h w m"], inside: Bool[Array, "b h w m"], offsets: Float[Array, "m 2"], reach: float
) -> Float[Array, "b h w 2"]:
    """The most likely offset at the price of its length, and between cells by likelihood alone."""
    price = jnp.sqrt((offsets**2).sum(-1)) / reach
    best = offsets[jnp.argmax(jnp.where(inside, likely - price, -jnp.inf), -1)]
    near = inside & (jnp.abs(best[..., None, :] - offsets).max(-1) <= 1)
    weights = jax.nn.softmax(jnp.where(near, likely, -jnp.inf), -1)
    return contract("bhwm,mc->bhwc", weights, offsets)
