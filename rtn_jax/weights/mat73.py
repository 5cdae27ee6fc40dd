"""MATLAB v7.3 files: HDF5 behind a MATLAB header.

Every array is stored with its axes reversed, a text as 16-bit characters, a struct as a group, and the elements of a
cell array or of a struct array's field as references into a hidden group.
"""

from __future__ import annotations

import h5py
import numpy as np

from rtn_jax.weights.containers import UnusableFile, inner_dataset
from rtn_jax.weights.layout import AnyArray
from rtn_jax.weights.values import LONGEST_NAME, Value, element_places

MOST_ELEMENTS = 100_000  # of a cell or struct array; a network has some hundreds


class Mat73Value(Value):
    """A group (a struct) or a dataset, whose attribute `MATLAB_class` says what it is."""

    def __init__(self, where: str, node: h5py.Group | h5py.Dataset) -> None:
        self.where = where
        self._node = node
        self.shape, self.dtype = (1, 1), np.dtype(object)
        if isinstance(node, h5py.Dataset):
            # An empty array is stored as the list of its dimensions, marked as such.
            self.shape = (0, 0) if node.attrs.get("MATLAB_empty", 0) else tuple(reversed(node.shape or ()))
            self.dtype = node.dtype

    def has_field(self, name: str) -> bool:
        return isinstance(self._node, h5py.Group) and name in self._node

    def field(self, name: str) -> list[Value]:
        if not self.has_field(name):
            raise self._expected(f"a struct with the field {name!r}")
        node, where = member(self._node, name), f"{self.where}.{name}"
        # In a struct array a field is a dataset of references; a cell array is one as well but says that it is.
        if _holds_references(node) and _matlab_class(node) != "cell":
            return _followed(node, where)
        return [Mat73Value(where, node)]

    def cells(self) -> list[Value]:
        if _matlab_class(self._node) != "cell":
            raise self._expected("a cell array")
        # A cell array without elements is stored as an empty array.
        return _followed(self._node, self.where) if _holds_references(self._node) else []

    def text(self) -> str:
        is_text = _matlab_class(self._node) == "char" and self.dtype.kind == "u"
        if not is_text or self._node.size > LONGEST_NAME:
            raise self._expected("a text")
        return "" if 0 in self.shape else "".join(chr(code) for code in self._node[()].ravel())

    def read(self) -> AnyArray:
        return self._node[()].T


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """A member of a group that lies in the same file.

    Raises:
        UnusableFile: the member is a link, or has its values in another file.
    """
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise UnusableFile(f"{group.file.filename}: {name} is a link to another place, which is refused")
    return inner_dataset(group[name])


def _followed(dataset: h5py.Dataset, where: str) -> list[Value]:
    if dataset.size > MOST_ELEMENTS:
        raise UnusableFile(f"{where}: expected at most {MOST_ELEMENTS} elements, found {dataset.size}")
    references = dataset[()].ravel()
    if not all(references):
        raise UnusableFile(f"{where}: an element refers to nothing")
    nodes = [inner_dataset(dataset.file[reference]) for reference in references]
    return [Mat73Value(*place) for place in zip(element_places(where, len(nodes)), nodes, strict=True)]


def _matlab_class(node: h5py.Group | h5py.Dataset) -> str:
    name = node.attrs.get("MATLAB_class", b"")
    return name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)


def _holds_references(node: h5py.Group | h5py.Dataset) -> bool:
    return isinstance(node, h5py.Dataset) and h5py.check_ref_dtype(node.dtype) is h5py.Reference
