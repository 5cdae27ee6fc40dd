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
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from rtn_jax.affine import field_statistics
from rtn_jax.config import Config
from rtn_jax.coordinates import cells_to_pixels, normalize_vectors, pixel_grid
from rtn_jax.data.synthetic import Warp, WarpRange, inside, random_warps, warp_jacobian, warp_mapping, warp_photos
from rtn_jax.losses import synthetic_loss, weak_loss
from rtn_jax.model import apply, grids
from rtn_jax.params import Params
from rtn_jax.training.config import TrainConfig

Batch = dict[str, Any]
"""Arrays whose first axis is the pair."""
Metrics = dict[str, Array]
Step = Callable[["TrainState", Batch], tuple["TrainState", Metrics]]

_AXIS = "devices"


@partial(jax.tree_util.register_dataclass, data_fields=["step", "weights", "optimizer"], meta_fields=[])
@dataclass(frozen=True)
class TrainState:
    """Everything a step changes."""

    step: Array
    """Steps made so far."""
    weights: PyTree
    """Of the whole network, trained or not."""
    optimizer: optax.OptState
    """Of the trained part."""


def make_optimizer(train: TrainConfig) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and cosine decay."""
    return optax.chain(
        optax.clip_by_global_norm(train.clip),
        optax.adamw(make_schedule(train), weight_decay=train.weight_decay),
    )


def make_schedule(train: TrainConfig) -> optax.Schedule:
    """The learning rate by step."""
    warmup = min(max(1, train.steps // 10), train.steps)
    return optax.warmup_cosine_decay_schedule(0.0, train.learning_rate, warmup, max(train.steps, warmup + 1))


def init_state(params: Params, train: TrainConfig) -> TrainState:
    """The state before the first step."""
    trained, _ = _split(params.weights, train)
    return TrainState(jnp.zeros((), jnp.int32), params.weights, make_optimizer(train).init(trained))


def make_step(config: Config, train: TrainConfig) -> Step:
    """The step of one device: `(state, batch) -> (state, metrics)`, its gradients and metrics averaged over devices."""
    optimizer, schedule = make_optimizer(train), make_schedule(train)
    stage_loss = {"synthetic": _synthetic, "weak": _weak}[train.stage]

    def loss(trained: PyTree, fixed: PyTree, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        return stage_loss(Params({**fixed, **trained}, config), batch, train)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        trained, fixed = _split(state.weights, train)
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(trained, fixed, batch)
        gradient, metrics = jax.lax.pmean((gradient, {"loss": value, **metrics}), _AXIS)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, trained)
        trained = optax.apply_updates(trained, updates)
        metrics |= {"gradient_norm": optax.tree.norm(gradient), "learning_rate": schedule(state.step)}
        return TrainState(state.step + 1, {**fixed, **trained}, optimizer_state), metrics

    return step


def parallel(step: Step, devices: int) -> Step:
    """Runs the step on that many devices, the batch split evenly; state and metrics are the same on each.

    Raises:
        ValueError: from the returned function, if the batch does not divide.
    """
    chosen = jax.devices()[:devices]
    mapped = jax.pmap(step, axis_name=_AXIS, in_axes=(None, 0), out_axes=(None, None), devices=chosen)
    everywhere = NamedSharding(Mesh(np.asarray(chosen), (_AXIS,)), PartitionSpec())

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        size = len(next(iter(batch.values())))
        if size % devices:
            raise ValueError(f"batch_size: {size} pairs cannot be split evenly over {devices} devices")
        state = jax.device_put(state, everywhere)  # as it comes back: otherwise the second step would compile again
        return mapped(state, {name: x.reshape(devices, size // devices, *x.shape[1:]) for name, x in batch.items()})

    return run


def _synthetic(params: Params, batch: Batch, train: TrainConfig) -> tuple[Float[Array, ""], Metrics]:
    """Batch: `photos` uint8 `[b, H, W, 3]` at the network's image size, `seeds` uint32 `[b]` of their warps."""
    keys = jax.vmap(jax.random.key)(batch["seeds"])
    warp = random_warps(keys, WarpRange(translation=train.translation))
    tgt = batch["photos"].astype(jnp.float32)
    out = apply(params, warp_photos(warp, tgt), tgt)
    truth, valid = zip(*true_fields(params.config, warp), strict=True)
    value = synthetic_loss(out.history, truth, valid, decay=train.decay, matrix_weight=train.matrix_weight)
    return value, _field_metrics(out.affine)


def _weak(params: Params, batch: Batch, train: TrainConfig) -> tuple[Float[Array, ""], Metrics]:
    """Batch: `src`, `tgt` uint8 `[b, H, W, 3]` at the network's image size, `src_box` `[b, 4]` in its pixels."""
    out = apply(params, batch["src"], batch["tgt"])
    mask = box_mask(params.config, batch["src_box"])
    return weak_loss(out.correlation, mask, temperature=train.temperature), _field_metrics(out.affine)


def box_mask(config: Config, box: Float[Array, "b 4"]) -> Float[Array, "b h w"]:
    """1 for the cells of the last level whose centre lies in the box (left, top, right, bottom), 0 for the others.

    The cell that holds the box's middle always counts, so that no object is too small to be learned from.
    """
    stride, shape = grids(config)[-1]
    centers = jnp.asarray(cells_to_pixels(pixel_grid(shape, "float64"), stride), box.dtype)
    left_top, right_bottom = box[:, None, None, :2], box[:, None, None, 2:]
    inside_box = ((centers >= left_top) & (centers <= right_bottom)).all(-1)
    holds_middle = (jnp.abs(centers - (left_top + right_bottom) / 2) <= stride / 2).all(-1)
    return (inside_box | holds_middle).astype(box.dtype)


def true_fields(config: Config, warp: Warp) -> list[tuple[Float[Array, "b h w 2 3"], Array]]:
    """Per level, the affine field that a warp stands for, and the cells whose true position lies in the target."""
    fields = []
    for stride, shape in grids(config):
        pixels = cells_to_pixels(pixel_grid(shape, "float64"), stride)
        mapping = warp_mapping(warp, pixels, config.image_shape)
        cells = (mapping - jnp.asarray(pixels, mapping.dtype)) / stride
        translation = normalize_vectors(cells, shape, config.normalization)
        matrix = warp_jacobian(warp, pixels, config.image_shape)
        valid = inside(mapping, config.image_shape) & inside(jnp.asarray(pixels), config.image_shape)
        fields.append((jnp.concatenate([matrix, translation[..., None]], -1), valid))
    return fields


def _field_metrics(field: Float[Array, "b h w 2 3"]) -> Metrics:
    statistics = field_statistics(jax.lax.stop_gradient(field))
    mean = statistics.pop("mean_2x2")
    return statistics | {f"mean_a{i}{j}": mean["xy".index(i), "xy".index(j)] for i in "xy" for j in "xy"}


def _split(weights: dict[str, Any], train: TrainConfig) -> tuple[PyTree, PyTree]:
    """The weights the optimiser changes, and the others."""
    if train.train_backbone:
        return dict(weights), {}
    return {"geometry": weights["geometry"]}, {"backbone": weights["backbone"]}
