"""The field of local affine transformations that the network estimates.

A field `[b, h, w, 2, 3]` holds `[A | t]` for every cell, rows and columns in the order x, y. At grid position `p` it
takes `p + o` to `p + A o + t`: `A` in cells, `t` in normalised units (see `coordinates`), so that a field can move to a
finer grid with its values unchanged.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from rtn_jax.coordinates import (
    Normalization,
    Shape,
    cell_corners,
    clip_points,
    contract,
    denormalize_vectors,
    normalize_vectors,
    pixel_grid,
    window_offsets,
)
from rtn_jax.sampling import Border, bilinear_sample, resize_bilinear


def identity_field(batch: int, shape: Shape, dtype: Any = jnp.float32) -> Float[Array, "b h w 2 3"]:
    """The field that moves nothing: `A = I`, `t = 0` everywhere."""
    return jnp.broadcast_to(jnp.eye(2, 3, dtype=dtype), (batch, *shape, 2, 3))


def add_residual(
    field: Float[Array, "b h w 2 3"],
    residual: Float[Array, "b h w 6"],
    *,
    window: int | None = None,
    normalization: Normalization = "centers",
) -> Float[Array, "b h w 2 3"]:
    """`T^k = T^(k-1) + F(C)`: adds the six channels (axx, axy, tx, ayx, ayy, ty) the geometry network predicts.

    Args:
        field: `[b, h, w, 2, 3]`.
        residual: `[b, h, w, 6]`.
        window: radius in cells of the correlation window, which is then the unit of the residual's translations; in the
            units of the field unless given, as the release has it.
        normalization: the units of the field's translations.

    Raises:
        ValueError: if the shapes do not belong together.
    """
    _check(field)
    if residual.shape != (*field.shape[:3], 6):
        raise ValueError(f"residual: expected {(*field.shape[:3], 6)}, got {residual.shape}")
    change = residual.reshape(field.shape).astype(field.dtype)
    if window is not None:
        translation = normalize_vectors(window * change[..., 2], field.shape[1:3], normalization)
        change = jnp.concatenate([change[..., :2], translation[..., None]], -1)
    return field + change


def resize_field(
    field: Float[Array, "b h w 2 3"], shape: Shape, *, border: Border = "edge", scale: float | None = None
) -> Float[Array, "b H W 2 3"]:
    """Moves a field to another grid over the same image, its values interpolated but not rescaled.

    `border="zero"` is the release's upsampling, which shrinks the border values (the identity diagonal included).
    """
    _check(field)
    flat = field.reshape(*field.shape[:3], 6)
    return resize_bilinear(flat, shape, border=border, scale=scale).reshape(field.shape[0], *shape, 2, 3)


def sampling_positions(
    field: Float[Array, "b h w 2 3"], *, radius: int = 1, dilation: int = 1, normalization: Normalization = "centers"
) -> Float[Array, "b h w m 2"]:
    """Where a `(2r + 1)^2` neighbourhood of every cell falls in the target: `p + A o + t`, in cells.

    Args:
        field: `[b, h, w, 2, 3]`.
        radius: of the neighbourhood, in steps of `dilation` cells.
        dilation: cells between two neighbours.
        normalization: the units of the translations.

    Returns:
        `[b, h, w, (2r + 1)^2, 2]`, offsets `o` row by row.
    """
    _check(field)
    offsets = jnp.asarray(dilation * window_offsets(radius), field.dtype)  # [m, 2]
    centres = field_centres(field, normalization=normalization)
    return centres[..., None, :] + contract("bhwij,mj->bhwmi", field[..., :2], offsets)


def field_centres(
    field: Float[Array, "b h w 2 3"], *, normalization: Normalization = "centers"
) -> Float[Array, "b h w 2"]:
    """Where every cell itself falls in the target: `p + t`, in cells."""
    _check(field)
    shape = field.shape[1:3]
    return jnp.asarray(pixel_grid(shape), field.dtype) + field_flow(field, shape, normalization=normalization)


def field_frames(
    field: Float[Array, "b h w 2 3"], *, side: float = 1.0, normalization: Normalization = "centers"
) -> Float[Array, "b h w 4 2"]:
    """The corners of a square around every cell after the cell's transformation: a parallelogram, in cells.

    Args:
        field: `[b, h, w, 2, 3]`.
        side: of the square, in cells.
        normalization: the units of the translations.

    Returns:
        `[b, h, w, 4, 2]`: where its top left, top right, bottom right and bottom left corners go.
    """
    _check(field)
    corners = jnp.asarray(side * cell_corners(), field.dtype)  # [4, 2]
    centres = field_centres(field, normalization=normalization)
    return centres[..., None, :] + contract("bhwij,nj->bhwni", field[..., :2], corners)


def field_flow(
    field: Float[Array, "b h w 2 3"], shape: Shape, *, normalization: Normalization = "centers"
) -> Float[Array, "b h w 2"]:
    """The translation of every cell as a displacement in pixels of an image (or cells of a grid) of `shape`."""
    _check(field)
    return denormalize_vectors(field[..., 2], shape, normalization)


def compose_fields(
    first: Float[Array, "b h w 2 3"],
    second: Float[Array, "b h w 2 3"],
    *,
    normalization: Normalization = "centers",
) -> Float[Array, "b h w 2 3"]:
    """One field after another: where `second` takes the place, and turns the neighbourhood, that `first` led to.

    At `p` the result is `t1(p) + t2(q)` and `A2(q) A1(p)`, with `q = p + t1(p)` where `second` is interpolated; beyond
    its border it is as at the border.

    Args:
        first: `[b, h, w, 2, 3]`, from an image A to an image B.
        second: `[b, h, w, 2, 3]` on a grid of the same size, from B to C.
        normalization: the units of the translations of both.

    Returns:
        `[b, h, w, 2, 3]`, from A to C.

    Raises:
        ValueError: if the shapes do not belong together.
    """
    _check(first)
    _check(second)
    if first.shape != second.shape:
        raise ValueError(f"first, second: expected fields of one shape, got {first.shape} and {second.shape}")
    reached = clip_points(field_centres(first, normalization=normalization), first.shape[1:3])
    there = bilinear_sample(second.reshape(*second.shape[:3], 6), reached).reshape(second.shape)
    translation = first[..., 2] + there[..., 2]
    matrix = contract("bhwij,bhwjk->bhwik", there[..., :2], first[..., :2])
    return jnp.concatenate([matrix, translation[..., None]], -1)


def field_jacobian(
    field: Float[Array, "b h w 2 3"], *, normalization: Normalization = "centers"
) -> Float[Array, "b h w 2 2"]:
    """The Jacobian of `p -> p + t(p)` in cells: what `A` would be if the translations alone told it.

    `I + dt/dp` by central differences, one-sided at the borders; exact where `t` is affine in `p`. Along an axis of one
    cell nothing is known and the derivative of `t` is zero.

    Args:
        field: `[b, h, w, 2, 3]`; its 2x2 part is not read.
        normalization: the units of the translations.

    Returns:
        `[b, h, w, 2, 2]` in the dtype of `field`: rows x and y of the position, columns the derivatives by x and y.

    Raises:
        ValueError: for a field of another shape, or an unknown normalization.
    """
    flow = field_flow(field, field.shape[1:3], normalization=normalization)
    rows, columns = 1, 2
    return jnp.eye(2, dtype=flow.dtype) + jnp.stack([_derivative(flow, columns), _derivative(flow, rows)], -1)


def _derivative(values: Float[Array, "*shape"], axis: int) -> Float[Array, "*shape"]:
    if values.shape[axis] == 1:
        return jnp.zeros_like(values)
    return jnp.asarray(jnp.gradient(values, axis=axis))


def warp_image(
    image: Num[Array | np.ndarray, "*b H W c"], mapping: Float[Array | np.ndarray, "*b h w 2"]
) -> Float[Array, "*b h w c"]:
    """Pulls an image back along a mapping: the result at each pixel is `image` at the position the mapping names.

    With `out = rtn_jax.apply(params, src, tgt)`, `warp_image(tgt, out.mapping)` shows the target aligned to the source.

    Args:
        image: `[b, H, W, c]` or `[H, W, c]`, integer or float; the image that the mapping points *into*.
        mapping: `[b, h, w, 2]` or `[h, w, 2]` positions (x, y) in pixels of `image`.

    Returns:
        `[b, h, w, c]` (or `[h, w, c]`) float; zero where the mapping leaves the image.

    Raises:
        ValueError: if ranks or batches do not fit.
    """
    if image.ndim != mapping.ndim or image.ndim not in (3, 4):
        raise ValueError(
            f"image, mapping: expected [b, H, W, c] and [b, h, w, 2] (or both without b), got {image.shape} and "
            f"{mapping.shape}"
        )
    single = image.ndim == 3
    image, mapping = (image[None], mapping[None]) if single else (image, mapping)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        image = jnp.asarray(image, jnp.float32)
    warped = bilinear_sample(jnp.asarray(image), jnp.asarray(mapping))
    return warped[0] if single else warped


def transfer_points(mapping: Float[Array, "H W 2"], points: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
    """Looks points up in one dense mapping: bilinear inside, the border's displacement carried on outside.

    Args:
        mapping: `[H, W, 2]`, for every source pixel its position in the target, in target pixels.
        points: `[n, 2]` (x, y) in source pixels.

    Returns:
        `[n, 2]` (x, y) in target pixels.
    """
    inside = clip_points(points, mapping.shape[:2])
    return bilinear_sample(mapping[None], inside[None])[0] + (points - inside)


def field_statistics(field: Float[Array, "b h w 2 3"]) -> dict[str, Array]:
    """What a loss can spoil without matching better: the mean 2x2 part, its determinant, and the share of folds.

    Returns:
        Scalars: `mean_axx`, `mean_axy`, `mean_ayx`, `mean_ayy`, `mean_determinant`, and `folded`, the share of cells
        whose determinant is not positive, NaN where one is not finite.
    """
    _check(field)
    matrix = field[..., :2].astype(jnp.float32)
    determinant = matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    mean = matrix.reshape(-1, 2, 2).mean(0)
    return {f"mean_a{'xy'[i]}{'xy'[j]}": mean[i, j] for i in range(2) for j in range(2)} | {
        "mean_determinant": determinant.mean(),
        "folded": jnp.where(jnp.isfinite(determinant), determinant <= 0, jnp.nan).mean(),
    }


def _check(field: Array) -> None:
    if field.ndim != 5 or field.shape[-2:] != (2, 3):
        raise ValueError(f"field: expected [b, h, w, 2, 3], got shape {field.shape}")
