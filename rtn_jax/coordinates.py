"""The one convention for coordinates.

Points are `(x, y)` on the last axis, in pixels, with the origin at the centre of the top-left pixel. A map's name says
its direction. Sizes are shapes, `(height, width)`. Every conversion between image sizes, grids, normalised units,
MATLAB's pixels and the released network's vertical-first order is a function of this file; no other file contains such
arithmetic.

Two normalisations of a displacement exist because the released network mixes them:

* `corners`: -1 and +1 are the *centres* of the first and last pixel, one unit is `(n - 1) / 2` pixels;
* `centers`: -1 and +1 are the *outer edges* of the image, one unit is `n / 2` pixels. A displacement means the same on
  every grid laid over the same image, so this one is consistent across strides.

All functions take NumPy and JAX arrays alike and return the kind they were given.
"""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

Normalization = Literal["corners", "centers"]
Shape = tuple[int, ...]  # (height, width); not tuple[int, int], which a slice of array.shape is not to a type checker

RELEASED_AFFINE_CHANNELS = (4, 3, 5, 1, 0, 2)
"""`ours.reshape(6)[i] == released[RELEASED_AFFINE_CHANNELS[i]]`; the permutation is its own inverse."""


def pixel_grid(shape: Shape, dtype: Any = np.float32) -> Num[np.ndarray, "h w 2"]:
    """The position (x, y) of every pixel of an image or cell of a grid."""
    height, width = shape
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y], axis=-1).astype(dtype)


def contract(subscripts: str, *factors: Any) -> Array:
    """`einsum` of coordinates, matrices or weights of an interpolation, in full precision on every platform.

    Accelerators round the factors of products to 10 bits and less unless they are told otherwise: of a displacement by
    100 pixels that is a twentieth of a pixel.
    """
    product: Array = jnp.einsum(subscripts, *factors, precision=lax.Precision.HIGHEST)
    return product


def grid_rows(shape: Shape, rows: slice, dtype: Any = np.float64) -> Num[np.ndarray, "h w 2"]:
    """`pixel_grid(shape, dtype)[rows]`, without taking memory for the other rows."""
    first, stop, step = rows.indices(shape[0])
    if step != 1:
        raise ValueError(f"rows: expected neighbouring rows, got {rows}")
    y, x = np.mgrid[first:stop, : shape[1]]
    return np.stack([x, y], axis=-1).astype(dtype)


def grid_points(shape: Shape, per_side: int) -> Float[np.ndarray, "n 2"]:
    """`per_side^2` points spread evenly over an image, half a spacing away from its edges."""
    cells = pixel_grid((per_side, per_side), np.float64).reshape(-1, 2)
    return resize_points(cells, (per_side, per_side), shape)


