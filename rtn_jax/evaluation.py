"""A benchmark through a matcher to named figures; `evaluate.py` and the training loop both call this.

A matcher predicts the target's keypoints of a few pairs at a time. Three exist: the network, and the two floors every
result should stand beside, `identity` and `nearest` (nearest neighbour of backbone features).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rtn_jax.affine import transfer_points
from rtn_jax.coordinates import Shape, cells_to_pixels, pixels_to_cells, resize_points
from rtn_jax.correlation import l2_normalize
from rtn_jax.data.pairs import Benchmark, KeypointPair
from rtn_jax.images import resize
from rtn_jax.metrics import bootstrap_interval, pck, pck_length, pck_name, summarize
from rtn_jax.model import Features, encode, grids, match
from rtn_jax.params import Params
from rtn_jax.sampling import bilinear_sample

Points = Float[np.ndarray, "n 2"]
Predict = Callable[[Sequence[KeypointPair]], list[Points]]
Progress = Callable[[int], None]

BATCH = 4
"""Pairs matched at once."""
CACHED_IMAGES = 256
"""Images whose features are kept (4 MB each at 256x256)."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of one matcher on one benchmark."""

    matcher: str
    names: tuple[str, ...]
    """Of the figures, threshold included: `PCK@0.10 (bbox-kp)`."""
    per_pair: Float[np.ndarray, "p a"]
    """Share of correct keypoints, by pair and figure."""

    @property
    def metrics(self) -> dict[str, float]:
        """Percentage by printed name: the mean over pairs."""
        return {name: 100 * float(v) for name, v in zip(self.names, summarize(self.per_pair), strict=True)}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bootstrap 95 % interval of every figure over the pairs, in per cent."""
        low, high = 100 * bootstrap_interval(self.per_pair)
        return {name: (float(a), float(b)) for name, a, b in zip(self.names, low, high, strict=True)}


class ImageFeatures:
    """Backbone features of a benchmark's images, each computed once."""

    def __init__(self, params: Params, benchmark: Benchmark) -> None:
        self.params = params
        self._read = benchmark.read_image
        self._cached = lru_cache(maxsize=CACHED_IMAGES)(self._compute)

    def __call__(self, name: str) -> tuple[Features, Shape]:
        """Features `[1, ...]` of the image at the network's size, and the (height, width) it has on disk."""
        return self._cached(name)

    def batch(self, names: Sequence[str]) -> tuple[Features, list[Shape]]:
        """Features of several images as one batch, and their sizes on disk."""
        features, shapes = zip(*(self(name) for name in names), strict=True)
        return _concatenate(features), list(shapes)

    def _compute(self, name: str) -> tuple[Features, Shape]:
        image = self._read(name)
        # Resized here, on the host: every image then has one shape, and nothing is compiled twice.
        sized = resize(image, self.params.config.image_shape)
        return encode(self.params, sized), (image.shape[0], image.shape[1])


def identity(sizes: Callable[[str], Shape]) -> Predict:
    """Every point stays where it is, in units of the image."""

    def predict(pairs: Sequence[KeypointPair]) -> list[Points]:
        return [resize_points(pair.src_points, sizes(pair.src), sizes(pair.tgt)) for pair in pairs]

    return predict


def nearest(features: ImageFeatures) -> Predict:
    """Nearest neighbour of backbone features: the centre of the most similar cell of the coarsest level.

    The source's features are sampled bilinearly at the keypoint; similarity is the cosine.
    """
    config = features.params.config
    layer = config.levels[0].layer
    stride, grid = grids(config)[0]

    def predict(pairs: Sequence[KeypointPair]) -> list[Points]:
        answers = []
        for pair in pairs:
            (src, src_shape), (tgt, tgt_shape) = features(pair.src), features(pair.tgt)
            points = pixels_to_cells(resize_points(pair.src_points, src_shape, config.image_shape), stride)
            best = np.asarray(_most_similar(src.taps[layer].output, tgt.taps[layer].output, _padded(points)))
            cells = np.stack(np.unravel_index(best[: len(points)], grid)[::-1], -1).astype(np.float64)
            answers.append(resize_points(cells_to_pixels(cells, stride), config.image_shape, tgt_shape))
        return answers

    return predict


def network(features: ImageFeatures) -> Predict:
    """The recurrent network."""
    config = features.params.config

    def predict(pairs: Sequence[KeypointPair]) -> list[Points]:
        filled = [*pairs, *[pairs[-1]] * (BATCH - len(pairs))]  # the last batch has the shape of the others
        src, src_shapes = features.batch([pair.src for pair in filled])
        tgt, tgt_shapes = features.batch([pair.tgt for pair in filled])
        mapping = np.asarray(match(features.params, src, tgt).mapping)
        answers = []
        for pair, field, src_shape, tgt_shape in zip(pairs, mapping, src_shapes, tgt_shapes, strict=False):
            points = resize_points(pair.src_points, src_shape, config.image_shape)
            answers.append(resize_points(_look_up(field, points), config.image_shape, tgt_shape))
        return answers

    return predict


def evaluate(
    name: str, predict: Predict, benchmark: Benchmark, sizes: Callable[[str], Shape], progress: Progress | None = None
) -> Result:
    """Runs a matcher over all pairs of a benchmark.

    Args:
        name: of the matcher, for the result.
        predict: the matcher.
        benchmark: pairs, images and the threshold that belongs to them.
        sizes: (height, width) of an image, needed by the threshold `img`.
        progress: called with the number of pairs done, after every batch.

    Returns:
        The figures; every pair counts.

    Raises:
        ValueError: if an image cannot be read.
    """
    rows = []
    for batch in _batches(benchmark.pairs):
        for pair, points in zip(batch, predict(batch), strict=True):
            length = pck_length(
                benchmark.threshold, tgt_points=pair.tgt_points, tgt_shape=sizes(pair.tgt), tgt_box=pair.tgt_box
            )
            rows.append(pck(points, pair.tgt_points, threshold_length=length, alpha=benchmark.alphas))
        if progress is not None:
            progress(len(rows))
    names = tuple(pck_name(alpha, benchmark.threshold) for alpha in benchmark.alphas)
    return Result(matcher=name, names=names, per_pair=np.stack(rows))


def image_sizes(benchmark: Benchmark) -> Callable[[str], Shape]:
    """(height, width) of every image, each read once."""

    @cache
    def size(name: str) -> Shape:
        return benchmark.read_image(name).shape[:2]

    return size


@jax.jit
def _most_similar(src: Float[Array, "1 h w c"], tgt: Float[Array, "1 h w c"], points: Float[Array, "n 2"]) -> Array:
    sampled = l2_normalize(bilinear_sample(l2_normalize(src), points[None]))[0]
    return jnp.argmax(sampled @ l2_normalize(tgt).reshape(-1, tgt.shape[-1]).T, axis=-1)


def _padded(points: Points) -> Float[np.ndarray, "m 2"]:
    """To a multiple of 16 points, so that few shapes are compiled."""
    return np.pad(points, ((0, -len(points) % 16), (0, 0)))


def _look_up(mapping: Float[np.ndarray, "H W 2"], points: Points) -> Points:
    return np.asarray(transfer_points(jnp.asarray(mapping), jnp.asarray(_padded(points))), np.float64)[: len(points)]


def _concatenate(features: Sequence[Features]) -> Features:
    taps = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *[f.taps for f in features])
    return Features(taps, features[0].image_shape)


def _batches(pairs: Sequence[KeypointPair]) -> Iterator[Sequence[KeypointPair]]:
    for start in range(0, len(pairs), BATCH):
        yield pairs[start : start + BATCH]
