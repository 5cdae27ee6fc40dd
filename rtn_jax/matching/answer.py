"""What a network says about two photos: where everything goes, where it comes back to, and how far to trust that.

Both ways are matched at the network's image size and kept as flows of that size, in its pixels; positions in photos of
any size are interpolated from them (as benchmarks are evaluated), band by band where a photo is large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from rtn_jax.config import Config
from rtn_jax.consistency import consistency_confidence, round_trip
from rtn_jax.coordinates import (
    Shape,
    flip_points,
    grid_rows,
    outer_edges,
    pixel_grid,
    resize_points,
    resize_positions,
    scale_vectors,
)
from rtn_jax.evaluation.matchers import carried
from rtn_jax.model import Features, Output, field_mapping, match, pair_confidence
from rtn_jax.params import Params
from rtn_jax.sampling import interpolation_weights

Points = Float[np.ndarray, "n 2"]
Flow = Float[np.ndarray, "h w 2"]

RELIABLE = 0.5
"""The least confidence of what is called reliable: that of an error of just the tolerance."""

TOLERANCE = 0.05
"""Of the source's longer side: how far from its start a reliable match may come back, unless told otherwise."""

_BAND = 256  # rows of a large photo that are computed at a time


@dataclass(frozen=True)
class Answer:
    """The correspondence between two photos, both ways. Points are (x, y) in pixels of the photos as given."""

    src_shape: Shape
    """(height, width) of the source."""
    tgt_shape: Shape
    """(height, width) of the target."""
    flow: Flow
    """Source to target, at the network's image size."""
    back: Flow
    """Target to source."""
    confidence: Float[np.ndarray, "h w"]
    """0..1, of the source at the network's image size: `consistency_confidence` of the way there and back."""
    tolerance: float
    """The forward-backward error, in pixels of the source, whose confidence is 0.5."""
    output: Output
    """What the network answered, source to target; its pixels are those of the network's image size."""
    mirrored: bool = False
    """Whether the output is about the target's mirror image. All else is about the target."""

    @property
    def sureness(self) -> float:
        """`pair_confidence` of the output: how sure the network is of the pair."""
        return float(_pair_confidence(self.output)[0])

    def move(self, points: Points) -> Points:
        """Points of the source to the target."""
        return _moved(self.flow, points, self.src_shape, self.tgt_shape)

    def move_back(self, points: Points) -> Points:
        """Points of the target to the source."""
        return _moved(self.back, points, self.tgt_shape, self.src_shape)

    def errors(self, points: Points) -> Float[np.ndarray, " n"]:
        """How far from where they began points of the source come back; infinite for one that leaves the target."""
        there = self.move(points)
        low, high = outer_edges(self.tgt_shape)
        arrives = ((there >= low) & (there <= high)).all(axis=-1)
        return np.where(arrives, np.linalg.norm(self.move_back(there) - points, axis=-1), np.inf)

    def confidences(self, points: Points) -> Float[np.ndarray, " n"]:
        """The confidence of each point of the source, 0..1."""
        return np.asarray(consistency_confidence(self.errors(points), tolerance=self.tolerance), np.float64)

    def confidence_at(self, shape: Shape) -> Float[np.ndarray, "H W"]:
        """The confidence of every pixel of the source at another size."""
        return _interpolated(self.confidence[..., None], shape, slice(None))[..., 0]

    def mapping(self, src_shape: Shape, tgt_shape: Shape, rows: slice = slice(None)) -> Float[np.ndarray, "H W 2"]:
        """For every pixel of (some rows of) the source its position in the target, both at the sizes given."""
        return positions(self.flow, src_shape, tgt_shape, rows)

    def back_mapping(self, tgt_shape: Shape, src_shape: Shape, rows: slice = slice(None)) -> Float[np.ndarray, "H W 2"]:
        """For every pixel of (some rows of) the target its position in the source, both at the sizes given."""
        return positions(self.back, tgt_shape, src_shape, rows)

    def flow_bands(self) -> Iterator[Float[np.ndarray, "rows W 2"]]:
        """The flow of the photos as given, source to target, from top to bottom; as `Output.flow` would be."""
        for rows in bands(self.src_shape):
            there = self.mapping(self.src_shape, self.tgt_shape, rows)
            yield (there - grid_rows(self.src_shape, rows)).astype(np.float32)

    def iterations(self, config: Config) -> list[tuple[str, Flow]]:
        """The flow before the first and after every iteration, at the network's image size, each with its caption.

        After a search, which is none of them, what it found.
        """
        shape = config.image_shape
        fields = [
            (level.layer, field)
            for level, of_level in zip(config.levels, self.output.history, strict=True)
            for field in of_level
        ]
        grid = pixel_grid(shape)
        mappings = [(f"before the first of {len(fields)}", grid)]
        for number, (layer, field) in enumerate(fields, 1):
            mapping = np.asarray(_field_mapping(config, field, shape, shape))[0]
            mappings.append((f"{number} of {len(fields)}, {layer}", mapping))
        if self.mirrored:
            mappings = [(caption, flip_points(mapping, shape[1])) for caption, mapping in mappings]
        flows = [(caption, mapping - grid) for caption, mapping in mappings]
        if config.search:
            flows.append(("search", self.flow))
        return flows


