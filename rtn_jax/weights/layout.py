"""Which arrays a set of weights consists of, and the strict comparison of a file with that list.

Every reader of this package turns its file into `Entry`s and lets `collect` say, in one error, everything that is
missing, unexpected, there twice or of the wrong shape. Nothing is read from the file before its shape is known to be
right, so a file that announces an absurd array costs no memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from rtn_jax.weights.containers import UnusableFile

AnyArray = Shaped[np.ndarray, "..."]
Layers = dict[str, dict[str, AnyArray]]
"""`{layer: {"kernel": [h, w, c_in, c_out], "bias": [c_out]}}`, float32."""

LISTED_AT_MOST = 100  # names of one kind in an error; a file of something else entirely may hold thousands

VGG19_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels and convolutions between the poolings

GEOMETRY = {  # layer: (side of the kernel, channels in, channels out); conv6-9 take [upsampled, skip]
    "conv1": (9, 81, 64),
    "conv1b": (3, 64, 64),
    "conv2": (3, 64, 128),
    "conv2b": (3, 128, 128),
    "conv3": (3, 128, 256),
    "conv3b": (3, 256, 256),
    "conv4": (3, 256, 512),
    "conv4b": (3, 512, 512),
    "conv5": (3, 512, 512),
    "conv5b": (3, 512, 512),
    "conv6": (3, 1024, 512),
    "conv6b": (3, 512, 512),
    "conv7": (3, 768, 256),
    "conv7b": (3, 256, 256),
    "conv8": (3, 384, 128),
    "conv8b": (3, 128, 128),
    "conv9": (3, 192, 64),
    "conv9b": (3, 64, 64),
    "conv10": (9, 64, 6),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One array of a file, not read yet."""

    name: str  # in the words of the file's format
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], AnyArray]


def vgg19_layers(last: str = "conv5_4") -> dict[str, tuple[int, int, int]]:
    """`{layer: (side of the kernel, channels in, channels out)}` of VGG-19's convolutions up to `last`, in order."""
    layers: dict[str, tuple[int, int, int]] = {}
    channels = 3
    for block, (width, count) in enumerate(VGG19_BLOCKS, start=1):
        for conv in range(1, count + 1):
            layers[f"conv{block}_{conv}"] = (3, channels, width)
            channels = width
            if f"conv{block}_{conv}" == last:
                return layers
    return layers


def expected_arrays(
    layers: Mapping[str, tuple[int, int, int]], kernel_name: str, bias_name: str
) -> dict[str, tuple[int, ...]]:
    """`{name in the file: shape}` for layers; the names are formats with one `{}` for the layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (side, channels_in, channels_out) in layers.items():
        shapes[kernel_name.format(layer)] = (side, side, channels_in, channels_out)
        shapes[bias_name.format(layer)] = (channels_out,)
    return shapes


def collect(
    path: Path, entries: Sequence[Entry], expected: Mapping[str, tuple[int, ...]], ignored: Sequence[str] = ()
) -> dict[str, AnyArray]:
    """The expected arrays of a file as `{name: float32 array}`.

    Args:
        path: the file, for the error text.
        entries: all arrays of the file.
        expected: `{name: shape}` of the arrays that must be there, each once.
        ignored: names that may be there and are not read.

    Raises:
        UnusableFile: lists all names that are missing, unexpected, there more than once, of another shape or type, or
            hold values that are not finite.
    """
    entries = [entry for entry in entries if entry.name not in ignored]
    counts = Counter(entry.name for entry in entries)
    problems = {
        "missing": [name for name in expected if name not in counts],
        "unexpected": [name for name in counts if name not in expected],
        "more than once": [name for name, count in counts.items() if count > 1],
        "of the wrong shape": [
            f"{entry.name} (found {_dims(entry.shape)}, expected {_dims(expected[entry.name])})"
            for entry in entries
            if entry.name in expected and entry.shape != expected[entry.name]
        ],
        "of the wrong type": [
            f"{entry.name} (found {entry.dtype}, expected floating point)"
            for entry in entries
            if entry.name in expected and entry.dtype.kind != "f"
        ],
    }
    _raise_if_any(path, problems)
    arrays = {entry.name: _float32(entry.read(), expected[entry.name]) for entry in entries}
    _raise_if_any(path, {"not finite": [name for name, array in arrays.items() if not np.isfinite(array).all()]})
    return arrays


def layer_tree(
    arrays: Mapping[str, AnyArray],
    layers: Mapping[str, tuple[int, int, int]],
    kernel_name: str,
    bias_name: str,
) -> Layers:
    """Arrays under a file's names to `{layer: {"kernel", "bias"}}`; arguments as for `expected_arrays`."""
    return {
        layer: {"kernel": arrays[kernel_name.format(layer)], "bias": arrays[bias_name.format(layer)]}
        for layer in layers
    }


def _float32(array: AnyArray, shape: tuple[int, ...]) -> AnyArray:
    # A float64 too large for float32 becomes inf here and is reported as not finite: no warning beside that.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array.reshape(shape), dtype=np.float32)


def _raise_if_any(path: Path, problems: Mapping[str, Sequence[str]]) -> None:
    texts = [f"{kind}: {_listed(names)}" for kind, names in problems.items() if names]
    if texts:
        raise UnusableFile(f"{path}: these arrays are not as expected; " + "; ".join(texts))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - LISTED_AT_MOST
    return ", ".join(names[:LISTED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "a single number"
