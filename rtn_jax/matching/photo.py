"""A photo as matching sees it: its size, a copy small enough to show, and its features, computed once."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy.typing import ArrayLike

from rtn_jax.config import Config
from rtn_jax.coordinates import Shape, shrunk_shape
from rtn_jax.images import image_shape, read_resized, resize, to_uint8
from rtn_jax.model import Features, encode
from rtn_jax.params import Params

SHOWN = 1024
"""Longer side, in pixels, at which photos are shown."""


@dataclass(frozen=True)
class Photo:
    """A photo to be matched, upright."""

    name: str
    """What it is called in messages and results."""
    shape: Shape
    """(height, width) as it was given; points and flows are in these pixels."""
    pixels: UInt8[np.ndarray, "h w 3"]
    """The photo, shrunk to what showing and matching need."""

    def encoded(self, params: Params, *, mirrored: bool = False) -> Features:
        """Its features, or its mirror image's, at the network's own image size: all photos share a compiled program."""
        pixels = self.pixels[:, ::-1] if mirrored else self.pixels
        return encode(params, resize(pixels, params.config.image_shape))

    @property
    def shown(self) -> UInt8[np.ndarray, "h w 3"]:
        """At most `SHOWN` pixels along the longer side."""
        shape = shrunk_shape(self.pixels.shape[:2], SHOWN)
        return self.pixels if shape == self.pixels.shape[:2] else to_uint8(resize(self.pixels, shape))


def read_photo(path: str | os.PathLike[str], config: Config) -> Photo:
    """Reads a photo no larger than showing it and matching it with a network of `config` need.

    A large JPEG is decoded at a fraction of its size (see `images.read_resized`).

    Raises:
        ValueError: as `images.read_image`.
    """
    shape = image_shape(path)
    return Photo(str(path), shape, read_resized(path, shrunk_shape(shape, _needed(shape, config))))


def photo_of(image: ArrayLike, config: Config, *, name: str = "photo") -> Photo:
    """A photo that is in memory already, `[H, W, 3]` in 0..255, shrunk as `read_photo` shrinks.

    Raises:
        ValueError: if it is not an image.
    """
    pixels = to_uint8(image, name)
    shape = pixels.shape[:2]
    needed = shrunk_shape(shape, _needed(shape, config))
    return Photo(name, shape, pixels if needed == shape else to_uint8(resize(pixels, needed)))


def _needed(shape: Shape, config: Config) -> int:
    """Of a photo's longer side. The network squeezes it to its own shape: the shorter side needs the pixels, too."""
    return max(SHOWN, math.ceil(max(config.image_shape) * max(shape) / min(shape)))
