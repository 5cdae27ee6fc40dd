"""Times rtn_jax beside its PyTorch peer, on the same weights, images and machine, in one process; and every backbone.

    python -m benchmarks.pair                                       # all tables, about ten minutes on two cores
    python -m benchmarks.pair --groups forward --batches 1          # one pair beside the peer
    python -m benchmarks.pair --groups networks                     # backbones and presets; needs no PyTorch

`forward`: the affine field after every iteration, from images already at the network's size. `gradient`: that of the
mean absolute final translation by all weights of the geometry network, VGG frozen. Both sides first have to agree, then
they take turns, A B A B ..., so that whatever else the machine does hits both. `networks`: one pair with every preset
of every backbone, beside VGG-19's default.

The floor is what the convolutions, products and sums of the plain network would take at the speed of one large matrix
product. A convolution with fewer multiplications than the plain one can come out below it.

Nothing else may run meanwhile: the peer's OpenMP threads wait for each other after every operation, so a busy machine
slows the peer down several times more than rtn_jax, and the ratio flatters us.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import rtn_jax
from benchmarks.fresh import about, machine
from benchmarks.setup import random_weights
from benchmarks.turns import Ceilings, Timed, ceilings, take_turns, turns_table, waited, write
from rtn_jax.config import BackboneName, Config, default, paper, released

Group = Literal["forward", "gradient", "networks"]

TOLERANCE = 1e-3
"""Relative to the largest value of the same field, or of the same weight's gradient; of half precision, 50 times."""
BACKBONES: tuple[BackboneName, ...] = ("vgg", "vgg16", "resnet50", "resnet", "resnet152", "fcss", "cat-fcss")


