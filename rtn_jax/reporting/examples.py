"""The pairs that a matcher did best and worst on, drawn."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rtn_jax.coordinates import Shape
from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.evaluation import Answer, normalised_errors, per_pair
from rtn_jax.visualize import draw_matches
from rtn_jax.visualize.figures import MIN_HEIGHT

SHOWN = 4
"""Best, and as many worst ones."""
LONGEST = 480
"""Pixels of a picture's longer side."""

DRAWN_POINTS = 20
"""Of more keypoints than these so many are drawn, evenly through the list."""

_CAPPED = 1.0
"""Errors beyond the threshold's whole length are all as bad; missing answers count as this much."""


def best_and_worst(benchmark: Benchmark, answers: Sequence[Answer]) -> tuple[list[int], list[int]]:
    """Indices of pairs, the best of all and the worst of all first; no pair is in both.

    The order is that of the benchmark's first figure. Equal pairs are ordered by their keypoints' mean error, where
    there are keypoints, and then by their place in the benchmark.
    """
    share = next(iter(per_pair(benchmark, answers).values()))
    error = mean_errors(benchmark, answers)
    place = np.arange(len(share))
    best = np.lexsort((place, error, -share))
    worst = np.lexsort((place, -error, share))
    most = min(SHOWN, (len(share) + 1) // 2), min(SHOWN, len(share) // 2)
    top = [int(i) for i in best[: most[0]]]
    return top, [int(i) for i in worst if i not in top][: most[1]]


def mean_errors(benchmark: Benchmark, answers: Sequence[Answer]) -> Float[np.ndarray, " p"]:
    """Per pair the keypoints' mean error as a fraction of the first threshold's length, none counting more than 1.

    Zero for benchmarks without keypoints.
    """
    if benchmark.protocol != "keypoints":
        return np.zeros(len(benchmark.pairs))
    errors = normalised_errors(benchmark, answers, benchmark.thresholds[0])
    return np.array([np.minimum(error, _CAPPED).mean() for error in errors])


def draw_pair(benchmark: Benchmark, pair: Pair, answer: Answer) -> UInt8[np.ndarray, "h w 3"]:
    """Source and target side by side, with the keypoints if there are any: numbered answers, crosses for the truth."""
    src, tgt = benchmark.files.image(pair.src), benchmark.files.image(pair.tgt)
    height = _height((src.shape[0], src.shape[1]), (tgt.shape[0], tgt.shape[1]))
    if answer.points is None or pair.src_points is None or pair.tgt_points is None:
        return draw_matches(src, tgt, np.zeros((0, 2)), np.zeros((0, 2)), height=height)
    count = len(pair.src_points)
    drawn = np.linspace(0, count - 1, min(count, DRAWN_POINTS)).round().astype(int)
    starts, ends, truth = (points[drawn] for points in (pair.src_points, answer.points, pair.tgt_points))
    return draw_matches(src, tgt, starts, ends, true_points=truth, height=height)


def _height(src: Shape, tgt: Shape) -> int:
    """At which both pictures and the gap between them are `LONGEST` wide, or which is that itself."""
    aspects = sum(min(4.0, width / height) for height, width in (src, tgt))
    return max(MIN_HEIGHT, min(LONGEST, int((LONGEST - 14) / aspects)))


def data_url(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """The picture as a JPEG inside an address."""
    output = io.BytesIO()
    Image.fromarray(picture).save(output, "JPEG", quality=88, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(output.getvalue()).decode()
