"""A global first look: the affine map that most mutual nearest neighbours of two feature maps agree on.

The recurrence looks a window's radius far. Where objects differ in place and size by more than that, or by so much that
what the window shows is mostly something else, it never finds its way; a look at all pairs of cells does.

Maps `[b, 2, 3]` (`[A | t]`) take positions of the source to positions of the target, both from the middle of the image
and in halves of its longer side, so that `A` is the same in cells and the map is one for grids of all strides.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rtn_jax.coordinates import (
    Normalization,
    Shape,
    contract,
    normalize_vectors,
    pixel_grid,
    points_from_middle,
    vectors_from_middle,
)
from rtn_jax.correlation import l2_normalize, mutual_nearest

HYPOTHESES = 2000
"""Maps that are tried, each through three matches."""
TOLERANCE = 0.3
"""Distance at which a match no longer speaks for a map."""
SCALES = (0.4, 2.5)
"""Least and greatest factor along any direction."""
STRETCH = 2.0
"""Greatest ratio of the two."""
TURN = 60.0
"""Degrees to either side."""
SPREAD = 0.04
"""Least area (twice the triangle's) that three matches have to span in the source."""
SUPPORT = 6
"""Matches within the tolerance without which nothing is known, and the map is the identity."""
ROUNDS = 5
"""Of fitting the best map to the matches that speak for it."""


def affine_consensus(src: Float[Array, "b h w c"], tgt: Float[Array, "b h w c"]) -> Float[Array, "b 2 3"]:
    """The affine map, of those that objects of one class may differ by, that most matches of the features speak for.

    Matches are the mutual nearest neighbours among all cells. Every map through three of them is tried, of a fixed
    choice of `HYPOTHESES`: the same features give the same map. A match that misses a map by `e` speaks for it with
    `1 - (e / TOLERANCE)^2`, and the best map is then fitted to its matches, so weighted.

    Args:
        src, tgt: `[b, h, w, c]` features on grids of one size.

    Returns:
        `[b, 2, 3]`, units as in the module's description. No gradient goes through it: it is where to start.

    Raises:
        ValueError: for features of different shapes.

    Source: RANSAC (Fischler and Bolles, 1981) with the score of MSAC; neither the paper nor the release has it.
    """
    if src.ndim != 4 or src.shape != tgt.shape:
        raise ValueError(f"src, tgt: expected two arrays [b, h, w, c] of one shape, got {src.shape} and {tgt.shape}")
    dtype = jnp.promote_types(src.dtype, jnp.float32)
    places = jnp.asarray(_places(src.shape[1:3]).reshape(-1, 2), dtype)
    described = [l2_normalize(jax.lax.stop_gradient(x)).astype(dtype) for x in (src, tgt)]
    batch, height, width, channels = src.shape
    a, b = (x.reshape(batch, height * width, channels) for x in described)
    return jax.vmap(_consensus, (None, 0, 0))(places, *mutual_nearest(jnp.einsum("bnc,bmc->bnm", a, b)))


def affine_field(
    maps: Float[Array, "b 2 3"], shape: Shape, *, normalization: Normalization = "centers"
) -> Float[Array, "b h w 2 3"]:
    """The field of a map on a grid of (height, width) `shape`: `A` everywhere, translations in normalised units."""
    places = jnp.asarray(_places(shape), maps.dtype)
    moved = contract("bij,hwj->bhwi", maps[..., :2], places) + maps[:, None, None, :, 2]
    translation = normalize_vectors(vectors_from_middle(moved - places, shape), shape, normalization)
    matrix = jnp.broadcast_to(maps[:, None, None, :, :2], (*translation.shape[:3], 2, 2))
    return jnp.concatenate([matrix, translation[..., None]], -1)


def _places(shape: Shape) -> Float[np.ndarray, "h w 2"]:
    places: Float[np.ndarray, "h w 2"] = points_from_middle(pixel_grid(shape, np.float64), shape)
    return places


def _consensus(places: Float[Array, "n 2"], best: Array, mutual: Bool[Array, " n"]) -> Float[Array, "2 3"]:
    there = places[best]
    maps, allowed = _hypotheses(places, there, mutual)
    support = jnp.where(allowed, _speaking(maps, places, there, mutual).sum(-1), -1.0)
    chosen = maps[jnp.argmax(support)]
    for _ in range(ROUNDS):
        weights = _speaking(chosen[None], places, there, mutual)[0]
        fitted = _fitted(places, there, weights)
        chosen = jnp.where(((weights > 0).sum() >= SUPPORT) & jnp.isfinite(fitted).all(), fitted, chosen)
    known = (_speaking(chosen[None], places, there, mutual)[0] > 0).sum() >= SUPPORT
    return jnp.where((support.max() > 0) & known, chosen, jnp.eye(2, 3, dtype=places.dtype))


def _hypotheses(
    places: Float[Array, "n 2"], there: Float[Array, "n 2"], mutual: Bool[Array, " n"]
) -> tuple[Float[Array, "k 2 3"], Bool[Array, " k"]]:
    """Maps through three matches each, and which of them are of a kind that is looked for."""
    draws = jax.random.uniform(jax.random.key(0), (HYPOTHESES, 3), places.dtype)
    first = jnp.argsort(~mutual)  # the matches before the others
    three = first[jnp.floor(draws * mutual.sum()).astype(jnp.int32)]
    s, t = places[three], there[three]  # [k, 3, 2]
    sides, moved = (jnp.stack([x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]], -1) for x in (s, t))
    area = sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]
    spanned = jnp.abs(area) > SPREAD
    swapped = jnp.stack([sides[:, 1, 1], -sides[:, 0, 1], -sides[:, 1, 0], sides[:, 0, 0]], -1).reshape(-1, 2, 2)
    matrix = contract("kij,kjl->kil", moved, swapped / jnp.where(spanned, area, 1.0)[:, None, None])
    translation = t[:, 0] - contract("kij,kj->ki", matrix, s[:, 0])
    # Half the sum and half the difference of a 2x2 matrix's singular values; the former's direction is its rotation.
    (a, b), (c, d) = (matrix[:, 0, 0], matrix[:, 0, 1]), (matrix[:, 1, 0], matrix[:, 1, 1])
    alike, unlike = jnp.hypot(a + d, c - b) / 2, jnp.hypot(a - d, b + c) / 2
    least, greatest = alike - unlike, alike + unlike  # `least` is below zero where the map mirrors
    sensible = (least > SCALES[0]) & (greatest < SCALES[1]) & (greatest < STRETCH * least)
    upright = a + d > 2 * alike * np.cos(np.deg2rad(TURN))
    return jnp.concatenate([matrix, translation[..., None]], -1), spanned & sensible & upright


def _speaking(
    maps: Float[Array, "k 2 3"], places: Float[Array, "n 2"], there: Float[Array, "n 2"], mutual: Bool[Array, " n"]
) -> Float[Array, "k n"]:
    """How much each match speaks for each map, 0..1."""
    missed = contract("kij,nj->kni", maps[..., :2], places) + maps[:, None, :, 2] - there
    return mutual * jnp.maximum(0, 1 - (missed**2).sum(-1) / TOLERANCE**2)


def _fitted(
    places: Float[Array, "n 2"], there: Float[Array, "n 2"], weights: Float[Array, " n"]
) -> Float[Array, "2 3"]:
    """The map with the least weighted squares. By minors: a solver would tie an exported program to a platform."""
    known = jnp.concatenate([places, jnp.ones_like(places[:, :1])], -1)
    normal = contract("n,ni,nj->ij", weights, known, known)
    minors = jnp.stack([jnp.cross(normal[i - 2], normal[i - 1]) for i in range(3)])  # symmetric, as the matrix is
    there_by_known = contract("n,ni,nj->ij", weights, there, known)
    return contract("ij,jk->ik", there_by_known, minors) / contract("i,i->", minors[0], normal[0])
