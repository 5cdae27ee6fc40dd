"""Which arrays a set of weights consists of, and the strict comparison of a file with that list.

Every reader of this package turns its file into `Entry`s and lets `collect` say, in one error, everything that is
missing, unexpected, there twice or of the wrong shape. Nothing is read from the file before its shape is known to be
right, so a file that announces an absurd array costs no memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from rtn_jax.weights.containers import UnusableFile

AnyArray = Shaped[np.ndarray, "..."]
Layers = dict[str, dict[str, AnyArray]]
"""`{layer: {name: array}}`, float32: a kernel is `[h, w, c_in, c_out]`, a scale or bias `[c_out]`."""

LISTED_AT_MOST = 20  # names of one kind in an error; a ResNet has some hundreds
FLOATING = ("float16", "bfloat16", "float32", "float64")

GEOMETRY = {  # layer: (side of the kernel, channels in, channels out); conv6-9 take [upsampled, skip]
    "conv1": (9, 81, 64),
    "conv1b": (3, 64, 64),
    "conv2": (3, 64, 128),
    "conv2b": (3, 128, 128),
    "conv3": (3, 128, 256),
    "conv3b": (3, 256, 256),
    "conv4": (3, 256, 512),
    "conv4b": (3, 512, 512),
    "conv5": (3, 512, 512),
    "conv5b": (3, 512, 512),
    "conv6": (3, 1024, 512),
    "conv6b": (3, 512, 512),
    "conv7": (3, 768, 256),
    "conv7b": (3, 256, 256),
    "conv8": (3, 384, 128),
    "conv8b": (3, 128, 128),
    "conv9": (3, 192, 64),
    "conv9b": (3, 64, 64),
    "conv10": (9, 64, 6),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One array of a file, not read yet."""

    name: str  # in the words of the file's format
    shape: tuple[int, ...]
    dtype: str  # NumPy's name of it, or the format's where NumPy has none
    read: Callable[[], AnyArray]


@dataclass(frozen=True)
class Wanted:
    """One array that a file is to hold."""

    name: str  # in the words of the file's format
    shape: tuple[int, ...]
    optional: bool = False


def collect(
    path: Path, entries: Sequence[Entry], wanted: Sequence[Wanted], *, ignored: Collection[str] = (), what: str
) -> dict[str, AnyArray]:
    """The wanted arrays of a file as `{name: float32 array}`.

    Args:
        path: the file, for the error text.
        entries: all arrays of the file.
        wanted: the arrays that must be there, each once; optional ones may be missing.
        ignored: names that may be there and are not read.
        what: whose arrays are wanted, for the error text.

    Raises:
        UnusableFile: lists all names that are missing, unexpected, there more than once, of another shape or type, or
            hold values that are not finite.
    """
    entries = [entry for entry in entries if entry.name not in ignored]
    shapes = {array.name: array.shape for array in wanted}
    counts = Counter(entry.name for entry in entries)
    problems = {
        "missing": [array.name for array in wanted if array.name not in counts and not array.optional],
        "unexpected": [name for name in counts if name not in shapes],
        "more than once": [name for name, count in counts.items() if count > 1],
        "of the wrong shape": [
            f"{entry.name} (found {_dims(entry.shape)}, expected {_dims(shapes[entry.name])})"
            for entry in entries
            if entry.name in shapes and entry.shape != shapes[entry.name]
        ],
        "of the wrong type": [
            f"{entry.name} (found {entry.dtype}, expected floating point)"
            for entry in entries
            if entry.name in shapes and entry.dtype not in FLOATING
        ],
    }
    _raise_if_any(path, what, problems)
    arrays = {entry.name: float32(entry.read().reshape(shapes[entry.name])) for entry in entries}
    _raise_if_any(path, what, {"not finite": [name for name, array in arrays.items() if not np.isfinite(array).all()]})
    return arrays


def float32(array: AnyArray) -> AnyArray:
    """The array in C order; what is too large for float32 becomes infinite, to be found and reported."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def listed(names: Sequence[str], at_most: int = LISTED_AT_MOST) -> str:
    """`a, b and 3 more`."""
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")


def _raise_if_any(path: Path, what: str, problems: Mapping[str, Sequence[str]]) -> None:
    texts = [f"{kind}: {listed(names)}" for kind, names in problems.items() if names]
    if texts:
        raise UnusableFile(f"{path}: these arrays are not those of {what}; " + "; ".join(texts))


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "a single number"
