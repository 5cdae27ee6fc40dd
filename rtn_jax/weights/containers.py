"""What kind of file one is, judged by its first bytes, and the opening of those that hold weights."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Literal

import h5py

Container = Literal["hdf5", "safetensors", "matlab-v7", "matlab-v7.3"]

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MATLAB_USERBLOCK = 512  # bytes before the HDF5 content of a MATLAB v7.3 file
LONGEST_HEADER = 100_000_000  # bytes, of a safetensors file
KNOWN = "a Keras HDF5 file (.h5), a safetensors file (.safetensors) or a MATLAB v7 or v7.3 file (.mat)"
PICKLE_SUFFIXES = (".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin")


class UnusableFile(ValueError):
    """A file of weights that cannot be used; the message begins with its path."""


def container(path: str | PathLike[str]) -> Container:
    """Whether a file is HDF5 (Keras), safetensors, MATLAB v5-v7 or MATLAB v7.3 (HDF5 behind a MATLAB header).

    Raises:
        UnusableFile: (a `ValueError`) `path` is no file, or its content is none of these; pickles are refused in words.
    """
    path = Path(path)
    if not path.is_file():
        raise UnusableFile(f"{path}: no such file{', it is a folder' if path.is_dir() else ''}")
    with path.open("rb") as file:
        head = file.read(MATLAB_USERBLOCK + len(HDF5_SIGNATURE))
    if not head:
        raise UnusableFile(f"{path}: expected a file with content, found an empty file")
    if head.startswith(HDF5_SIGNATURE):
        return "hdf5"
    if head.startswith(b"MATLAB 7.3") and head[MATLAB_USERBLOCK:] == HDF5_SIGNATURE:
        return "matlab-v7.3"
    if head.startswith(b"MATLAB 5.0"):
        return "matlab-v7"
    if _looks_like_tensors(head):
        return "safetensors"
    if _looks_pickled(path, head):
        raise UnusableFile(
            f"{path}: this looks like a pickle (PyTorch), which can run any program when it is read, so it is refused; "
            f"give {KNOWN}"
        )
    if _is_keras_archive(path):
        raise UnusableFile(f"{path}: expected {KNOWN}, found a Keras archive; save its model with save_weights(...h5)")
    raise UnusableFile(f"{path}: expected {KNOWN}, found a file that begins with {head[:8]!r}")


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading inside the `with` block.

    Raises:
        UnusableFile: the file is truncated or damaged, whether that shows on opening or on reading inside the block.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UnusableFile:
        raise
    except Exception as error:  # damaged bytes come out of h5py as OSError, RuntimeError, KeyError, ValueError and more
        raise UnusableFile(f"{path}: the HDF5 file is truncated or damaged ({error})") from error


def inner_dataset(node: h5py.Group | h5py.Dataset) -> h5py.Group | h5py.Dataset:
    """The node itself, unless it is a dataset whose values lie in another file.

    Raises:
        UnusableFile: they do; a file of weights has no business to read another one.
    """
    if isinstance(node, h5py.Dataset) and (node.is_virtual or node.external):
        raise UnusableFile(f"{node.file.filename}: {node.name} has its values in another file, which is refused")
    return node


def _looks_like_tensors(head: bytes) -> bool:
    """The length of a header, in eight bytes, and a header in JSON; whether they are true the reader finds out."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER


def _is_keras_archive(path: Path) -> bool:
    """`model.keras`: a zip archive with the weights inside."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "model.weights.h5" in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False


def _looks_pickled(path: Path, head: bytes) -> bool:
    """PyTorch's zip archives hold `<name>/data.pkl` first; bare pickles of protocol 2 and later begin with 0x80."""
    zipped = head.startswith(b"PK\x03\x04") and b"data.pkl" in head
    return zipped or (head[:1] == b"\x80" and head[1:2] <= b"\x05") or path.suffix.lower() in PICKLE_SUFFIXES
