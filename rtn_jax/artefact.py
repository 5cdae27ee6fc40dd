"""A network as one file of StableHLO that runs without rtn_jax, made by `jax.export`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from jaxtyping import PyTree, Shaped

from rtn_jax.coordinates import Shape
from rtn_jax.model import Image, Output, apply, without_gradient
from rtn_jax.params import Params

KNOWN_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

_CHECKED_PAIRS = 2  # a program that mixes up the pairs of a batch is right for one


def export(
    params: Params,
    image_size: int | tuple[int, int],
    path: str | os.PathLike[str],
    *,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> None:
    """Writes `apply` with these weights as a file that needs jax and flatbuffers, but not rtn_jax.

        network = jax.export.deserialize(bytearray(open(path, "rb").read()))
        out = network.call(src, tgt)

    `src` and `tgt` are `[b, H, W, 3]` RGB, uint8 with any b, which is one program for every b; a program cannot look
    for NaN or values in 0..1, hence no floats. `out` is a dict with the fields of `Output`, `history` a list.

    The program is traced once, here, and then translated for every platform. Where the library picks a form by the
    machine (of convolutions), all platforms get this machine's: the results are right on the others, but may take
    longer than those of a file made there.

    Before anything is written, the file's content is loaded and compared with `apply` on two random pairs.

    Args:
        params: from `init`, `load` or training; the weights become a part of the file.
        image_size: of the images that will be given (not `config.image_size`): (height, width), or a number for a
            square.
        path: of the file; one that is there is replaced when the new one is whole.
        platforms: where the file shall run, of cpu, cuda, rocm and tpu, with this machine's among them.

    Raises:
        ValueError: for an image size without pixels, unknown platforms or not this machine's, or a path that cannot be
            written.
        RuntimeError: if the file would give other numbers than `apply`, off by more than 1e-4 of a field's largest
            value, or 5e-2 in bfloat16 and on accelerators.
    """
    from rtn_jax.images import write_atomically

    shape, platforms = _image_shape(image_size), _known(platforms)
    write_atomically(path, lambda file: file.write(_checked(params, shape, platforms)))


def _checked(params: Params, shape: Shape, platforms: Sequence[str]) -> bytearray:
    """The content of the file, which has been loaded and run."""
    content = _serialized(params, shape, platforms)
    both = np.random.default_rng(0).integers(0, 256, (2, _CHECKED_PAIRS, *shape, 3), np.uint8)
    found, expected = jax_export.deserialize(content).call(*both), _as_dict(apply(params, *both))
    wrong = _differing(found, expected, _tolerance(params))
    if wrong:
        raise RuntimeError(f"the exported program gives other numbers than apply: {'; '.join(wrong)}")
    return content


def _serialized(params: Params, shape: Shape, platforms: Sequence[str]) -> bytearray:
    # NumPy arrays, so that nothing of this machine's devices gets into the program.
    frozen = jax.tree.map(np.asarray, without_gradient(params))

    def network(src: Image, tgt: Image) -> dict[str, Any]:
        return _as_dict(apply(frozen, src, tgt))

    (batch,) = jax_export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *shape, 3), np.uint8)
    return jax_export.export(jax.jit(network), platforms=platforms)(images, images).serialize()


def _as_dict(out: Output) -> dict[str, Any]:
    """Of containers that every jax knows."""
    return {field.name: getattr(out, field.name) for field in dataclasses.fields(out)} | {"history": list(out.history)}


def _differing(found: dict[str, PyTree], expected: dict[str, PyTree], tolerance: float) -> list[str]:
    """The fields that differ by more than the tolerance, relative to their largest value if that exceeds one."""
    wrong = []
    for name in expected:
        pairs = zip(jax.tree.leaves(found[name]), jax.tree.leaves(expected[name]), strict=True)
        off = max(_distance(np.asarray(a), np.asarray(b)) for a, b in pairs)
        # The flow is rounded as the mapping is, from which it comes by a subtraction.
        if off > tolerance * _largest(expected["mapping" if name == "flow" else name]):
            wrong.append(f"{name} by up to {off:.2g}")
    return wrong


def _distance(a: Shaped[np.ndarray, "..."], b: Shaped[np.ndarray, "..."]) -> float:
    """Of a network whose training has diverged: where one gives NaN or infinity, so must the other."""
    finite = np.isfinite(b)
    return np.inf if (np.isfinite(a) != finite).any() else float(np.abs(a[finite] - b[finite]).max(initial=0))


def _largest(arrays: PyTree) -> float:
    flat = np.concatenate([np.ravel(array) for array in jax.tree.leaves(arrays)])
    return float(np.abs(flat[np.isfinite(flat)]).max(initial=1))


def _tolerance(params: Params) -> float:
    """Far above what two compilations of one program differ by: 1e-6 on the CPU, 0.6e-2 in bfloat16 (TF32 unseen)."""
    exact = jax_export.default_export_platform() == "cpu" and params.config.compute_dtype != "bfloat16"
    return 1e-4 if exact else 5e-2


def _image_shape(image_size: Any) -> Shape:
    shape = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in shape)
    if len(shape) != 2 or not whole or min(shape) < 1:
        raise ValueError(
            f"image_size: expected a number or (height, width), whole numbers of at least 1, got {image_size!r}"
        )
    return int(shape[0]), int(shape[1])


def _known(platforms: Sequence[str]) -> tuple[str, ...]:
    here = jax_export.default_export_platform()
    if not set(platforms) <= set(KNOWN_PLATFORMS):
        raise ValueError(f"platforms: expected a list of {', '.join(KNOWN_PLATFORMS)}, got {platforms!r}")
    if here not in platforms:
        raise ValueError(f"platforms: expected {here} among them, where the file is checked, got {platforms!r}")
    return tuple(platforms)
