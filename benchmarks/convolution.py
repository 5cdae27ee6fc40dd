"""Every convolution of the network by itself: in all of our forms, and in PyTorch.

    python -m benchmarks.convolution                     # VGG-19 on one pair's images, the geometry network
    python -m benchmarks.convolution --batch 4 --gradient

`chosen` is the form that `rtn_jax.convolution.fastest_form` takes. Forms that cannot compute a kernel, or would hold
more than `LARGEST` bytes for it, are left out. Layers of one shape are timed once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.fresh import about, machine, table
from benchmarks.turns import Timed, ceilings, take_turns, waited, write
from rtn_jax.allocator import keep_freed_memory
from rtn_jax.backbones.vgg import weight_shapes
from rtn_jax.config import default
from rtn_jax.convolution import _FORMS, fastest_form
from rtn_jax.params import expected_shapes

LARGEST = 1e9
"""Bytes of the neighbourhoods that a form may lay side by side."""
TOLERANCE = 1e-5
"""Relative to the largest value of the plain form."""
DEPTHS = {"conv1": 0, "conv2": 1, "conv3": 2, "conv4": 3, "conv5": 4, "conv6": 3, "conv7": 2, "conv8": 1, "conv9": 0}
"""How often the geometry network has halved its grid."""


@dataclass(frozen=True)
class Layer:
    """One convolution."""

    name: str
    batch: int
    side: int
    kernel: tuple[int, int, int, int]

    @property
    def flops(self) -> float:
        """Operations of the plain form."""
        return 2.0 * self.batch * self.side**2 * float(np.prod(self.kernel))


def main(
    batch: int = 1,
    gradient: bool = False,
    repeats: int = 7,
    image_size: int = 256,
    smallest: int = 1,
    out: Path | None = None,
) -> None:
    """Times every layer and prints a table in milliseconds.

    Args:
        batch: pairs.
        gradient: time the gradients by input and kernel (forward included) instead of the forward pass.
        repeats: turns that are timed, after one that compiles and one that warms up.
        image_size: height and width of the images.
        smallest: grids with fewer cells on a side are left out.
        out: JSON file of everything measured.
    """
    here, limits = machine(), ceilings()
    sys.stdout.write(f"{about(here)}\n{limits}; medians of {repeats}, in ms\n\n")
    rows, results = [], {}
    for layer in layers(batch, image_size):
        if layer.side < smallest:
            continue
        timed = time_layer(layer, gradient, repeats)
        results[layer.name] = timed
        write(out, here, limits, results)
        ms = {row.name: 1000 * row.median for row in timed}
        chosen = fastest_form((layer.batch, layer.side, layer.side, layer.kernel[2]), layer.kernel, jnp.float32)
        cells = [f"{ms[form]:.2f}" if form in ms else "-" for form in (*_FORMS, "torch")]
        floor = 1000 * limits.floor(layer.flops * (3 if gradient else 1), 0)
        rows.append([layer.name, *cells, chosen, f"{floor:.2f}"])
    sys.stdout.write(table(["layer, grid, kernel", *_FORMS, "PyTorch", "chosen", "floor"], rows))


def layers(batch: int, image_size: int) -> Iterator[Layer]:
    """Those of VGG-19 up to conv5_1 on both images, and of the geometry network on the grids of both levels."""
    seen = set()
    config = default("vgg")
    found = [
        (name, 2 * batch, image_size // 2 ** (int(name[4]) - 1), parts["kernel"])
        for name, parts in weight_shapes("conv5_1").items()
    ]
    for stride in (16, 8):
        for name, parts in expected_shapes(config)["geometry"].items():
            depth = DEPTHS[name.removesuffix("b")] if name != "conv10" else 0
            found.append((name, batch, image_size // stride // 2**depth, parts["kernel"]))
    for name, images, side, kernel in found:
        if (images, side, kernel) not in seen:
            seen.add((images, side, kernel))
            shown = f"{side}x{side}, {kernel[0]}x{kernel[1]} {kernel[2]} to {kernel[3]}"
            yield Layer(f"{name}, {shown}", images, side, kernel)


def time_layer(layer: Layer, gradient: bool, repeats: int) -> list[Timed]:
    """All forms that can, and PyTorch if it is there."""
    rng = np.random.default_rng(0)
    height, width, inputs, outputs = layer.kernel
    x = rng.standard_normal((layer.batch, layer.side, layer.side, inputs), np.float32)
    kernel = rng.standard_normal(layer.kernel, np.float32) / np.float32(np.sqrt(height * width * inputs))
    weight = rng.standard_normal((*x.shape[:3], outputs), np.float32)  # of the sum whose gradient is taken
    ways: dict[str, Callable[[], Any]] = {}
    for form, convolution in _FORMS.items():
        if form == "minimal" and (height, width) != (3, 3):
            continue
        if x.nbytes * height * (width if form == "gathered" else 1) > LARGEST:
            continue
        if gradient:
            made = jax.jit(jax.grad(lambda x, kernel, f=convolution: (f(x, kernel) * weight).sum(), (0, 1)))
        else:
            made = jax.jit(convolution)
        ways[form] = waited(made, jnp.asarray(x), jnp.asarray(kernel))
    plain = jax.tree.leaves(ways["direct"]())
    for form, run in ways.items():
        for ours, theirs in zip(jax.tree.leaves(run()), plain, strict=True):
            apart = float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max())
            if not apart < TOLERANCE:
                raise SystemExit(
                    f"{layer.name}: {form} differs from the plain form by {apart:.1e} of the largest value"
                )
    if (peer := _in_torch(x, kernel, weight, gradient)) is not None:
        ways["torch"] = peer
    return take_turns(ways, repeats)


def _in_torch(x: np.ndarray, kernel: np.ndarray, weight: np.ndarray, gradient: bool) -> Callable[[], Any] | None:
    """The layer with channels last, where PyTorch runs on the same device; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    given, summed = (torch.from_numpy(array).permute(0, 3, 1, 2).to(device) for array in (x, weight))
    taps = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).to(device, memory_format=torch.channels_last)
    padding = kernel.shape[0] // 2

    def forward() -> Any:
        with torch.inference_mode():
            torch.nn.functional.conv2d(given, taps, padding=padding)
        if device == "cuda":
            torch.cuda.synchronize()

    def backward() -> Any:
        both = given.clone().requires_grad_(), taps.clone().requires_grad_()
        torch.nn.functional.conv2d(*both, padding=padding).backward(summed)
        if device == "cuda":
            torch.cuda.synchronize()

    return backward if gradient else forward


if __name__ == "__main__":
    keep_freed_memory()  # as the command lines do, for both sides
    tyro.cli(main)
