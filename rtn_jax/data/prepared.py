"""Data sets prepared with TFDS: what they look like on disk, whether they are whole, and reading them back.

    <folder>/<data set>/images/<version>/     a record per image: its name, its file as distributed, its mask
    <folder>/<data set>/pairs/<version>/      a record per pair: every field of `Pair`, and the flow

Both have a split per split of the benchmark and keep its order: images in that of their first use, so an image's row is
its place in `Benchmark.images`. `metadata.json` says the rest of what a `Benchmark` is, split by split. TFDS without
TensorFlow stores numbers as float32 unless told to store bytes; coordinates are float64 here, to the bit.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from rtn_jax.coordinates import Shape
from rtn_jax.data.pairs import Benchmark, Files, Pair
from rtn_jax.images import decode_image, image_shape

VERSION = "1.0.0"
CONFIGS = ("images", "pairs")

TEXTS = ("id", "src", "tgt", "category", "subset")
POINTS = ("src_points", "tgt_points")
BOXES = ("src_box", "tgt_box")
FLAGS = ("has_masks", "has_flow", "mirrored", "leaked", "src_flipped", "tgt_flipped")

_UNREADABLE = (OSError, ValueError, TypeError, LookupError, RuntimeError)


def folder_name(dataset: str) -> str:
    """What the folder of a prepared data set is called; `caltech101` is the name of another one of TFDS."""
    return {"caltech101": "caltech101_pairs"}.get(dataset, dataset)


def prepared_folder(folder: str | Path, dataset: str) -> Path:
    """Where a data set lies or would lie: below `folder`, unless that is the place itself."""
    folder, name = Path(folder), folder_name(dataset)
    inside = folder / name
    return folder if folder.absolute().name == name and not inside.exists() and _whole(folder) else inside


def is_prepared(folder: str | Path, dataset: str) -> bool:
    """Whether `folder` holds a prepared data set that is whole: images and pairs, every file of every split."""
    return bool(prepared_counts(folder, dataset))


def prepared_counts(folder: str | Path, dataset: str) -> dict[str, tuple[int, int]]:
    """(pairs, images) of every split of a prepared data set; empty unless it is there and whole."""
    return _whole(prepared_folder(folder, dataset))


def left_out(folder: str | Path, dataset: str) -> tuple[str, ...]:
    """`Benchmark.left_out` of all splits of a prepared data set; a damaged one raises a `ValueError`."""
    splits = _metadata(prepared_folder(folder, dataset)).values()
    return tuple(line for about in splits for line in about.get("left_out", ()))


def read_prepared(folder: str | Path, dataset: str, split: str) -> Benchmark:
    """A prepared data set as the benchmark it was made from, equal in every field and in every file's bytes.

    Args:
        folder: what holds the data set's folder, or that folder itself.
        dataset: its name, as in `datasets.DATASETS`.
        split: one of those that were prepared.

    Raises:
        ValueError: it is not there, not whole or damaged, or has no such split.
    """
    place = prepared_folder(folder, dataset)
    splits = prepared_counts(folder, dataset)
    if not splits:
        raise ValueError(f"{place}: holds no complete prepared data set")
    if split not in splits:
        raise ValueError(f"split: {place} was prepared with {', '.join(map(repr, splits))}, got {split!r}")
    images, records = (
        Records(place / config / VERSION, split, splits[split][config == "images"]) for config in CONFIGS
    )
    pairs = tuple(_pair(records[row]) for row in range(len(records)))
    names = dict.fromkeys(name for pair in pairs for name in (pair.src, pair.tgt))
    if len(names) != len(images):
        raise ValueError(f"{place}: is damaged: its pairs name {len(names)} images, {len(images)} are there")
    files = PreparedFiles(
        images=images,
        pairs=records,
        rows={name: row for row, name in enumerate(names)},
        flows={pair.id: row for row, pair in enumerate(pairs) if pair.has_flow},
    )
    about = _metadata(place)[split]
    try:
        return Benchmark(pairs=pairs, files=files, **about)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}: is damaged: {error}") from error


def _metadata(place: Path) -> dict[str, dict[str, Any]]:
    """What the benchmark of every split is besides its pairs and files."""
    try:
        about = json.loads((place / "pairs" / VERSION / "metadata.json").read_text(encoding="utf-8"))
        return {split: _tuples(about["splits"][split]) for split in _counts(place / "pairs" / VERSION)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{place}: is damaged: {error}") from error


def _tuples(about: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in about.items()}


class Records:
    """The records of one configuration and split, opened at the first use in every process."""

    def __init__(self, folder: Path, split: str, count: int) -> None:
        self._folder, self._split, self._count = folder, split, count
        self._opened: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> dict[str, Any]:
        try:
            record: dict[str, Any] = self._source()[row]
            if any(value is None for value in record.values()):  # what the reader makes of a file that was cut off
                raise ValueError("the record is empty")
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())[:200]
            where = f"{self._folder}: record {row} of split {self._split!r}"
            raise ValueError(f"{where} cannot be read, the files are damaged or gone: {reason}") from error
        return record

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _source(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():  # readers have threads, which a fork leaves behind
            import tensorflow_datasets as tfds

            self._opened = os.getpid(), tfds.builder_from_directory(self._folder).as_data_source(self._split)
        return self._opened[1]


@dataclass(frozen=True)
class PreparedFiles(Files):
    """Images, masks and flows in records."""

    images: Records
    pairs: Records
    rows: Mapping[str, int]
    """By the image's name."""
    flows: Mapping[str, int]
    """Rows of the pairs that have a flow, by id."""

    def encoded(self, name: str) -> bytes:
        content: bytes = self._image(name)["image"]
        return content

    def image(self, name: str) -> UInt8[np.ndarray, "H W 3"]:
        return decode_image(self.encoded(name), name)

    def shape(self, name: str) -> Shape:
        return image_shape(self.encoded(name), name)

    def mask(self, name: str) -> Bool[np.ndarray, "H W"]:
        content = self._image(name)["mask"]
        if not content:
            raise ValueError(f"{name}: no mask is known")
        return np.asarray(decode_image(content, f"mask of {name}")[..., 0] > 0)

    def flow(self, pair_id: str) -> Float[np.ndarray, "H W 2"]:
        if pair_id not in self.flows:
            raise ValueError(f"{pair_id}: no flow is known")
        return decode_flow(self.pairs[self.flows[pair_id]]["flow"], pair_id)

    def _image(self, name: str) -> dict[str, Any]:
        if name not in self.rows:
            raise ValueError(f"{name}: no such image")
        record = self.images[self.rows[name]]
        if record["name"].decode() != name:
            raise ValueError(
                f"{name}: the prepared data set has {record['name'].decode()!r} in its place, it is damaged"
            )
        return record


