"""MATLAB v5-v7 files, read by their published format ("MAT-File Format", MathWorks).

Not by scipy: it indexes a table in C with type codes as they stand in the file, so that a damaged file crashes the
interpreter (scipy pull request 25349, not in 1.17). And it builds every array of a network, where this builds those
asked for.

A file is a header of 128 bytes and a sequence of elements: a tag of 8 bytes (type code, length) and data, padded to 8
bytes; data of up to 4 bytes may share the tag. A variable is an element of type matrix, mostly inside a compressed one.
A matrix is empty or consists of elements again: flags (with its class), dimensions, name, then what its class asks for.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rtn_jax.weights.containers import UnusableFile
from rtn_jax.weights.layout import AnyArray
from rtn_jax.weights.values import LONGEST_NAME, Value, element_places

HEADER = 128  # bytes before the first element
LARGEST = 1 << 32  # bytes that one compressed variable may unfold to
INT32, UINT32, MATRIX, COMPRESSED, UTF8 = 5, 6, 14, 15, 16  # type codes
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # by type code
CELL, STRUCT, CHAR = 1, 2, 4  # classes
NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}  # by class
COMPLEX = 0x0800  # the flag of an array that has imaginary parts


class Mat5File:
    """The variables of a little-endian file, the only kind that MATLAB has written for many years."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = memoryview(path.read_bytes())
        if bytes(self._content[126:128]) != b"IM":
            raise UnusableFile(f"{path}: the MATLAB file is truncated, damaged or of another byte order")

    def names(self) -> list[str]:
        """The names of all variables."""
        return [name for name, _ in self._variables()]

    def variable(self, name: str) -> Value | None:
        """The variable of that name, or None."""
        for found, element in self._variables():
            if found == name:
                return Mat5Value(f"{self._path}: {name}", self._unfolded(element))
        return None

    def _variables(self) -> Iterator[tuple[str, memoryview]]:
        """Name and element of every variable; of a compressed one only the beginning is unfolded."""
        position = HEADER
        while position < len(self._content):
            code, length, start = _tag(str(self._path), self._content, position)
            if code not in (MATRIX, COMPRESSED) or start + length > len(self._content):
                raise UnusableFile(f"{self._path}: the MATLAB file is truncated or damaged")
            element = self._content[position : start + length]
            beginning = self._unfolded(element, HEADER + LONGEST_NAME)
            _, _, name = _head(str(self._path), beginning)
            yield name, element
            position = start + length

    def _unfolded(self, element: memoryview, limit: int | None = None) -> memoryview:
        """The content of a variable's matrix element, or at least `limit` bytes of it if it has so many."""
        code, _, start = _tag(str(self._path), element, 0)
        if code == MATRIX:
            return element[start:]
        unfold = zlib.decompressobj()
        try:
            content = memoryview(unfold.decompress(element[start:], limit or LARGEST))
        except zlib.error as error:
            raise UnusableFile(f"{self._path}: the MATLAB file is truncated or damaged ({error})") from error
        code, length, start = _tag(str(self._path), content, 0)
        if code != MATRIX or (limit is None and not (unfold.eof and len(content) == start + length)):
            raise UnusableFile(f"{self._path}: the MATLAB file is truncated or damaged (an incomplete variable)")
        return content[start:]


