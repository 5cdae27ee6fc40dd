"""The arrays of the networks that MatConvNet saves in MATLAB files, v7 and v7.3."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rtn_jax.weights.containers import UnusableFile
from rtn_jax.weights.formats import Format
from rtn_jax.weights.layout import Entry
from rtn_jax.weights.matconvnet import DAGNN, SIMPLENN
from rtn_jax.weights.matfile import open_variable, variable_names
from rtn_jax.weights.released import FCSS, RELEASED
from rtn_jax.weights.values import Value

_KERNEL = re.compile(r".* kernel|conv\d_\d+f|geo_.*_f|.*_filter")
_MOMENTS = re.compile(r".*_moments")


@contextmanager
def open_network(path: Path) -> Iterator[tuple[list[Entry], Sequence[Format]]]:
    """The arrays of the network in a MATLAB file, to be read inside the `with` block, and the formats it may have.

    Raises:
        UnusableFile: (a `ValueError`) not a MATLAB file, truncated or damaged, or without a network of MatConvNet.
    """
    there = variable_names(path)
    # A DagNN saved as a struct of its own has a variable `layers` as well, which is not that of a SimpleNN.
    for variable, formats in (("params", (DAGNN,)), ("layers", (SIMPLENN,)), ("net", (RELEASED, FCSS, DAGNN))):
        if variable in there:
            with open_variable(path, variable) as value:
                yield _entries(variable, value), formats
            return
    raise UnusableFile(f"{path}: expected a variable 'net', 'params' or 'layers', found none of them")


def _entries(variable: str, value: Value) -> list[Entry]:
    if variable == "layers":
        return _simplenn_entries(value)
    return _dagnn_entries(value.only("params") if variable == "net" else value)


def _dagnn_entries(params: Value) -> list[Entry]:
    """The parameters of a DagNN: a struct array with `name` and `value`."""
    names, values = params.field("name"), params.field("value")
    if len(names) != len(values):
        raise UnusableFile(f"{params.where}: expected one value per name, found {len(values)} for {len(names)}")
    return [_entry(name.text(), value) for name, value in zip(names, values, strict=True)]


def _simplenn_entries(layers: Value) -> list[Entry]:
    """The parameters of a SimpleNN: a cell array of layers, where convolutions have `weights = {kernel, bias}`."""
    entries: list[Entry] = []
    for layer in layers.cells():
        if not layer.has_field("weights"):
            continue
        name, weights = layer.only("name").text(), layer.only("weights").cells()
        if not weights:  # pooling and ReLU layers of some versions
            continue
        if len(weights) != 2:
            raise UnusableFile(f"{layer.where}: expected a kernel and a bias in {name!r}, found {len(weights)} arrays")
        entries += [_entry(f"{name} {part}", value) for part, value in zip(("kernel", "bias"), weights, strict=True)]
    return entries


def _entry(name: str, value: Value) -> Entry:
    """MATLAB knows no vectors (a bias is a row or a column) and drops trailing axes of one."""
    shape = value.shape
    if _KERNEL.fullmatch(name):
        shape = shape + (1,) * (4 - len(shape))
    elif not _MOMENTS.fullmatch(name) and sum(size != 1 for size in shape) <= 1:
        shape = (math.prod(shape),)
    return Entry(name=name, shape=shape, dtype=value.dtype.name, read=value.read)
