"""What training draws one by one: a photo or a pair by its number, and another one where a file of it cannot be read.

Draw `j` is item number `j` of the epochs' shuffled orders one after another, with random numbers from the seed and `j`.
If a photo of it cannot be read, attempt 1 takes another item, attempt 2 one that is neither, and so on: what an attempt
takes is a function of seed, `j` and the attempt alone, so that a batch is the same whoever reads it, and what was
replaced can be told afterwards from the number of attempts. An item drawn in place of another comes in its own turn
too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from rtn_jax.coordinates import Shape, outer_edges, resize_points
from rtn_jax.data.files import ArrayFiles, FolderFiles
from rtn_jax.data.pairs import Files, Pair
from rtn_jax.data.sources import BuiltinFiles, Pairs
from rtn_jax.images import read_resized, resize, to_uint8

Drawn = dict[str, np.ndarray]
"""Arrays of one photo or pair."""

RETRIES = 10
"""Attempts to draw something else; if all fail, it is the folder that is damaged, not a photo."""

UNREADABLE = (ValueError, OSError)
"""What a `Files` raises if it cannot read a photo."""


class Chosen(NamedTuple):
    """What an attempt at a draw takes."""

    name: str
    """Of the photo, or of the pair: `src -> tgt`."""
    load: Callable[[], Drawn]
    """Reads it; raises one of `UNREADABLE` if it cannot."""


class Draws:
    """Numbered draws, each a function of its number alone; `len` is how many make an epoch. Picklable."""

    def __len__(self) -> int:
        raise NotImplementedError

    def choose(self, index: int, attempt: int) -> Chosen:
        """What the attempt at draw `index` takes, `attempt` in `0 ... RETRIES`; nothing is read."""
        raise NotImplementedError

    def __call__(self, index: int) -> Drawn:
        """The arrays of the first attempt that can be read, and `attempts`, int32: how many failed before it.

        Raises:
            ValueError: if none can; the message is the first attempt's and names the file.
        """
        reasons = []
        for attempt in range(RETRIES + 1):
            chosen = self.choose(index, attempt)
            try:
                return {**chosen.load(), "attempts": np.asarray(attempt, np.int32)}
            except UNREADABLE as error:
                reasons.append(str(error))
        raise ValueError(f"{reasons[0]}; nor could what was drawn in its place be read, {RETRIES} times over")


@dataclass(frozen=True, eq=False)
class PhotoDraws(Draws):
    """One photo to warp, and the seed of its warp."""

    read: PhotoReader
    names: tuple[str, ...]
    seed: int
    batch_size: int

    def __len__(self) -> int:
        return len(self.names)

    def choose(self, index: int, attempt: int) -> Chosen:
        name = self.names[_item(self.seed, index, attempt, len(self))]
        return Chosen(name, functools.partial(self._load, name, index))

    def _load(self, name: str, index: int) -> Drawn:
        step, place = divmod(index, self.batch_size)
        # A step's seeds are drawn together, as they have been since 0.1: a seed goes on meaning the same run.
        warps = _generator(self.seed, step, 0).integers(2**32, size=self.batch_size, dtype=np.uint32)
        return {"photos": self.read(name), "seeds": np.asarray(warps[place])}


@dataclass(frozen=True, eq=False)
class PairDraws(Draws):
    """Two photos of a pair, mirrored where the pair says so, their boxes, and a seed for what is random later."""

    read: PhotoReader
    source: Pairs
    seed: int

    def __len__(self) -> int:
        return len(self.source)

    def choose(self, index: int, attempt: int) -> Chosen:
        generator = _generator(self.seed, index, attempt)
        pair = self.source.pair(_item(self.seed, index, attempt, len(self)), generator)
        # The last that is drawn, so that pairs are those of versions that had no seeds.
        seed = np.asarray(generator.integers(2**32, dtype=np.uint32))
        return Chosen(_pair_name(pair), functools.partial(self._load, pair, seed))

    def _load(self, pair: Pair, seed: np.ndarray) -> Drawn:
        src, tgt = self.read(pair.src), self.read(pair.tgt)
        return {
            "src": _mirrored(src) if pair.src_flipped else src,
            "tgt": _mirrored(tgt) if pair.tgt_flipped else tgt,
            "src_box": self._box(pair.src, pair.src_box),
            "tgt_box": self._box(pair.tgt, pair.tgt_box),
            "seeds": seed,
        }

    def _box(self, name: str, box: Float[np.ndarray, " 4"] | None) -> Float[np.ndarray, " 4"]:
        if box is None:
            return np.concatenate(outer_edges(self.read.shape)).astype(np.float32)
        corners = resize_points(box.reshape(2, 2), self.source.files.shape(name), self.read.shape)
        return np.asarray(corners, np.float32).reshape(4)


class PhotoReader:
    """Reads a photo by its name, resized; keeps as many as fit into its memory. Picklable, without what it keeps."""

    def __init__(self, files: Files, shape: Shape, kept_bytes: int) -> None:
        self.files, self.shape, self.kept_bytes = files, tuple(shape), kept_bytes
        self._read = functools.lru_cache(maxsize=kept_bytes // (3 * shape[0] * shape[1]))(self._decode)

    def __reduce__(self) -> tuple[Any, ...]:
        return PhotoReader, (self.files, self.shape, self.kept_bytes)

    def __call__(self, name: str) -> UInt8[np.ndarray, "H W 3"]:
        """The photo, read-only.

        Raises:
            ValueError: if it cannot be read; the message names the file.
        """
        return self._read(name)

    def _decode(self, name: str) -> UInt8[np.ndarray, "H W 3"]:
        if isinstance(self.files, ArrayFiles | BuiltinFiles):
            photo = to_uint8(resize(self.files.image(name), self.shape))
        elif isinstance(self.files, FolderFiles):
            photo = read_resized(self.files.folder / name, self.shape)
        else:
            photo = read_resized(self.files.encoded(name), self.shape, name)
        photo.flags.writeable = False
        return photo


def _item(seed: int, index: int, attempt: int, items: int) -> int:
    """Which item the attempt takes: every item once per epoch at first, then other ones, none of them twice.

    Only where there are too few others do they come again; they may be listed once more with another photo.
    """
    epoch, place = divmod(index, items)
    item = int(_order(seed, epoch, items)[place])
    if attempt == 0 or items == 1:
        return item
    others = min(RETRIES, items - 1)
    further = np.random.default_rng((seed, index, 2)).choice(items - 1, size=others, replace=False)
    return (item + 1 + int(further[(attempt - 1) % others])) % items


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, items: int) -> Int[np.ndarray, " n"]:
    """The shuffled items of an epoch.

    Not grain's own shuffle, whose time grows as the items get few: 4 ms for each of 13, longer than reading a photo.
    """
    return np.random.default_rng((seed, epoch)).permutation(items)


def _generator(seed: int, index: int, attempt: int) -> np.random.Generator:
    """Of an attempt at a draw; the third number keeps it apart from the epochs' orders (0) and from `_item`'s (2)."""
    return np.random.default_rng((seed, index, 2 + attempt if attempt else 1))


def _pair_name(pair: Pair) -> str:
    marks = {(True, True): " (mirrored)", (True, False): " (source mirrored)", (False, True): " (target mirrored)"}
    return f"{pair.src} -> {pair.tgt}" + marks.get((pair.src_flipped, pair.tgt_flipped), "")


def _mirrored(photo: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Left to right; channel by channel, which takes a third of the time that copying `photo[:, ::-1]` does."""
    mirrored = np.empty_like(photo)
    for channel in range(3):
        mirrored[..., channel] = photo[:, ::-1, channel]
    return mirrored
