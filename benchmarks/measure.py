"""One measurement, alone in its process: what `train_step`, `scaling` and `memory`, all of `benchmarks`, start.

    python -m benchmarks.measure '{"job": "step", "flags": {"stage": "synthetic", "batch_size": 1}}'

`flags` are those of `train.py`, and the `radius` of the network; `devices` and `repeats` may be given too. The last
line it writes is a JSON object.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import rtn_jax
from benchmarks.setup import NETWORK_ONLY, STEPS, Request, Setup, setup_of
from rtn_jax.allocator import keep_freed_memory
from rtn_jax.config import Config
from rtn_jax.params import Params
from rtn_jax.training import hosts
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.objectives import OBJECTIVES
from rtn_jax.training.optimizer import joined, make_optimizer, moved_average, split, trained_layers
from rtn_jax.training.saver import Saver
from rtn_jax.training.scheduler import save_memory
from rtn_jax.training.step import make_step, parallel

Found = dict[str, Any]


def main(request: Request) -> Found:
    """Does the job, together with the other processes if there are any."""
    flags = {name: value for name, value in request.flags.items() if name not in NETWORK_ONLY}
    changes = {name: value for name, value in request.flags.items() if name in NETWORK_ONLY}
    train = TrainConfig(**{"data": "none", "weights": "random", **flags})
    if train.saves_memory:
        save_memory()
    else:
        keep_freed_memory()
    hosts.join(train.coordinator, train.processes, train.process)
    return JOBS[request.job](setup_of(train, **changes), request)


def step(setup: Setup, request: Request) -> Found:
    """Whole steps as training makes them, each of them waited for; compile time and memory."""
    made = make_step(setup.config, setup.stage, setup.recipe, STEPS, accumulate=setup.accumulate)
    run = parallel(made, _devices(request))
    batch = setup.batch()
    carried: list[Any] = [setup.state(), {}]

    def once() -> Any:
        carried[:] = run(carried[0], batch)
        return carried

    found = _calls(once, request.repeats)
    if not np.isfinite(float(carried[1]["loss"])):
        raise ValueError(f"loss: expected a finite number, got {float(carried[1]['loss'])}")
    return found


def inference(setup: Setup, request: Request) -> Found:
    """Whole calls of `rtn_jax.apply` on a batch of pairs, of noise at the network's image size, likewise."""
    shape = (setup.recipe.batch_size, *setup.config.image_shape, 3)
    rng = np.random.default_rng(0)
    src, tgt = (rng.integers(0, 256, shape, np.uint8) for _ in range(2))
    return _calls(lambda: rtn_jax.apply(setup.params, src, tgt), request.repeats)


def parts(setup: Setup, request: Request) -> Found:
    """The step on one device piece by piece: loss, loss and gradient, update; checkpoints; operations and bytes."""
    recipe, layers = setup.recipe, trained_layers(setup.config, setup.recipe)
    trained, fixed = split(setup.params.weights, layers)
    batch = setup.batch()

    def loss(trained: Any, fixed: Any, batch: Any, config: Config = setup.config) -> Any:
        return OBJECTIVES[setup.stage](Params(joined(trained, fixed), config), batch, recipe)

    forward, both = jax.jit(loss), jax.jit(jax.value_and_grad(loss, has_aux=True))
    _, gradient = both(trained, fixed, batch)
    return {
        "forward": _timed(lambda: forward(trained, fixed, batch), request.repeats),
        "forward_and_backward": _timed(lambda: both(trained, fixed, batch), request.repeats),
        "update": _update_seconds(setup, gradient, max(request.repeats, 10)),
        **_checkpoint_seconds(setup, request.repeats),
        "pairs": recipe.batch_size,
        "photos_per_pair": 1 if setup.stage == "synthetic" else 2,
        "forward_flops": _operations(loss, setup.config, trained, fixed, batch),
        "flops": _operations(jax.value_and_grad(loss, has_aux=True), setup.config, trained, fixed, batch),
        "gradient_bytes": _bytes(trained),
        "batch_bytes": _bytes(batch),
    }


def all_reduce(setup: Setup, request: Request) -> Found:
    """The mean of the gradients over the devices, and of one number per array of weights: its latency."""
    trained, _ = split(setup.params.weights, trained_layers(setup.config, setup.recipe))
    small = jax.tree.map(lambda weight: jnp.zeros(1, weight.dtype), trained)
    found: Found = {"bytes": _bytes(trained), "devices": request.devices * jax.process_count()}
    for name, tree in (("seconds", trained), ("latency_seconds", small)):
        reduced, plain = (_reduce_seconds(tree, request, reduced=reduced) for reduced in (True, False))
        found[name] = [seconds - float(np.median(plain)) for seconds in reduced]
    return found


