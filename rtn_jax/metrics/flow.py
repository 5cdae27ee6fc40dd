"""Dense flow against its ground truth: endpoint errors, TSS's accuracy, and bringing a flow to another image size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from rtn_jax.coordinates import pixel_grid, resize_points, resize_positions, scale_vectors
from rtn_jax.metrics.checks import as_field, as_positive, as_shape, check_same_shape

_UNKNOWN = 1e9
"""A component of this size or more marks a vector as unknown (the .flo format's rule)."""

_LONGER_SIDE = 100.0
"""Pixels that the longer side of the image measures in which the errors of `flow_accuracy` are expressed."""


def known_flow(flow: Float[np.ndarray, "*b H W 2"]) -> Bool[np.ndarray, "*b H W"]:
    """Where a flow `[..., H, W, 2]` is a displacement: both components finite and below 1e9 in magnitude."""
    return np.asarray((np.abs(flow) < _UNKNOWN).all(axis=-1))  # false for NaN and infinity too


def flow_accuracy(predicted: Any, true: Any, *, tgt_shape: Sequence[int], threshold: float = 5.0) -> float:
    """Share of the pixels of known flow whose predicted flow ends within `threshold` of the true one (inclusive).

    Distances are those after scaling the image that the flow points into so that its longer side measures 100 pixels.
    The measure of TSS: Taniai, Sinha and Sato, "Joint recovery of dense correspondence and cosegmentation in two
    images" (CVPR 2016).

    Args:
        predicted: `[H, W, 2]` predicted flow (x, y) in pixels, of the true flow's size (see `rescale_flow`). A vector
            that is not finite or has a component of 1e9 or more is wrong.
        true: `[H, W, 2]` true flow; not finite, or 1e9 and more, where it is not known.
        tgt_shape: `(H, W)` or `(H, W, 3)` of the image that the flow points into.
        threshold: in pixels of that scaled image.

    Returns:
        A share in 0..1.

    Raises:
        ValueError: if the shapes differ or are not `[H, W, 2]`, if the true flow is known nowhere, or if `threshold`
            is not a positive finite number.
    """
    limit = as_positive("threshold", threshold, "pixels") * max(as_shape("tgt_shape", tgt_shape)) / _LONGER_SIDE
    error = endpoint_error(predicted, true)
    known = ~np.isnan(error)
    if not known.any():
        raise ValueError("true: expected a flow that is known at one pixel at least")
    return float((error[known] <= limit).mean())


def endpoint_error(predicted: Any, true: Any) -> Float[np.ndarray, "H W"]:
    """Distance between the ends of predicted and true flow at every pixel, in pixels.

    Args:
        predicted: `[H, W, 2]` predicted flow (x, y).
        true: `[H, W, 2]` true flow; not finite, or 1e9 and more, where it is not known.

    Returns:
        `[H, W]`: NaN where the truth is not known, else infinite where the prediction is not finite or is 1e9 or more.

    Raises:
        ValueError: if the shapes differ or are not `[H, W, 2]`.
    """
    predicted, true = as_field("predicted", predicted), as_field("true", true)
    check_same_shape("predicted", predicted, "true", true)
    known, answered = known_flow(true), known_flow(predicted)
    difference = np.where((known & answered)[..., None], predicted, 0) - np.where(known[..., None], true, 0)
    error = np.where(answered, np.hypot(difference[..., 0], difference[..., 1]), np.inf)
    return np.where(known, error, np.nan)


def rescale_flow(
    flow: Any, shape: Sequence[int], *, tgt_shapes: tuple[Sequence[int], Sequence[int]] | None = None
) -> Float[np.ndarray, "H W 2"]:
    """The flow between two images, for the same images at other sizes.

    The flow is interpolated bilinearly on the half-pixel grid, constant beyond the outermost pixels' centres; then the
    positions it points to are scaled with the target, as TSS's own kit does (which counts positions from the first
    pixel's centre where we keep the outer edges). If both images are scaled alike, this multiplies the vectors by the
    ratio of the sizes.

    Args:
        flow: `[h, w, 2]` flow (x, y) in pixels; not finite, or 1e9 and more, where it is not known.
        shape: `(H, W)` or `(H, W, 3)` of the size asked for.
        tgt_shapes: the sizes of the image that the flow points into, the one it has for `flow` and the one asked for;
            scaled like the source unless given.

    Returns:
        `[H, W, 2]` in pixels of the new size, NaN where one of the pixels interpolated between is not known.

    Raises:
        ValueError: if `flow` is not `[h, w, 2]`, or a size is not that of an image.
    """
    field, new = as_field("flow", flow), as_shape("shape", shape)
    old = field.shape[:2]
    from_tgt, to_tgt = (old, new) if tgt_shapes is None else (as_shape("tgt_shapes", s) for s in tgt_shapes)
    field = np.where(known_flow(field)[..., None], field, np.nan)
    for axis in (0, 1):
        first, second, share = _neighbours(new[axis], old[axis])
        share = np.expand_dims(share, tuple(i for i in range(3) if i != axis))
        field = field.take(first, axis) * (1 - share) + field.take(second, axis) * share
    if tgt_shapes is None:
        scaled: Float[np.ndarray, "H W 2"] = scale_vectors(field, old, new)
        return scaled
    grid = pixel_grid(new, np.float64)
    places: Float[np.ndarray, "H W 2"] = resize_points(resize_points(grid, new, old) + field, from_tgt, to_tgt)
    return places - grid


def _neighbours(
    to_length: int, from_length: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """For each sample of a resized axis the two samples it lies between, and the second one's share."""
    # Rounded, because a position a rounding error away from a sample would have an unknown neighbour make it unknown.
    positions = resize_positions(to_length, from_length).round(9).clip(0, from_length - 1)
    first, second = np.floor(positions).astype(np.int64), np.ceil(positions).astype(np.int64)
    return first, second, positions - first
