"""The variables of a MATLAB file, of either version. Reading executes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rtn_jax.weights.containers import UnusableFile, container, open_hdf5
from rtn_jax.weights.mat5 import Mat5File
from rtn_jax.weights.mat73 import Mat73Value, member
from rtn_jax.weights.values import Value


@contextmanager
def open_variable(path: Path, name: str) -> Iterator[Value]:
    """A variable of a MATLAB file; it can be read inside the `with` block.

    Raises:
        UnusableFile: (a `ValueError`) not a MATLAB file, truncated or damaged, or without such a variable.
    """
    kind = container(path)
    if kind == "hdf5":
        raise UnusableFile(f"{path}: expected a MATLAB v7 or v7.3 file, found hdf5")
    missing = UnusableFile(f"{path}: expected a variable {name!r}, which is not there")
    if kind == "matlab-v7.3":
        with open_hdf5(path) as file:
            if name not in file:
                raise missing
            yield Mat73Value(f"{path}: {name}", member(file, name))
    else:
        value = Mat5File(path).variable(name)
        if value is None:
            raise missing
        yield value


def variable_names(path: Path) -> set[str]:
    """The names of a MATLAB file's variables; a damaged one raises `UnusableFile`."""
    if container(path) == "matlab-v7.3":
        with open_hdf5(path) as file:
            # h5py gives a name that is no UTF-8, as of a damaged file, as bytes.
            return {name if isinstance(name, str) else name.decode("utf-8", "replace") for name in file}
    return set(Mat5File(path).names())
