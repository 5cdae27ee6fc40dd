"""The files with what is to be carried over: a mask of the source, or the source painted on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from rtn_jax.coordinates import Shape
from rtn_jax.images import read_image, read_rgba
from rtn_jax.matching.transfer import changed_pixels

_LOSSY = (".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Edit:
    """What was painted on a source."""

    colors: UInt8[np.ndarray, "H W 3"]
    opacity: Float[np.ndarray, "H W"]
    """0..1, where and how densely."""


def read_mask(path: Path, shape: Shape) -> Bool[np.ndarray, "H W"]:
    """The mask in a picture: its opaque part, or, if all of it is opaque, what is brighter than half its brightest.

    Raises:
        ValueError: as `read_image`; another size than `shape`, or no pixel of the object.
    """
    rgba = read_rgba(path)
    _check_size(path, rgba.shape, shape)
    grey = rgba[..., :3].max(axis=-1) if (rgba[..., 3] == 255).all() else rgba[..., 3]
    if not grey.any():
        raise ValueError(f"{path}: the mask is empty, expected white (or opaque) pixels on the object")
    return np.asarray(grey > grey.max() / 2)


def read_edit(path: Path, src: Path, shape: Shape) -> Edit:
    """The edit in a picture: its opaque part, or, if all of it is opaque, what differs from the source.

    Raises:
        ValueError: as `read_image`; another size than `shape`, or nothing painted.
    """
    rgba = read_rgba(path)
    _check_size(path, rgba.shape, shape)
    if (rgba[..., 3] == 255).all():
        changed = changed_pixels(read_image(src), rgba[..., :3], lossy=path.suffix.lower() in _LOSSY)
        if not changed.any():
            raise ValueError(f"{path}: does not differ from {src}, there is no edit to carry over")
        return Edit(rgba[..., :3], changed.astype(np.float32))
    if not rgba[..., 3].any():
        raise ValueError(f"{path}: is transparent everywhere, there is no edit to carry over")
    return Edit(rgba[..., :3], rgba[..., 3].astype(np.float32) / 255)


def _check_size(path: Path, got: Shape, shape: Shape) -> None:
    if got[:2] != shape:
        raise ValueError(f"{path}: expected the source's size, {shape[1]} x {shape[0]}, got {got[1]} x {got[0]}")
