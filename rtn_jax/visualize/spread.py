"""Points chosen automatically: spread evenly over a picture or a mask, where the match is reliable."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from rtn_jax.coordinates import Shape, pixel_grid, resize_points
from rtn_jax.visualize.mesh import sample

_FINER = 4  # candidates per point that are laid out when the confidence chooses among them


def sample_grid_points(
    mask_or_shape: ArrayLike | Shape, n: int, *, confidence: ArrayLike | None = None, apart: float = 0
) -> Float[np.ndarray, "m 2"]:
    """At most `n` points (about as many) spread evenly over a picture or a mask, row by row.

    They are the centres of a regular grid's cells. With a confidence they are chosen one after the other from a finer
    grid: each is the one with the largest confidence times distance to the nearest one before.

    Args:
        mask_or_shape: (height, width), or `[H, W]`, nonzero where points may lie.
        confidence: `[H, W]`, 0 or more; NaN counts as 0.
        apart: pixels between any two that the confidence chooses; where there is no room, there are fewer.

    Raises:
        ValueError: neither a mask nor a shape, an empty mask, `n` below 1, or a confidence of another shape.
    """
    mask = _mask(mask_or_shape)
    if n < 1:
        raise ValueError(f"n: expected at least 1 point, got {n}")
    if confidence is None:
        return _grid_inside(mask, n)
    if np.shape(confidence) != mask.shape:
        raise ValueError(f"confidence: expected shape {mask.shape}, got {np.shape(confidence)}")
    points = _grid_inside(mask, _FINER * n)
    reliable = np.nan_to_num(sample(confidence, points), nan=0, posinf=0).clip(1e-6)
    chosen: list[int] = []
    nearest = np.ones(len(points))
    for _ in range(min(n, len(points))):
        chosen.append(int(np.argmax(reliable * nearest)))
        distance = np.linalg.norm(points - points[chosen[-1]], axis=-1)
        nearest = distance if len(chosen) == 1 else np.minimum(nearest, distance)
        nearest = np.where(nearest < apart, 0, nearest)
        if not nearest.any():
            break
    return np.asarray(points[np.sort(chosen)])


def _mask(mask_or_shape: ArrayLike | Shape) -> Bool[np.ndarray, "H W"]:
    given = np.asarray(mask_or_shape)
    if given.shape == (2,) and (given >= 1).all():
        return np.ones((int(given[0]), int(given[1])), bool)
    if given.ndim != 2:
        raise ValueError(f"mask_or_shape: expected a mask [H, W] or (height, width), got {_brief(given)}")
    if not given.any():
        raise ValueError("mask_or_shape: the mask is empty, there is no place for a point")
    return np.asarray(given != 0)


def _brief(array: np.ndarray) -> str:
    return f"an array of shape {array.shape}" if array.ndim != 1 else str(array.tolist())


def _grid_inside(mask: Bool[np.ndarray, "H W"], limit: int) -> Float[np.ndarray, "m 2"]:
    """Of all grids over the mask's bounding box the one of square cells with most points in it, not over `limit`."""
    y, x = np.nonzero(mask)
    corner, shape = np.asarray([x.min(), y.min()]), (int(np.ptp(y)) + 1, int(np.ptp(x)) + 1)
    some = np.linspace(0, len(x) - 1, min(limit, len(x))).astype(int)  # for a mask so thin that grids miss it
    best, best_score = np.stack([x, y], axis=-1)[some], 0.0
    most_rows = np.ceil(np.sqrt(2 * limit * shape[0] * shape[0] / len(x)))
    for rows in range(1, min(int(most_rows), shape[0]) + 1):
        square = rows * shape[1] / shape[0]  # columns that make the cells square
        for columns in range(max(1, int(square / 1.5)), min(shape[1], int(square * 1.5) + 1) + 1):
            points = resize_points(pixel_grid((rows, columns)), (rows, columns), shape).reshape(-1, 2) + corner
            near = np.rint(points).astype(int)
            points = points[mask[near[:, 1], near[:, 0]]]
            score = len(points) * np.sqrt(min(columns / square, square / columns))
            if len(points) <= limit and score > best_score:
                best, best_score = points, score
    return np.asarray(best, np.float32)
