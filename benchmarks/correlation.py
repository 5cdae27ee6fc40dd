"""Times the windowed correlation in several forms, forward and with its gradients, beside what the machine can do.

    python -m benchmarks.correlation --out correlation.json         # about two minutes on two cores
    python -m benchmarks.correlation --grid 64 --no-gradient
    python -m benchmarks.correlation --quick                        # tiny, to see that it works

Ours is `window_correlation`. The others are what one would write first: a product with the shifted target for every
offset of the window, and one matrix product per cell with its gathered window; in PyTorch the same gathered windows
(`unfold`), and our peer's row products. PyTorch's forms are left out where it is not installed or cannot use the
device, and in half precision. All forms first have to agree; then they take turns.

Counted are the operations that must be done, one product and one sum per channel and candidate, and three times as many
with both gradients; and the bytes of inputs and outputs, each once. The floor is the longer of the two at the machine's
ceilings. Products of whole rows, one per row offset, compare cells that lie outside each other's window as well: their
own floor is said in a line. The targets are twice that floor and a quarter of the shifted products' time, forward and
backward, with the default sizes.

Nothing else may run meanwhile.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fresh import about, machine
from benchmarks.turns import Ceilings, Timed, ceilings, take_turns, turns_table, waited, write
from rtn_jax.commands import run
from rtn_jax.correlation import window_correlation

Form = Callable[..., Any]
DType = Literal["float32", "bfloat16"]

TOLERANCE = 1e-4
"""Relative to the largest value of the same array."""
ROUGH = 0.02
"""The same where the factors of a product are rounded: in half precision, and on accelerators."""


@dataclass(frozen=True)
class Job:
    """One function in several forms, its inputs, and what must be done at least, forward and with the gradients."""

    inputs: tuple[jax.Array, ...]
    cotangent: jax.Array
    forms: dict[str, Form]
    """In JAX; the first is ours."""
    peers: dict[str, Form] = field(default_factory=dict)
    """In PyTorch, of tensors."""
    flops: tuple[float, float] = (0.0, 0.0)
    items: int = 1


@dataclass(frozen=True)
class Config:
    """Times the windowed correlation in several forms."""

    batch: int = 4
    """Pairs of feature maps."""
    grid: int = 32
    """Rows and columns of a map."""
    channels: int = 512
    """Of the features."""
    radius: int = 4
    """Of the window, in cells."""
    repeats: int = 7
    """Turns of each form that are timed, after one that compiles and one that warms up."""
    gradient: bool = True
    """Time the forward pass together with the backward pass as well."""
    dtype: DType = "float32"
    """Of the features."""
    seed: int = 0
    """Of the features."""
    out: Path | None = None
    """JSON file of everything measured, with the machine."""
    quick: bool = False
    """Tiny sizes, to see that it works."""

    def __post_init__(self) -> None:
        at_least(1, batch=self.batch, grid=self.grid, channels=self.channels, repeats=self.repeats)
        at_least(0, radius=self.radius, seed=self.seed)


QUICK: dict[str, Any] = {"batch": 2, "grid": 6, "channels": 8, "radius": 2, "repeats": 2}


def main(config: Config) -> None:
    """Checks that all forms agree, times them in turns, and prints tables.

    Raises:
        SystemExit: if they disagree; a message without a number is exit code 1.
    """
    config = replace(config, **QUICK) if config.quick else config
    b, n, c, r = config.batch, config.grid, config.channels, config.radius
    side = 2 * r + 1
    title = f"window_correlation, batch {b}, {n}x{n} cells of {c} channels, radius {r}, {config.dtype}"

    def rows_floor(rows: list[Timed], limits: Ceilings, passes: int) -> str:
        ours, shifted = rows[:2]
        flops = passes * 2.0 * b * n * n * n * c * side
        floor = limits.floor(flops, 0)
        return (
            f"products of whole rows, one per row offset: {flops / 1e9:.4g} GFLOP, {flops / ours.flops:.2f} times what "
            f"must be done; at the ceiling {1e3 * floor:.4g} ms. Ours takes {ours.median / floor:.2f} times that, and "
            f"{shifted.name} {shifted.median / ours.median:.2f} times as long as ours.\n"
        )

    report(title, config, job(config), rows_floor)


def job(config: Config) -> Job:
    """The correlation of random features, in all its forms."""
    b, n, c, radius = config.batch, config.grid, config.channels, config.radius
    rng = np.random.default_rng(config.seed)
    src, tgt = (jnp.asarray(rng.standard_normal((b, n, n, c)), config.dtype) for _ in range(2))
    candidates = (2 * radius + 1) ** 2
    flops = 2.0 * b * n * n * candidates * c
    return Job(
        inputs=(src, tgt),
        cotangent=jnp.asarray(rng.standard_normal((b, n, n, candidates)), jnp.float32),
        forms={
            "window_correlation": partial(window_correlation, radius=radius),
            f"{candidates} shifted products": partial(shifted_products, radius=radius),
            "gathered windows": partial(gathered_windows, radius=radius),
        },
        peers=torch_forms(radius) if torch_device(config.dtype)[0] else {},
        flops=(flops, 3 * flops),
        items=b,
    )


def shifted_products(src: jax.Array, tgt: jax.Array, *, radius: int) -> jax.Array:
    """A product of the source with the shifted target, summed over the channels, for every offset."""
    (_, h, w, _), side = src.shape, 2 * radius + 1
    padded = jnp.pad(tgt, ((0, 0), (radius, radius), (radius, radius), (0, 0))).astype(jnp.float32)
    shifts = [padded[:, i : i + h, j : j + w] for i in range(side) for j in range(side)]
    return jnp.stack([(src.astype(jnp.float32) * shifted).sum(-1) for shifted in shifts], axis=-1)


def gathered_windows(src: jax.Array, tgt: jax.Array, *, radius: int) -> jax.Array:
    """A gathered window of the target for every cell, and its matrix product with the source's cell."""
    (b, h, w, c), side = src.shape, 2 * radius + 1
    padded = jnp.pad(tgt, ((0, 0), (radius, radius), (radius, radius), (0, 0))).reshape(b, -1, c)
    rows, columns = np.mgrid[:h, :w].reshape(2, -1, 1) + np.mgrid[:side, :side].reshape(2, 1, -1)
    windows = padded[:, rows * (w + 2 * radius) + columns]  # [b, h * w, m, c]
    volume = jnp.einsum("bnc,bnmc->bnm", src.reshape(b, h * w, c), windows, preferred_element_type=jnp.float32)
    return volume.reshape(b, h, w, side * side)


