"""Writers of MATLAB files, laid out as MATLAB lays them out, for the tests of the readers.

`Struct`, `Cell` and plain NumPy arrays or texts describe what to write; `write_v7` and `write_v73` write it. The v7
writer does what `scipy.io.savemat` never does: texts as 16-bit characters, and whole numbers of a float array packed
into single bytes. `test_matlab.py` holds it and the reader against scipy.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rtn_jax.coordinates import RELEASED_AFFINE_CHANNELS, released_window_order


@dataclass(frozen=True)
class Struct:
    """A 1 x n struct array: one dict per element, all with the same fields."""

    elements: list[dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """A 1 x n cell array."""

    elements: list[Any]


def dagnn(params: list[tuple[str, Any]]) -> dict[str, Any]:
    """The variables of a `net-epoch.mat`, as DagNN.saveobj and the training script leave them."""
    layers = Struct([{"name": "conv1_1", "type": "dagnn.Conv", "inputs": Cell(["input"])}])
    listed = [
        {"name": name, "value": value, "learningRate": np.ones((1, 1)), "weightDecay": np.ones((1, 1))}
        for name, value in params
    ]
    net = Struct([{"layers": layers, "params": Struct(listed), "meta": Struct([{"note": "none"}])}])
    return {"net": net, "stats": Struct([{"train": np.zeros((1, 3))}])}


def dagnn_struct(params: list[tuple[str, Any]]) -> dict[str, Any]:
    """The variables of a DagNN saved with `save('-struct')`, as MatConvNet's models are; `layers` is no SimpleNN's."""
    return dagnn(params)["net"].elements[0]


def simplenn(weights: list[tuple[str, Any, Any]]) -> dict[str, Any]:
    """The variables of a MatConvNet SimpleNN: `layers`, where ReLU and pooling stand between the convolutions."""
    layers: list[Any] = []
    for name, kernel, bias in weights:
        layers.append(
            Struct([{"name": name, "type": "conv", "weights": Cell([kernel, bias]), "stride": np.ones((1, 2))}])
        )
        layers.append(Struct([{"name": f"relu{name[4:]}", "type": "relu"}]))
    layers.append(Struct([{"name": "pool5", "type": "pool", "weights": Cell([])}]))
    return {"layers": Cell(layers), "meta": Struct([{"note": "none"}])}


def released_params(tree: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """A weights tree in our order as the released `(name, value)`, biases as MATLAB's rows, fixed filters included."""
    params: list[tuple[str, np.ndarray]] = []
    for layer, arrays in tree["backbone"].items():
        params += [(f"{layer}f", arrays["kernel"]), (f"{layer}b", arrays["bias"][None])]
    for layer, arrays in tree["geometry"].items():
        kernel, bias = arrays["kernel"], arrays["bias"]
        if layer == "conv1":  # ours[m] = released[order[m]], so released[order] = ours
            released = np.empty_like(kernel)
            released[:, :, released_window_order((round(kernel.shape[2] ** 0.5) - 1) // 2)] = kernel
            kernel = released
        if layer == "conv10":
            released, released_bias = np.empty_like(kernel), np.empty_like(bias)
            released[..., RELEASED_AFFINE_CHANNELS], released_bias[list(RELEASED_AFFINE_CHANNELS)] = kernel, bias
            kernel, bias = released, released_bias
        params += [(f"geo_{layer}_f", kernel), (f"geo_{layer}_b", bias[None])]
    fixed = ("geo_deconv1_f", "geo_deconv2_f", "geo_deconv3_f", "geo_deconv4_f", "deconv_f_x2", "deconv_aff_x2")
    return params + [(name, np.full((4, 4, 1, 2), 0.25, np.float32)) for name in fixed]


# ---- v7 -------------------------------------------------------------------------------------------------------------

_STORED = {"int8": 1, "uint8": 2, "uint16": 4, "int32": 5, "uint32": 6, "float32": 7, "float64": 9}
_CLASSES = {"float64": 6, "float32": 7, "uint8": 9, "int32": 12, "uint32": 13}
_CELL, _STRUCT, _CHAR, _MATRIX, _COMPRESSED = 1, 2, 4, 14, 15
_FIELD_LENGTH = 32


def write_v7(path: Path, variables: dict[str, Any], compress: bool = True) -> None:
    """A MATLAB v7 file (v6, were it not for the compression)."""
    with path.open("wb") as file:
        file.write(b"MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2018".ljust(124))
        file.write(struct.pack("<H2s", 0x0100, b"IM"))
        for name, value in variables.items():
            element = _matrix(value, name)
            if compress:
                packed = zlib.compress(element, 1)
                element = struct.pack("<II", _COMPRESSED, len(packed)) + packed
            file.write(element)


def _matrix(value: Any, name: str = "") -> bytes:
    if isinstance(value, bytes):  # an element made by hand
        return value
    if isinstance(value, Struct):
        fields = list(value.elements[0]) if value.elements else []
        names = b"".join(field.encode().ljust(_FIELD_LENGTH, b"\0") for field in fields)
        body = struct.pack("<HHI", 5, 4, _FIELD_LENGTH) + element(1, names)  # a small element, then the names
        body += b"".join(_matrix(element[field]) for element in value.elements for field in fields)
        return headed(_STRUCT, (1, len(value.elements)), name, body)
    if isinstance(value, Cell):
        return headed(_CELL, (1, len(value.elements)), name, b"".join(_matrix(item) for item in value.elements))
    if isinstance(value, str):
        return headed(_CHAR, (1, len(value)), name, element(4, value.encode("utf-16-le")))
    dims = value.shape if value.ndim > 1 else (value.size, 1)
    while len(dims) > 2 and dims[-1] == 1:  # MATLAB drops trailing axes of one
        dims = dims[:-1]
    stored = value
    if value.dtype.kind == "f" and value.size < 10_000 and np.isin(value, np.arange(256)).all():
        stored = value.astype(np.uint8)  # MATLAB stores whole numbers in the smallest type that holds them
    body = element(_STORED[stored.dtype.name], stored.tobytes(order="F"))
    return headed(_CLASSES[value.dtype.name], dims, name, body)


def headed(matlab_class: int, dims: tuple[int, ...], name: str, body: bytes) -> bytes:
    flags = element(6, struct.pack("<II", matlab_class, 0))
    head = flags + element(5, struct.pack(f"<{len(dims)}i", *dims)) + element(1, name.encode())
    return struct.pack("<II", _MATRIX, len(head) + len(body)) + head + body


def element(stored: int, data: bytes) -> bytes:
    return struct.pack("<II", stored, len(data)) + data + b"\0" * (-len(data) % 8)


# ---- v7.3 -----------------------------------------------------------------------------------------------------------


def write_v73(path: Path, variables: dict[str, Any]) -> None:
    """A MATLAB v7.3 file: HDF5 behind a header of 512 bytes."""
    with h5py.File(path, "w", userblock_size=512, libver="earliest") as file:
        hidden = _Hidden(file)
        for name, value in variables.items():
            hidden.put(file, name, value)
    with path.open("r+b") as raw:
        text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2018 HDF5 schema 1.00 ."
        raw.write(text.ljust(116) + b"\0" * 8 + struct.pack("<H2s", 0x0200, b"IM"))


class _Hidden:
    """Writes values; the elements of cells and struct arrays go to the hidden group as references."""

    def __init__(self, file: h5py.File) -> None:
        self._group = file.create_group("#refs#")
        self._count = 0

    def put(self, group: h5py.Group, name: str, value: Any) -> h5py.Group | h5py.Dataset:
        if isinstance(value, Struct):
            return self._put_struct(group, name, value)
        if isinstance(value, Cell):
            return self._put_cell(group, name, value)
        if isinstance(value, str):
            codes = np.frombuffer(value.encode("utf-16-le"), np.uint16).reshape(-1, 1)
            node = group.create_dataset(name, data=codes)
            node.attrs["MATLAB_int_decode"] = np.int32(2)
            return _classed(node, "char")
        if value.size == 0:
            node = group.create_dataset(name, data=np.array(value.shape, np.uint64))
            node.attrs["MATLAB_empty"] = np.uint8(1)
            return _classed(node, "double")
        array = value if value.ndim > 1 else value[:, None]
        while array.ndim > 2 and array.shape[-1] == 1:
            array = array[..., 0]
        node = group.create_dataset(name, data=array.T)
        return _classed(node, {"float32": "single", "float64": "double"}.get(array.dtype.name, array.dtype.name))

    def _put_struct(self, group: h5py.Group, name: str, value: Struct) -> h5py.Group:
        node = _classed(group.create_group(name), "struct")
        if len(value.elements) == 1:
            for field, item in value.elements[0].items():
                self.put(node, field, item)
            return node
        for field in value.elements[0]:  # no MATLAB_class on these datasets of references
            self._put_references(node, field, [element[field] for element in value.elements])
        return node

    def _put_cell(self, group: h5py.Group, name: str, value: Cell) -> h5py.Dataset:
        if value.elements:
            return _classed(self._put_references(group, name, value.elements), "cell")
        node = group.create_dataset(name, data=np.array([0, 0], np.uint64))
        node.attrs["MATLAB_empty"] = np.uint8(1)
        return _classed(node, "cell")

    def _put_references(self, group: h5py.Group, name: str, items: list[Any]) -> h5py.Dataset:
        node = group.create_dataset(name, (len(items), 1), h5py.ref_dtype)
        for i, item in enumerate(items):
            self._count += 1
            node[i, 0] = self.put(self._group, f"r{self._count}", item).ref
        return node


def _classed(node: Any, matlab_class: str) -> Any:
    node.attrs["MATLAB_class"] = np.bytes_(matlab_class)
    return node
