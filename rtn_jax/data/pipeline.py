"""Batches for training, as a grain data set: shuffled by a seed, shared among hosts, and any of them at hand.

Batch `i` is a pure function of source, seed, batch size and `i`, whatever was read before and by whom.

Draw `j` is item number `j` of the epochs' shuffled orders one after another, with random numbers from the seed and `j`.
Host `h` of `n` takes the draws `h, h + n, h + 2 n, ...`, so that the hosts' `i`-th batches are together what a single
host has as its `i`-th.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from rtn_jax.coordinates import Shape, outer_edges, resize_points
from rtn_jax.data.files import ArrayFiles, FolderFiles
from rtn_jax.data.pairs import Files, Pair
from rtn_jax.data.sources import BuiltinFiles, Pairs, Photos
from rtn_jax.images import read_resized, resize, to_uint8

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]
"""Arrays whose first axis is the pair."""

KEPT_BYTES = 256 * 2**20
"""Decoded and resized photos that a process keeps: 1,365 of 256 x 256."""


WITHOUT_END = 2**48
"""Draws; a number that a float still holds, in which grain counts batches."""


def photo_batches(
    source: Photos,
    shape: Shape,
    *,
    batch_size: int,
    seed: int,
    shard: tuple[int, int] = (0, 1),
    kept_bytes: int = KEPT_BYTES,
) -> grain.MapDataset[Batch]:
    """Batches for the synthetic stage, without end: `batches[i]` is batch `i`.

    Args:
        source: the photos, each once per epoch.
        shape: (height, width) that photos are resized to.
        batch_size: of all hosts together.
        seed: of the order and of the warps.
        shard: which host of how many this is.
        kept_bytes: memory for photos that are kept for the next epoch, per process.

    Returns:
        Dicts of `photos` uint8 `[b, H, W, 3]` and `seeds` uint32 `[b]`, of their warps.

    Raises:
        ValueError: if the batch cannot be split evenly over the hosts; later, for a photo that cannot be read.
    """
    draw = _DrawPhoto(PhotoReader(source.files, shape, kept_bytes), source.names, seed, batch_size)
    return _batches(draw, batch_size, shard)


def pair_batches(
    source: Pairs,
    shape: Shape,
    *,
    batch_size: int,
    seed: int,
    shard: tuple[int, int] = (0, 1),
    kept_bytes: int = KEPT_BYTES,
) -> grain.MapDataset[Batch]:
    """Batches for the weak stage, without end, as `photo_batches`.

    Returns:
        Dicts of `src`, `tgt` uint8 `[b, H, W, 3]` and `src_box` float32 `[b, 4]`: (left, top, right, bottom) of the
        object in pixels of the resized source, the whole image where it is not known.

    Raises:
        ValueError: as `photo_batches`.
    """
    draw = _DrawPair(PhotoReader(source.files, shape, kept_bytes), source, seed)
    return _batches(draw, batch_size, shard)


def _batches(draw: Callable[[int], Batch], batch_size: int, shard: tuple[int, int]) -> grain.MapDataset[Batch]:
    import grain

    host, hosts = shard
    if batch_size % hosts:
        raise ValueError(f"batch_size: {batch_size} pairs cannot be split evenly over {hosts} hosts")
    draws = grain.MapDataset.range(WITHOUT_END).map(draw)
    return draws[host::hosts].batch(batch_size // hosts)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, items: int) -> Int[np.ndarray, " n"]:
    """The shuffled items of an epoch.

    Not grain's own shuffle, whose time grows as the items get few: 4 ms for each of 13, longer than reading a photo.
    """
    return np.random.default_rng((seed, epoch)).permutation(items)


def _shuffled(seed: int, index: int, items: int) -> int:
    """Which item draw number `index` is: every item once per epoch."""
    epoch, place = divmod(index, items)
    return int(_order(seed, epoch, items)[place])


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


class _DrawPhoto:
    """One photo to warp, and the seed of its warp."""

    def __init__(self, read: PhotoReader, names: tuple[str, ...], seed: int, batch_size: int) -> None:
        self.read, self.names, self.seed, self.batch_size = read, names, seed, batch_size

    def __call__(self, index: int) -> Batch:
        item = _shuffled(self.seed, index, len(self.names))
        step, place = divmod(index, self.batch_size)
        # A step's seeds are drawn together, as they have been since 0.1: a seed goes on meaning the same run.
        warps = _generator(self.seed, step).integers(2**32, size=self.batch_size, dtype=np.uint32)
        return {"photos": self.read(self.names[item]), "seeds": np.asarray(warps[place])}


class _DrawPair:
    """Two photos of a pair, mirrored where the pair says so, and the source's box."""

    def __init__(self, read: PhotoReader, source: Pairs, seed: int) -> None:
        self.read, self.source, self.seed = read, source, seed

    def __call__(self, index: int) -> Batch:
        item = _shuffled(self.seed, index, len(self.source))
        pair = self.source.pair(item, _generator(self.seed, index))
        src, tgt = self.read(pair.src), self.read(pair.tgt)
        return {
            "src": _mirrored(src) if pair.src_flipped else src,
            "tgt": _mirrored(tgt) if pair.tgt_flipped else tgt,
            "src_box": self._box(pair),
        }

    def _box(self, pair: Pair) -> Float[np.ndarray, " 4"]:
        if pair.src_box is None:
            return np.concatenate(outer_edges(self.read.shape)).astype(np.float32)
        corners = resize_points(pair.src_box.reshape(2, 2), self.source.files.shape(pair.src), self.read.shape)
        return np.asarray(corners, np.float32).reshape(4)


def _generator(seed: int, index: int) -> np.random.Generator:
    """Of a draw; the third number keeps it apart from the epochs' orders."""
    return np.random.default_rng((seed, index, 1))


def _mirrored(photo: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Left to right; channel by channel, which takes a third of the time that copying `photo[:, ::-1]` does."""
    mirrored = np.empty_like(photo)
    for channel in range(3):
        mirrored[..., channel] = photo[:, ::-1, channel]
    return mirrored
