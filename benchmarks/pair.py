"""Times rtn_jax beside its PyTorch peer, on the same weights, images and machine, in one process; and every backbone.

    python -m benchmarks.pair                                       # all tables, about ten minutes on two cores
    python -m benchmarks.pair --groups forward --batches 1          # one pair beside the peer
    python -m benchmarks.pair --groups networks                     # backbones and presets; needs no PyTorch

`forward`: the affine field after every iteration, from images already at the network's size. `gradient`: that of the
mean absolute final translation by all weights of the geometry network, VGG frozen. `step`: a step of the synthetic
stage's optimiser on pairs that are warped already. Both sides first have to agree, then they take turns, A B A B ...,
so that whatever else the machine does hits both. `networks`: one pair with every preset of every backbone, beside
VGG-19's default.

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
import numpy as np
import tyro

import rtn_jax
from benchmarks.fresh import about, machine
from benchmarks.jobs import JOBS, for_torch, our_forward, our_gradient, random_images
from benchmarks.setup import random_weights
from benchmarks.turns import Ceilings, Timed, ceilings, take_turns, turns_table, waited, write
from rtn_jax.allocator import keep_freed_memory
from rtn_jax.config import BackboneName, Config, default, paper, released

Group = Literal["forward", "gradient", "step", "networks"]
Sampling = Literal["bags", "grid"]

TOLERANCE = 1e-3
"""Relative to what differs most from the identity in the same field, or to the largest value of the same weight's
gradient; 50 times of half precision, and where single precision is rounded before it is multiplied."""
BACKBONES: tuple[BackboneName, ...] = ("vgg", "vgg16", "resnet50", "resnet", "resnet152", "fcss", "cat-fcss")


def main(
    groups: tuple[Group, ...] = ("forward", "gradient", "step", "networks"),
    batches: tuple[int, ...] = (1, 4, 16),
    gradient_batches: tuple[int, ...] = (2, 4),
    backbones: tuple[BackboneName, ...] = BACKBONES,
    preset: Literal["default", "released"] = "default",
    image_size: int = 256,
    dtype: Literal["float32", "bfloat16"] = "float32",
    compile_peer: bool = False,
    peer_sampling: tuple[Sampling, ...] = ("bags",),
    rolled_too: bool = False,
    repeats: int = 7,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Check that both sides agree, time them in turns, and print tables.

    Args:
        groups: of tables.
        batches: pairs at a time, forward.
        gradient_batches: pairs at a time, for the gradient and the step.
        backbones: of the table of networks; the first is what the others are compared with.
        preset: conventions of the network beside the peer.
        image_size: height and width.
        dtype: of features and convolutions, on both sides.
        compile_peer: time the peer through torch.compile as well, which takes minutes to compile; on a GPU also with
            its kernels replayed from CUDA graphs.
        peer_sampling: how the peer samples under a field: by embedding_bag, by grid_sample, or either in turn.
        rolled_too: time ours with the recurrence rolled and unrolled, whatever the platform's choice is.
        repeats: turns of each side that are timed, after one that compiles and one that warms up.
        seed: of weights and images.
        out: JSON file of everything measured, repeats, versions and machine included.
    """
    here = machine() | {"device": jax.devices()[0].device_kind}
    limits = ceilings(dtype)
    sys.stdout.write(f"{about(here)}\n{here['device']}, {dtype}, medians of {repeats}; {limits}\n")
    results: dict[str, list[Timed]] = {}
    config = (released() if preset == "released" else default("vgg")).replace(
        image_size=image_size, compute_dtype=dtype
    )
    asked = {name: gradient_batches if name != "forward" else batches for name in JOBS if name in groups}
    for name, sizes in asked.items():
        for batch in sizes:
            rows = beside_the_peer(
                name, config, batch, repeats, seed, sampling=peer_sampling, compiled=compile_peer, rolled=rolled_too
            )
            results[f"{name}, {batch}"] = rows
            _show(f"{name}, batch {batch}, {preset} VGG-19 at {image_size}x{image_size}", rows, limits)
            write(out, here, limits, results)
    if "networks" in groups:
        results["networks"] = networks(backbones, image_size, dtype, repeats, seed)
        _show(f"one pair at {image_size}x{image_size}", results["networks"], limits)
        write(out, here, limits, results)


