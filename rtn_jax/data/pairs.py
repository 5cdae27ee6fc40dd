"""What a benchmark or a set of training pairs is to the rest of the library: one record type, and where its arrays are.

A `Pair` holds what fits in memory for any number of pairs (names, keypoints, boxes); images, masks and flows are read
by name from the benchmark's `Files` when they are asked for.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8

from rtn_jax.coordinates import Shape, distance_outside
from rtn_jax.metrics import PCK_KINDS, PckKind

ProtocolName = Literal["keypoints", "flow", "masks"]
"""What is known of a benchmark's pairs, and so what is measured: PCK, flow accuracy or label transfer."""

PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)

SLACK = 0.05
"""Share of an image's longer side by which an annotated keypoint may lie beyond the image: annotators click past the
border (by up to 1.3 % in the sets at hand), while a mixed-up image or unit is off by more."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two images of one class, and whatever is known of their correspondence.

    Points are (x, y) pixels of the images as distributed, origin at the centre of the top-left pixel; boxes are
    `(left, top, right, bottom)` in the same pixels. The arrays are copied to read-only float64.

    Raises:
        ValueError: if the points are not two `[n, 2]` arrays of finite numbers with the same `n >= 1`, if a box is
            not four finite numbers that enclose an area, or if the pair or an image has no name.
    """

    id: str
    """Unique in the benchmark. A relative path without suffix: predictions for the pair are files of that name."""
    src: str
    """Name of the source image, as `Files` takes it; correspondences are asked for its points."""
    tgt: str
    """Name of the target image."""
    category: str = ""
    """Class of the objects, for tables by class."""
    subset: str = ""
    """Part of the benchmark that is averaged by itself, such as TSS's `JODS`."""
    src_points: Float[np.ndarray, "n 2"] | None = None
    """Keypoints of the source."""
    tgt_points: Float[np.ndarray, "n 2"] | None = None
    """The same keypoints in the target."""
    src_box: Float[np.ndarray, " 4"] | None = None
    """The source object's box."""
    tgt_box: Float[np.ndarray, " 4"] | None = None
    """The target object's box; what the threshold `bbox` is relative to."""
    has_masks: bool = False
    """Whether `Files.mask` knows both images' objects."""
    has_flow: bool = False
    """Whether `Files.flow` knows this pair's true flow."""
    mirrored: bool = False
    """The target shows the object mirrored (TSS's `flip_gt`)."""
    leaked: bool = False
    """The two images are also a training pair of the same data set (PF-PASCAL)."""
    src_flipped: bool = False
    """Training: the source image is to be mirrored left to right first; points and box are of the mirrored one."""
    tgt_flipped: bool = False
    """Training: the same for the target."""

    def __post_init__(self) -> None:
        for name in ("id", "src", "tgt"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected a name, got {getattr(self, name)!r}")
        where = f"of {self.id!r}"
        if (self.src_points is None) != (self.tgt_points is None):
            raise ValueError(f"src_points, tgt_points {where}: expected both or neither")
        for name in ("src_points", "tgt_points"):
            if getattr(self, name) is not None:
                points = _frozen(name, where, getattr(self, name))
                if points.ndim != 2 or points.shape[1] != 2 or not len(points):
                    raise ValueError(f"{name} {where}: expected [n, 2] with n >= 1, got shape {list(points.shape)}")
                object.__setattr__(self, name, points)
        if self.src_points is not None and len(self.src_points) != len(self.tgt_points):  # type: ignore[arg-type]
            counts = f"{len(self.src_points)}, got {len(self.tgt_points)}"  # type: ignore[arg-type]
            raise ValueError(f"tgt_points {where}: expected as many as src_points, {counts}")
        for name in ("src_box", "tgt_box"):
            if getattr(self, name) is not None:
                box = _frozen(name, where, getattr(self, name))
                if box.shape != (4,) or not (box[2:] > box[:2]).all():
                    raise ValueError(f"{name} {where}: expected (left, top, right, bottom), got {box.tolist()}")
                object.__setattr__(self, name, box)


class Files:
    """Where the arrays of a benchmark are read from, by name. Subclasses are picklable: worker processes receive them.

    Every method raises a `ValueError` that names the file if it is missing, damaged or unknown.
    """

    def encoded(self, name: str) -> bytes:
        """The image's file as distributed."""
        raise NotImplementedError

    def image(self, name: str) -> UInt8[np.ndarray, "H W 3"]:
        """The decoded image, RGB, upright."""
        raise NotImplementedError

    def shape(self, name: str) -> Shape:
        """(height, width) of the image, without decoding it where the format allows."""
        return self.image(name).shape[:2]

    def mask(self, name: str) -> Bool[np.ndarray, "H W"]:
        """Which pixels of the image belong to the object."""
        raise ValueError(f"{name}: no mask is known")

    def flow(self, pair_id: str) -> Float[np.ndarray, "H W 2"]:
        """The pair's true flow, float32 pixels (x, y) from source to target; NaN where it is not known."""
        raise ValueError(f"{pair_id}: no flow is known")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Benchmark:
    """The pairs of a benchmark, where their arrays are, and how its figures are defined.

    Raises:
        ValueError: if there is no pair, two pairs share an id, a pair lacks what the protocol or a threshold needs, a
            threshold is unknown, or `alphas` is empty or holds anything but positive finite numbers.
    """

    name: str
    """As papers write it, such as `PF-WILLOW`."""
    pairs: tuple[Pair, ...]
    """In the published order."""
    files: Files
    """Images, masks and flows."""
    protocol: ProtocolName | None = "keypoints"
    """What is measured; None for pairs that are only there to train on."""
    thresholds: tuple[PckKind, ...] = ()
    """Keypoints: what PCK's threshold is relative to; the published choice comes first."""
    alphas: tuple[float, ...] = (0.05, 0.10, 0.15)
    """Keypoints: the fractions at which PCK is reported."""
    subsets: tuple[str, ...] = ()
    """Parts that are averaged by themselves; their mean is a figure only where pairs of all of them are there."""
    left_out: tuple[str, ...] = ()
    """Why rows of the published list are not among the pairs, one line each; only ever filled on request."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures has to know: files that are not there, pairs that the published list has besides."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple(self.pairs))
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        object.__setattr__(self, "alphas", tuple(float(alpha) for alpha in self.alphas))
        if not self.pairs:
            raise ValueError(f"pairs: benchmark {self.name!r} needs at least one, got none")
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)} or None, got {self.protocol!r}")
        seen: set[str] = set()
        for pair in self.pairs:
            if pair.id in seen:
                raise ValueError(f"pairs: expected every id once, got {pair.id!r} twice")
            seen.add(pair.id)
        if self.protocol is not None:
            needed = {"keypoints": "src_points", "flow": "has_flow", "masks": "has_masks"}[self.protocol]
            self._need(needed, f"protocol {self.protocol!r}")
        if self.protocol == "keypoints":
            self._check_thresholds()

    def _check_thresholds(self) -> None:
        if not self.thresholds:
            raise ValueError(f"thresholds: expected at least one of {', '.join(PCK_KINDS)}, got none")
        for kind in self.thresholds:
            if kind not in PCK_KINDS:
                raise ValueError(f"thresholds: expected some of {', '.join(PCK_KINDS)}, got {kind!r}")
        if "bbox" in self.thresholds:
            self._need("tgt_box", "threshold 'bbox'")
        if not self.alphas or not all(0 < alpha < np.inf for alpha in self.alphas):
            raise ValueError(f"alphas: expected positive finite numbers, got {self.alphas}")

    def _need(self, field: str, what: str) -> None:
        lacking = [pair for pair in self.pairs if getattr(pair, field) is None or getattr(pair, field) is False]
        if lacking:
            raise ValueError(f"pairs: {what} needs {field} for every pair, {lacking[0].id!r} has none")

    @property
    def images(self) -> tuple[str, ...]:
        """Every image once, in the order of first use."""
        return tuple(dict.fromkeys(name for pair in self.pairs for name in (pair.src, pair.tgt)))

    def replace(self, **changes: Any) -> Benchmark:
        """The same benchmark with other thresholds, alphas or pairs."""
        return dataclasses.replace(self, **changes)


def check_inside(name: str, points: Float[np.ndarray, "n 2"], shape: Shape, what: str = "keypoint") -> None:
    """That annotated keypoints lie on an image of `shape`, or within `SLACK` of it.

    Raises:
        ValueError: naming the one farthest outside; `name` is what the message calls the points, `what` one of them.
    """
    outside = distance_outside(points, shape)
    worst = int(np.argmax(outside))
    if outside[worst] > SLACK * max(shape):
        x, y = points[worst]
        size = f"{shape[1]} x {shape[0]}"
        raise ValueError(f"{name}: {what} {worst + 1} at ({x:g}, {y:g}) lies outside the image of {size} pixels")


def check_box_inside(name: str, box: Float[np.ndarray, " 4"], shape: Shape) -> None:
    """The same for a box (left, top, right, bottom), by its corners.

    Raises:
        ValueError: naming the corner; `name` is what the message calls the box.
    """
    check_inside(name, np.asarray(box, np.float64).reshape(2, 2), shape, "corner")


def _frozen(name: str, where: str, values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A read-only float64 copy."""
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:  # OverflowError: a whole number beyond any float
        raise ValueError(f"{name} {where}: expected an array of numbers, got {str(values)[:80]}") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{name} {where}: expected finite numbers, got {array.tolist()}")
    array.flags.writeable = False
    return array
