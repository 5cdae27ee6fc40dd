"""Pictures of what a network does: matches in a benchmark's pairs, and one pair of photos."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import UInt8

from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.evaluation import ImageFeatures
from rtn_jax.evaluation.matchers import BATCH, MATCHERS, MatcherName, Points
from rtn_jax.matching import answer_picture, chosen_points, match_photos, photo_of
from rtn_jax.metrics import known_flow
from rtn_jax.params import Params
from rtn_jax.visualize import draw_matches, sample_grid_points

_GAP = 10


def matches_picture(
    params: Params, benchmark: Benchmark, *, rows: int = 4, points: int = 12, matcher: MatcherName = "network"
) -> UInt8[np.ndarray, "H W 3"]:
    """Predicted matches of a few pairs of a benchmark, evenly spread, one below the other; true ones where known.

    The network's, or those of the nearest neighbours of its features.

    A network that answers NaN has no matches to show.

    Raises:
        ValueError: if a file of the benchmark cannot be read.
    """
    count = len(benchmark.pairs)
    shown = [benchmark.pairs[round(i)] for i in np.linspace(0, count - 1, min(rows, count)).tolist()]
    params = jax.device_put(jax.tree.map(np.asarray, params))  # those of a run are on all devices: one will do
    answer = MATCHERS[matcher](ImageFeatures(params, benchmark.files))  # at one size: all pairs share its program
    transfers = [transfer for i in range(0, len(shown), BATCH) for transfer in answer(shown[i : i + BATCH])]
    strips = []
    for pair, transfer in zip(shown, transfers, strict=True):
        src, tgt = benchmark.files.image(pair.src), benchmark.files.image(pair.tgt)
        src_points, true_points = _chosen_points(benchmark, pair, points)
        strips.append(draw_matches(src, tgt, src_points, transfer.move(src_points), true_points=true_points))
    return _stacked(strips)


def pair_picture(
    params: Params, src: UInt8[np.ndarray, "H W 3"], tgt: UInt8[np.ndarray, "H2 W2 3"], *, points: int = 12
) -> UInt8[np.ndarray, "h w 3"]:
    """Source, target, source warped onto the target, coloured flow, confidence and matched points, in one picture.

    What does not come back to where it began is greyed out (see `matching.match_photos`).
    """
    source, target = (photo_of(image, params.config) for image in (src, tgt))
    features = source.encoded(params), target.encoded(params)
    answer = match_photos(params, *features, source.shape, target.shape)
    chosen = chosen_points(answer, points, source.shown.shape[:2])
    return answer_picture(answer, source, target, chosen)


def _chosen_points(benchmark: Benchmark, pair: Pair, count: int) -> tuple[Points, Points | None]:
    """Up to `count` points of a pair's source, and where they truly lie in the target, if that is known."""
    if pair.src_points is not None and pair.tgt_points is not None:
        chosen = np.sort(np.random.default_rng(0).permutation(len(pair.src_points))[:count])  # numbered in their order
        return pair.src_points[chosen], pair.tgt_points[chosen]
    if pair.has_flow:
        flow = benchmark.files.flow(pair.id)
        points = np.rint(sample_grid_points(known_flow(flow), count)).astype(np.float64)
        x, y = points.astype(int).T
        return points, points + flow[y, x]
    place = benchmark.files.mask(pair.src) if pair.has_masks else benchmark.files.shape(pair.src)
    return sample_grid_points(place, count).astype(np.float64), None


def _stacked(strips: list[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "H W 3"]:
    """One below the other, on white."""
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((0, _GAP), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    return np.concatenate(padded)
