"""What is measured: the network, and the two floors that every result should stand beside.

A matcher takes a few pairs at a time and returns a `Transfer` for each: where points of the source lie in the target,
asked for keypoints or for every pixel. `identity` leaves everything where it is; `nearest` is the nearest neighbour of
backbone features; `network` is the recurrent network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rtn_jax.backbones import Tap
from rtn_jax.config import Level
from rtn_jax.coordinates import (
    Shape,
    cells_to_pixels,
    clip_points,
    flip_points,
    pixel_grid,
    pixels_to_cells,
    resize_points,
)
from rtn_jax.data.pairs import Files, Pair
from rtn_jax.images import resize
from rtn_jax.model import Features, encode, grids, match, pair_confidence, unit_features
from rtn_jax.params import Params
from rtn_jax.sampling import bilinear_sample

Points = Float[np.ndarray, "n 2"]
Flow = Float[np.ndarray, "H W 2"]
Field = Float[np.ndarray, "h w 2 3"]

BATCH = 4
"""Pairs matched at once."""
CACHED_BYTES = 2**30
"""Memory for features that are kept, per device; those of an image of 256x256 take 4 MB."""
CHUNK = 16384
"""Points looked up at once."""


@dataclass(frozen=True)
class Transfer:
    """A matcher's answer for one pair."""

    move: Callable[[Points], Points]
    """Points (x, y) of the source to points of the target, pixels of the images as distributed."""
    confidence: float | None = None
    """How sure the matcher is of the whole answer, to be compared between its answers for one source; None: unknown.

    `nearest`: the mean over the source's cells of the best cosine. `network`: `pair_confidence`.
    """
    given_flow: Callable[[], Flow] | None = None
    """The flow of every source pixel where it is known as such, and not by asking for points."""
    affine: Field | None = None
    """`network`: its final field (`Output.affine`)."""

    def flow(self, shape: Shape) -> Flow:
        """Displacement of every pixel of the source, whose (height, width) is `shape`, float32 as files hold it."""
        if "computed" not in self.__dict__:  # asked for twice where it is stored as well as scored
            object.__setattr__(self, "computed", self._flow(shape))
        flow: Flow = self.__dict__["computed"]
        return flow

    def _flow(self, shape: Shape) -> Flow:
        if self.given_flow is not None:
            return self.given_flow()
        grid = pixel_grid(shape, np.float64)
        moved = self.move(grid.reshape(-1, 2)).reshape(grid.shape)
        with np.errstate(over="ignore"):  # a network that has diverged: infinite is as wrong as far outside
            return (moved - grid).astype(np.float32)


Matcher = Callable[[Sequence[Pair]], list[Transfer]]


