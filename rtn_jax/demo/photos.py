"""The photos of the page: uploads, which may be anything, and pairs from installed packages."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from rtn_jax.coordinates import (
    Shape,
    denormalize_points,
    mirror_points,
    normalize_points,
    pixel_grid,
)
from rtn_jax.data.photos import builtin_photos
from rtn_jax.images import image_shape, read_resized, resize, to_uint8
from rtn_jax.visualize.drawing import fitted
from rtn_jax.visualize.mesh import sample

MAX_BYTES = 20 * 2**20
"""Of an uploaded file."""
LONGEST = 640
"""Pixels of the longer side at which a photo is kept and shown: networks see less, and a click has to draw it.

A smaller one is enlarged, since gradio misplaces clicks on a picture that is smaller than its box."""

Warp = tuple[tuple[tuple[float, float, float], tuple[float, float, float]], tuple[float, float]]
"""[A | t] and the wave's height along x and y, normalised (1 is half the image)."""

EXAMPLES: dict[str, tuple[str, str | Warp]] = {
    "A cat, warped": ("chelsea", (((0.93, 0.17, 0.08), (-0.15, 0.9, 0.04)), (0.05, -0.06))),
    "Two portraits": ("astronaut", "grace_hopper"),
    "A motorcycle, warped": ("motorcycle", (((1.05, -0.14, -0.05), (0.12, 1.0, 0.06)), (-0.05, 0.05))),
}
"""Pairs of built-in photos by title: another photo, or how the same one is warped."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo as the page keeps it."""

    image: UInt8[np.ndarray, "h w 3"]
    """`LONGEST` on its longer side."""
    original: Shape
    """(height, width) of the file; coordinates are told in its pixels."""

    @property
    def shape(self) -> Shape:
        """(height, width) as shown."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def key(self) -> str:
        """The same for equal pixels, whoever loaded them."""
        return hashlib.sha256(repr(self.image.shape).encode() + self.image.tobytes()).hexdigest()


def read_photo(path: str | os.PathLike[str], name: str) -> Photo:
    """An uploaded file as a photo; its size and pixel count are judged before any of it is decoded.

    Args:
        path: of the file.
        name: what messages call it: the name it has at the visitor's.

    Raises:
        ValueError: more than 20 MB, more than 100 megapixels, not a picture, or a damaged one.
    """
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{name}: {size / 2**20:.0f} MB, at most {MAX_BYTES >> 20} MB are taken")
    content = Path(path).read_bytes()
    original = image_shape(content, name)
    return Photo(read_resized(content, fitted(original, LONGEST, 1.0), name), original)


def as_photo(image: UInt8[np.ndarray, "H W 3"]) -> Photo:
    """A picture that is in memory already."""
    original = (image.shape[0], image.shape[1])
    shape = fitted(original, LONGEST, 1.0)
    return Photo(image if shape == original else resize(image, shape).round().astype(np.uint8), original)


def example_photos() -> dict[str, tuple[Photo, Photo]]:
    """The pairs of `EXAMPLES`, source and target, by title.

    Raises:
        ValueError: if an installed package does not hold its photo.
    """
    builtin = builtin_photos()
    pairs = {}
    for title, (src, other) in EXAMPLES.items():
        tgt = builtin[other] if isinstance(other, str) else _warped(builtin[src], other)
        pairs[title] = (as_photo(builtin[src]), as_photo(tgt))
    return pairs


def _warped(image: UInt8[np.ndarray, "H W 3"], warp: Warp) -> UInt8[np.ndarray, "H W 3"]:
    """A photo seen through an affine map and a wave, mirrored at its edges. In NumPy: no program has to be compiled."""
    affine, wave = (np.asarray(part) for part in warp)
    shape = image.shape[0], image.shape[1]
    at = normalize_points(pixel_grid(shape, np.float64), shape, "centers")
    moved = at @ affine[:, :2].T + affine[:, 2] + wave * np.sin(np.pi * at[..., ::-1])
    positions = mirror_points(denormalize_points(moved, shape, "centers"), shape)
    return to_uint8(sample(image, positions))
