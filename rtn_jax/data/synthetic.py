"""Pairs with known correspondence: a photo, and the photo warped by a random affine and thin-plate spline.

The *target* is the photo; the *source* is the photo seen through a warp `G`: `source(p) = target(G(p))`, so `G` itself
is the exact mapping from the source into the target, at every pixel and in closed form, its derivative included.

Source of the recipe and its ranges: the release's first stage (FCSS / geometric matching tradition).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from rtn_jax.coordinates import (
    Shape,
    contract,
    denormalize_points,
    mirror_points,
    normalize_points,
    pixel_grid,
    window_offsets,
)
from rtn_jax.sampling import bilinear_sample


@dataclass(frozen=True, kw_only=True)
class WarpRange:
    """How far random warps go; the defaults are the release's."""

    scale: tuple[float, float] = (0.75, 1.25)
    """Of each axis."""
    rotation: float = 15.0
    """Degrees to either side."""
    shear: float = 15.0
    """Degrees to either side, of each axis."""
    translation: float = 0.4
    """Normalised (1 is half the image), to either side."""
    bend: float = 0.1
    """Largest displacement of a thin-plate control point, normalised."""
    zoom: float = 1.0
    """Largest factor, either way, of both axes together and besides `scale`; the release's have none."""
    mirror: float = 0.0
    """Share of warps that also mirror left and right; the release's never do."""

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale: expected 0 < low <= high, got {self.scale}")
        for name in ("rotation", "shear", "translation", "bend"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not self.zoom >= 1:
            raise ValueError(f"zoom: expected at least 1, got {self.zoom}")
        if not 0 <= self.mirror <= 1:
            raise ValueError(f"mirror: expected a share from 0 to 1, got {self.mirror}")


@partial(jax.tree_util.register_dataclass, data_fields=["affine", "bend"], meta_fields=[])
@dataclass(frozen=True)
class Warp:
    """`G(u) = A u + t + sum_i phi_i(u) d_i` in normalised coordinates (`centers`)."""

    affine: Float[Array, "*b 2 3"]
    bend: Float[Array, "*b 9 2"]
    """Displacement of the 3x3 control points, row by row."""


def random_warps(keys: Key[Array, " b"], limits: WarpRange) -> Warp:
    """One warp per key, its parameters drawn evenly within the limits."""
    return jax.vmap(lambda key: _random_warp(key, limits))(keys)


def _random_warp(key: Array, limits: WarpRange) -> Warp:
    keys = jax.random.split(key, 5)

    def draw(i: int, shape: tuple[int, ...], low: float, high: float) -> Array:
        return jax.random.uniform(keys[i], shape, minval=low, maxval=high)

    scale = draw(0, (2,), *limits.scale)
    angle = jnp.deg2rad(draw(1, (), -limits.rotation, limits.rotation))
    shear = jnp.tan(jnp.deg2rad(draw(2, (2,), -limits.shear, limits.shear)))
    rotation = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    shearing = jnp.array([[1.0, shear[0]], [shear[1], 1.0]])
    translation = draw(3, (2, 1), -limits.translation, limits.translation)
    # Keys of their own, so that the rest of a warp is the same without.
    if limits.zoom > 1:
        power = jax.random.uniform(jax.random.fold_in(key, 5), minval=-1.0, maxval=1.0)
        scale = scale * limits.zoom**power
    if limits.mirror:
        mirrored = jax.random.bernoulli(jax.random.fold_in(key, 6), limits.mirror)
        scale = scale * jnp.where(mirrored, jnp.array([-1.0, 1.0]), 1.0)
    affine = jnp.concatenate([contract("ij,jk->ik", rotation, shearing) * scale, translation], -1)
    return Warp(affine, draw(4, (9, 2), -limits.bend, limits.bend))


def warp_mapping(warp: Warp, points: Float[np.ndarray, "*n 2"], shape: Shape) -> Float[Array, "b *n 2"]:
    """Where points of the source lie in the target, in pixels of an image of `shape`."""
    flat = normalize_points(points, shape, "centers").reshape(-1, 2)
    basis = _spline_basis(flat)  # [n, 9]
    moved = contract("bij,nj->bni", warp.affine[..., :2], flat) + warp.affine[:, None, :, 2]
    moved = moved + contract("nk,bki->bni", basis, warp.bend)
    return denormalize_points(moved, shape, "centers").reshape(-1, *points.shape)


def warp_jacobian(warp: Warp, points: Float[np.ndarray, "*n 2"], shape: Shape) -> Float[Array, "b *n 2 2"]:
    """The derivative of `warp_mapping` at the points, pixels per pixel: the true 2x2 part of the affine field."""
    u = normalize_points(points, shape, "centers").reshape(-1, 2)
    gradient = _spline_gradient(u)  # [n, 9, 2]
    bent = contract("nkj,bki->bnij", gradient, warp.bend)
    normalised = warp.affine[:, None, :, :2] + bent  # per normalised unit, whose pixels differ by axis
    height, width = shape
    units = jnp.asarray([[1, width / height], [height / width, 1]], normalised.dtype)
    return (normalised * units).reshape(-1, *points.shape[:-1], 2, 2)


def warp_photos(warp: Warp, photos: Float[Array, "b H W c"]) -> Float[Array, "b H W c"]:
    """The source images: photos seen through their warps, mirrored at the edges where a warp looks beyond them."""
    shape = photos.shape[1:3]
    positions = mirror_points(warp_mapping(warp, pixel_grid(shape, np.float64), shape), shape)
    return bilinear_sample(photos, positions)


def inside(points: Float[Array | np.ndarray, "*n 2"], shape: Shape) -> Bool[Array, "*n"]:
    """Whether positions lie on an image, its border pixels' centres included."""
    limit = jnp.asarray([shape[1] - 1, shape[0] - 1])
    return jnp.all((points >= 0) & (points <= limit), axis=-1)


_CONTROL = window_offsets(1).astype(np.float64)  # (x, y) in -1, 0, 1, row by row


def _radial(u: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 9"]:
    squared = ((u[:, None] - _CONTROL) ** 2).sum(-1)
    return squared * np.log(np.maximum(squared, 1e-300))


def _solution() -> Float[np.ndarray, "12 9"]:
    """From displacements of the control points to the coefficients (nine radial, constant, x, y) of the spline."""
    polynomial = np.concatenate([np.ones((9, 1)), _CONTROL], axis=1)
    system = np.block([[_radial(_CONTROL), polynomial], [polynomial.T, np.zeros((3, 3))]])
    return np.linalg.inv(system)[:, :9]


def _spline_basis(u: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 9"]:
    """Each control point's share in the displacement at `u` (Bookstein 1989)."""
    return np.concatenate([_radial(u), np.ones((len(u), 1)), u], axis=1) @ _solution()


def _spline_gradient(u: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 9 2"]:
    """The derivative of `_spline_basis` by x and y."""
    offset = u[:, None] - _CONTROL
    squared = (offset**2).sum(-1, keepdims=True)
    radial = 2 * offset * (np.log(np.maximum(squared, 1e-300)) + 1)  # [n, 9, 2]
    polynomial = np.broadcast_to(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), (len(u), 3, 2))
    return np.einsum("nkj,kc->ncj", np.concatenate([radial, polynomial], axis=1), _solution())
