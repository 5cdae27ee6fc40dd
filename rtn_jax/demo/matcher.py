"""Photos in, dense matches out; whatever was computed last is kept, within bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from rtn_jax import programs
from rtn_jax.config import Config
from rtn_jax.coordinates import Shape, pixel_grid, resize_points, shrunk_shape
from rtn_jax.demo.photos import Photo
from rtn_jax.evaluation.matchers import carried
from rtn_jax.images import resize
from rtn_jax.matching.answer import unmirrored
from rtn_jax.model import Features, encode, match, pair_confidence
from rtn_jax.params import Params
from rtn_jax.visualize import forward_warp, sample_grid_points
from rtn_jax.visualize.mesh import sample

FEATURE_BYTES = 2**28
"""Memory for features; those of a photo at 256 x 256 take 4 MB."""
MATCH_BYTES = 2**27
"""Memory for matches; one at 256 x 256 takes 2 MB."""
MAX_PROGRAMS = 8
"""Compiled networks in memory; a further one takes the place of all, which come back from the disk."""
WARP_LONGEST = 480
"""Pixels of the longer side of the warped source: carrying it over takes a third of a second."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Points = Float[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Choice:
    """How to match."""

    network: str
    """The name of a checkpoint."""
    image_size: int | None = None
    """Both photos are resized to this square; the checkpoint's size unless given."""
    iterations: int | None = None
    """Recurrent steps at each level; the checkpoint's unless given."""
    mirror_aware: bool = False
    """Whether the target's mirror image is matched, too, and kept where the network is surer of it."""


@dataclass(frozen=True, eq=False)
class Match:
    """Where every place of one photo lies in another."""

    flow: Float[np.ndarray, "H W 2"]
    """At the network's size, and in its pixels."""
    confidence: Float[np.ndarray, "H W"]
    """0..1, of the source at the network's size."""
    src: Shape
    """(height, width) of the source as shown."""
    tgt: Shape
    """(height, width) of the target as shown."""
    warped: UInt8[np.ndarray, "h w 3"]
    """The source carried onto the target, smaller than that is shown."""
    covered: Bool[np.ndarray, "h w"]
    """Where anything of the source came to lie."""
    mirrored: bool = False
    """Whether it was the target's mirror image that was matched."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.flow.nbytes + self.confidence.nbytes + self.warped.nbytes + self.covered.nbytes

    def carry(self, points: Points) -> Points:
        """Points (x, y) of the source as shown to points of the target as shown."""
        size = _size(self.flow)
        moved: Points = resize_points(carried(self.flow, resize_points(points, self.src, size)), size, self.tgt)
        return moved

    def sureness(self, points: Points) -> Float[np.ndarray, " n"]:
        """The confidence at points of the source as shown."""
        return sample(self.confidence, resize_points(points, self.src, _size(self.flow)))

    def good_points(self, count: int) -> Points:
        """At most that many points of the source as shown, spread evenly over what is matched most surely."""
        size = _size(self.flow)
        points: Points = resize_points(
            sample_grid_points(size, count, confidence=self.confidence).astype(np.float64), size, self.src
        )
        return points


class Recent(Generic[K, V]):
    """The values that were used last, as many as fit into a number of bytes; the newest always stays."""

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self._limit, self._size = limit, size
        self._kept: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Of all values together."""
        return sum(self._size(value) for value in self._kept.values())

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made if it is not there."""
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and self.nbytes > self._limit:
            self._kept.popitem(last=False)
        return self._kept[key]


class Matcher:
    """Matches photos with a choice of networks, one pair at a time, whoever asks."""

    def __init__(
        self, networks: Mapping[str, Params], *, feature_bytes: int = FEATURE_BYTES, match_bytes: int = MATCH_BYTES
    ) -> None:
        if not networks:
            raise ValueError("networks: expected at least one, got none")
        self.networks = dict(networks)
        self._features: Recent[Hashable, Features] = Recent(feature_bytes, _feature_bytes)
        self._matches: Recent[Hashable, Match] = Recent(match_bytes, lambda match: match.nbytes)
        self._programs: set[Config] = set()
        self._one_at_a_time = threading.Lock()

    def params(self, choice: Choice) -> Params:
        """The network of a choice, configured accordingly.

        Raises:
            ValueError: no such checkpoint, or sizes that no network can have.
        """
        if choice.network not in self.networks:
            raise ValueError(f"network: expected one of {', '.join(self.networks)}, got {choice.network!r}")
        params = self.networks[choice.network]
        if choice.image_size is not None:
            params = params.configure(image_size=choice.image_size)
        if choice.iterations is not None:
            params = params.configure(iterations=(choice.iterations,) * len(params.config.levels))
        return params

    def match(self, src: Photo, tgt: Photo, choice: Choice) -> Match:
        """Matches two photos; what is known of them or of the pair already is not computed again.

        Raises:
            ValueError: as `params`.
        """
        params = self.params(choice)
        with self._one_at_a_time:
            return self._matches.get((choice, src.key, tgt.key), lambda: self._match(params, src, tgt, choice))

    def _match(self, params: Params, src: Photo, tgt: Photo, choice: Choice) -> Match:
        if params.config not in self._programs and len(self._programs) >= MAX_PROGRAMS:
            jax.clear_caches()
            programs.forget()
            self._programs.clear()
        self._programs.add(params.config)
        features = self._encoded(params, src, choice.network)
        outs = [
            match(params, features, self._encoded(params, tgt, choice.network, mirrored=mirrored))
            for mirrored in ((False, True) if choice.mirror_aware else (False,))
        ]
        mirrored = len(outs) > 1 and bool(pair_confidence(outs[1])[0] > pair_confidence(outs[0])[0])
        out = outs[mirrored]
        flow, confidence = np.asarray(out.flow)[0], np.asarray(out.confidence)[0]
        if mirrored:
            flow = unmirrored(flow)
        return Match(flow, confidence, src.shape, tgt.shape, *_warped(src, flow, tgt.shape), mirrored)

    def _encoded(self, params: Params, photo: Photo, network: str, *, mirrored: bool = False) -> Features:
        shape = params.config.image_shape
        image = photo.image[:, ::-1] if mirrored else photo.image

        def compute() -> Features:
            # Resized here, so that photos of all sizes share one program, and told nothing of their size.
            return jax.block_until_ready(encode(params, resize(image, shape)))

        return self._features.get((network, shape, photo.key, mirrored), compute)


def _warped(
    photo: Photo, flow: Float[np.ndarray, "H W 2"], tgt: Shape
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """The source carried onto the target, at the size of a picture on a page."""
    size, src_shape, tgt_shape = _size(flow), shrunk_shape(photo.shape, WARP_LONGEST), shrunk_shape(tgt, WARP_LONGEST)
    grid = resize_points(pixel_grid(src_shape, np.float64), src_shape, size)
    mapping = resize_points(carried(flow, grid.reshape(-1, 2)), size, tgt_shape).reshape(grid.shape)
    warped, covered = forward_warp(resize(photo.image, src_shape), mapping, tgt_shape)
    return warped.round().astype(np.uint8), covered


def _size(grid: Float[np.ndarray, "H W 2"]) -> Shape:
    return grid.shape[0], grid.shape[1]


def _feature_bytes(features: Features) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(features.taps))