def match_photos(
    params: Params,
    src: Features,
    tgt: Features,
    src_shape: Shape,
    tgt_shape: Shape,
    *,
    tolerance: float = TOLERANCE,
    mirrored: bool = False,
) -> Answer:
    """Matches two photos both ways by their features.

    Args:
        params: the network.
        src, tgt: features of one photo each, computed at the network's image size (`Photo.encoded`).
        src_shape, tgt_shape: (height, width) of the photos as given.
        tolerance: the forward-backward error up to which a match is called reliable, as a share of the longer side of
            the source.
        mirrored: whether `tgt` is of the target's mirror image; the answer is about the target all the same.

    Raises:
        ValueError: if the tolerance is not above 0, or the network's answer is not finite.
    """
    out, back = match(params, src, tgt), match(params, tgt, src)
    shape = params.config.image_shape
    pixels = tolerance * max(src_shape)
    trip = np.asarray(_round_trip(out.mapping, back.mapping))[0]
    error = np.linalg.norm(scale_vectors(trip, shape, src_shape), axis=-1)
    flow, flow_back = (np.asarray(given.flow, np.float32)[0] for given in (out, back))
    if mirrored:  # where it goes in the target; then, from where in it
        grid = pixel_grid(shape)
        flow, flow_back = unmirrored(flow), (flow_back + grid)[:, ::-1] - grid
    if not (np.isfinite(flow).all() and np.isfinite(flow_back).all()):
        raise ValueError("the network's answer is not finite: its weights are those of a training that diverged")
    confidence = np.asarray(consistency_confidence(error, tolerance=pixels), np.float32)
    return Answer(src_shape, tgt_shape, flow, flow_back, confidence, pixels, out, mirrored)


def unmirrored(flow: Flow) -> Flow:
    """Of a flow to the target's mirror image, the flow to the target; both of the size of the source."""
    grid = pixel_grid((flow.shape[0], flow.shape[1]))
    flipped: Flow = flip_points(flow + grid, flow.shape[1]) - grid
    return flipped


def bands(shape: Shape) -> Iterator[slice]:
    """The rows of a photo, some at a time."""
    for top in range(0, shape[0], _BAND):
        yield slice(top, min(top + _BAND, shape[0]))


_round_trip = jax.jit(round_trip)
_pair_confidence = jax.jit(pair_confidence)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _field_mapping(config: Config, field: Array, src_shape: Shape, tgt_shape: Shape) -> Array:
    return field_mapping(config, field, src_shape, tgt_shape)


def _moved(flow: Flow, points: Points, from_shape: Shape, to_shape: Shape) -> Points:
    seen = flow.shape[:2]
    moved: Points = resize_points(carried(flow, resize_points(points, from_shape, seen)), seen, to_shape)
    return moved


def positions(flow: Flow, from_shape: Shape, to_shape: Shape, rows: slice = slice(None)) -> Float[np.ndarray, "H W 2"]:
    """For every pixel of (some rows of) one picture its position in the other, both at the sizes given.

    Args:
        flow: at the network's image size, in its pixels.
        from_shape, to_shape: (height, width) of the two pictures.
        rows: neighbouring ones; all of them unless given.
    """
    seen = flow.shape[:2]
    starts = resize_points(grid_rows(from_shape, rows), from_shape, seen)
    there: Float[np.ndarray, "H W 2"] = resize_points(starts + _interpolated(flow, from_shape, rows), seen, to_shape)
    return there


def _interpolated(values: Float[np.ndarray, "h w c"], shape: Shape, rows: slice) -> Float[np.ndarray, "H W c"]:
    """Bilinear, at every pixel of (some rows of) the same picture at another size; two products with small matrices."""
    h, w, c = values.shape
    down = interpolation_weights(resize_positions(shape[0], h)[rows], h, "edge").astype(np.float32)
    across = interpolation_weights(resize_positions(shape[1], w), w, "edge").astype(np.float32)
    columns = (down @ values.reshape(h, w * c)).reshape(-1, w, c)
    wide = columns.transpose(0, 2, 1).reshape(-1, w) @ across.T
    result: Float[np.ndarray, "H W c"] = wide.reshape(-1, c, shape[1]).transpose(0, 2, 1)
    return result


def reliable(confidence: Float[np.ndarray, "*s"]) -> Bool[np.ndarray, "*s"]:
    """Which confidences are those of reliable matches."""
    return np.asarray(confidence >= RELIABLE)
