"""Four steps of either stage on fixed data, computed once for all the tests that compare something with them."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from rtn_jax.params import Params
from rtn_jax.training.recipes import RECIPES, Recipe, StageName
from rtn_jax.training.step import Step, init_state, make_step, parallel
from tests.networks import ONE_LEVEL, moving_params, photos, small_config

PAIRS = 8
TOTAL = 20
"""Steps of the stage that the schedules span."""

CHOSEN: dict[StageName, Recipe] = {
    # Ours with everything on that a synthetic stage can have, learning from the first step on.
    "synthetic": Recipe(learning_rate=1e-3, warmup=0.0, average=0.9, tie_weight=0.5, colour=0.2),
    # The release's: sums, momentum, the whole backbone trained. Its rate is for a trained network and sixteen steps are
    # too few to see it: here it is a thousand times as large.
    "weak": dataclasses.replace(RECIPES["released"]["weak"], learning_rate=1e-2),
}


@dataclass(frozen=True)
class Made:
    """What a step left, in host memory."""

    metrics: dict[str, float]
    weights: Any
    measured: Any
    optimizer: Any


def network(**changes: Any) -> Params:
    """A small network whose fields are not the identity."""
    return moving_params(small_config(levels=ONE_LEVEL, **changes))


def batch(stage: StageName) -> dict[str, np.ndarray]:
    """Pairs with different numbers of cells that count: warps that leave the image, boxes of any size."""
    pictures, seeds = photos(np.random.default_rng(0), 2 * PAIRS), np.arange(PAIRS, dtype=np.uint32)
    if stage == "synthetic":
        return {"photos": pictures[:PAIRS], "seeds": seeds}
    sizes = np.linspace(4, 30, PAIRS)
    boxes = np.stack([0 * sizes, 30 - sizes, sizes, 0 * sizes + 31], -1).astype(np.float32)
    return {"src": pictures[:PAIRS], "tgt": pictures[PAIRS:], "src_box": boxes, "tgt_box": boxes[::-1], "seeds": seeds}


def step(stage: StageName, devices: int = 1, *, accumulate: int = 1, **changes: Any) -> Step:
    """The step of a stage; `changes` are of the network's config."""
    config = network(**changes).config
    return parallel(make_step(config, stage, CHOSEN[stage], TOTAL, accumulate=accumulate), devices)


def steps(made: Step, stage: StageName, count: int) -> tuple[Made, ...]:
    """What each of the first steps leaves."""
    state, found = init_state(network(), CHOSEN[stage], TOTAL), []
    for _ in range(count):
        state, metrics = made(state, batch(stage))
        kept = jax.tree.map(np.array, (state.weights, state.measured, state.optimizer))
        found.append(Made({name: float(value) for name, value in metrics.items()}, *kept))
    return tuple(found)


@functools.cache
def plain(stage: StageName) -> Step:
    """On one device, nothing recomputed, nothing accumulated."""
    return step(stage)


@functools.cache
def run(stage: StageName) -> tuple[Made, ...]:
    """Four plain steps."""
    return steps(plain(stage), stage, 4)
