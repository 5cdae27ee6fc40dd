"""One step of the optimiser: a pure function of state and batch, and the only place that spreads it over devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from rtn_jax.config import Config
from rtn_jax.params import Params
from rtn_jax.training.objectives import OBJECTIVES
from rtn_jax.training.optimizer import joined, make_optimizer, make_schedule, moved_average, split, trained_layers
from rtn_jax.training.recipes import Recipe, StageName

Batch = dict[str, Any]
"""Arrays whose first axis is the pair."""
Metrics = dict[str, Array]
Step = Callable[["TrainState", Batch], tuple["TrainState", Metrics]]

STOP = "stop"
"""Entry of a batch that is no data, `[b]`: more than 0 where a process wants all of them to stop, NaN where it could
not read its part of the batch, so that the step must change nothing. A metric too: the mean."""

_AXIS = "devices"


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "updates", "weights", "optimizer", "average"],
    meta_fields=[],
)
@dataclass(frozen=True)
class TrainState:
    """Everything a step changes."""

    step: Array
    """Steps made so far, over all stages: the number of batches seen."""
    updates: Array
    """Updates made in this stage: its steps, but for those that were skipped."""
    weights: PyTree
    """Of the whole network, trained or not."""
    optimizer: optax.OptState
    """Of the trained part."""
    average: PyTree
    """Moving average of the trained part; empty where none is made."""

    @property
    def measured(self) -> PyTree:
        """The weights that are measured and kept: the average where there is one."""
        if not self.average:
            return self.weights
        return joined(self.average, self.weights["backbone"])


def init_state(params: Params, recipe: Recipe, steps: int, *, step: int = 0) -> TrainState:
    """The state before the first step of a stage. The weights are copied: a step consumes the state it is given.

    Args:
        params: the network to start from.
        recipe: of the stage.
        steps: of the stage, which its schedule spans.
        step: steps made before, in earlier stages.

    Raises:
        ValueError: if the recipe trains a layer that the backbone does not have.
    """
    weights = jax.tree.map(jnp.array, params.weights)
    trained, _ = split(weights, trained_layers(params.config, recipe))
    average = jax.tree.map(jnp.array, trained) if recipe.average else {}
    optimizer = make_optimizer(recipe, steps).init(trained)
    return TrainState(jnp.asarray(step, jnp.int32), jnp.zeros((), jnp.int32), weights, optimizer, average)


def make_step(config: Config, stage: StageName, recipe: Recipe, steps: int, *, accumulate: int = 1) -> Step:
    """The step of one device: `(state, batch) -> (state, metrics)`, gradients and metrics averaged over the devices.

    An update is skipped where loss or gradient is not finite; `skipped_in_a_row` counts.

    Args:
        config: of the network.
        stage: what the batches are: see `objectives`.
        recipe: of the stage.
        steps: of the stage, which its schedule spans.
        accumulate: parts of each device's batch that are computed one after another.
    """
    optimizer, schedule, objective = make_optimizer(recipe, steps), make_schedule(recipe, steps), OBJECTIVES[stage]
    layers = trained_layers(config, recipe)

    def loss(trained: PyTree, fixed: PyTree, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        return objective(Params(joined(trained, fixed), config), batch, recipe)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        trained, fixed = split(state.weights, layers)
        gradient_of = partial(jax.value_and_grad(loss, has_aux=True), trained, fixed)
        data = {name: x for name, x in batch.items() if name != STOP}
        (value, metrics), gradient = _in_parts(gradient_of, data, accumulate)
        metrics |= {"loss": value, STOP: batch[STOP].mean()}
        gradient, metrics = lax.pmean((gradient, metrics), _AXIS)
        norm = optax.tree.norm(gradient)
        metrics |= {"gradient_norm": norm, "learning_rate": schedule(state.updates)}
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)  # a square beyond the largest number spoils AdamW
        gradient = jax.tree.map(lambda g: jnp.where(finite, g, jnp.nan), gradient)
        changes, optimizer_state = optimizer.update(gradient, state.optimizer, trained)
        trained, updates = optax.apply_updates(trained, changes), state.updates + optimizer_state.last_finite
        average = state.average
        if recipe.average:
            moved = moved_average(average, trained, recipe, state.updates)
            average = jax.tree.map(partial(jnp.where, optimizer_state.last_finite), moved, average)
        metrics |= {"skipped_in_a_row": optimizer_state.notfinite_count}
        new = TrainState(state.step + 1, updates, joined(trained, fixed), optimizer_state, average)
        return jax.tree.map(partial(jnp.where, jnp.isfinite(metrics[STOP])), new, state), metrics

    return step


def parallel(step: Step, devices: int | None = None) -> Step:
    """Runs the step on devices, the batch split evenly; state and metrics are the same on each.

    The state that is given is consumed: its memory becomes that of the new one.

    Args:
        step: of one device.
        devices: how many of this process's; unless given all of them, and those of all other processes, each of which
            calls this with its own part of the batch.

    Raises:
        ValueError: if there are not so many devices; from the returned function, if the batch does not divide.
    """
    present = jax.local_devices()
    if devices is not None and not 1 <= devices <= len(present):
        raise ValueError(f"devices: expected 1 to {len(present)}, got {devices}")
    chosen = present[:devices]
    mapped = jax.pmap(
        step,
        axis_name=_AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        devices=None if devices is None else chosen,
        donate_argnums=0,
    )
    everywhere = NamedSharding(Mesh(np.asarray(chosen), (_AXIS,)), PartitionSpec())

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        size = len(next(iter(batch.values())))
        if size % len(chosen):
            raise ValueError(f"batch_size: {size} pairs cannot be split evenly over {len(chosen)} devices")
        state = jax.device_put(state, everywhere)  # as it comes back: otherwise the second step would compile again
        batch = {STOP: np.zeros(size, np.float32)} | batch
        shards = {name: x.reshape(len(chosen), size // len(chosen), *x.shape[1:]) for name, x in batch.items()}
        return mapped(state, shards)

    return run


def _in_parts(function: Callable[[Batch], PyTree], batch: Batch, parts: int) -> PyTree:
    """The mean of a function's results over equal parts of a batch, one after another.

    Raises:
        ValueError: if the batch cannot be cut into so many.
    """
    if parts == 1:
        return function(batch)
    size = len(next(iter(batch.values())))
    if size % parts:
        raise ValueError(f"accumulate: {size} pairs of a device cannot be split evenly into {parts} parts")
    cut = jax.tree.map(lambda x: x.reshape(parts, size // parts, *x.shape[1:]), batch)

    def add(total: PyTree, part: Batch) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, jax.tree.map(lambda x: x[0], cut))
    )
    # A rolled loop is several times slower on the CPU, as in the recurrence.
    total, _ = lax.scan(add, zeros, cut, unroll=parts if jax.default_backend() == "cpu" else 1)
    return jax.tree.map(lambda x: x / parts, total)