class Mat5Value(Value):
    """A matrix element; nothing inside it is looked at before it is asked for."""

    def __init__(self, where: str, content: memoryview) -> None:
        self.where = where
        self._flags, self.shape, self._body = 0, (0, 0), []
        if len(content):
            self._flags, self.shape, _ = _head(where, content)
            self._body = list(_elements(where, content))[3:]
        self._class = self._flags & 0xFF
        kind = NUMERIC.get(self._class, "O")
        self.dtype = np.dtype("c16" if self._flags & COMPLEX else kind)

    def has_field(self, name: str) -> bool:
        return self._class == STRUCT and name in self._field_names()

    def field(self, name: str) -> list[Value]:
        if not self.has_field(name):
            raise self._expected(f"a struct with the field {name!r}")
        names = self._field_names()
        matrices = self._matrices(2, len(names))[names.index(name) :: len(names)]
        return self._placed(f"{self.where}.{name}", matrices)

    def cells(self) -> list[Value]:
        if self._class != CELL:
            raise self._expected("a cell array")
        return self._placed(self.where, self._matrices(0, 1))

    def text(self) -> str:
        if self._class != CHAR or not self._body or len(self._body[0][1]) > LONGEST_NAME:
            raise self._expected("a text")
        code, data = self._body[0]
        if code == UTF8 or STORED.get(code) in ("i1", "u1"):
            return bytes(data).decode("utf-8", "replace")
        return bytes(data).decode("utf-16-le", "replace")

    def read(self) -> AnyArray:
        code, data = self._body[0] if self._body else (0, memoryview(b""))
        stored = np.dtype("<" + STORED[code]) if code in STORED else None
        if stored is None or self.dtype.kind not in "fiu" or len(data) != math.prod(self.shape) * stored.itemsize:
            raise self._expected(f"an array of {math.prod(self.shape)} numbers")
        # MATLAB packs whole numbers of a float array into small integers: `stored` may differ from `dtype`, the class.
        return np.frombuffer(data, stored).reshape(self.shape, order="F")

    def _field_names(self) -> list[str]:
        if len(self._body) < 2 or len(self._body[0][1]) != 4:
            raise self._expected("the names of a struct's fields")
        (length,) = struct.unpack("<i", self._body[0][1])
        joined = bytes(self._body[1][1])
        if length < 1 or len(joined) % length:
            raise self._expected("the names of a struct's fields")
        return [_text(joined[at : at + length]) for at in range(0, len(joined), length)]

    def _matrices(self, first: int, per_element: int) -> list[memoryview]:
        """The matrices inside this one, `per_element` for each element of its shape."""
        matrices = self._body[first:]
        if len(matrices) != math.prod(self.shape) * per_element or any(code != MATRIX for code, _ in matrices):
            raise self._expected(f"{math.prod(self.shape)} elements")
        return [data for _, data in matrices]

    def _placed(self, where: str, matrices: list[memoryview]) -> list[Value]:
        places = element_places(where, len(matrices))
        return [Mat5Value(place, data) for place, data in zip(places, matrices, strict=True)]


def _head(where: str, content: memoryview) -> tuple[int, tuple[int, ...], str]:
    """Flags, dimensions and name of a matrix; of an object that has none, the flags."""
    parts = list(itertools.islice(_elements(where, content), 3))  # what follows may be cut off
    codes, data = [code for code, _ in parts], [part for _, part in parts]
    if codes[:1] != [UINT32] or len(data[0]) != 8:
        raise UnusableFile(f"{where}: expected a matrix with flags, found something else")
    (flags,) = struct.unpack_from("<I", data[0])
    if flags & 0xFF not in (CELL, STRUCT, CHAR, *NUMERIC):
        return flags, (1, 1), ""
    if codes[1:2] != [INT32] or len(codes) < 3 or len(data[1]) % 4 or len(data[1]) > 4 * 32:
        raise UnusableFile(f"{where}: expected the dimensions and the name of a matrix, found something else")
    dims = struct.unpack(f"<{len(data[1]) // 4}i", data[1])
    if len(dims) < 2 or min(dims) < 0:
        raise UnusableFile(f"{where}: expected dimensions, found {dims}")
    return flags, dims, _text(bytes(data[2]))


def _elements(where: str, content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type code and data of the elements that follow each other in a matrix."""
    position = 0
    while position < len(content):
        code, length, start = _tag(where, content, position)
        end = start + length
        if end > len(content):
            raise UnusableFile(f"{where}: an element reaches {end - len(content)} bytes beyond what it lies in")
        yield code, content[start:end]
        position = end + -end % 8


def _tag(where: str, content: memoryview, position: int) -> tuple[int, int, int]:
    """The type code, the length and the place of an element's data."""
    if position + 8 > len(content):
        raise UnusableFile(f"{where}: the MATLAB file is truncated or damaged (an incomplete tag)")
    code, length = struct.unpack_from("<II", content, position)
    if code >> 16 == 0:
        return code, length, position + 8
    code, length = code & 0xFFFF, code >> 16  # the short form: tag and data share 8 bytes
    if length > 4:
        raise UnusableFile(f"{where}: the MATLAB file is damaged (a short element of {length} bytes)")
    return code, length, position + 4


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("utf-8", "replace")
