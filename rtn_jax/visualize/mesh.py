"""Carrying colours along a mapping, both ways, on the host: exact pulling back, and forward warping with honest holes.

A mapping is `[H, W, 2]`: for every source pixel its position (x, y) in the target, in target pixels. Pulling the
target's colours back onto the source frame only samples the target at the mapping. The other way the mapping has to be
inverted: the source's pixel grid is a mesh of triangles, which the mapping lays over the target; every target pixel
inside a triangle takes the colour interpolated between its three corners, and pixels under no triangle are holes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.ndimage import map_coordinates

from rtn_jax.coordinates import Shape, outer_edges
from rtn_jax.images import check_image
from rtn_jax.metrics import known_flow

MAX_STRETCH = 8.0
"""A triangle with a side longer than this many times the median is a tear of the mapping, not a surface."""

_INSIDE = -1e-6  # smallest barycentric coordinate of a pixel inside a triangle: its edges belong to it
_CHUNK = 1 << 20  # candidate pixels at a time


def check_mapping(mapping: ArrayLike, shape: Shape | None = None, name: str = "mapping") -> Float[np.ndarray, "H W 2"]:
    """`mapping` as a float64 copy with NaN wherever it is unknown (not finite, or 1e9 and more).

    Raises:
        ValueError: it is not `[H, W, 2]`, with (H, W) = `shape` if that is given.
    """
    array = np.array(mapping, np.float64)
    if array.ndim != 3 or array.shape[-1] != 2 or 0 in array.shape or (shape and array.shape[:2] != tuple(shape)):
        expected = f"[{shape[0]}, {shape[1]}, 2]" if shape else "[H, W, 2]"
        raise ValueError(f"{name}: expected an (x, y) for every pixel, {expected}, got shape {array.shape}")
    array[~known_flow(array)] = np.nan
    return array


def sample(array: ArrayLike, points: ArrayLike) -> Float[np.ndarray, " *n"]:
    """Bilinear samples of `array` `[H, W]` or `[H, W, c]` at `points` `[..., 2]` (x, y); beyond the edge, its edge.

    NaN where the point is NaN, or where a pixel that takes part is.
    """
    array, points = np.asarray(array, np.float64), np.asarray(points, np.float64)
    at = np.moveaxis(points, -1, 0)[::-1]  # (y, x), as scipy wants them
    known = np.isfinite(at).all(axis=0)
    at = np.where(known, at, 0)
    planes = [array] if array.ndim == 2 else list(np.moveaxis(array, -1, 0))
    sampled = [np.where(known, map_coordinates(plane, at, order=1, mode="nearest"), np.nan) for plane in planes]
    return sampled[0] if array.ndim == 2 else np.stack(sampled, axis=-1)


def inside(points: ArrayLike, shape: Shape) -> Bool[np.ndarray, " *n"]:
    """Which `points` `[..., 2]` lie within the outer edges of an image of `shape`; NaN does not."""
    points = np.asarray(points)
    low, high = outer_edges(shape)
    return np.asarray(((points >= low) & (points <= high)).all(axis=-1))


def pull_back(tgt: ArrayLike, mapping: ArrayLike) -> tuple[Float[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """The target's colours on the source's grid: `(image float32 in 0..255, coverage)`.

    Exact up to bilinear interpolation; where the mapping leaves the target or is unknown, `coverage` is False and the
    colour is 0.

    Raises:
        ValueError: not an image, or not a mapping `[H, W, 2]`.
    """
    tgt = check_image(tgt, "tgt")
    mapping = check_mapping(mapping)
    coverage = inside(mapping, tgt.shape[:2])
    return np.where(coverage[..., None], sample(tgt, mapping), 0).astype(np.float32), coverage


def forward_warp(
    src: ArrayLike, mapping: ArrayLike, shape: Shape, mask: ArrayLike | None = None
) -> tuple[Float[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """The source carried into the target's frame: `(image float32 in 0..255, coverage)`.

    Where the mapping folds over, the part oriented like most of the mesh is on top; triangles torn apart
    (`MAX_STRETCH`) are left out. A hole has colour 0 and `coverage` False. Meant for pictures as a screen shows them:
    half a second at 540 x 360, a minute and 7 GB at 12 megapixels.

    Args:
        src: `[H, W, 3]`.
        mapping: `[H, W, 2]`, target pixels; NaN where unknown.
        shape: (height, width) of the target.
        mask: `[H, W]`, the source pixels that take part; all of them unless given.

    Raises:
        ValueError: shapes that do not fit together.
    """
    src = check_image(src, "src")
    mapping = check_mapping(mapping, src.shape[:2])
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != src.shape[:2]:
            raise ValueError(f"mask: expected shape {src.shape[:2]}, got {mask.shape}")
        mapping[mask == 0] = np.nan
    colours, positions = src.reshape(-1, 3).astype(np.float64), mapping.reshape(-1, 2)
    image = np.zeros((*shape, 3), np.float32)
    coverage = np.zeros(shape, bool)
    for corners, weights, x, y in _rasterize(_surface(src.shape[:2], positions), positions, shape):
        image[y, x] = np.einsum("nk,nkc->nc", weights, colours[corners])  # of a repeated pixel the last value stays
        coverage[y, x] = True
    return image, coverage


def _surface(shape: Shape, positions: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, "t 3"]:
    """The mesh's triangles as indices of their corners, in drawing order: the folded-over ones, then row by row."""
    index = np.arange(shape[0] * shape[1]).reshape(shape)
    left_top, right_top, left_bottom, right_bottom = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    halves = [(left_top, right_top, left_bottom), (right_bottom, left_bottom, right_top)]
    triangles = np.stack([np.stack(half, axis=-1).reshape(-1, 3) for half in halves], axis=1).reshape(-1, 3)
    a, b, c = np.moveaxis(positions[triangles], 1, 0)
    area = _cross(b - a, c - a)
    longest = np.linalg.norm([b - a, c - b, a - c], axis=-1).max(axis=0)
    solid = np.abs(area) > 1e-12  # False for NaN too
    if not solid.any():
        return triangles[:0]
    solid &= longest <= MAX_STRETCH * np.median(longest[solid])
    oriented_like_most = np.sign(area[solid]) == np.sign(np.sign(area[solid]).sum())
    ordered: np.ndarray = triangles[solid][np.argsort(oriented_like_most, kind="stable")]
    return ordered


