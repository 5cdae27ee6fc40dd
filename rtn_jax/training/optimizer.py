"""The optimiser of a stage, and which weights it may change."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from rtn_jax.backbones import backbone
from rtn_jax.config import Config
from rtn_jax.geometry import LAST_LAYER
from rtn_jax.training.recipes import Recipe

NEVER = 2**31 - 1


def make_optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW or SGD with the learning rates of the layers; not finite: no update.

    Weight decay is decoupled in AdamW and part of the gradient in SGD, as in the release's trainer (MatConvNet), whose
    rates multiply the momentum as optax's do.
    """

    def rule(relative: float) -> optax.GradientTransformation:
        if relative == 0:
            return optax.set_to_zero()
        schedule = make_schedule(recipe, steps, relative)
        if recipe.optimizer == "adamw":
            return optax.adamw(schedule, weight_decay=recipe.weight_decay)
        decay = optax.add_decayed_weights(recipe.weight_decay)
        return optax.chain(decay, optax.sgd(schedule, momentum=recipe.momentum or None))

    rates = {
        "geometry": recipe.geometry_rate,
        "last": recipe.geometry_rate * recipe.last_rate,
        "backbone": recipe.backbone_rate,
    }
    rules = {part: rule(rate) for part, rate in rates.items()}
    by_layer = optax.partition(rules, _labels)
    clipped = optax.chain(optax.clip_by_global_norm(recipe.clip), by_layer) if recipe.clip else by_layer
    # How many skipped updates in a row are too many is the loop's to say: optax would let the next one through.
    return optax.apply_if_finite(clipped, max_consecutive_errors=NEVER)


def make_schedule(recipe: Recipe, steps: int, relative: float = 1.0) -> optax.Schedule:
    """The learning rate by the number of updates made: linear warm-up, then constant or a cosine to zero."""
    peak = recipe.learning_rate * relative
    warmup = min(round(recipe.warmup * steps), steps - 1)
    after = (
        optax.cosine_decay_schedule(peak, steps - warmup)
        if recipe.schedule == "cosine"
        else optax.constant_schedule(peak)
    )
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after


def trained_layers(config: Config, recipe: Recipe) -> tuple[str, ...]:
    """The backbone's layers that are trained.

    Raises:
        ValueError: if `train_backbone` is not one of its layers, or is the head of a backbone without one.
    """
    network = backbone(config)
    layers = tuple(network.weight_shapes())
    named = {"none": (), "all": layers} | ({"head": network.head} if network.head else {})
    if recipe.train_backbone in named:
        return named[recipe.train_backbone]
    if recipe.train_backbone not in layers:
        *others, last = [*named, f"one of {', '.join(layers)}"]
        raise ValueError(f"train_backbone: expected {', '.join(others)} or {last}, got {recipe.train_backbone!r}")
    return layers[layers.index(recipe.train_backbone) :]


def split(weights: PyTree, layers: tuple[str, ...]) -> tuple[PyTree, PyTree]:
    """The weights the optimiser changes (the geometry network and those layers of the backbone), and the others."""
    backbone = weights["backbone"]
    trained = {"geometry": weights["geometry"], "backbone": {name: backbone[name] for name in layers}}
    return trained, {name: layer for name, layer in backbone.items() if name not in layers}


def joined(trained: PyTree, fixed: PyTree) -> PyTree:
    """The whole network again: what `split` took apart."""
    return {"geometry": trained["geometry"], "backbone": {**fixed, **trained["backbone"]}}


def moved_average(average: PyTree, trained: PyTree, recipe: Recipe, updates: Array) -> PyTree:
    """`d * average + (1 - d) * trained`; `d` grows with the updates made, so that the start is soon forgotten."""
    share = jnp.minimum(recipe.average, (1 + updates) / (10 + updates))
    return jax.tree.map(lambda old, new: share * old + (1 - share) * new, average, trained)


def _labels(trained: PyTree) -> PyTree:
    """Per weight, the rule it follows."""

    def label(path: tuple[Any, ...], _: Any) -> str:
        keys = [entry.key for entry in path]
        if keys[0] == "backbone":
            return "backbone"
        return "last" if keys[1] == LAST_LAYER else "geometry"

    return jax.tree_util.tree_map_with_path(label, trained)
