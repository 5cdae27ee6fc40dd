"""Points of the source that a match shows: given ones, or some spread over where the match can be relied on."""

from __future__ import annotations

import math
import re

import numpy as np
from jaxtyping import Bool, Float

from rtn_jax.coordinates import Shape, distance_outside, resize_points
from rtn_jax.matching.answer import Answer, Points, reliable
from rtn_jax.visualize import sample_grid_points
from rtn_jax.visualize.mesh import inside

_APART = 0.05
"""Of the longer side, between two chosen points: closer marks and numbers would cover each other."""
_MANY = 50  # of more points the marks are smaller

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def parse_points(text: str) -> int | Points:
    """`"12"` is a number of points to choose, `"120,80 40,60"` are points (x, y).

    Raises:
        ValueError: neither, or a number below 1.
    """
    if re.fullmatch(r"\s*[+-]?\d+\s*", text):
        if int(text) < 1:
            raise ValueError(f"points: expected at least 1, got {int(text)}")
        return int(text)
    pairs = [pair.split(",") for pair in text.replace(";", " ").split()]
    if not pairs or not all(len(pair) == 2 and all(_NUMBER.fullmatch(part) for part in pair) for pair in pairs):
        raise ValueError(f'points: expected a number, or x,y of each point such as "120,80 40,60", got {text!r}')
    return np.asarray(pairs, np.float64)


def check_inside(points: Points, shape: Shape, name: str) -> None:
    """Fails for points that are not in the photo.

    Raises:
        ValueError: naming the first one that is not.
    """
    outside = np.asarray(distance_outside(points, shape)) > 0
    if outside.any():
        x, y = points[outside][0].tolist()
        raise ValueError(f"points: {x:g},{y:g} is outside {name}, which has {shape[1]} x {shape[0]} pixels")


def chosen_points(answer: Answer, count: int, shape: Shape, mask: Bool[np.ndarray, "h w"] | None = None) -> Points:
    """At most `count` points of the source, spread over the reliable part of it that stays within the target.

    Where that part is small there are fewer, as their marks would cover each other.

    Args:
        answer: of the two photos.
        count: about how many.
        shape: (height, width) of the raster from which points are chosen, such as that of the picture to draw on.
        mask: of that shape, where points may lie; everywhere unless given. Where nothing there is reliable, points
            are taken from all of it, so that there is something to see.
    """
    place = np.ones(shape, bool) if mask is None or not mask.any() else mask
    confidence = answer.confidence_at(shape)
    staying = inside(answer.mapping(shape, answer.tgt_shape), answer.tgt_shape)
    best = place & staying & reliable(confidence)
    candidates = best if best.any() else place
    apart = _APART * max(shape) * min(1.0, math.sqrt(_MANY / count))
    points: Float[np.ndarray, "n 2"] = sample_grid_points(candidates, count, confidence=confidence, apart=apart)
    return np.asarray(resize_points(points.astype(np.float64), shape, answer.src_shape))
