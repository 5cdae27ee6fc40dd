"""Batches of photos for a stage: which ones a step sees is a function of the seed and the step, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from rtn_jax.coordinates import Shape
from rtn_jax.data.photos import BUILTIN_HELD_OUT, BUILTIN_TRAIN, builtin_photos, photo_folder
from rtn_jax.images import read_image, resize
from rtn_jax.training.config import TrainConfig

HostBatch = dict[str, np.ndarray]
Batches = Callable[[int], HostBatch]

CACHED_PHOTOS = 4096  # decoded and resized, 200 kB each at 256x256


def make_batches(train: TrainConfig, shape: Shape) -> tuple[Batches, str]:
    """The function from a step to its batch, and a line that says what it draws from.

    Raises:
        ValueError: if the folder is missing, holds no photo, or (weak stage) no class with two photos.
    """
    if train.stage == "synthetic":
        return _synthetic_batches(train, shape)
    return _weak_batches(train, shape)


def held_out_photos(train: TrainConfig, limit: int = 16) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The photos validation is done on: the built-in ones, or up to `limit` of a folder, evenly spread."""
    if train.val == "builtin":
        photos = builtin_photos()
        return {name: photos[name] for name in BUILTIN_HELD_OUT}
    files = photo_folder(train.val)
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, limit).round().astype(int))]
    return {str(file.relative_to(train.val)): read_image(file) for file in chosen}


def _synthetic_batches(train: TrainConfig, shape: Shape) -> tuple[Batches, str]:
    read: Callable[[int], UInt8[np.ndarray, "H W 3"]]
    if train.data == "builtin":
        photos = builtin_photos()
        sized = [_to_uint8(photos[name], shape) for name in BUILTIN_TRAIN]
        count, read = len(sized), lambda i: sized[i]
        about = f"{count} built-in photos"
    else:
        files = photo_folder(train.data)
        count, read = len(files), _reader(files, shape)
        about = f"{count} photos of {train.data}"

    def batch(step: int) -> HostBatch:
        first = step * train.batch_size
        chosen = [_shuffled(train.seed, epoch, count)[i] for epoch, i in (divmod(first + n, count) for n in _of(train))]
        seeds = _generator(train.seed, step).integers(2**32, size=train.batch_size, dtype=np.uint32)
        return {"photos": np.stack([read(i) for i in chosen]), "seeds": seeds}

    return batch, f"random warps of {about}"


def _weak_batches(train: TrainConfig, shape: Shape) -> tuple[Batches, str]:
    files = photo_folder(train.data)
    classes: dict[str, list[int]] = {}
    for i, file in enumerate(files):
        if file.parent != Path(train.data):
            classes.setdefault(file.parent.name, []).append(i)
    members = [ids for ids in classes.values() if len(ids) > 1]
    if not members:
        raise ValueError(f"data: expected a folder per class with at least two photos each in {train.data}, found none")
    read = _reader(files, shape)

    def batch(step: int) -> HostBatch:
        generator = _generator(train.seed, step)
        pairs = [generator.choice(members[generator.integers(len(members))], 2, replace=False) for _ in _of(train)]
        src, tgt = (np.stack([read(int(i)) for i in side]) for side in zip(*pairs, strict=True))
        mirrored = generator.random(train.batch_size) < 0.5  # both alike, so that left stays left
        src[mirrored], tgt[mirrored] = src[mirrored, :, ::-1], tgt[mirrored, :, ::-1]
        return {"src": src, "tgt": tgt}

    return batch, f"pairs within {len(members)} classes of {train.data}, {sum(map(len, members))} photos"


def _of(train: TrainConfig) -> range:
    return range(train.batch_size)


def _reader(files: tuple[Path, ...], shape: Shape) -> Callable[[int], UInt8[np.ndarray, "H W 3"]]:
    return lru_cache(maxsize=CACHED_PHOTOS)(lambda i: _to_uint8(read_image(files[i]), shape))


def _to_uint8(photo: UInt8[np.ndarray, "H W 3"], shape: Shape) -> UInt8[np.ndarray, "h w 3"]:
    return np.rint(resize(photo, shape)).astype(np.uint8)


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng((seed, epoch)).permutation(count))


def _generator(seed: int, step: int) -> np.random.Generator:
    return np.random.default_rng((seed, step, 1))
