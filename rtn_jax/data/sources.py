"""What training draws from: photos to warp, photos of classes, and lists of pairs, by what `--data` points at.

| `--data` | photos (synthetic stage) | pairs (weak stage) |
|---|---|---|
| `builtin` | those that come with the installed packages | |
| folder | every photo below it | two photos of one class, a class being a folder |
| folder with `PF-dataset-PASCAL` | those of its training pairs | its training pairs, mirrored and swapped copies too |
| `.csv` | every photo listed | two photos of one class (`class_photos.py`) |
| `.jsonl`, `.json` | those of its pairs | the pairs as they are (`json_pairs.py`) |

Photos and pairs are only named here; a source is small, has no open file and travels to worker processes by pickle.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from rtn_jax.coordinates import flip_box
from rtn_jax.data.class_photos import Photo, class_folder, class_table
from rtn_jax.data.pairs import Benchmark, Files, Pair
from rtn_jax.data.photos import BUILTIN_TRAIN, builtin_photos
from rtn_jax.data.rows import pair_id
from rtn_jax.images import encode_png

log = logging.getLogger(__name__)

BUILTIN = "builtin"
PF_PASCAL = "PF-dataset-PASCAL"


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos of which each is drawn once per epoch."""

    files: Files
    names: tuple[str, ...]
    about: str
    """In words, for the log."""

    def __len__(self) -> int:
        return len(self.names)


class Pairs:
    """Pairs to draw: `len` is how many make an epoch."""

    files: Files
    about: str

    def __len__(self) -> int:
        raise NotImplementedError

    def pair(self, item: int, generator: np.random.Generator) -> Pair:
        """The pair drawn as number `item` of an epoch: a function of the two arguments, nothing else."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class ListedPairs(Pairs):
    """Pairs as somebody has listed them, each once per epoch."""

    files: Files
    listed: tuple[Pair, ...]
    about: str

    def __len__(self) -> int:
        return len(self.listed)

    def pair(self, item: int, generator: np.random.Generator) -> Pair:
        return self.listed[item]


@dataclass(frozen=True, eq=False)
class ClassPairs(Pairs):
    """Two photos of one class: the class evenly, then the photos; half of the pairs are mirrored, both sides alike."""

    files: Files
    members: tuple[tuple[Photo, ...], ...]
    """Per class, entries that name at least two different photos."""
    about: str

    def __len__(self) -> int:
        return sum(map(len, self.members))

    def pair(self, item: int, generator: np.random.Generator) -> Pair:
        photos = self.members[generator.integers(len(self.members))]
        src = tgt = photos[generator.integers(len(photos))]
        while tgt.name == src.name:  # a photo with two objects of the class is listed twice
            tgt = photos[generator.integers(len(photos))]
        mirrored = bool(generator.random() < 0.5)  # both sides, so that left stays left
        return Pair(
            id=pair_id(src.category, src.name, tgt.name),
            src=src.name,
            tgt=tgt.name,
            category=src.category,
            src_box=_box(src, mirrored),
            tgt_box=_box(tgt, mirrored),
            src_flipped=mirrored,
            tgt_flipped=mirrored,
        )


@dataclass(frozen=True)
class BuiltinFiles(Files):
    """The photos that come with the installed packages."""

    def encoded(self, name: str) -> bytes:
        return encode_png(self.image(name))

    def image(self, name: str) -> UInt8[np.ndarray, "H W 3"]:
        return _builtin()[name]


def photo_source(data: str) -> Photos:
    """The photos of anything that `--data` may point at.

    Raises:
        ValueError: if there is no such file or folder, it holds no photo, or a list in it is not as described.
    """
    if data == BUILTIN:
        return Photos(BuiltinFiles(), BUILTIN_TRAIN, f"{len(BUILTIN_TRAIN)} built-in photos")
    listed = _listed_pairs(data)
    if listed is not None:
        names = dict.fromkeys(name for pair in listed.pairs for name in (pair.src, pair.tgt))
        return Photos(listed.files, tuple(names), f"{len(names)} photos of the pairs of {data}")
    files, photos = _class_photos(data)
    names = dict.fromkeys(photo.name for photo in photos)
    return Photos(files, tuple(names), f"{len(names)} photos of {data}")


def pair_source(data: str) -> Pairs:
    """The pairs of anything that `--data` may point at.

    Raises:
        ValueError: as `photo_source`, or if there is no class with two photos.
    """
    if data == BUILTIN:
        raise ValueError("data: the built-in photos have no classes to take pairs from; expected a folder or a list")
    listed = _listed_pairs(data)
    if listed is not None:
        return ListedPairs(listed.files, listed.pairs, f"{len(listed.pairs)} pairs of {data}")
    return class_pairs(*_class_photos(data), data=data)


def class_pairs(files: Files, photos: Iterable[Photo], *, data: str) -> ClassPairs:
    """Same-class pairs of photos; photos without a class, and classes of a single photo, are left out (and logged).

    Raises:
        ValueError: if no class has two photos; `data` is what the message calls their origin.
    """
    classes: dict[str, list[Photo]] = {}
    for photo in photos:
        if photo.category:
            classes.setdefault(photo.category, []).append(photo)
    single = [name for name, members in classes.items() if len({photo.name for photo in members}) < 2]
    members = tuple(tuple(photos) for name, photos in sorted(classes.items()) if name not in single)
    if not members:
        raise ValueError(f"data: expected a class with at least two photos (a folder per class) in {data}, found none")
    if single:
        log.info("%s: left out, a class with a single photo: %s", data, ", ".join(sorted(single)))
    about = f"pairs within {len(members)} classes of {data}, {sum(map(len, members))} photos"
    return ClassPairs(files, members, about)


def _listed_pairs(data: str) -> Benchmark | None:
    """The pairs of a list, or None where `data` is something else."""
    path = Path(data)
    if path.suffix.lower() in (".json", ".jsonl"):
        from rtn_jax.data.json_pairs import json_pairs

        return json_pairs(path, need_points=False)
    if path.is_dir() and (path.absolute().name == PF_PASCAL or (path / PF_PASCAL).is_dir()):
        from rtn_jax.data.pf_pascal import pf_pascal

        return pf_pascal(path, split="train", copies=4)
    return None


def _class_photos(data: str) -> tuple[Files, tuple[Photo, ...]]:
    """The photos of a table or a folder."""
    path = Path(data)
    if path.suffix.lower() == ".csv" and not path.is_dir():
        return class_table(path)
    if not path.is_dir():
        expected = f"{BUILTIN!r}, a folder, or a file that ends in .csv, .jsonl or .json"
        raise ValueError(f"data: expected {expected}, got {data!r}" + ("" if path.exists() else ", which is not there"))
    return class_folder(path)


def _box(photo: Photo, mirrored: bool) -> np.ndarray | None:
    if photo.box is None or not mirrored:
        return photo.box
    return np.asarray(flip_box(photo.box, photo.width))


@functools.cache
def _builtin() -> Mapping[str, UInt8[np.ndarray, "H W 3"]]:
    """Decoded once per process."""
    return builtin_photos()
