"""The two figures: matched points of two pictures, and a whole mapping in six panels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import ArrayLike

from rtn_jax.coordinates import Shape, pixel_grid, resize_points
from rtn_jax.images import resize, to_uint8
from rtn_jax.visualize.board import FRAME, board, title_size
from rtn_jax.visualize.colors import (
    HOLE,
    color_wheel,
    confidence_to_color,
    flow_to_color,
    grey_out,
    usual_maximum,
    warp_overlay,
)
from rtn_jax.visualize.drawing import RADIUS, Layer, Panel, fitted, mark, mark_size, palette
from rtn_jax.visualize.mesh import check_mapping, forward_warp, inside, pull_back, sample
from rtn_jax.visualize.spread import sample_grid_points

MIN_HEIGHT = 32
"""Pixels; in a lower picture no mark could be told from another."""

_POINTS = 12  # chosen where none are given


def draw_matches(
    src: ArrayLike,
    tgt: ArrayLike,
    src_points: ArrayLike,
    tgt_points: ArrayLike,
    *,
    true_points: ArrayLike | None = None,
    reliable: ArrayLike | None = None,
    height: int = 480,
) -> UInt8[np.ndarray, "h w 3"]:
    """Source and target side by side at equal height, matched points numbered, coloured alike and joined by lines.

    When the ten colours (told apart by every kind of colour vision) end, the marks' shape changes. The source begins at
    the left edge, the target ends at the right one. A pair with a NaN is left out; a point outside
    its picture is a ring at the edge.

    Args:
        src, tgt: `[H, W, 3]` of any two sizes.
        src_points, tgt_points: `[n, 2]`, pixels of `src` and of `tgt`.
        true_points: `[n, 2]`, where the target points should be: crosses, each joined to its dot by a line.
        reliable: `[n]` truth values; pairs that are not are hollow marks joined by thinner lines.
        height: of the result in pixels; a picture more than four times as wide as high is lower and centred.

    Raises:
        ValueError: arrays that are not images or points, or different numbers of points.
    """
    src, tgt = to_uint8(src, "src"), to_uint8(tgt, "tgt")
    starts = _points(src_points, "src_points")
    ends = _points(tgt_points, "tgt_points", len(starts))
    truth = np.full_like(ends, np.nan) if true_points is None else _points(true_points, "true_points", len(starts))
    trusted = _truths(reliable, len(starts))
    check_height(height)
    left, right = (Panel((p.shape[0], p.shape[1]), fitted(p.shape[:2], height, 4.0)) for p in (src, tgt))
    left = replace(left, y=(height - left.shape[0]) // 2)
    right = replace(right, x=left.shape[1] + max(4, height // 40), y=(height - right.shape[0]) // 2)
    canvas = np.full((height, right.x + right.shape[1], 3), FRAME, np.uint8)
    left.put(canvas, src)
    right.put(canvas, tgt)

    unknown = ~np.isfinite(np.concatenate([starts, ends], axis=1)).all(axis=1)
    starts[unknown] = ends[unknown] = truth[unknown] = np.nan
    layer, size = Layer(canvas.shape[:2]), mark_size(len(starts), height)
    radius, stroke = RADIUS * size, max(1.5, 0.1 * size)
    a, b, true = left.shown_at(starts, radius), right.shown_at(ends, radius), right.shown_at(truth, radius)
    for i, color in enumerate(palette(len(starts))):
        if not unknown[i]:
            layer.line(a[i], b[i], color, stroke if trusted[i] else stroke / 2)
        if np.isfinite(true[i]).all():
            layer.line(b[i], true[i], color, stroke)
            layer.cross(true[i], color, radius)
    mark(layer, left, starts, size, reliable=trusted)
    mark(layer, right, ends, size, keep_free=true[np.isfinite(true).all(axis=1)], reliable=trusted)
    if true_points is not None:
        layer.text((right.x + 0.4 * size, height - 0.8 * size), "cross: truth", 0.8 * size, anchor="lm")
    return layer.over(canvas)


def match_figure(
    src: ArrayLike,
    tgt: ArrayLike,
    mapping: ArrayLike,
    *,
    confidence: ArrayLike | None = None,
    points: ArrayLike | None = None,
    reliable: ArrayLike | None = None,
    height: int = 360,
) -> UInt8[np.ndarray, "h w 3"]:
    """A whole mapping in one picture of six labelled panels.

    Above: the source with its points, the target with theirs, the flow with its key. Below: the target's colours pulled
    back onto the source's grid, the source's carried onto the target's (what nothing reaches is grey), the confidence
    (without one: the source and the pulled-back target, half and half). What is not `reliable` is greyed out in the
    warped pictures and in the flow, and points there are hollow.

    The flow is the motion that remains after the source is scaled to the target's size, in target pixels; its colours
    are full at the length that 98 % of the reliable pixels stay below.

    Args:
        src, tgt: `[H, W, 3]` of any two sizes.
        mapping: `[H, W, 2]`, for every source pixel its position in the target; NaN where unknown.
        confidence: `[H, W]` in 0..1, of the source's pixels.
        points: `[n, 2]` source pixels; `sample_grid_points` chooses twelve unless given.
        reliable: `[H, W]` truth values of the source's pixels; all of them unless given.
        height: of one panel in pixels.

    Raises:
        ValueError: arrays that are not images or points, or shapes that do not fit together.
    """
    src, tgt = to_uint8(src, "src"), to_uint8(tgt, "tgt")
    src_shape, tgt_shape = (src.shape[0], src.shape[1]), (tgt.shape[0], tgt.shape[1])
    mapping = check_mapping(mapping, src_shape)
    if confidence is not None and np.shape(confidence) != src_shape:
        raise ValueError(f"confidence: expected shape {src_shape}, got {np.shape(confidence)}")
    if reliable is not None and np.shape(reliable) != src_shape:
        raise ValueError(f"reliable: expected shape {src_shape}, got {np.shape(reliable)}")
    check_height(height)
    src_points, tgt_points = _matched(mapping, tgt_shape, confidence, points)

    # Everything is drawn at the panels' resolution: the time does not depend on the photographs' size.
    src_small, tgt_small = fitted(src_shape, height, 2.5), fitted(tgt_shape, height, 2.5)
    grid = resize_points(pixel_grid(src_small, np.float64), src_small, src_shape)
    reached = sample(mapping, grid)
    flow = reached - resize_points(grid, src_shape, tgt_shape)
    reached = resize_points(reached, tgt_shape, tgt_small)
    src_view, tgt_view = resize(src, src_small), resize(tgt, tgt_small)
    trusted = np.ones(src_small, bool) if reliable is None else sample(reliable, grid) > 0.5
    pulled = grey_out(_grey_holes(*pull_back(tgt_view, reached)), trusted)
    warped = _grey_holes(*forward_warp(grey_out(src_view, trusted), reached, tgt_small))
    longest = usual_maximum(np.where(trusted[..., None], flow, np.nan) if trusted.any() else flow)
    columns = [
        [("source", src_view), ("target pulled back onto source", pulled)],
        [("target", tgt_view), ("source warped onto target", warped)],
        [("flow, source to target", grey_out(flow_to_color(flow, longest), trusted))],
        [(f"rim: {longest:.3g} px", color_wheel(height // 4))],
    ]
    if confidence is None:
        columns[2].append(("source and pulled-back target", warp_overlay(src_view, pulled)))
    else:
        words = "confidence" if reliable is None else "confidence (too low: greyed out)"
        columns[2].append((words, confidence_to_color(sample(confidence, grid))))
        scale = np.linspace(1, 0, height // 2)[:, None].repeat(height // 15, axis=1)
        columns[3].append(("1: sure", confidence_to_color(scale)))
    canvas, layer, panels = board(columns, height, framed=3)  # the keys have no frame
    if confidence is not None:
        (left, _), (_, foot) = (edge.tolist() for edge in panels[3][1].box)
        size = title_size(height)
        layer.text((left, foot + 0.75 * size), "0: lost", size, anchor="lm", outlined=False)
    size = mark_size(len(src_points), height)
    solid = None if reliable is None else sample(reliable, src_points) > 0.5
    mark(layer, replace(panels[0][0], original=src_shape), src_points, size, reliable=solid)
    mark(layer, replace(panels[1][0], original=tgt_shape), tgt_points, size, reliable=solid)
    return layer.over(canvas)


def _points(points: ArrayLike, name: str, n: int | None = None) -> Float[np.ndarray, "n 2"]:
    """A float64 copy, checked; `n` is the number of points that there must be."""
    array = np.array(points, np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or (n is not None and len(array) != n):
        raise ValueError(f"{name}: expected points [{'n' if n is None else n}, 2], got shape {array.shape}")
    return array


def _truths(values: ArrayLike | None, n: int) -> Bool[np.ndarray, " n"]:
    """One truth value for each of `n` points; all True unless given."""
    array = np.ones(n, bool) if values is None else np.asarray(values, bool)
    if array.shape != (n,):
        raise ValueError(f"reliable: expected a truth value for each of {n} points, got shape {array.shape}")
    return array


def check_height(height: int) -> None:
    """A ValueError, if a picture of that height would be too low for its marks."""
    if height < MIN_HEIGHT:
        raise ValueError(f"height: expected at least {MIN_HEIGHT} pixels, got {height}")


def _matched(
    mapping: Float[np.ndarray, "H W 2"], tgt_shape: Shape, confidence: ArrayLike | None, points: ArrayLike | None
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """The points to show and where they go; without any given, some of those that stay within the target."""
    if points is None:
        staying = inside(mapping, tgt_shape)
        points = sample_grid_points(staying, _POINTS, confidence=confidence) if staying.any() else np.zeros((0, 2))
    src_points = _points(points, "points")
    tgt_points = sample(mapping, src_points)
    src_points[np.isnan(tgt_points).any(axis=1)] = np.nan
    return src_points, tgt_points


def _grey_holes(image: Float[np.ndarray, "h w 3"], coverage: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    return np.where(coverage[..., None], image, np.float32(HOLE))
