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
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import rtn_jax
from benchmarks.fresh import about, machine
from benchmarks.setup import random_weights
from benchmarks.turns import Ceilings, Timed, ceilings, take_turns, turns_table, waited, write
from rtn_jax.config import BackboneName, Config, default, paper, released
from rtn_jax.losses import synthetic_loss
from rtn_jax.model import grids
from rtn_jax.training.optimizer import make_optimizer
from rtn_jax.training.recipes import Recipe

Group = Literal["forward", "gradient", "step", "networks"]
Sampling = Literal["bags", "grid"]
Ours = tuple[Callable[..., Any], tuple[Any, ...]]
"""A call, and what it is given."""

STEPS = 1000
RECIPE = Recipe(schedule="constant", warmup=0.0)
"""Of the steps that are timed."""

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
        call = theirs(module, run, *(_for_torch(module, images) for images in (src, tgt)), config)

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
        flops.append(plain_flops(run, used))
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


def random_images(batch: int, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Two batches [2, b, H, W, 3] of coloured blocks, float32 in 0..255."""
    small = np.random.default_rng(seed).uniform(0, 255, (2, batch, shape[0] // 8, shape[1] // 8, 3))
    return np.repeat(np.repeat(small, 8, axis=2), 8, axis=3).astype(np.float32)


def our_forward(params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> Ours:
    """What runs rtn_jax to the fields after every iteration, and what it is given."""
    run = jax.jit(
        lambda params, src, tgt: [field for level in rtn_jax.apply(params, src, tgt).history for field in level]
    )
    return run, (params, *jax.device_put((src, tgt)))


def our_gradient(params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> Ours:
    """What runs rtn_jax to the gradient of every weight of the geometry network, and what it is given."""

    def loss(geometry: Any, params: rtn_jax.Params, src: jax.Array, tgt: jax.Array) -> jax.Array:
        moved = rtn_jax.Params({**params.weights, "geometry": geometry}, params.config)
        return jnp.abs(rtn_jax.apply(moved, src, tgt).affine[..., 2]).mean()

    return jax.jit(jax.grad(loss)), (params.weights["geometry"], params, *jax.device_put((src, tgt)))


def our_step(params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> Ours:
    """What makes the next step of training on pairs whose fields are known and gives its loss: as `peer_step`."""
    optimizer = make_optimizer(RECIPE, STEPS)
    fixed = jax.device_put(params.weights["backbone"])
    images, truth = jax.device_put((src, tgt)), true_fields_of(params.config, len(src))
    valid = [jnp.ones(field.shape[:3], bool) for field in truth]

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, fixed: Any, images: Any, truth: Any) -> Any:
        def loss(geometry: Any) -> jax.Array:
            moved = rtn_jax.Params({"backbone": fixed, "geometry": geometry}, params.config)
            history = rtn_jax.apply(moved, *images).history
            return synthetic_loss(history, truth, valid, decay=RECIPE.decay, matrix_weight=RECIPE.matrix_weight)

        trained, optimizer_state = state
        value, gradient = jax.value_and_grad(loss)(trained["geometry"])
        changes, optimizer_state = optimizer.update({"geometry": gradient}, optimizer_state, trained)
        return (optax.apply_updates(trained, changes), optimizer_state), value

    trained = {"geometry": jax.tree.map(jnp.array, params.weights["geometry"])}
    carried = [(trained, optimizer.init(trained))]

    def run() -> jax.Array:
        carried[0], value = step(carried[0], fixed, images, truth)
        return value

    return run, ()


def true_fields_of(config: Config, batch: int) -> list[jax.Array]:
    """Per level, what the pairs of the step are said to have been made with: a shift by an eighth of the image."""
    moved = jnp.asarray([[1, 0, 0.25], [0, 1, -0.25]], jnp.float32)
    return [jnp.broadcast_to(moved, (batch, *shape, 2, 3)) for _, shape in grids(config)]


def peer_forward(module: Any, run: Any, src: Any, tgt: Any, _: Config) -> Callable[[], list[Any]]:
    """Runs the peer: the fields after every iteration."""
    import torch

    def forward() -> list[Any]:
        with torch.inference_mode():
            return run(src, tgt)

    return forward


def peer_gradient(module: Any, run: Any, src: Any, tgt: Any, _: Config) -> Callable[[], list[Any]]:
    """Runs the peer: the gradient of every weight of the geometry network, sorted by name, kernels HWIO."""

    def gradient() -> list[Any]:
        module.zero_grad(set_to_none=True)
        run(src, tgt)[-1][..., 2].abs().mean().backward()
        gradients = []
        for _, layer in sorted(module.geometry.items()):
            gradients += [layer.bias.grad, layer.weight.grad.permute(2, 3, 1, 0)]
        return gradients

    return gradient


def peer_step(module: Any, run: Any, src: Any, tgt: Any, config: Config) -> Callable[[], Any]:
    """Makes the peer's next step of training, of which it has the same recipe, and gives its loss."""
    import torch

    from benchmarks.peer import step

    return step(
        module,
        run,
        src,
        tgt,
        [torch.from_numpy(np.array(field)).to(src.device) for field in true_fields_of(config, len(src))],
        learning_rate=RECIPE.learning_rate,
        weight_decay=RECIPE.weight_decay,
        clip=RECIPE.clip,
        decay=RECIPE.decay,
        matrix_weight=RECIPE.matrix_weight,
    )


JOBS: dict[str, tuple[Callable[..., Ours], Callable[..., Callable[[], Any]]]] = {
    "forward": (our_forward, peer_forward),
    "gradient": (our_gradient, peer_gradient),
    "step": (our_step, peer_step),
}


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


def _for_torch(module: Any, images: np.ndarray) -> Any:
    """[b, H, W, 3] as [b, 3, H, W], without a copy, where and as the peer's weights are."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).to(next(module.parameters()).device)


def _show(title: str, rows: list[Timed], limits: Ceilings) -> None:
    sys.stdout.write(f"\n{title}\n\n{turns_table(rows, limits)}")
    sys.stdout.flush()


if __name__ == "__main__":
    tyro.cli(main)
