"""What a keypoint benchmark is to the rest of the library: pairs of images with keypoints that belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rtn_jax.metrics import PCK_KINDS, PckKind


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KeypointPair:
    """Two images of one benchmark and the keypoints that correspond, row by row.

    Points are (x, y) pixels of the images as distributed, origin at the centre of the top-left pixel. The arrays are
    copied to read-only float64.

    Raises:
        ValueError: if the points are not two `[n, 2]` arrays of finite numbers with the same `n >= 1`, if `tgt_box` is
            not four finite numbers that enclose an area, or if an image has no name.
    """

    src: str
    """Name of the source image, as `Benchmark.read_image` takes it."""
    tgt: str
    """Name of the target image."""
    src_points: Float[np.ndarray, "n 2"]
    """Keypoints of the source."""
    tgt_points: Float[np.ndarray, "n 2"]
    """The same keypoints in the target."""
    category: str
    """Class of the objects, for tables by class."""
    tgt_box: Float[np.ndarray, " 4"] | None = None
    """The target object's box, `(left, top, right, bottom)`; what the threshold `bbox` is relative to."""

    def __post_init__(self) -> None:
        for name in ("src", "tgt"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected the name of an image, got {getattr(self, name)!r}")
        where = f"of {self.src!r} -> {self.tgt!r}"
        for name in ("src_points", "tgt_points"):
            points = _frozen(name, where, getattr(self, name))
            if points.ndim != 2 or points.shape[1] != 2 or not len(points):
                raise ValueError(f"{name} {where}: expected [n, 2] with n >= 1, got shape {list(points.shape)}")
            object.__setattr__(self, name, points)
        if len(self.src_points) != len(self.tgt_points):
            counts = f"{len(self.src_points)}, got {len(self.tgt_points)}"
            raise ValueError(f"tgt_points {where}: expected as many as src_points, {counts}")
        if self.tgt_box is not None:
            box = _frozen("tgt_box", where, self.tgt_box)
            if box.shape != (4,) or not (box[2:] > box[:2]).all():
                raise ValueError(f"tgt_box {where}: expected (left, top, right, bottom), got {box.tolist()}")
            object.__setattr__(self, "tgt_box", box)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Benchmark:
    """The pairs of a benchmark, how to read its images, and how its figures are defined.

    Raises:
        ValueError: if there is no pair, `threshold` is unknown, `threshold` is `bbox` and a pair has no box, or
            `alphas` is empty or holds anything but positive finite numbers.
    """

    name: str
    """As papers write it, such as `PF-WILLOW`."""
    pairs: tuple[KeypointPair, ...]
    """In the published order."""
    read_image: Callable[[str], UInt8[np.ndarray, "H W 3"]]
    """Decodes the image of that name, RGB; images are read when they are asked for, not before."""
    threshold: PckKind
    """What PCK's threshold is relative to in this benchmark."""
    alphas: tuple[float, ...] = (0.05, 0.10, 0.15)
    """The fractions at which PCK is reported."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple(self.pairs))
        object.__setattr__(self, "alphas", tuple(float(alpha) for alpha in self.alphas))
        if not self.pairs:
            raise ValueError(f"pairs: benchmark {self.name!r} needs at least one, got none")
        if self.threshold not in PCK_KINDS:
            raise ValueError(f"threshold: expected one of {', '.join(PCK_KINDS)}, got {self.threshold!r}")
        boxless = [pair for pair in self.pairs if pair.tgt_box is None]
        if self.threshold == "bbox" and boxless:
            first = f"{boxless[0].src!r} -> {boxless[0].tgt!r}"
            raise ValueError(f"pairs: threshold 'bbox' needs a tgt_box for every pair, {first} has none")
        if not self.alphas or not all(0 < alpha < np.inf for alpha in self.alphas):
            raise ValueError(f"alphas: expected positive finite numbers, got {self.alphas}")

    @property
    def images(self) -> tuple[str, ...]:
        """Every image once, in the order of first use: what to compute features of before matching the pairs."""
        return tuple(dict.fromkeys(name for pair in self.pairs for name in (pair.src, pair.tgt)))


def _frozen(name: str, where: str, values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A read-only float64 copy."""
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} {where}: expected an array of numbers, got {values!r}") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{name} {where}: expected finite numbers, got {array.tolist()}")
    array.flags.writeable = False
    return array
