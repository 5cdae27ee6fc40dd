"""What the network holds on its grid: the field as small frames, and the correlation of one point's window."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike

from rtn_jax.affine import field_centres, field_frames, identity_field
from rtn_jax.coordinates import (
    Normalization,
    Shape,
    cells_to_pixels,
    normalize_points,
    pixel_grid,
    pixels_to_cells,
    resize_points,
    window_offsets,
)
from rtn_jax.images import resize, to_uint8
from rtn_jax.visualize.board import board
from rtn_jax.visualize.colors import confidence_to_color, flow_to_color
from rtn_jax.visualize.drawing import PALETTE, Color, Layer, Panel, fitted, mark_size
from rtn_jax.visualize.figures import check_height
from rtn_jax.visualize.mesh import forward_warp

_FILLED = 0.72  # a frame's side as a share of the distance between frames
_OPAQUE = 0.85  # how much of the picture the strongest correlation hides


def draw_affine(
    src: ArrayLike,
    tgt: ArrayLike,
    affine: ArrayLike,
    *,
    image_shape: Shape | None = None,
    stride: int = 1,
    normalization: Normalization = "centers",
    per_side: int = 10,
    height: int = 480,
) -> UInt8[np.ndarray, "h w 3"]:
    """A field of affine transformations: squares on the source, and what the field makes of each on the target.

    A square and its parallelogram have the colour of their place in the source, and a dot at what was the top left
    corner: a turned or mirrored frame can be told. A frame that leaves the target is cut off there.

    Args:
        src, tgt: `[H, W, 3]` of any two sizes.
        affine: `[h, w, 2, 3]`, as `Output.affine[0]`.
        image_shape: (height, width) that the network resized both images to, and
        stride: its pixels per cell of the field's grid; the grid covers just the images unless both are given.
        normalization: the units of the field's translations, as in the network's config.
        per_side: about how many frames along the longer side.
        height: of the pictures in pixels.

    Raises:
        ValueError: arrays that are not images or a field, or `per_side` below 1.
    """
    src, tgt, affine = to_uint8(src, "src"), to_uint8(tgt, "tgt"), _check_field(affine)
    check_height(height)
    if per_side < 1:
        raise ValueError(f"per_side: expected at least 1, got {per_side}")
    grid = affine.shape[:2]
    step = max(1, round(max(grid) / per_side))
    field = jnp.asarray(affine, jnp.float32)[None]
    picked = tuple(_every(step, length) for length in grid)
    squares = identity_field(1, grid)
    frames = [
        np.asarray(field_frames(given, side=_FILLED * step, normalization=normalization), np.float64)[0][picked]
        for given in (squares, field)
    ]
    place = normalize_points(pixel_grid(grid, np.float64)[picked], grid, "centers")
    colors = flow_to_color(place.reshape(1, -1, 2), 1.0)[0]
    views = [resize(picture, fitted(picture.shape[:2], height, 4.0)) for picture in (src, tgt)]
    drawn = []
    for view, corners in zip(views, frames, strict=True):
        shape = view.shape[:2]
        layer, size = Layer(shape), mark_size(1, height)
        at = _in_picture(corners.reshape(-1, 4, 2), grid, image_shape, stride, shape)
        for frame, color in zip(at, colors.tolist(), strict=True):
            layer.polygon(frame, (color[0], color[1], color[2]), max(1.5, size / 11))
            layer.dot(frame[0], (color[0], color[1], color[2]), size / 6)
        drawn.append(layer.over(to_uint8(view)))
    canvas, titles, _ = board([[("squares on the source", drawn[0])], [("the field's frames", drawn[1])]], height)
    return titles.over(canvas)


def draw_correlation(
    src: ArrayLike,
    tgt: ArrayLike,
    point: ArrayLike,
    correlation: ArrayLike,
    affine: ArrayLike,
    *,
    image_shape: Shape | None = None,
    stride: int = 1,
    normalization: Normalization = "centers",
    height: int = 480,
) -> UInt8[np.ndarray, "h w 3"]:
    """Where a point of the source finds itself in the target: the correlations of its cell's window as a heat map.

    The window's cells lie in the target where the field puts them. Yellow and opaque is the largest of the window's
    values, clear the smallest; a ring marks the peak, a dot where the field takes the point's cell.

    Args:
        src, tgt: `[H, W, 3]` of any two sizes.
        point: (x, y) in pixels of `src`; its nearest cell is shown.
        correlation: `[h, w, m]`, as `Output.correlation[0]`.
        affine: `[h, w, 2, 3]`, the field under which `correlation` was computed (`Output.affine[0]`).
        image_shape, stride, normalization, height: as for `draw_affine`.

    Raises:
        ValueError: arrays that are not images, a point, a field or a volume of square windows on the field's grid.
    """
    src, tgt, affine = to_uint8(src, "src"), to_uint8(tgt, "tgt"), _check_field(affine)
    check_height(height)
    volume, at = np.asarray(correlation, np.float64), np.asarray(point, np.float64)
    grid = affine.shape[:2]
    radius = (int(np.sqrt(volume.shape[-1])) - 1) // 2 if volume.ndim == 3 else -1
    if radius < 0 or volume.shape != (*grid, (2 * radius + 1) ** 2):
        raise ValueError(f"correlation: expected {list(grid)} windows of (2r + 1)^2 values, got shape {volume.shape}")
    if at.shape != (2,) or not np.isfinite(at).all():
        raise ValueError(f"point: expected a finite (x, y), got {at.tolist()}")
    views = [resize(picture, fitted(picture.shape[:2], height, 4.0)) for picture in (src, tgt)]
    shape = views[1].shape[:2]

    size = image_shape or grid
    column, row = np.rint(pixels_to_cells(resize_points(at, src.shape[:2], size), stride)).astype(int).tolist()
    column, row = min(max(column, 0), grid[1] - 1), min(max(row, 0), grid[0] - 1)
    cells = window_offsets(radius) + np.asarray([column, row])  # [m, 2]
    exists = ((cells >= 0) & (cells < [grid[1], grid[0]])).all(axis=1)
    centres = np.asarray(field_centres(jnp.asarray(affine, jnp.float32)[None], normalization=normalization)[0])
    places = np.full((len(cells), 2), np.nan)
    x, y = cells[exists].T
    places[exists] = _in_picture(centres[y, x].astype(np.float64), grid, image_shape, stride, shape)
    values = np.where(exists, volume[row, column], np.nan)
    strength = _stretched(values)

    side = 2 * radius + 1
    surface = np.repeat(np.nan_to_num(strength).reshape(side, side, 1), 3, axis=2) * 255
    heat, covered = forward_warp(surface, places.reshape(side, side, 2), shape)
    share = heat[..., :1] / 255
    opacity = np.where(covered[..., None], _OPAQUE * share, 0)
    hot = (1 - opacity) * views[1] + opacity * confidence_to_color(share[..., 0])
    canvas, layer, panels = board([[("source", views[0])], [(_peak_words(values), to_uint8(hot))]], height)
    radius_shown, color = mark_size(1, height) / 2.5, _color(0)
    layer.dot(replace(panels[0][0], original=src.shape[:2]).at(at[None])[0], color, radius_shown)
    target = panels[1][0]
    if np.isfinite(values).any():
        _mark(layer, target, places[np.nanargmax(values)], radius_shown, ring=True)
    _mark(layer, target, places[len(places) // 2], 0.7 * radius_shown, ring=False)
    return layer.over(canvas)


def _every(step: int, length: int) -> slice:
    """Every `step`-th of a row of cells, in its middle: as many as have room for their frames."""
    beyond = (_FILLED * step - 1) / 2  # a frame reaches that far beyond its own cell
    for count in range((length - 1) // step + 1, 1, -1):
        first = (length - 1 - (count - 1) * step) // 2
        last = first + (count - 1) * step
        if first >= beyond and last + beyond <= length - 1:
            return slice(first, last + 1, step)
    return slice(length // 2, length // 2 + 1)


def _in_picture(
    cells: Float[np.ndarray, "*n 2"], grid: Shape, image_shape: Shape | None, stride: int, picture: Shape
) -> Float[np.ndarray, "*n 2"]:
    """Positions on the field's grid as pixels of a picture of which the network saw a resized copy."""
    at: np.ndarray = resize_points(cells_to_pixels(cells, stride), image_shape or grid, picture)
    return at


def _stretched(values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """0 for the smallest known value, 1 for the largest; a flat window is 0 everywhere."""
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    return (values - low) / (high - low) if high > low else values * 0


def _peak_words(values: Float[np.ndarray, " m"]) -> str:
    return f"correlation, peak {np.nanmax(values):.2f}" if np.isfinite(values).any() else "correlation, unknown"


def _mark(layer: Layer, panel: Panel, place: Float[np.ndarray, " 2"], radius: float, *, ring: bool) -> None:
    if np.isfinite(place).all():
        at = panel.shown_at(place[None], radius)[0]
        (layer.ring if ring else layer.dot)(at, _color(0), radius)


def _color(number: int) -> Color:
    return PALETTE[number]


def _check_field(affine: ArrayLike) -> np.ndarray:
    array = np.asarray(affine)
    if array.ndim != 4 or array.shape[-2:] != (2, 3) or 0 in array.shape:
        raise ValueError(f"affine: expected a field [h, w, 2, 3], got shape {array.shape}")
    return array
