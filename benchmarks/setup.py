"""What a measurement trains: network, recipe, state and batch as `train.py` would have them with the same flags.

Weights are random, of the usual sizes: what a step costs does not depend on what they are. The last layer is not zero,
as it is in a new network, so that fields move.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtn_jax.config import Config
from rtn_jax.geometry import LAST_LAYER
from rtn_jax.params import Params, expected_shapes
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.recipes import Recipe, StageName
from rtn_jax.training.step import TrainState, init_state

STEPS = 1000
"""Of the schedule."""

NETWORK_ONLY = ("radius",)
"""Flags of a measurement that `train.py` does not have: fields of the network's config."""


@dataclass(frozen=True)
class Request:
    """What to measure: see `fresh.measured`."""

    job: str
    flags: dict[str, Any] = field(default_factory=dict)
    devices: int = 1
    repeats: int = 3


@dataclass(frozen=True)
class Setup:
    """What would be trained."""

    stage: StageName
    recipe: Recipe
    params: Params
    accumulate: int = 1

    @property
    def config(self) -> Config:
        """Of the network."""
        return self.params.config

    def state(self) -> TrainState:
        """Before the first step."""
        return init_state(self.params, self.recipe, STEPS)

    def batch(self) -> dict[str, np.ndarray]:
        """The share of a batch that belongs to the process: noise for photos, the whole image for boxes."""
        pairs = self.recipe.batch_size // jax.process_count()
        height, width = self.config.image_shape
        rng = np.random.default_rng(jax.process_index())
        names = ("photos",) if self.stage == "synthetic" else ("src", "tgt")
        batch = {name: rng.integers(0, 256, (pairs, height, width, 3), np.uint8) for name in names}
        batch["seeds"] = rng.integers(0, 2**32, pairs, np.uint32)
        if self.stage == "weak":
            batch["src_box"] = np.tile(np.array([0, 0, width - 1, height - 1], np.float32), (pairs, 1))
        return batch


def setup_of(train: TrainConfig, **changes: Any) -> Setup:
    """What `train.py` would train with these flags, of two stages the first; `changes` are made to its network.

    Raises:
        ValueError: if the flags do not fit the preset, or a change is none.
    """
    stage: StageName = "weak" if train.stage == "weak" else "synthetic"
    config = train.network().replace(**changes)
    return Setup(stage, train.chosen(stage), Params(random_weights(config), config), train.accumulate)


def random_weights(config: Config, seed: int = 0) -> Any:
    """He-normal kernels, zero biases. `rtn_jax.init` would compile a program first, and its last layer is zero."""
    rng = np.random.default_rng(seed)

    def weight(shape: tuple[int, ...]) -> Any:
        if len(shape) == 1:
            return jnp.zeros(shape)
        return jnp.asarray(rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[:-1]))))

    weights = jax.tree.map(weight, expected_shapes(config), is_leaf=lambda x: isinstance(x, tuple))
    weights["geometry"][LAST_LAYER]["kernel"] *= 0.01  # residuals of a few hundredths
    return weights
