"""Unpacking a published archive, which may be damaged or hostile: nothing outside the folder, nothing without end.

The whole archive is unpacked into a temporary folder beside and then moved, so that half a data set is never taken for
a whole one.
"""

from __future__ import annotations

import io
import lzma
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, cast

CHUNK = 1 << 18  # bytes
ENTRIES = 300_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_END = struct.Struct("<10sH10s")  # the record behind the directory, of which the number of entries is of interest
_MANY = 0xFFFF  # there are more than this field can say

# What zipfile and tarfile raise on damaged archives besides ValueError, by their sources and by damaging some.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError),
    *(LookupError, ArithmeticError, NotImplementedError, RuntimeError, MemoryError, TypeError),
)


def unpack(archive: Path, folder: Path, *, top: str, limit: int, entries: int = ENTRIES) -> Path:
    """Puts the folder `top` of a zip, tar or tar.gz archive (its content decides which) into `folder`.

    Everything in the archive is checked; what lies beside `top` is not kept. Permissions and times are not taken over.

    Args:
        archive: the file.
        folder: where to put it; is made.
        top: a folder at the top of the archive.
        limit: bytes that may be unpacked, counted as they come; for a tar file the headers count as well.
        entries: members there may be.

    Returns:
        The folder, `<folder>/<top>`.

    Raises:
        ValueError: the archive is none, damaged, encrypted or too large, has a member that would lie outside, a link or
            a device, or has no folder `top`; or `<folder>/<top>` exists. Nothing is left behind.
    """
    final = folder / top
    if final.exists():
        raise ValueError(f"{final}: is there already, {archive.name} is not unpacked over it")
    with _explained(archive):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-", ignore_cleanup_errors=True) as temporary:
            sink = _Sink(Path(temporary), limit, entries)
            with archive.open("rb") as file:
                if file.read(2) == b"PK":
                    _unpack_zip(file, sink)
                else:
                    _unpack_tar(file, sink)
            if not (Path(temporary) / top).is_dir():
                found = ", ".join(sorted(os.listdir(temporary))[:5]) or "nothing"
                raise ValueError(f"expected the folder {top!r} in it, found {found}")
            os.replace(Path(temporary) / top, final)
    return final


@dataclass
class _Sink:
    """Where members go, and how many bytes and members may still come."""

    folder: Path
    limit: int
    entries: int
    came: int = 0

    def place(self, name: str) -> Path:
        """Where a member belongs."""
        self.entries -= 1
        if self.entries < 0:
            raise ValueError("has too many entries")
        path = PureWindowsPath(name)  # the strictest reading: knows drives and backslashes
        if path.anchor or ".." in path.parts or "\0" in name:
            raise ValueError(f"has the entry {name!r}, which would lie outside the folder")
        return self.folder / PurePosixPath(name)

    def make_folder(self, name: str) -> None:
        self.place(name).mkdir(parents=True, exist_ok=True)

    def write(self, name: str, read: Callable[[int], bytes], size: int) -> None:
        """A member's bytes, of which `size` are announced."""
        path = self.place(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = self.came
        with path.open("xb") as file:
            while piece := read(CHUNK):
                self.came += len(piece)
                if self.came > self.limit:
                    raise ValueError(_too_large(self.limit))
                file.write(piece)
        if self.came - before != size:
            raise ValueError(f"is damaged: {name!r} has {self.came - before:,} bytes, expected {size:,}")


def _unpack_zip(file: io.BufferedIOBase, sink: _Sink) -> None:
    with zipfile.ZipFile(cast(BinaryIO, file)) as archive:
        _check_count(file, archive)
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.flag_bits & _ENCRYPTED:
                raise ValueError(f"has the encrypted entry {member.filename!r}")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"has the entry {member.filename!r}, which is a link or a device")
            if member.compress_type not in _METHODS:
                raise ValueError(f"has the entry {member.filename!r}, compressed by an unusual method")
            if member.is_dir():
                sink.make_folder(member.filename)
                continue
            with archive.open(member) as content:
                sink.write(member.filename, content.read, member.file_size)


def _check_count(file: io.BufferedIOBase, archive: zipfile.ZipFile) -> None:
    """That no entry of the directory was swallowed by a damaged one before it: zipfile does not count them."""
    file.seek(-_END.size - len(archive.comment), os.SEEK_END)
    _, stated, _ = _END.unpack(file.read(_END.size))
    found = len(archive.infolist())
    if stated not in (found, _MANY):
        raise ValueError(f"is damaged: states {stated} entries, has {found}")


def _unpack_tar(file: io.BufferedIOBase, sink: _Sink) -> None:
    with _stream(file) as stream:
        bounded = _Bounded(stream, sink.limit)
        with tarfile.open(fileobj=cast(BinaryIO, bounded), mode="r:") as archive:
            for member in archive:
                if member.isdir():
                    sink.make_folder(member.name)
                elif member.isreg() and not member.issparse():
                    content: Any = archive.extractfile(member)
                    sink.write(member.name, content.read, member.size)
                else:
                    raise ValueError(f"has the entry {member.name!r}, which is a link, a device or sparse")
            _check_end(bounded, archive.offset, packed=stream is not file)


@contextmanager
def _stream(file: io.BufferedIOBase) -> Iterator[io.BufferedIOBase]:
    """The bytes of the tar file, whether it is compressed or not."""
    import gzip

    file.seek(0)
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if not packed:
        yield file
        return
    with gzip.open(file) as stream:
        yield stream


def _check_end(stream: _Bounded, offset: int, packed: bool) -> None:
    """That the reader stopped at the mark of the end: it takes a damaged header, or no more bytes, for the end too."""
    stream.seek(offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE) and not (packed and not block):
        raise ValueError(f"is damaged or cut off at byte {offset:,}")
    while stream.read(CHUNK):  # to the end, where gzip compares its checksum
        pass


class _Bounded:
    """A stream that refuses to be read beyond a limit, however large its headers say a piece is."""

    def __init__(self, stream: io.BufferedIOBase, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self.tell = stream.tell

    def seek(self, offset: int) -> int:
        return self._stream.seek(min(offset, self._limit))

    def read(self, size: int) -> bytes:
        piece = self._stream.read(min(size, self._limit + 1))
        if self._stream.tell() > self._limit:
            raise ValueError(_too_large(self._limit))
        return piece


def _too_large(limit: int) -> str:
    return f"unpacks to more than the {limit:,} bytes expected at most"


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    """Turns whatever an archive may raise into one line that names it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{archive}: {error}") from error
    except OSError as error:
        raise ValueError(f"{archive}: cannot be unpacked: {error.strerror or error}") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{archive}: is damaged or no archive of a known kind: {reason}") from error