def torch_forms(radius: int) -> dict[str, Form]:
    """The same in PyTorch: our peer's row products, and `unfold`."""
    import torch
    from torch.nn import functional

    from benchmarks.peer import WindowCorrelation

    def unfold(src: Any, tgt: Any) -> Any:
        (b, h, w, c), side = src.shape, 2 * radius + 1
        windows = functional.unfold(tgt.permute(0, 3, 1, 2), side, padding=radius).view(b, c, side * side, h * w)
        return torch.einsum("bnc,bcmn->bnm", src.reshape(b, h * w, c), windows).view(b, h, w, -1)

    return {
        "PyTorch, peer's row products": lambda src, tgt: WindowCorrelation.apply(src, tgt, radius),
        "PyTorch, unfold": unfold,
    }


def report(
    title: str, config: Any, work: Job, remark: Callable[[list[Timed], Ceilings, int], str] | None = None
) -> None:
    """Times a job, forward and with its gradients if the config says so, prints tables and writes the JSON file.

    Args:
        title: what is timed.
        config: with `repeats`, `gradient`, `dtype` and `out`.
        work: the job.
        remark: on a table, from its rows, the ceilings and how many forward passes were counted.

    Raises:
        SystemExit: if a form disagrees with the first.
    """
    device, words = torch_device(config.dtype)
    here = machine() | {"device": jax.devices()[0].device_kind, "pytorch": words}
    limits = ceilings(config.dtype)
    sys.stdout.write(f"{about(here)}\n{jax.default_backend()} ({here['device']}), medians of {config.repeats}; ")
    sys.stdout.write(f"{limits}\n{words}\n")
    results: dict[str, Any] = {"title": title, "config": asdict(config) | {"out": None}}
    for gradient in (False, True) if config.gradient else (False,):
        kind, passes = ("forward + backward", 3) if gradient else ("forward", 1)
        ways, moved, temporary = checked(work, gradient, tolerance(config.dtype), device)
        counted = {"flops": work.flops[gradient], "bytes": moved, "items": work.items}
        rows = take_turns(ways, config.repeats, **counted)
        results[kind] = {"rows": rows, "temporary_bytes": temporary}
        sys.stdout.write(f"\n{title}: {kind}\n\n{turns_table(rows, limits)}\n")
        sys.stdout.write(f"counted: {counted['flops'] / 1e9:.4g} GFLOP, {moved / 1e6:.4g} MB of inputs and outputs")
        sizes = ", ".join(f"{size / 1e6:.4g} {name}" for name, size in temporary.items())
        sys.stdout.write(f"; temporary MB: {sizes or 'not known'}\n")
        if remark:
            sys.stdout.write(remark(rows, limits, passes))
        sys.stdout.flush()
    write(config.out, here, limits, results)