def shrunk_shape(shape: Shape, longest: int) -> Shape:
    """The shape with its longer side brought down to `longest`, never enlarged."""
    scale = min(1.0, longest / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def distance_outside(points: Any, shape: Shape) -> Any:
    """By how many pixels points `[..., 2]` lie beyond the outer edges of an image; 0 inside. `[...]`."""
    points = _float(points)
    low, high = outer_edges(shape)
    return np.maximum(low - points, points - high).max(-1).clip(0)


def between_centers(points: Any, shape: Shape) -> Any:
    """Whether points `[..., 2]` lie between the centres of an image's border pixels, not on them; NaN does not."""
    points = _float(points)
    return ((points > 0) & (points < _xy(shape, points) - 1)).all(-1)


def object_positions(pixels: Any, mask: Bool[np.ndarray, "H W"]) -> Any:
    """Whole pixels `[..., 2]` as fractions of the box around a mask's foreground: `x' = (x + 1 - left) / width`.

    The foreground's first column and row are `1 / width` and `1 / height`, its last ones 1: the definition of the
    published evaluation of label transfer, in which pixels count from one and the box's corner from zero.
    """
    pixels = _float(pixels)
    rows, columns = np.nonzero(mask)
    corners = np.asarray([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], pixels.dtype)
    return (pixels + 1 - corners[0]) / (corners[1] - corners[0])


def _xy(shape: Shape, like: Any = None) -> Any:
    """(width, height) as an array; with the dtype of `like`, so that a Python-float scale never promotes an array."""
    dtype = getattr(like, "dtype", np.float64)
    return np.asarray([shape[1], shape[0]], dtype)


def resize_points(points: Any, from_shape: Shape, to_shape: Shape) -> Any:
    """Positions of the same places after the image was resized: half-pixel, `x' = (x + 0.5) * W' / W - 0.5`.

    Args:
        points: `[..., 2]` pixels of an image of shape `from_shape`.
        from_shape, to_shape: `(height, width)`; the outer edges of the two images coincide.
    """
    points = _float(points)
    return (points + 0.5) * (_xy(to_shape, points) / _xy(from_shape, points)) - 0.5


def scale_vectors(vectors: Any, from_shape: Shape, to_shape: Shape) -> Any:
    """Displacements `[..., 2]` in pixels after the image was resized: `u' = u * W' / W`."""
    vectors = _float(vectors)
    return vectors * (_xy(to_shape, vectors) / _xy(from_shape, vectors))


def cells_to_pixels(points: Any, stride: int) -> Any:
    """Positions `[..., 2]` on a feature grid to pixels of the image it lies over: `x' = (x + 0.5) * stride - 0.5`."""
    return (_float(points) + 0.5) * stride - 0.5


def pixels_to_cells(points: Any, stride: int) -> Any:
    """Pixels `[..., 2]` to positions on a feature grid of the given stride: `x' = (x + 0.5) / stride - 0.5`."""
    return (_float(points) + 0.5) / stride - 0.5


def normalize_points(points: Any, shape: Shape, normalization: Normalization) -> Any:
    """Pixels `[..., 2]` of an image of `shape` to normalised coordinates, 0 at its middle."""
    points = _float(points)
    middle = (_xy(shape, points) - 1) / 2
    return normalize_vectors(points - middle, shape, normalization)


def denormalize_points(points: Any, shape: Shape, normalization: Normalization) -> Any:
    """Normalised coordinates `[..., 2]` to pixels of an image of `shape`."""
    points = _float(points)
    return denormalize_vectors(points, shape, normalization) + (_xy(shape, points) - 1) / 2


def points_from_middle(points: Any, shape: Shape) -> Any:
    """Pixels `[..., 2]` to positions from the image's middle in halves of its longer side, one unit along both axes."""
    points = _float(points)
    return (points - (_xy(shape, points) - 1) / 2) / (max(shape) / 2)


def vectors_from_middle(vectors: Any, shape: Shape) -> Any:
    """Displacements `[..., 2]` in the units of `points_from_middle` to pixels."""
    return _float(vectors) * (max(shape) / 2)


def mirror_points(points: Any, shape: Shape) -> Any:
    """Positions `[..., 2]` folded back at the image's outer edges, as if it were surrounded by mirror images.

    The border pixels stand on both sides of an edge, so between their centres the image is constant: positions there
    are moved to the centre, and none of the result lies outside the centres of the image's pixels.
    """
    points = _float(points)
    size = _xy(shape, points)
    phase = (points + 0.5) % (2 * size)  # 0 .. 2n, the second half runs backwards
    return (size - abs(phase - size) - 0.5).clip(0, size - 1)


def clip_points(points: Any, shape: Shape) -> Any:
    """Positions `[..., 2]` moved to the nearest place between the centres of an image's border pixels."""
    points = _float(points)
    return points.clip(0, _xy(shape, points) - 1)


def denormalize_vectors(vectors: Any, shape: Shape, normalization: Normalization) -> Any:
    """Displacements in normalised units to pixels of an image or cells of a grid of `shape`."""
    return _float(vectors) * _unit(shape, normalization, vectors)


def normalize_vectors(vectors: Any, shape: Shape, normalization: Normalization) -> Any:
    """Displacements in pixels of an image or cells of a grid of `shape` to normalised units.

    Raises:
        ValueError: with `corners` on an axis of one pixel, whose unit is zero.
    """
    if normalization == "corners" and 1 in shape:
        raise ValueError(f"shape: 'corners' units need at least 2 pixels on each axis, got {shape}")
    return _float(vectors) / _unit(shape, normalization, vectors)


def _unit(shape: Shape, normalization: Normalization, like: Any) -> Any:
    """Pixels in one normalised unit, (x, y)."""
    size = _xy(shape, _float(like))
    if normalization == "corners":
        return (size - 1) / 2
    if normalization == "centers":
        return size / 2
    raise ValueError(f"normalization: expected 'corners' or 'centers', got {normalization!r}")


def from_matlab(points: Any) -> Any:
    """MATLAB pixels (the centre of the top-left pixel is (1, 1)) to ours."""
    return _float(points) - 1


def to_matlab(points: Any) -> Any:
    """Our pixels to MATLAB's, whose top-left pixel is (1, 1)."""
    return _float(points) + 1


def from_edges(points: Any) -> Any:
    """Pixels counted from an image's top left corner, so that the whole image is 0..W and 0..H, to ours."""
    return _float(points) - 0.5


def flip_points(points: Any, width: int) -> Any:
    """Positions `[..., 2]` after the image of that width was mirrored left to right: `x' = W - 1 - x`."""
    points = _float(points)
    return points * np.asarray([-1, 1], points.dtype) + np.asarray([width - 1, 0], points.dtype)


def flip_box(box: Any, width: int) -> Any:
    """A box `[..., 4]` (left, top, right, bottom) after the image of that width was mirrored left to right."""
    box = _float(box)
    corners = flip_points(box.reshape(*box.shape[:-1], 2, 2), width).reshape(box.shape)
    return corners[..., np.asarray([2, 1, 0, 3])]  # what was the right edge is now the left one


def from_released_affine(field: Any) -> Any:
    """`[..., 6]` (a11 a12 t1 a21 a22 t2), row 1 vertical, as the release stores a field, to ours `[..., 2, 3]`."""
    return field[..., np.asarray(RELEASED_AFFINE_CHANNELS)].reshape(*field.shape[:-1], 2, 3)


def to_released_affine(affine: Any) -> Any:
    """Our field `[..., 2, 3]` to the release's six channels (a11 a12 t1 a21 a22 t2), row 1 vertical."""
    return affine.reshape(*affine.shape[:-2], 6)[..., np.asarray(RELEASED_AFFINE_CHANNELS)]


def window_offsets(radius: int) -> Int[np.ndarray, "m 2"]:
    """Integer offsets (dx, dy) of a `(2r + 1)^2` window in our order: rows from top to bottom, each left to right."""
    side = 2 * radius + 1
    return pixel_grid((side, side), np.int64).reshape(-1, 2) - radius


def released_window_order(radius: int) -> Int[np.ndarray, " m"]:
    """`ours[m] == released[order[m]]`: the release runs down the window's columns (vertical offset fastest)."""
    side = 2 * radius + 1
    return np.arange(side * side).reshape(side, side).T.reshape(-1)


def outer_edges(shape: Shape) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """The corners (x, y) of an image's area, top left and bottom right: half a pixel beyond the outermost centres."""
    return np.asarray([-0.5, -0.5]), _xy(shape) - 0.5


def cell_corners() -> Float[np.ndarray, "4 2"]:
    """The corners of a cell as seen from its centre: top left, top right, bottom right, bottom left."""
    (left, top), (right, bottom) = outer_edges((1, 1))
    return np.asarray([[left, top], [right, top], [right, bottom], [left, bottom]])


def resize_positions(to_length: int, from_length: int, scale: float | None = None) -> Float[np.ndarray, " n"]:
    """For each of `to_length` samples of a resized axis, its half-pixel position on the original axis.

    Args:
        scale: samples per original pixel; `to_length / from_length` unless given (an exact factor of a cropped axis).
    """
    scale = to_length / from_length if scale is None else scale
    return (np.arange(to_length) + 0.5) / scale - 0.5


def _float(values: Any) -> Any:
    """Integer input would truncate; lists become arrays. JAX and NumPy floats pass through untouched."""
    if not hasattr(values, "dtype"):
        values = np.asarray(values, np.float64)
    if values.dtype.kind in "iub":
        values = values.astype(np.float64 if isinstance(values, np.ndarray) else jnp.result_type(float))
    return values
