"""Pairs of one's own: a file with one JSON object per line.

    {"src": "a.jpg", "tgt": "b.jpg", "src_points": [[10.5, 20], [30, 41]], "tgt_points": [[12, 25], [33, 40]]}

| key | what |
|---|---|
| `src`, `tgt` | images: paths below the file's folder, or below the folder `images`; never outside it |
| `src_points`, `tgt_points` | `[[x, y], ...]`, keypoints that correspond one by one; pairs to train on may lack them |
| `category` | optional: class of the objects |
| `subset` | optional: part of the benchmark that is averaged by itself |
| `src_box`, `tgt_box` | optional: `[left, top, right, bottom]` of the objects |
| `id` | optional: a relative path without suffix, unique; else `<category>/<src>-<tgt>`, with a number if repeated |

Coordinates are pixels of the images as they are stored and upright, x to the right and y down, and (0, 0) is the
*centre* of the top-left pixel: what NumPy and OpenCV index, one less than what MATLAB does.

A JSON list of the animal pairs' form is read too (`convert_animals`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rtn_jax.coordinates import Shape
from rtn_jax.data.files import FolderFiles
from rtn_jax.data.pairs import Benchmark, Pair, check_box_inside, check_inside
from rtn_jax.data.rows import (
    Row,
    collect,
    json_object,
    json_value,
    pair_id,
    read_json_lines,
    relative_name,
    unique_id,
)
from rtn_jax.images import write_atomically
from rtn_jax.metrics import PckKind

ANIMALS = {
    "category": "category",
    "src_image": "src",
    "src_bbox": "src_box",
    "src_kps": "src_points",
    "trg_image": "tgt",
    "trg_bbox": "tgt_box",
    "trg_kps": "tgt_points",
}
"""Keys of the animal pairs and what they are called here."""

TEXTS = ("category", "subset")
POINTS = ("src_points", "tgt_points")
BOXES = ("src_box", "tgt_box")
EXPECTED = {1: "[left, top, right, bottom]", 2: "[[x, y], ...]"}
KEYS = ("id", "src", "tgt", *TEXTS, *POINTS, *BOXES)


def json_pairs(
    path: str | Path,
    *,
    images: str | Path | None = None,
    name: str | None = None,
    need_points: bool = True,
    skip_bad: bool = False,
) -> Benchmark:
    """Reads pairs from a file of JSON lines (see the module's description); of the images only the headers.

    Args:
        path: the file; also a JSON list of the form that `convert_animals` takes.
        images: the folder that the images' paths start from; the file's own unless given.
        name: of the benchmark; the file's, without suffix, unless given.
        need_points: whether a pair without keypoints is an error. If it is none and there are such pairs, nothing can
            be measured: the benchmark has no protocol.
        skip_bad: leave out pairs that cannot be used, and list them in `left_out`, instead of failing.

    Returns:
        A benchmark with the threshold `bbox` if every pair has a `tgt_box`, else `img`.

    Raises:
        ValueError: the file cannot be read, or a pair is not as described, names an image that is not there or has a
            point or box outside its image; the message names the file and the line.
    """
    path = Path(path).expanduser()
    files = FolderFiles(path.parent if images is None else Path(images).expanduser())
    rows, members = _rows(path)
    check = _Check(functools.cache(files.shape), need_points)
    taken: set[str] = set()
    pairs, left_out = collect(rows, lambda row: _pair(members(row), check, taken), skip_bad=skip_bad)
    measured = all(pair.src_points is not None for pair in pairs)
    kind: PckKind = "bbox" if all(pair.tgt_box is not None for pair in pairs) else "img"
    return Benchmark(
        name=path.stem if name is None else name,
        pairs=pairs,
        files=files,
        protocol="keypoints" if measured else None,
        thresholds=(kind,) if measured else (),
        left_out=left_out,
    )


def write_json_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Writes pairs as JSON lines that `json_pairs` reads back exactly, whole or not at all.

    Images keep their names, so they are found if `json_pairs` is given the folder that they are in. Masks, flows and
    the marks `mirrored` and `leaked` are no part of the format and are dropped.

    Raises:
        ValueError: there is no pair, one is of mirrored images (`src_flipped`, `tgt_flipped`), whose points would be
            wrong on the images as they are stored, or the file cannot be written.
    """
    lines = [_line(_written(pair)) for pair in pairs]
    if not lines:
        raise ValueError("pairs: expected at least one, got none")
    content = "".join(lines).encode()
    write_atomically(path, lambda file: file.write(content))


def convert_animals(path: str | Path) -> str:
    """The JSON lines of a list of animal pairs, ready to be written to a file.

    The list's objects have `category`, `src_image`, `src_bbox`, `src_kps` and the same of the target as `trg_...`.
    Coordinates are taken as they are: they were scaled from clicks in larger photos, and no source says from where
    those were counted, so they may be off by up to a pixel.

    Raises:
        ValueError: the file cannot be read or an entry has other keys; the message names the file and the entry.
    """
    entries = _animal_entries(Path(path))
    return "".join(collect(entries, lambda entry: _line(_animal_members(entry)), skip_bad=False)[0])


def _rows(path: Path) -> tuple[Sequence[Row[Any]], Callable[[Any], dict[str, Any]]]:
    """The rows of a file of either form, and what gives the members of one."""
    lines = read_json_lines(path)
    if lines[0][1].lstrip().startswith("["):  # lines of JSON objects begin with a brace
        return _animal_entries(path), _animal_members
    return lines, json_object


def _animal_entries(path: Path) -> list[Row[Any]]:
    text = "\n".join(line for _, line in read_json_lines(path))
    try:
        entries = json_value(text, "list of pairs")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a JSON list of pairs, got {text[:60]!r}")
    return [(f"{path} pair {number}", entry) for number, entry in enumerate(entries, 1)]


def _animal_members(entry: Any) -> dict[str, Any]:
    """An entry with our keys."""
    if not isinstance(entry, dict) or set(entry) != set(ANIMALS):
        got = ", ".join(entry) if isinstance(entry, dict) else repr(entry)
        raise ValueError(f"expected an object with {', '.join(ANIMALS)}, got {got[:120]}")
    return {ANIMALS[key]: value for key, value in entry.items()}


@dataclasses.dataclass(frozen=True)
class _Check:
    shape: Callable[[str], Shape]
    need_points: bool

    def __call__(self, pair: Pair) -> None:
        """That the images are there and hold the points and boxes."""
        for side in ("src", "tgt"):
            shape = self.shape(getattr(pair, side))
            points, box = getattr(pair, f"{side}_points"), getattr(pair, f"{side}_box")
            if points is not None:
                check_inside(f"{side}_points", points, shape)
            if box is not None:
                check_box_inside(f"{side}_box", box, shape)
        if self.need_points and pair.src_points is None:
            raise ValueError("expected src_points and tgt_points, got neither")


def _pair(members: Mapping[str, Any], check: _Check, taken: set[str]) -> Pair:
    """A pair, checked, its id added to those that are taken."""
    unknown = [key for key in members if key not in KEYS]
    if unknown:
        raise ValueError(f"expected only the keys {', '.join(KEYS)}, got {', '.join(map(repr, unknown))}")
    values: dict[str, Any] = {key: _text(key, members.get(key, "")) for key in TEXTS}
    values |= {key: relative_name(key, members.get(key)) for key in ("src", "tgt")}
    values |= {key: _numbers(key, members[key], (None, 2)) for key in POINTS if key in members}
    values |= {key: _numbers(key, members[key], (4,)) for key in BOXES if key in members}
    given = "id" in members
    name = relative_name("id", members["id"] if given else pair_id(values["category"], values["src"], values["tgt"]))
    if given and name in taken:
        raise ValueError(f"id: expected every id once, got {name!r} again")
    pair = Pair(id=name if given else unique_id(name, taken), **values)
    check(pair)
    taken.add(pair.id)
    return pair


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key}: expected a text, got {value!r}")
    return value