def encode_flow(flow: Float[np.ndarray, "H W 2"]) -> bytes:
    """A float32 flow as compressed bytes, to the bit.

    The first bytes of all numbers stand together, then the second, and so on, which compresses half as well again.
    """
    output = io.BytesIO()
    height, width, _ = flow.shape
    numbers = np.ascontiguousarray(flow, "<f4").view(np.uint8).reshape(height, width, 8)
    np.save(output, np.ascontiguousarray(numbers.transpose(2, 0, 1)))
    return zlib.compress(output.getvalue())


def decode_flow(content: bytes, pair_id: str) -> Float[np.ndarray, "H W 2"]:
    """What `encode_flow` was given.

    Raises:
        ValueError: the bytes are none of its making.
    """
    try:
        planes = np.load(io.BytesIO(zlib.decompress(content)), allow_pickle=False)
        return np.ascontiguousarray(planes.transpose(1, 2, 0)).view("<f4")
    except (zlib.error, ValueError, EOFError, OSError) as error:
        raise ValueError(f"{pair_id}: the flow of the prepared data set is damaged: {error}") from error


def _pair(record: Mapping[str, Any]) -> Pair:
    """A pair from its record, where an array that is not known is an empty one."""
    fields: dict[str, Any] = {name: record[name].decode() for name in TEXTS}
    fields |= {name: record[name] if len(record[name]) else None for name in (*POINTS, *BOXES)}
    fields |= {name: bool(record[name]) for name in FLAGS}
    return Pair(**fields)


def _whole(place: Path) -> dict[str, tuple[int, int]]:
    """(pairs, images) of every split; empty unless both configurations are whole and have the same splits."""
    images, pairs = (_counts(place / config / VERSION) for config in CONFIGS)
    return {split: (pairs[split], images[split]) for split in pairs} if pairs.keys() == images.keys() else {}


def _counts(folder: Path) -> dict[str, int]:
    """Records of every split; empty if a file is missing. TFDS writes `dataset_info.json` last."""
    counts = {}
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        for split in info["splits"]:
            lengths = [int(length) for length in split["shardLengths"]]
            names = (
                f"{info['name']}-{split['name']}.array_record-{i:05}-of-{len(lengths):05}" for i in range(len(lengths))
            )
            if not all((folder / name).is_file() for name in (*names, "features.json", "metadata.json")):
                return {}
            counts[split["name"]] = sum(lengths)
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return counts
