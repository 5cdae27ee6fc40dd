"""Times rtn_jax beside its PyTorch peer, on the same weights, images and machine, in one process.

    python -m benchmarks.pair                           # forward, one pair
    python -m benchmarks.pair --batch 2 --gradient      # gradient of the geometry network, VGG frozen

Both first have to agree. Then they take turns, A B A B ..., so that whatever else the machine does hits both.
What is computed is the affine field after every iteration, from images already at the network's size; the gradient is
that of the mean absolute final translation with respect to all weights of the geometry network.

Nothing else may run meanwhile: the peer's OpenMP threads wait for each other after every operation, so a busy machine
slows the peer down several times more than rtn_jax, and the ratio flatters us.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

import rtn_jax
from benchmarks.peer import Peer

PAUSE = 0.1  # seconds between turns: OpenMP's idle threads spin for a while, and would be timed with the other side
TOLERANCE = 1e-3  # relative to the largest value of the same field, or of the same weight's gradient


def main(batch: int = 1, repeats: int = 7, gradient: bool = False, released: bool = False, seed: int = 0) -> None:
    """Check that both sides agree, time them in turns, and print medians and their ratio.

    Args:
        batch: pairs at a time.
        repeats: turns of each side that are timed, after one that compiles and one that warms up.
        gradient: time the gradient instead of the forward pass.
        released: the released conventions instead of the default ones.
        seed: of weights and images.
    """
    console = Console()
    config = rtn_jax.Config(normalization="corners", upsampling="zero") if released else rtn_jax.Config()
    params = random_params(config, seed)
    peer = Peer(
        jax.tree.map(np.asarray, params.weights),
        levels=[(level.layer, level.iterations) for level in config.levels],
        radius=config.radius,
        normalization=config.normalization,
        upsampling=config.upsampling,
    )
    src, tgt = random_images(batch, config.image_size, seed)
    ours = our_gradient(params, src, tgt) if gradient else our_forward(params, src, tgt)
    theirs = peer_gradient(peer, src, tgt) if gradient else peer_forward(peer, src, tgt)

    absolute, relative = compare(ours(), theirs())
    console.print(f"largest difference {absolute:.1e}, relative to the array's largest value {relative:.1e}")
    if not relative < TOLERANCE:
        raise SystemExit("the two sides disagree: nothing to time")
    ours()
    theirs()
    seconds = interleave([ours, theirs], repeats)

    table = Table(
        title=f"{'gradient' if gradient else 'forward'}, batch {batch}, {repeats} turns", title_justify="left"
    )
    for heading in ("", "median s", "min s", "max s", "threads"):
        table.add_column(heading, justify="right" if heading else "left")
    cores = len(os.sched_getaffinity(0))  # XLA's CPU client makes one thread per usable core
    for name, times, threads in zip(
        (f"rtn_jax (jax {jax.__version__}, {jax.default_backend()})", f"peer (torch {torch.__version__}, cpu)"),
        seconds,
        (cores, torch.get_num_threads()),
        strict=True,
    ):
        table.add_row(name, *(f"{figure:.3f}" for figure in (np.median(times), min(times), max(times))), str(threads))
    console.print(table)
    console.print(f"ratio of medians, rtn_jax / peer: {np.median(seconds[0]) / np.median(seconds[1]):.2f}")


def random_params(config: rtn_jax.Config, seed: int) -> rtn_jax.Params:
    """A new network whose last layer is not zero, so that every iteration moves the field."""
    params = rtn_jax.init(jax.random.key(seed), config)
    last = params.weights["geometry"]["conv10"]
    fan_in = np.prod(last["kernel"].shape[:3])
    kernel = np.random.default_rng(seed).normal(0, np.sqrt(2 / fan_in), last["kernel"].shape)
    last = {"kernel": jnp.asarray(kernel, last["kernel"].dtype), "bias": last["bias"]}
    return with_geometry(params, {**params.weights["geometry"], "conv10": last})


def with_geometry(params: rtn_jax.Params, geometry: Any) -> rtn_jax.Params:
    """`params` with other weights in the geometry network."""
    return rtn_jax.Params({**params.weights, "geometry": geometry}, params.config)


def random_images(batch: int, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Two batches [2, b, H, W, 3] of coloured blocks, float32 in 0..255."""
    small = np.random.default_rng(seed).uniform(0, 255, (2, batch, shape[0] // 8, shape[1] // 8, 3))
    return np.repeat(np.repeat(small, 8, axis=2), 8, axis=3).astype(np.float32)


def our_forward(params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """Runs rtn_jax: the fields after every iteration."""
    run = jax.jit(lambda params, src, tgt: rtn_jax.apply(params, src, tgt).history)
    src, tgt = jax.device_put((src, tgt))
    return lambda: [field for level in jax.block_until_ready(run(params, src, tgt)) for field in level]


def peer_forward(peer: Peer, src: np.ndarray, tgt: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """Runs the peer: the fields after every iteration."""
    images = channels_first(src), channels_first(tgt)

    def run() -> list[np.ndarray]:
        with torch.inference_mode():
            return [field.numpy() for field in peer(*images)]

    return run


def our_gradient(params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """Runs rtn_jax: the gradient of every weight of the geometry network, sorted by name, kernels HWIO."""

    def loss(geometry: Any, params: rtn_jax.Params, src: jax.Array, tgt: jax.Array) -> jax.Array:
        return jnp.abs(rtn_jax.apply(with_geometry(params, geometry), src, tgt).affine[..., 2]).mean()

    run = jax.jit(jax.grad(loss))
    src, tgt = jax.device_put((src, tgt))
    return lambda: jax.tree.leaves(jax.block_until_ready(run(params.weights["geometry"], params, src, tgt)))


def peer_gradient(peer: Peer, src: np.ndarray, tgt: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """Runs the peer: the gradient of every weight of the geometry network, sorted by name, kernels HWIO."""
    images = channels_first(src), channels_first(tgt)

    def run() -> list[np.ndarray]:
        peer.zero_grad(set_to_none=True)
        peer(*images)[-1][..., 2].abs().mean().backward()
        gradients = []
        for _, layer in sorted(peer.geometry.items()):
            gradients += [layer.bias.grad.numpy(), layer.weight.grad.permute(2, 3, 1, 0).numpy()]
        return gradients

    return run


def channels_first(images: np.ndarray) -> torch.Tensor:
    """[b, H, W, 3] as [b, 3, H, W], without a copy."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def compare(ours: list[Any], theirs: list[Any]) -> tuple[float, float]:
    """Largest difference between two lists of arrays: absolute, and relative to the largest value of its array."""
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(ours, theirs, strict=True)]
    if [a.shape for a, _ in pairs] != [b.shape for _, b in pairs]:
        raise ValueError(f"ours: expected shapes {[b.shape for _, b in pairs]}, got {[a.shape for a, _ in pairs]}")
    absolute = [np.abs(a - b).max() for a, b in pairs]
    relative = [difference / np.abs(b).max() for difference, (_, b) in zip(absolute, pairs, strict=True)]
    return float(max(absolute)), float(max(relative))


def interleave(runs: list[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Seconds of every call, per run, called in turns."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, times in zip(runs, seconds, strict=True):
            time.sleep(PAUSE)
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    tyro.cli(main)