def main(
    groups: tuple[Group, ...] = ("forward", "gradient", "networks"),
    batches: tuple[int, ...] = (1, 4, 16),
    gradient_batches: tuple[int, ...] = (2, 4),
    backbones: tuple[BackboneName, ...] = BACKBONES,
    preset: Literal["default", "released"] = "default",
    image_size: int = 256,
    dtype: Literal["float32", "bfloat16"] = "float32",
    compile_peer: bool = False,
    repeats: int = 7,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Check that both sides agree, time them in turns, and print tables.

    Args:
        groups: of tables.
        batches: pairs at a time, forward.
        gradient_batches: pairs at a time, for the gradient.
        backbones: of the table of networks; the first is what the others are compared with.
        preset: conventions of the network beside the peer.
        image_size: height and width.
        dtype: of features and convolutions, on both sides.
        compile_peer: time the peer through torch.compile as well, which takes minutes to compile.
        repeats: turns of each side that are timed, after one that compiles and one that warms up.
        seed: of weights and images.
        out: JSON file of everything measured, repeats, versions and machine included.
    """
    here = machine()
    limits = ceilings(dtype)
    sys.stdout.write(f"{about(here)}\n{jax.default_backend()}, {dtype}, medians of {repeats}; {limits}\n")
    results: dict[str, list[Timed]] = {}
    config = (released() if preset == "released" else default("vgg")).replace(
        image_size=image_size, compute_dtype=dtype
    )
    for group, sizes in (("forward", batches), ("gradient", gradient_batches)):
        for batch in sizes if group in groups else ():
            rows = beside_the_peer(config, batch, group == "gradient", compile_peer, repeats, seed)
            results[f"{group}, {batch}"] = rows
            _show(f"{group}, batch {batch}, {preset} VGG-19 at {image_size}x{image_size}", rows, limits)
            write(out, here, limits, results)
    if "networks" in groups:
        results["networks"] = networks(backbones, image_size, dtype, repeats, seed)
        _show(f"one pair at {image_size}x{image_size}", results["networks"], limits)
        write(out, here, limits, results)


def beside_the_peer(
    config: Config, batch: int, gradient: bool, compile_peer: bool, repeats: int, seed: int
) -> list[Timed]:
    """The peer and ours in turns, the peer first.

    Raises:
        SystemExit: if they disagree; a message without a number is exit code 1.
    """
    import torch

    from benchmarks.peer import Peer

    params = rtn_jax.Params(random_weights(config, seed), config)
    src, tgt = random_images(batch, config.image_shape, seed)
    half = config.compute_dtype == "bfloat16"

    def peer(compiled: bool) -> Callable[[], list[np.ndarray]]:
        module = Peer(
            jax.tree.map(np.asarray, params.weights),
            levels=[(level.layer, level.iterations) for level in config.levels],
            radius=config.radius,
            normalization=config.normalization,
            upsampling=config.upsampling,
        ).to("cuda" if jax.default_backend() == "gpu" else "cpu")
        if half:
            module.to(torch.bfloat16)
        run = torch.compile(module) if compiled else module
        return (peer_gradient if gradient else peer_forward)(module, run, src, tgt)

    made, used = (our_gradient if gradient else our_forward)(params, src, tgt)
    flops = plain_flops(made, used)
    ways = {f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads": peer(False)}
    if compile_peer:
        ways["the same, compiled"] = peer(True)
    ways[f"rtn_jax, jax {jax.__version__}"] = lambda: jax.tree.leaves(jax.block_until_ready(made(*used)))
    results = [run() for run in ways.values()]
    for theirs in results[:-1]:
        _, relative = compare(results[-1], theirs)
        if not relative < (50 if half else 1) * TOLERANCE:
            raise SystemExit(f"the two sides disagree by {relative:.1e} of the largest value: nothing to time")
    return take_turns(ways, repeats, flops=flops, items=batch)


def networks(
    names: Sequence[BackboneName], image_size: int, dtype: Literal["float32", "bfloat16"], repeats: int, seed: int
) -> list[Timed]:
    """One pair with every preset of every backbone, ours alone."""
    images = random_images(1, (image_size, image_size), seed)
    configs = {f"{name}, default": default(name) for name in names} | {f"{name}, paper": paper(name) for name in names}
    if "vgg" in names:
        configs["vgg, released"] = released()
    ways, flops = {}, []
    for name, config in configs.items():
        config = config.replace(image_size=image_size, compute_dtype=dtype)
        params = rtn_jax.Params(random_weights(config, seed), config)
        run, used = our_forward(params, *images)
        flops.append(plain_flops(run, used))
        ways[name] = waited(run, *used)
    rows = take_turns(ways, repeats)
    for row, count in zip(rows, flops, strict=True):
        row.flops = count
    return rows


def plain_flops(run: Any, args: tuple[Any, ...]) -> float:
    """Operations of the network with plain convolutions, as XLA counts them before it optimises."""
    with mock.patch("rtn_jax.convolution.fastest_form", return_value="direct"):
        counted = float((run.lower(*args).cost_analysis() or {})["flops"])
    jax.clear_caches()  # or it would run as it was traced here
    return counted


def random_images(batch: int, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Two batches [2, b, H, W, 3] of coloured blocks, float32 in 0..255."""
    small = np.random.default_rng(seed).uniform(0, 255, (2, batch, shape[0] // 8, shape[1] // 8, 3))
    return np.repeat(np.repeat(small, 8, axis=2), 8, axis=3).astype(np.float32)


def our_forward(params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> tuple[Any, tuple[Any, ...]]:
    """What runs rtn_jax to the fields after every iteration, and what it is given."""
    run = jax.jit(
        lambda params, src, tgt: [field for level in rtn_jax.apply(params, src, tgt).history for field in level]
    )
    return run, (params, *jax.device_put((src, tgt)))


def our_gradient(params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> tuple[Any, tuple[Any, ...]]:
    """What runs rtn_jax to the gradient of every weight of the geometry network, and what it is given."""

    def loss(geometry: Any, params: rtn_jax.Params, src: jax.Array, tgt: jax.Array) -> jax.Array:
        moved = rtn_jax.Params({**params.weights, "geometry": geometry}, params.config)
        return jnp.abs(rtn_jax.apply(moved, src, tgt).affine[..., 2]).mean()

    return jax.jit(jax.grad(loss)), (params.weights["geometry"], params, *jax.device_put((src, tgt)))


def peer_forward(module: Any, run: Any, src: np.ndarray, tgt: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """Runs the peer: the fields after every iteration."""
    import torch

    images = _for_torch(module, src), _for_torch(module, tgt)

    def forward() -> list[np.ndarray]:
        with torch.inference_mode():
            return [field.float().cpu().numpy() for field in run(*images)]

    return forward


def peer_gradient(module: Any, run: Any, src: np.ndarray, tgt: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """Runs the peer: the gradient of every weight of the geometry network, sorted by name, kernels HWIO."""
    images = _for_torch(module, src), _for_torch(module, tgt)

    def gradient() -> list[np.ndarray]:
        module.zero_grad(set_to_none=True)
        run(*images)[-1][..., 2].abs().mean().backward()
        gradients = []
        for _, layer in sorted(module.geometry.items()):
            both = layer.bias.grad, layer.weight.grad.permute(2, 3, 1, 0)
            gradients += [grad.float().cpu().numpy() for grad in both]
        return gradients

    return gradient


def compare(ours: list[Any], theirs: list[Any]) -> tuple[float, float]:
    """Largest difference between two lists of arrays: absolute, and relative to the largest value of its array."""
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(ours, theirs, strict=True)]
    if [a.shape for a, _ in pairs] != [b.shape for _, b in pairs]:
        raise ValueError(f"ours: expected shapes {[b.shape for _, b in pairs]}, got {[a.shape for a, _ in pairs]}")
    absolute = [np.abs(a - b).max() for a, b in pairs]
    relative = [difference / np.abs(b).max() for difference, (_, b) in zip(absolute, pairs, strict=True)]
    return float(max(absolute)), float(max(relative))


def _for_torch(module: Any, images: np.ndarray) -> Any:
    """[b, H, W, 3] as [b, 3, H, W], without a copy, where and as the peer's weights are."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).to(next(module.parameters()))


def _show(title: str, rows: list[Timed], limits: Ceilings) -> None:
    sys.stdout.write(f"\n{title}\n\n{turns_table(rows, limits)}")
    sys.stdout.flush()


if __name__ == "__main__":
    tyro.cli(main)
