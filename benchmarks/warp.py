"""Times the affine-warped 3x3 convolution in several forms, forward and with its gradients, beside the machine's best.

    python -m benchmarks.warp --out warp.json           # about four minutes on two cores
    python -m benchmarks.warp --fields 3                # three fields over the same features, as the iterations do
    python -m benchmarks.warp --quick                   # tiny, to see that it works

What is timed is what a backbone does under a field: positions of the neighbours, samples, convolution, bias and ReLU.
Ours is `warped_convolution`. The others sample with four indexed gathers, and with `map_coordinates` for every channel;
in PyTorch with `grid_sample` and a convolution of stride 3, as the release does, and with our peer's `embedding_bag`.
PyTorch's forms are left out where it is not installed or cannot use the device, and in half precision. All forms first
have to agree; then they take turns. Gradients are those by the features, the kernel and the field.

Counted are the operations that must be done: the products with the kernel, once for all fields, because sampling is
linear and can follow; four products and sums per sample and output channel, for every field; and three times as many
with the gradients. And the bytes of inputs and outputs, each once. The floor is the longer of the two at the machine's
ceilings.

Nothing else may run meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from benchmarks.correlation import DType, Form, Job, at_least, report, torch_device
from rtn_jax.affine import sampling_positions
from rtn_jax.commands import run
from rtn_jax.convolution import warped_convolution
from rtn_jax.sampling import resize_bilinear

BIAS = 8.0
"""Every output is positive: where ReLU has its kink, the forms' rounding errors would become other gradients."""
STEPS = 64
"""Positions are odd multiples of half a cell's 64th: at its edges, rounding errors would become other gradients."""
COARSE = 4
"""Rows and columns of the random field before it is interpolated."""


@dataclass(frozen=True)
class Config:
    """Times the affine-warped 3x3 convolution in several forms."""

    batch: int = 4
    """Feature maps."""
    grid: int = 32
    """Rows and columns of a map."""
    channels: int = 512
    """Of the features."""
    outputs: int = 512
    """Channels of the result."""
    fields: int = 1
    """Of affine transformations, over the same features with the same kernel."""
    repeats: int = 7
    """Turns of each form that are timed, after one that compiles and one that warms up."""
    gradient: bool = True
    """Time the forward pass together with the backward pass as well."""
    dtype: DType = "float32"
    """Of features and kernel; a field is in single precision."""
    seed: int = 0
    """Of features, kernel and fields."""
    out: Path | None = None
    """JSON file of everything measured, with the machine."""
    quick: bool = False
    """Tiny sizes, to see that it works."""

    def __post_init__(self) -> None:
        at_least(1, batch=self.batch, grid=self.grid, channels=self.channels, outputs=self.outputs)
        at_least(1, fields=self.fields, repeats=self.repeats)
        at_least(0, seed=self.seed)


QUICK: dict[str, Any] = {"batch": 2, "grid": 6, "channels": 8, "outputs": 4, "repeats": 2}


def main(config: Config) -> None:
    """Checks that all forms agree, times them in turns, and prints tables.

    Raises:
        SystemExit: if they disagree; a message without a number is exit code 1.
    """
    config = replace(config, **QUICK) if config.quick else config
    n = config.grid
    title = (
        f"warped convolution, batch {config.batch}, {n}x{n} cells, {config.channels} to {config.outputs} channels, "
        f"{config.fields} field(s), {config.dtype}"
    )
    report(title, config, job(config))


def job(config: Config) -> Job:
    """The convolution of random features under random smooth fields, in all its forms."""
    b, n, i, o, fields = config.batch, config.grid, config.channels, config.outputs, config.fields
    rng = np.random.default_rng(config.seed)
    x = jnp.asarray(rng.standard_normal((b, n, n, i)), config.dtype)
    kernel = jnp.asarray(rng.standard_normal((3, 3, i, o)) / np.sqrt(9 * i), config.dtype)
    bent = jnp.stack([smooth_field(rng, b, n) for _ in range(fields)])
    cells = b * n * n
    flops = 2.0 * cells * 9 * i * o + 8.0 * fields * cells * 9 * o
    return Job(
        inputs=(x, kernel, bent),
        cotangent=jnp.asarray(rng.standard_normal((fields, b, n, n, o)), config.dtype),
        forms={
            "warped_convolution": ours,
            "four indexed gathers": partial(sampled, by_index),
            "map_coordinates per channel": partial(sampled, by_map_coordinates),
        },
        peers=torch_forms() if torch_device(config.dtype)[0] else {},
        flops=(flops, 3 * flops),
        items=b * fields,
    )


