"""The photos of a run: what its stage draws from, and what is held out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from rtn_jax.coordinates import Shape
from rtn_jax.data.photos import BUILTIN_HELD_OUT, builtin_photos
from rtn_jax.data.pipeline import KEPT_BYTES, Batch, pair_batches, photo_batches
from rtn_jax.data.sources import BUILTIN, pair_source, photo_source
from rtn_jax.training.config import TrainConfig

if TYPE_CHECKING:
    import grain


def training_batches(train: TrainConfig, shape: Shape) -> tuple[grain.MapDataset[Batch], str]:
    """The batches of a run, one per step, and a line that says what they are drawn from.

    Raises:
        ValueError: if `data` does not hold what the stage needs.
    """
    kept = KEPT_BYTES // max(1, train.workers)
    if train.stage == "synthetic":
        photos = photo_source(train.data)
        batches = photo_batches(photos, shape, batch_size=train.batch_size, seed=train.seed, kept_bytes=kept)
        return batches, f"random warps of {photos.about}"
    pairs = pair_source(train.data)
    return pair_batches(pairs, shape, batch_size=train.batch_size, seed=train.seed, kept_bytes=kept), pairs.about


def held_out_photos(train: TrainConfig, limit: int = 16) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The photos validation is done on: the built-in ones, or up to `limit` of a folder or list, evenly spread."""
    if train.val == BUILTIN:
        photos = builtin_photos()
        return {name: photos[name] for name in BUILTIN_HELD_OUT}
    source = photo_source(train.val)
    chosen = np.unique(np.linspace(0, len(source) - 1, limit).round().astype(int))
    return {source.names[i]: source.files.image(source.names[i]) for i in chosen}
