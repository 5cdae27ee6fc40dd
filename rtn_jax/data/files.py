"""Where arrays of a benchmark lie: a folder of pictures, or memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from rtn_jax.coordinates import Shape
from rtn_jax.data.pairs import Files
from rtn_jax.images import encode_png, image_shape, read_image


@dataclass(frozen=True)
class FolderFiles(Files):
    """Images of a folder, named by their path below it."""

    folder: Path

    def encoded(self, name: str) -> bytes:
        path = self.folder / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error

    def image(self, name: str) -> UInt8[np.ndarray, "H W 3"]:
        return read_image(self.folder / name)

    def shape(self, name: str) -> Shape:
        return image_shape(self.folder / name)


@dataclass(frozen=True)
class ArrayFiles(Files):
    """Images that are in memory already."""

    images: Mapping[str, UInt8[np.ndarray, "H W 3"]]

    def encoded(self, name: str) -> bytes:
        return encode_png(self.image(name))

    def image(self, name: str) -> UInt8[np.ndarray, "H W 3"]:
        if name not in self.images:
            raise ValueError(f"{name}: no such image")
        return self.images[name]
