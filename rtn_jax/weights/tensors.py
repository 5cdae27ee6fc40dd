"""The arrays of a safetensors file, read by the `safetensors` package. Nothing in such a file executes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
from safetensors.numpy import save

from rtn_jax.images import write_atomically
from rtn_jax.weights.containers import UnusableFile, container
from rtn_jax.weights.layout import AnyArray, Entry

_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


class TensorFile:
    """The header of a safetensors file, and its arrays on demand."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.metadata: dict[str, str] = dict(file.metadata() or {})

    def entries(self) -> list[Entry]:
        """All arrays."""
        return [self._entry(name) for name in sorted(self._file.keys())]

    def _entry(self, name: str) -> Entry:
        found = self._file.get_slice(name)
        dtype, shape = found.get_dtype(), tuple(found.get_shape())
        return Entry(name=name, shape=shape, dtype=_DTYPES.get(dtype, dtype), read=lambda: self._file.get_tensor(name))


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """A safetensors file, open for reading inside the `with` block.

    Raises:
        UnusableFile: another kind of file, a truncated one, or one whose header contradicts itself or the file.
    """
    kind = container(path)
    if kind != "safetensors":
        raise UnusableFile(f"{path}: expected a safetensors file, found {kind}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield TensorFile(file)
    except safetensors.SafetensorError as error:
        raise UnusableFile(f"{path}: the safetensors file is truncated or damaged ({error})") from error


def write_tensors(path: Path, arrays: Mapping[str, AnyArray], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises:
        ValueError: it cannot be written there.
    """
    content = save(dict(arrays), dict(metadata))
    write_atomically(path, lambda file: file.write(content))