def _numbers(key: str, value: Any, shape: tuple[int | None, ...]) -> Float[np.ndarray, "..."]:
    """Nested lists of numbers, and of nothing that only looks like numbers, as an array of that shape."""
    levels = [value]
    for length in shape:
        if not all(isinstance(level, list) and length in (None, len(level)) for level in levels):
            raise ValueError(f"{key}: expected {EXPECTED[len(shape)]}, got {str(value)[:80]}")
        levels = [item for level in levels for item in level]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in levels):
        raise ValueError(f"{key}: expected {EXPECTED[len(shape)]}, got {str(value)[:80]}")
    try:
        return np.array(levels, np.float64).reshape([-1 if length is None else length for length in shape])
    except OverflowError as error:
        raise ValueError(f"{key}: expected numbers, got one beyond any pixel") from error


def _written(pair: Pair) -> dict[str, Any]:
    """The members of a pair, without those that say nothing."""
    if pair.src_flipped or pair.tgt_flipped:
        raise ValueError(f"pairs: expected images as they are stored, {pair.id!r} is of mirrored ones")
    arrays = {key: getattr(pair, key) for key in (*POINTS, *BOXES)}
    members = {key: getattr(pair, key) for key in ("id", "src", "tgt", *TEXTS)}
    members |= {key: array.tolist() for key, array in arrays.items() if array is not None}
    return {key: value for key, value in members.items() if value != ""}


def _line(members: Mapping[str, Any]) -> str:
    return json.dumps(members) + "\n"
