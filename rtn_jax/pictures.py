"""Pictures of what a network does: held-out matches, and one pair of photos."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8

from rtn_jax.coordinates import Shape, shrunk_shape
from rtn_jax.data.pairs import Benchmark
from rtn_jax.images import resize
from rtn_jax.model import Output, encode, match, transfer_keypoints
from rtn_jax.params import Params
from rtn_jax.visualize import draw_matches, match_figure, sample_grid_points

SHOWN = 1024
"""Longer side, in pixels, at which photos are shown."""


_GAP = 10


def matches_picture(
    params: Params, benchmark: Benchmark, *, rows: int = 4, points: int = 12
) -> UInt8[np.ndarray, "H W 3"]:
    """Predicted and true matches of a few pairs of a keypoint benchmark, evenly spread, one below the other."""
    strips = []
    for pair in benchmark.pairs[:: max(1, len(benchmark.pairs) // rows)][:rows]:
        src, tgt = benchmark.files.image(pair.src), benchmark.files.image(pair.tgt)
        src_points, tgt_points = np.asarray(pair.src_points), np.asarray(pair.tgt_points)
        chosen = np.random.default_rng(0).permutation(len(src_points))[:points]
        predicted = np.asarray(transfer_keypoints(_match(params, src, tgt), src_points[chosen]))
        strips.append(draw_matches(src, tgt, src_points[chosen], predicted, true_points=tgt_points[chosen]))
    return _stacked(strips)


def pair_picture(
    params: Params, src: UInt8[np.ndarray, "H W 3"], tgt: UInt8[np.ndarray, "H2 W2 3"], *, points: int = 12
) -> UInt8[np.ndarray, "h w 3"]:
    """Source, target, source warped onto the target, coloured flow and matched points, in one picture."""
    src, tgt = (resize(image, shrunk_shape(image.shape[:2], SHOWN)).round().astype(np.uint8) for image in (src, tgt))
    out = _match(params, src, tgt)
    confidence = np.asarray(out.confidence[0])
    chosen = sample_grid_points(src.shape[:2], points, confidence=confidence)
    return match_figure(src, tgt, np.asarray(out.mapping[0]), confidence=confidence, points=chosen)


def _match(params: Params, src: Any, tgt: Any) -> Output:
    """Both resized on the host, so that photos of any two sizes share one compiled network."""
    shapes: tuple[Shape, Shape] = (src.shape[:2], tgt.shape[:2])
    sized = [encode(params, resize(image, params.config.image_shape)) for image in (src, tgt)]
    return match(params, *(features.of_image(shape) for features, shape in zip(sized, shapes, strict=True)))


def _stacked(strips: list[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "H W 3"]:
    """One below the other, on white."""
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((0, _GAP), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    return np.concatenate(padded)