def _rasterize(
    triangles: Int[np.ndarray, "t 3"], positions: Float[np.ndarray, "n 2"], shape: Shape
) -> Iterator[tuple[Int[np.ndarray, "p 3"], Float[np.ndarray, "p 3"], Int[np.ndarray, " p"], Int[np.ndarray, " p"]]]:
    """Chunks of `(corners, their barycentric weights, x, y)` for the pixels inside the triangles, in their order."""
    at = positions[triangles]
    limits = np.asarray([shape[1], shape[0]])
    low = np.clip(np.ceil(at.min(axis=1) - 1e-6), 0, limits).astype(np.int64)
    high = np.clip(np.floor(at.max(axis=1) + 1e-6), -1, limits - 1).astype(np.int64)
    size = np.maximum(high - low + 1, 0)  # of the triangle's box in pixels
    counts = size.prod(axis=1)
    ends = np.cumsum(counts)
    start = 0
    while start < len(triangles):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK)))
        which = np.repeat(np.arange(start, stop), counts[start:stop])
        nth = np.arange(len(which)) + done - (ends - counts)[which]  # the pixel's number within its box
        x, y = low[which, 0] + nth % size[which, 0], low[which, 1] + nth // size[which, 0]
        a, b, c = np.moveaxis(at[which], 1, 0)
        q = np.stack([x, y], axis=-1) - a
        area = _cross(b - a, c - a)
        to_b, to_c = _cross(q, c - a) / area, _cross(b - a, q) / area
        weights = np.stack([1 - to_b - to_c, to_b, to_c], axis=-1)
        hit = weights.min(axis=-1, initial=1) >= _INSIDE
        yield triangles[which[hit]], weights[hit], x[hit], y[hit]
        start = stop


def _cross(u: Float[np.ndarray, "t 2"], v: Float[np.ndarray, "t 2"]) -> Float[np.ndarray, " t"]:
    return np.asarray(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