class ImageFeatures:
    """Backbone features of a benchmark's images, each computed once (while it is among the last that were used)."""

    def __init__(self, params: Params, files: Files, device: jax.Device | None = None) -> None:
        self.params = params if device is None else jax.device_put(params, device)
        self._files = files
        self._cached = lru_cache(maxsize=max(2 * BATCH, CACHED_BYTES // _feature_bytes(params)))(self._compute)

    def __call__(self, name: str, mirrored: bool = False) -> tuple[Features, Shape]:
        """Features `[1, ...]` of the image (or its mirror image) at the network's size, and its size on disk."""
        return self._cached(name, mirrored)

    def batch(self, names: Sequence[str], mirrored: bool = False) -> tuple[Features, list[Shape]]:
        """Features of several images as one batch, and their sizes on disk."""
        features, shapes = zip(*(self(name, mirrored) for name in names), strict=True)
        return _concatenate(features), list(shapes)

    def _compute(self, name: str, mirrored: bool) -> tuple[Features, Shape]:
        image = self._files.image(name)
        # Resized here, on the host: every image then has one shape, and nothing is compiled twice.
        sized = resize(image[:, ::-1] if mirrored else image, self.params.config.image_shape)
        return encode(self.params, sized), (image.shape[0], image.shape[1])


def identity(files: Files) -> Matcher:
    """Every point stays where it is, in units of the image."""
    shape = lru_cache(maxsize=None)(files.shape)

    def stay(pair: Pair) -> Transfer:
        return Transfer(lambda points: resize_points(points, shape(pair.src), shape(pair.tgt)))

    return lambda pairs: [stay(pair) for pair in pairs]


def nearest(features: ImageFeatures, *, mirrored: bool = False) -> Matcher:
    """Nearest neighbour of backbone features: the centre of the most similar cell of the coarsest level.

    The source's features are sampled bilinearly at the point; similarity is the cosine. `mirrored` matches against the
    target's mirror image.
    """
    config = features.params.config
    level = config.levels[config.first_look]
    stride, grid = grids(config)[config.first_look]

    def answer(pair: Pair) -> Transfer:
        (src, src_shape), (tgt, tgt_shape) = features(pair.src), features(pair.tgt, mirrored)
        volume = _similarities(level, src.taps, tgt.taps)

        def move(points: Points) -> Points:
            sampled_at = pixels_to_cells(resize_points(points, src_shape, config.image_shape), stride)
            best = _in_chunks(lambda chunk: _most_similar(volume, chunk), sampled_at)
            cells = np.stack(np.unravel_index(best, grid)[::-1], -1).astype(np.float64)
            return _in_target(cells_to_pixels(cells, stride), config.image_shape, tgt_shape, mirrored)

        return Transfer(move, float(jnp.mean(jnp.max(volume, axis=-1))))

    return lambda pairs: [answer(pair) for pair in pairs]


def network(features: ImageFeatures, *, mirrored: bool = False) -> Matcher:
    """The recurrent network. `mirrored` matches against the target's mirror image."""
    config = features.params.config

    def answer(flow: Flow, affine: Field, confidence: float, src_shape: Shape, tgt_shape: Shape) -> Transfer:
        def move(points: Points) -> Points:
            moved = carried(flow, resize_points(points, src_shape, config.image_shape))
            return _in_target(moved, config.image_shape, tgt_shape, mirrored)

        return Transfer(move, confidence, affine=affine)

    def predict(pairs: Sequence[Pair]) -> list[Transfer]:
        filled = [*pairs, *[pairs[-1]] * (BATCH - len(pairs))]  # the last batch has the shape of the others
        src, src_shapes = features.batch([pair.src for pair in filled])
        tgt, tgt_shapes = features.batch([pair.tgt for pair in filled], mirrored)
        out = match(features.params, src, tgt)
        confidences = np.asarray(pair_confidence(out), np.float64).tolist()
        flows, fields = np.asarray(out.flow), np.asarray(out.affine)
        answers = zip(flows, fields, confidences, src_shapes, tgt_shapes, strict=True)
        return [answer(*parts) for parts in answers][: len(pairs)]

    return predict


MatcherName = Literal["network", "nearest"]
MATCHERS: dict[MatcherName, Callable[[ImageFeatures], Matcher]] = {"network": network, "nearest": nearest}
"""Those that need a network's weights."""


def _in_target(points: Points, image_shape: Shape, tgt_shape: Shape, mirrored: bool) -> Points:
    """Points of the resized (and perhaps mirrored) target in pixels of the target as distributed."""
    there: Points = resize_points(points, image_shape, tgt_shape)
    return flip_points(there, tgt_shape[1]) if mirrored else there


def carried(flow: Flow, points: Points) -> Points:
    """Points moved by a flow `[H, W, 2]`: bilinear inside; a point outside moves like the nearest border pixel.

    A pixel that is not known (NaN) makes those points unknown which it has a share in, and no others.
    """
    at = clip_points(points, flow.shape[:2])
    low, high = np.floor(at).astype(np.int64), np.ceil(at).astype(np.int64)
    share = at - low
    moved = points.copy()
    for x, share_x in ((low[:, 0], 1 - share[:, 0]), (high[:, 0], share[:, 0])):
        for y, share_y in ((low[:, 1], 1 - share[:, 1]), (high[:, 1], share[:, 1])):
            weight = (share_x * share_y)[:, None]
            moved += np.where(weight > 0, weight * flow[y, x], 0)
    return moved


def mirror_aware(matcher: Matcher, mirrored: Matcher) -> Matcher:
    """Matches against the target and against its mirror image and keeps, pair by pair, the more confident answer.

    The rule: the mirror image's answer is taken if its confidence (`Transfer.confidence`) is strictly greater. No
    ground truth is used.
    """

    def predict(pairs: Sequence[Pair]) -> list[Transfer]:
        both = zip(matcher(pairs), mirrored(pairs), strict=True)
        return [flipped if _surer(flipped, plain) else plain for plain, flipped in both]

    return predict


def _surer(one: Transfer, other: Transfer) -> bool:
    if one.confidence is None or other.confidence is None:
        raise ValueError("mirror_aware: expected a matcher that knows its confidence")
    return one.confidence > other.confidence


@partial(jax.jit, static_argnums=0)
def _similarities(level: Level, src_taps: dict[str, Tap], tgt_taps: dict[str, Tap]) -> Float[Array, "1 h w m"]:
    """Cosine of every source cell with every target cell."""
    src, tgt = unit_features(level, src_taps), unit_features(level, tgt_taps)
    return jnp.einsum("bhwc,bmc->bhwm", src, tgt.reshape(1, -1, tgt.shape[-1]))


@jax.jit
def _most_similar(volume: Float[Array, "1 h w m"], points: Float[Array, "n 2"]) -> Array:
    """Sampling the similarities is sampling the features: normalising the sample would not change which one is best."""
    return jnp.argmax(bilinear_sample(volume, points[None])[0], axis=-1)


def _in_chunks(function: Callable[[Any], Array], points: Points) -> np.ndarray:
    """Few points are padded to a multiple of 16 and many to chunks, so that few shapes are compiled."""
    size = CHUNK if len(points) > CHUNK else len(points) + -len(points) % 16
    padded = np.pad(points, ((0, -len(points) % size), (0, 0))).astype(np.float32)
    chunks = [np.asarray(function(chunk)) for chunk in padded.reshape(-1, size, 2)]
    return np.concatenate(chunks)[: len(points)]


def _feature_bytes(params: Params) -> int:
    """That the features of one image take, computed without computing them."""
    image = jax.ShapeDtypeStruct((*params.config.image_shape, 3), jnp.float32)
    leaves = jax.tree.leaves(jax.eval_shape(lambda x: encode(params, x).taps, image))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _concatenate(features: Sequence[Features]) -> Features:
    taps = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *[f.taps for f in features])
    return Features(taps, features[0].image_shape)