def reading(setup: Setup, request: Request) -> Found:
    """JPEG photos decoded and resized per second, by a thread and by worker processes (see `benchmarks.input`)."""
    from benchmarks.input import make_photos, pairs_per_second

    size = setup.config.image_shape[0]
    with tempfile.TemporaryDirectory() as folder:
        mean_bytes = make_photos(Path(folder), 200, 500, seed=0)
        rates = {
            str(workers): 2 * pairs_per_second(folder, workers, 16, size, float(2 * request.repeats), seed=0)
            for workers in (0, 1, 2)
        }
    return {"photos_per_second": rates, "file_bytes": mean_bytes}


JOBS: dict[str, Callable[[Setup, Request], Found]] = {
    "step": step,
    "inference": inference,
    "parts": parts,
    "all_reduce": all_reduce,
    "reading": reading,
}


def _devices(request: Request) -> int | None:
    """How many of this process's take part; None: all, and those of the other processes."""
    return request.devices if jax.process_count() == 1 else None


def _calls(run: Callable[[], Any], repeats: int) -> Found:
    """Seconds and memory of calls, after one that compiles and one that warms up, each of them waited for."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    first = time.perf_counter() - start
    jax.block_until_ready(run())
    compiling = _peak_bytes()
    _forget_peak()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    calling = _peak_bytes()
    device = jax.local_devices()[0]
    return {
        "seconds": seconds,
        "compile_seconds": first - float(np.median(seconds)),
        "peak_bytes": max(compiling, calling),
        "steps_peak_bytes": calling,
        "device_peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "device": f"{device.platform}: {device.device_kind}",
    }


def _timed(run: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each call but the first, which compiles."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return seconds


def _update_seconds(setup: Setup, gradient: Any, repeats: int) -> list[float]:
    """The optimiser, the new weights, their average and the gradient's norm, in the old ones' memory as in a step."""
    optimizer, recipe = make_optimizer(setup.recipe, STEPS), setup.recipe
    state = setup.state()
    trained, _ = split(state.weights, trained_layers(setup.config, recipe))
    carried = [(trained, state.optimizer, state.average)]

    @partial(jax.jit, donate_argnums=0)
    def update(carried: Any, gradient: Any) -> Any:
        trained, optimizer_state, average = carried
        changes, optimizer_state = optimizer.update(gradient, optimizer_state, trained)
        trained = optax.apply_updates(trained, changes)
        if recipe.average:
            average = moved_average(average, trained, recipe, jnp.zeros((), jnp.int32))
        return (trained, optimizer_state, average), optax.tree.norm(gradient)

    def run() -> Any:
        carried[0], norm = update(carried[0], gradient)
        return carried[0], norm

    return _timed(run, repeats)


def _checkpoint_seconds(setup: Setup, times: int) -> dict[str, list[float]]:
    """How long training stands still for a checkpoint (the copy), and how long it is being written beside it."""
    state = setup.state()
    copies, writes = [], []
    with tempfile.TemporaryDirectory() as folder, Saver(Path(folder), keep=1) as saver:
        for number in range(times):
            start = time.perf_counter()
            params = Params(jax.tree.map(np.asarray, state.measured), setup.config)
            beside = {f"{i:05d}": leaf for i, leaf in enumerate(jax.tree.leaves(state.optimizer))}
            saver.save(number, params, beside, notes={})
            copies.append(time.perf_counter() - start)
            start = time.perf_counter()
            if (problem := saver.wait()) is not None:
                raise OSError(problem)
            writes.append(time.perf_counter() - start)
    return {"checkpoint_copy": copies, "checkpoint_write": writes}


def _reduce_seconds(tree: Any, request: Request, *, reduced: bool) -> list[float]:
    """Steps that do nothing but change arrays on each device and, or not, take their mean over the devices."""

    def change(state: Any, batch: Any) -> Any:
        changed = jax.tree.map(lambda x: x + batch["own"][0], state)  # otherwise there were nothing to exchange
        return (lax.pmean(changed, "devices") if reduced else changed), {"own": batch["own"][0]}

    run = parallel(change, _devices(request))
    batch = {"own": np.zeros(request.devices, np.float32)}
    carried = [jax.tree.map(jnp.array, tree)]

    def once() -> Any:
        carried[0], metrics = run(carried[0], batch)
        return carried[0], metrics

    return _timed(once, max(request.repeats, 10))


def _operations(function: Callable[..., Any], config: Config, *args: Any) -> float:
    """Of floating-point numbers, as XLA counts them; of a loop it would count one turn."""
    unrolled = partial(function, config=config.replace(unroll=True, remat=False))
    return float((jax.jit(unrolled).lower(*args).cost_analysis() or {})["flops"])


def _bytes(tree: Any) -> int:
    return sum(array.nbytes for array in jax.tree.leaves(tree))


def _peak_bytes() -> int:
    """The most memory this process has had since it began, or since the last `_forget_peak`."""
    try:
        # Linux's ru_maxrss would begin with that of the process which started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _forget_peak() -> None:
    """Gives back what compiling has left behind, and counts anew; where the system cannot, the peak stays as it is."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main(Request(**json.loads(sys.argv[1])))) + "\n")
