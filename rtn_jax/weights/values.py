"""MATLAB's structs, cells and texts as the readers see them, whichever version of file they lie in."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from rtn_jax.weights.containers import UnusableFile
from rtn_jax.weights.layout import AnyArray

LONGEST_NAME = 1000  # bytes; a text longer than that is not the name of an array


class Value(ABC):
    """A MATLAB value. `where` is its place in the file, for error texts; `shape` is the one MATLAB shows.

    The methods raise `UnusableFile` (a `ValueError`) where the value is not what they are for, or is damaged.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype  # object for everything that is not numeric

    @abstractmethod
    def has_field(self, name: str) -> bool:
        """Whether this is a struct (array) with that field."""

    @abstractmethod
    def field(self, name: str) -> list[Value]:
        """The field's value in every element of a struct array (one for a plain struct)."""

    @abstractmethod
    def cells(self) -> list[Value]:
        """The elements of a cell array."""

    @abstractmethod
    def text(self) -> str:
        """A row of characters."""

    @abstractmethod
    def read(self) -> AnyArray:
        """A numeric array, axes as in MATLAB; its numbers may be stored in a smaller type than `dtype`."""

    def only(self, name: str) -> Value:
        """The field's value in a plain struct."""
        values = self.field(name)
        if len(values) != 1:
            raise UnusableFile(f"{self.where}: expected one struct, found an array of {len(values)}")
        return values[0]

    def _expected(self, what: str) -> UnusableFile:
        return UnusableFile(f"{self.where}: expected {what}, found something else")


def element_places(where: str, count: int) -> list[str]:
    """The places of an array's elements, for error texts; a single element needs no number."""
    return [f"{where}{{{i}}}" for i in range(1, count + 1)] if count != 1 else [where]