def checked(
    work: Job, gradient: bool, allowed: float, device: str | None
) -> tuple[dict[str, Callable[[], Any]], float, dict[str, int]]:
    """Every form as a call, once its results are known to be those of the first.

    Returns:
        The calls by name; the bytes of inputs and outputs; and those of XLA's temporary arrays, by name, where known.

    Raises:
        SystemExit: if they are not.
    """
    ways: dict[str, Callable[[], Any]] = {}
    temporary: dict[str, int] = {}
    first: list[np.ndarray] = []
    moved = 0
    for name, form in {**work.forms, **(work.peers if device else {})}.items():
        if name in work.forms:
            function, args = (_with_gradients, (work.cotangent,)) if gradient else (_forward, ())
            program = jax.jit(partial(function, form)).lower(*args, *work.inputs).compile()
            memory = program.memory_analysis()
            if memory is not None:
                temporary[name] = int(memory.temp_size_in_bytes)
            ways[name] = waited(program, *args, *work.inputs)
        else:
            ways[name] = _torch_call(form, gradient, work, str(device))
        found = [np.asarray(x.cpu() if hasattr(x, "cpu") else x) for x in ways[name]()]
        if not first:
            first = [x.astype(np.float64) for x in found]
            moved = sum(x.nbytes for x in found) + sum(x.nbytes for x in work.inputs)
            moved += work.cotangent.nbytes if gradient else 0
        apart = difference(first, found)
        if not apart <= allowed:
            kind = "forward + backward" if gradient else "forward"
            raise SystemExit(f"{name} disagrees with {next(iter(work.forms))} by {apart:.1e}, {kind}: nothing to time")
    return ways, float(moved), temporary


def difference(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """The largest between two lists of arrays, relative to the largest value of its array; NaN if one is not finite."""
    if [x.shape for x in first] != [x.shape for x in second]:
        return float("inf")
    pairs = list(zip(first, second, strict=True))
    return float(np.max([np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(np.float32).tiny) for a, b in pairs]))


def tolerance(dtype: str) -> float:
    """How far the forms may be apart."""
    return TOLERANCE if dtype == "float32" and jax.default_backend() == "cpu" else ROUGH


def torch_device(dtype: str) -> tuple[str | None, str]:
    """Where PyTorch computes, if it can beside us, and what is to be said about it."""
    if dtype != "float32":
        return None, "PyTorch: left out, its forms are in single precision"
    if importlib.util.find_spec("torch") is None:
        return None, "PyTorch: left out, it is not installed"
    import torch

    if jax.default_backend() == "cpu":
        return "cpu", f"PyTorch {torch.__version__}, cpu, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # factors are rounded, as XLA rounds them
        return "cuda", f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}"
    return None, f"PyTorch {torch.__version__}: left out, it has no accelerator"


def at_least(least: int, **numbers: int) -> None:
    """Refuses numbers that are too small.

    Raises:
        ValueError: naming the first of them.
    """
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name}: expected at least {least}, got {number}")


def _forward(form: Form, *inputs: jax.Array) -> list[jax.Array]:
    return [form(*inputs)]


def _with_gradients(form: Form, cotangent: jax.Array, *inputs: jax.Array) -> list[jax.Array]:
    result, pull = jax.vjp(form, *inputs)
    return [result, *pull(cotangent)]


def _torch_call(form: Form, gradient: bool, work: Job, device: str) -> Callable[[], list[Any]]:
    import torch

    tensors = [torch.tensor(np.asarray(x), device=device, requires_grad=gradient) for x in work.inputs]
    cotangent = torch.tensor(np.asarray(work.cotangent), device=device)

    def call() -> list[Any]:
        with torch.set_grad_enabled(gradient):
            result = form(*tensors)
            found = [result, *torch.autograd.grad(result, tensors, cotangent)] if gradient else [result]
        if device != "cpu":
            torch.cuda.synchronize()
        return [x.detach() for x in found]

    return call


if __name__ == "__main__":
    run("benchmarks.correlation", Config, main)