def smooth_field(rng: np.random.Generator, batch: int, grid: int) -> jax.Array:
    """A field [b, h, w, 2, 3] around the identity: a tenth off in its 2x2 part, by two cells in its translations."""
    coarse = jnp.asarray(rng.standard_normal((batch, COARSE, COARSE, 6)), jnp.float32)
    smooth = np.asarray(resize_bilinear(coarse, (grid, grid)), np.float64).reshape(batch, grid, grid, 2, 3)
    matrix = np.eye(2) + np.round(0.1 * smooth[..., :2] * STEPS) / STEPS
    cells = (np.round(2 * smooth[..., 2:] * STEPS) + 0.5) / STEPS
    return jnp.asarray(np.concatenate([matrix, cells * 2 / grid], axis=-1), jnp.float32)


def ours(x: jax.Array, kernel: jax.Array, fields: jax.Array) -> jax.Array:
    """As the backbones do it."""
    convolution = warped_convolution(x, kernel)
    return jax.nn.relu(jnp.stack([convolution(sampling_positions(field)) for field in fields]) + BIAS)


def sampled(sample: Form, x: jax.Array, kernel: jax.Array, fields: jax.Array) -> jax.Array:
    """Samples of all neighbours, and their product with the kernel."""
    samples = jnp.stack([sample(x, sampling_positions(field)) for field in fields])  # [k, b, h, w, 9, i]
    return jax.nn.relu(jnp.einsum("kbhwmi,mio->kbhwo", samples, kernel.reshape(9, *kernel.shape[2:])) + BIAS)


def by_index(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Bilinear samples of four gathers, those outside masked."""
    b, h, w, _ = x.shape
    corner = jnp.floor(positions)
    far = (positions - corner).astype(x.dtype)
    left, top = corner[..., 0].astype(jnp.int32), corner[..., 1].astype(jnp.int32)
    image = np.arange(b).reshape(b, 1, 1, 1)
    taps = []
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            weight = (far[..., 0] if right else 1 - far[..., 0]) * (far[..., 1] if down else 1 - far[..., 1])
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            tap = x[image, jnp.clip(row, 0, h - 1), jnp.clip(column, 0, w - 1)]
            taps.append(tap * jnp.where(inside, weight, 0)[..., None])
    return taps[0] + taps[1] + taps[2] + taps[3]


def by_map_coordinates(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Bilinear samples of every channel of every image by itself."""

    def plane(values: jax.Array, points: jax.Array) -> jax.Array:
        return map_coordinates(values, [points[..., 1], points[..., 0]], order=1, mode="constant")

    channels = jax.vmap(plane, in_axes=(-1, None), out_axes=-1)
    return jax.vmap(channels)(x, positions)


def torch_forms() -> dict[str, Form]:
    """The same in PyTorch: our peer's bags, and `grid_sample` with a convolution of stride 3."""
    import torch
    from torch.nn import functional

    from benchmarks import peer

    def bags(x: Any, kernel: Any, fields: Any) -> Any:
        bias = x.new_full((kernel.shape[-1],), BIAS)
        layer = SimpleNamespace(weight=kernel.permute(3, 2, 0, 1), bias=bias, kernel_size=(3, 3))
        return torch.stack([peer.warped_convolution(x, layer, field, "centers") for field in fields])

    def grids(x: Any, kernel: Any, fields: Any) -> Any:
        b, h, w, _ = x.shape
        size = fields.new_tensor([w, h])
        outputs = []
        for field in fields:
            positions = peer.sampling_positions(field, 1, "centers")
            grid = ((2 * positions + 1) / size - 1).view(b, h, w, 3, 3, 2).transpose(2, 3).reshape(b, 3 * h, 3 * w, 2)
            samples = functional.grid_sample(x.permute(0, 3, 1, 2), grid, align_corners=False)
            outputs.append(functional.conv2d(samples, kernel.permute(3, 2, 0, 1), stride=3).permute(0, 2, 3, 1))
        return (torch.stack(outputs) + BIAS).relu()

    return {"PyTorch, peer's embedding_bag": bags, "PyTorch, grid_sample": grids}


if __name__ == "__main__":
    run("benchmarks.warp", Config, main)
