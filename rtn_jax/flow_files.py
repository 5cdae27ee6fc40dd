"""Flows in files: the Middlebury format `.flo`, in which TSS and most methods exchange them, and NumPy's `.npy`.

A `.flo` file is the float32 202021.25 (the bytes `PIEH`), width and height as int32, and for every pixel, row by row,
(u, v) as float32, all little-endian; a component of 1e9 or more says that the flow is not known there (Baker et al.,
"A database and evaluation methodology for optical flow", IJCV 2011, and the format's reference implementation).
"""

from __future__ import annotations

import os
import struct
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from rtn_jax.coordinates import Shape
from rtn_jax.images import check_place, write_atomically

SUFFIXES = (".flo", ".npy")
MAX_PIXELS = 100_000_000
"""A larger flow is refused before memory is asked for: the size stands in a damaged header as likely as not."""
UNKNOWN_MARK = 1e10
"""What stands for NaN in a `.flo` file."""

_MAGIC = b"PIEH"
_HEADER = struct.Struct("<4sii")  # magic, width, height
_VECTOR = np.dtype(("<f4", 2))

# What NumPy raises on a damaged header: it is parsed as Python text. Warning: where warnings are errors.
_DAMAGED = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(SyntaxError, MemoryError, RecursionError, tokenize.TokenError, Warning),
)


def read_flow(path: str | os.PathLike[str]) -> Float[np.ndarray, "H W 2"]:
    """The flow in a file, float32 pixels (x, y), as it stands there: unknown displacements keep their marks.

    Args:
        path: the suffix decides the format: `.flo`, or `.npy` with an array `[H, W, 2]` of floats of any precision.

    Raises:
        ValueError: another suffix, no such file, no flow of that format, cut off or too long, or a flow without pixels
            or of more than 100 million; the message begins with the path.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():  # a pipe would block for ever
        raise ValueError(f"{path}: {'not an ordinary file' if path.exists() else 'no such file'}")
    try:
        return _read_flo(path) if path.suffix.lower() == ".flo" else _read_npy(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read, {error.strerror or error}") from error


def write_flow(path: str | os.PathLike[str], flow: ArrayLike) -> None:
    """Writes a flow `[H, W, 2]` of pixels (x, y) as float32; the suffix (.flo, .npy) decides the format.

    `read_flow` gives every bit back, but for NaN in a `.flo` file, which becomes 1e10, the format's mark of unknown.
    The file appears whole or not at all, and an older one stays until then.

    Raises:
        ValueError: another suffix, not a flow, or a path that cannot be written.
    """
    array = np.asarray(flow)
    if array.ndim != 3 or array.shape[-1] != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise ValueError(f"flow: expected numbers [H, W, 2], got shape {list(array.shape)} {array.dtype}")
    write_flow_bands(path, array.shape[:2], [array])


def write_flow_bands(path: str | os.PathLike[str], shape: Shape, bands: Iterable[ArrayLike]) -> None:
    """Writes a flow that is computed band by band, so that a large one never has to be held in memory.

    Args:
        path: as for `write_flow`.
        shape: (height, width) of the whole flow.
        bands: its rows from top to bottom, any number `[rows, W, 2]` at a time; together as many as `shape` says.

    Raises:
        ValueError: another suffix, or a path that cannot be written.
    """
    path = Path(path)
    _check_suffix(path)
    height, width = shape

    def write(file: BinaryIO) -> None:
        if path.suffix.lower() == ".flo":
            file.write(_HEADER.pack(_MAGIC, width, height))
        else:
            header = {"descr": "<f4", "fortran_order": False, "shape": (height, width, 2)}
            np.lib.format.write_array_header_1_0(file, header)
        for band in bands:
            values = _float32(np.asarray(band))
            if path.suffix.lower() == ".flo":
                values[np.isnan(values)] = UNKNOWN_MARK
            file.write(np.ascontiguousarray(values, "<f4").data)

    write_atomically(path, write)


def check_flow_writable(path: str | os.PathLike[str]) -> None:
    """Fails now rather than after the long work, if `write_flow(path, ...)` could not write there.

    Raises:
        ValueError: another suffix, the path is a folder, or its folder is missing or not writable.
    """
    _check_suffix(Path(path))
    check_place(path)


def _read_flo(path: Path) -> Float[np.ndarray, "H W 2"]:
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if header[:4] != _MAGIC:
            raise ValueError(f"{path}: expected a .flo file, which begins with {_MAGIC!r}, got {header[:4]!r}")
        if len(header) < _HEADER.size:
            raise ValueError(f"{path}: expected a header of {_HEADER.size} bytes, got {len(header)}")
        _, width, height = _HEADER.unpack(header)
        _check_size(path, width, height)
        expected = _HEADER.size + width * height * _VECTOR.itemsize
        found = os.fstat(file.fileno()).st_size
        if found != expected:
            raise ValueError(f"{path}: expected {expected} bytes for {width} x {height} pixels, got {found}")
        content = file.read(expected)
    if len(content) + _HEADER.size != expected:
        raise ValueError(f"{path}: expected {expected} bytes, got {len(content) + _HEADER.size}")
    return _float32(np.frombuffer(content, _VECTOR).reshape(height, width, 2))


def _read_npy(path: Path) -> Float[np.ndarray, "H W 2"]:
    try:  # mapped, not loaded: NumPy would take the memory that the header asks for; pickles cannot be mapped
        array = np.lib.format.open_memmap(path, mode="r")
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: expected a .npy file with a flow [H, W, 2] ({reason[:200]})") from error
    if array.ndim != 3 or array.shape[-1] != 2 or array.dtype.kind != "f":
        got = f"shape {list(array.shape)} {array.dtype}"
        raise ValueError(f"{path}: expected a flow [H, W, 2] of floats, got {got}")
    _check_size(path, array.shape[1], array.shape[0])
    return _float32(array)


def _float32(values: np.ndarray) -> Float[np.ndarray, "H W 2"]:
    """A copy in float32 and the machine's byte order; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(values, np.float32)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in one of {', '.join(SUFFIXES)}, got {path.suffix!r}")


def _check_size(path: Path, width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"{path}: expected 1 to {MAX_PIXELS:,} pixels, got {width} x {height}")