def beside_the_peer(
    name: Group,
    config: Config,
    batch: int,
    repeats: int,
    seed: int,
    *,
    sampling: tuple[Sampling, ...],
    compiled: bool,
    rolled: bool,
) -> list[Timed]:
    """The peer and ours in turns, the peer first.

    Raises:
        SystemExit: if they disagree; a message without a number is exit code 1.
    """
    import torch

    from benchmarks.peer import Peer

    params = rtn_jax.Params(random_weights(config, seed), config)
    src, tgt = random_images(batch, config.image_shape, seed)
    ours, theirs = JOBS[name]
    gpu = jax.default_backend() == "gpu"
    half = config.compute_dtype == "bfloat16"
    if gpu:
        torch.set_float32_matmul_precision("high")  # factors are rounded, as XLA rounds them
        torch.backends.cudnn.benchmark = True

    def peer(sampling: Sampling, mode: str | None) -> Callable[[], Any]:
        module = Peer.of(params, sampling=sampling).to("cuda" if gpu else "cpu")
        run = torch.compile(module, mode=mode) if mode else module
        call = theirs(module, run, *(for_torch(module, images) for images in (src, tgt)), config)

        def waits() -> Any:
            result = call()
            if gpu:
                torch.cuda.synchronize()
            return result

        return waits

    by = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} threads"
    modes = {"": None} | ({", compiled": "default"} if compiled else {})
    modes |= {", compiled, CUDA graphs": "reduce-overhead"} if compiled and gpu else {}
    ways = {
        f"PyTorch {torch.__version__}, {by}, {how}{words}": peer(how, mode)
        for how in sampling
        for words, mode in modes.items()
    }
    forms = {"": config}
    if rolled:
        forms = {", rolled": config.replace(unroll=False), ", unrolled": config.replace(unroll=True)}
    flops = 0.0
    for words, form in forms.items():
        run, used = ours(rtn_jax.Params(params.weights, form), src, tgt)
        flops = flops or counted_flops(name, params, src, tgt)
        ways[f"rtn_jax{words}, jax {jax.__version__}"] = waited(run, *used)
    first, *others = [_second_result(way) for way in ways.values()]
    for other, words in zip(others, list(ways)[1:], strict=True):
        _, relative = compare(first, other)
        if not relative < (50 if half or gpu else 1) * TOLERANCE:
            raise SystemExit(f"{words} disagrees with the peer by {relative:.1e} of the largest value: nothing to time")
    return take_turns(ways, repeats, flops=flops, items=batch)


def counted_flops(name: Group, params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> float:
    """Operations of the plain network, with the gradient where there is one; XLA counts one turn of a loop only."""
    unrolled = rtn_jax.Params(params.weights, params.config.replace(unroll=True))
    run, used = (our_forward if name == "forward" else our_gradient)(unrolled, src, tgt)
    return plain_flops(run, used)


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
        flops.append(counted_flops("forward", params, *images))
        ways[name] = waited(run, *used)
    rows = take_turns(ways, repeats)
    for row, count in zip(rows, flops, strict=True):
        row.flops = count
    return rows


def plain_flops(run: Any, args: tuple[Any, ...]) -> float:
    """Operations of the network with plain convolutions, as XLA counts them before it optimises; 0 if it does not."""
    with mock.patch("rtn_jax.convolution.fastest_form", return_value="direct"):
        counted = float((run.lower(*args).cost_analysis() or {}).get("flops", 0.0))  # a GPU's XLA leaves them out
    jax.clear_caches()  # or it would run as it was traced here
    return counted


def _second_result(call: Callable[[], Any]) -> list[np.ndarray]:
    """What a call gives when it has been made before: of a step, the loss after a step."""
    call()
    found = call()
    listed = found if isinstance(found, list) else jax.tree.leaves(found)
    arrays = [np.asarray(x.detach().double().cpu() if hasattr(x, "cpu") else x, np.float64) for x in listed]
    return [x - np.eye(2, 3) if x.shape[-2:] == (2, 3) else x for x in arrays]


def compare(ours: list[Any], theirs: list[Any]) -> tuple[float, float]:
    """Largest difference between two lists of arrays: absolute, and relative to the largest value of its array."""
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(ours, theirs, strict=True)]
    if [a.shape for a, _ in pairs] != [b.shape for _, b in pairs]:
        raise ValueError(f"ours: expected shapes {[b.shape for _, b in pairs]}, got {[a.shape for a, _ in pairs]}")
    absolute = [np.abs(a - b).max() for a, b in pairs]
    relative = [difference / np.abs(b).max() for difference, (_, b) in zip(absolute, pairs, strict=True)]
    return float(max(absolute)), float(max(relative))


def _show(title: str, rows: list[Timed], limits: Ceilings) -> None:
    sys.stdout.write(f"\n{title}\n\n{turns_table(rows, limits)}")
    sys.stdout.flush()


if __name__ == "__main__":
    keep_freed_memory()  # as the command lines do, for both sides
    tyro.cli(main)
