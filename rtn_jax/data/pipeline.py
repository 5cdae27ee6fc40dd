"""Batches for training, as a grain data set: shuffled by a seed, shared among hosts, and any of them at hand.

Batch `i` is a pure function of source, seed, batch size and `i`, whatever was read before and by whom. It is made of
draws (`draws.py`): host `h` of `n` takes the draws `h, h + n, h + 2 n, ...`, so that the hosts' `i`-th batches are
together what a single host has as its `i`-th.

A photo that cannot be read does not end training: something else is drawn in its place, the batch says so, and
`Batches.replaced` tells what and why. Processes that read say nothing themselves; it is for the one that trains to log.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rtn_jax.coordinates import Shape
from rtn_jax.data.draws import UNREADABLE, Chosen, Draws, PairDraws, PhotoDraws, PhotoReader
from rtn_jax.data.sources import Pairs, Photos

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]
"""Arrays whose first axis is the pair."""

KEPT_BYTES = 256 * 2**20
"""Decoded and resized photos that a process keeps: 1,365 of 256 x 256."""


WITHOUT_END = 2**48
"""Draws; a number that a float still holds, in which grain counts batches."""


@dataclass(frozen=True)
class Replaced:
    """A photo or a pair that could not be read."""

    name: str
    """As in `Batches.names`."""
    instead: str
    """What was taken in its place."""
    reason: str
    """The reader's message, one line that names the file."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches without end: `batches[i]` is batch `i`, of several hosts this one's share of it. Picklable.

    Raises:
        ValueError: if a batch cannot be split evenly over the hosts, or there is no such host.
    """

    draws: Draws
    batch_size: int
    """Of all hosts together."""
    shard: tuple[int, int] = (0, 1)
    """Which host of how many this is."""

    def __post_init__(self) -> None:
        host, hosts = self.shard
        if not 0 <= host < hosts:
            raise ValueError(f"shard: expected (host, hosts) with 0 <= host < hosts, got {self.shard}")
        if self.batch_size % hosts:
            raise ValueError(f"batch_size: {self.batch_size} pairs cannot be split evenly over {hosts} hosts")

    def __reduce__(self) -> tuple[Any, ...]:  # grain's data sets cannot be pickled once they have been used
        return Batches, (self.draws, self.batch_size, self.shard)

    @property
    def items(self) -> int:
        """Length of an epoch: photos or pairs."""
        return len(self.draws)

    @functools.cached_property
    def dataset(self) -> grain.MapDataset[Batch]:
        """The batches as grain has them."""
        import grain

        host, hosts = self.shard
        return grain.MapDataset.range(WITHOUT_END).map(self.draws)[host::hosts].batch(self.batch_size // hosts)

    def __getitem__(self, i: int) -> Batch:
        """Batch `i`, read now.

        Raises:
            ValueError: if neither a photo nor anything drawn in its place can be read; the message names the file.
        """
        return self.dataset[i]

    def names(self, i: int, batch: Batch | None = None) -> tuple[str, ...]:
        """What this host's batch `i` is made of, without reading a photo.

        Args:
            i: its number.
            batch: batch `i`, if it has been read: then the names are of what it holds, not of what was replaced.

        Returns:
            Names of photos, or of pairs as `src -> tgt`, with ` (mirrored)` after them where both photos are.
        """
        indices = self._indices(i)
        attempts = [0] * len(indices) if batch is None else batch["attempts"].tolist()
        return tuple(self.draws.choose(*which).name for which in zip(indices, attempts, strict=True))

    def replaced(self, i: int, batch: Batch) -> list[Replaced]:
        """What could not be read of batch `i`, once it has been read; nothing, of nearly every batch.

        Whatever was drawn in place of a photo or pair and could not be read either has an entry of its own: there are
        as many as `batch["attempts"]` adds up to. Reads them again, for the reasons.
        """
        found = []
        for index, attempts in zip(self._indices(i), batch["attempts"].tolist(), strict=True):
            if attempts:
                *failed, taken = (self.draws.choose(index, attempt) for attempt in range(attempts + 1))
                found += [Replaced(chosen.name, taken.name, _reason(chosen)) for chosen in failed]
        return found

    def _indices(self, i: int) -> range:
        """Numbers of this host's draws."""
        host, hosts = self.shard
        return range(i * self.batch_size + host, (i + 1) * self.batch_size + host, hosts)


def photo_batches(
    source: Photos,
    shape: Shape,
    *,
    batch_size: int,
    seed: int,
    shard: tuple[int, int] = (0, 1),
    kept_bytes: int = KEPT_BYTES,
) -> Batches:
    """Batches for the synthetic stage.

    Args:
        source: the photos, each once per epoch.
        shape: (height, width) that photos are resized to.
        batch_size: of all hosts together.
        seed: of the order and of the warps.
        shard: which host of how many this is.
        kept_bytes: memory for photos that are kept for the next epoch, per process.

    Returns:
        Dicts of `photos` uint8 `[b, H, W, 3]`, `seeds` uint32 `[b]`, of their warps, and `attempts` int32 `[b]`: how
        many photos could not be read before the one that is there, 0 where nothing was wrong.

    Raises:
        ValueError: as `Batches`.
    """
    read = PhotoReader(source.files, shape, kept_bytes)
    return Batches(PhotoDraws(read, source.names, seed, batch_size), batch_size, shard)


def pair_batches(
    source: Pairs,
    shape: Shape,
    *,
    batch_size: int,
    seed: int,
    shard: tuple[int, int] = (0, 1),
    kept_bytes: int = KEPT_BYTES,
) -> Batches:
    """Batches for the weak stage; arguments and errors as `photo_batches`.

    Returns:
        Dicts of `src`, `tgt` uint8 `[b, H, W, 3]`; `src_box`, `tgt_box` float32 `[b, 4]`: (left, top, right, bottom) of
        the object in pixels of the resized photo, the whole of it where it is not known; `seeds` uint32 `[b]`, for
        whatever is random on the device; `attempts` int32 `[b]`: how many pairs could not be read before the one that
        is there.
    """
    return Batches(PairDraws(PhotoReader(source.files, shape, kept_bytes), source, seed), batch_size, shard)


def _reason(chosen: Chosen) -> str:
    """Why it cannot be read."""
    try:
        chosen.load()
    except UNREADABLE as error:
        return str(error)
    return f"{chosen.name}: could not be read, though it could when it was tried again"
