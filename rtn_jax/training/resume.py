"""Between the state of a run and its checkpoints.

A checkpoint's weights are the ones that are measured; beside them lies what a run needs to go on as if nothing had
happened: the optimiser, and the trained weights where the measured ones are their average. Order, warps and colours
follow from seed and step, so those two numbers are the random state and the position in the data.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from rtn_jax import checkpoints
from rtn_jax.config import Config
from rtn_jax.params import Params
from rtn_jax.training import hosts
from rtn_jax.training.optimizer import joined, split, trained_layers
from rtn_jax.training.phases import Phase
from rtn_jax.training.step import TrainState, init_state


def to_continue(state: TrainState, config: Config, phase: Phase) -> PyTree:
    """What goes into a checkpoint beside the measured weights."""
    trained, _ = split(state.weights, trained_layers(config, phase.recipe))
    return {"optimizer": state.optimizer, "trained": trained if state.average else {}, "updates": state.updates}


def state_at(params: Params, phase: Phase, step: int, checkpoint: Path | None) -> TrainState:
    """The state after `step` steps: of a new run, of one whose phase begins, or of one that goes on.

    Args:
        params: a network; its weights count where there is no checkpoint.
        phase: of the next step.
        step: made so far.
        checkpoint: of that step; None where there is none, and in all processes but the first.

    Raises:
        ValueError: if the checkpoint is damaged or of another network or optimiser.
    """

    def read() -> TrainState:
        start = params if checkpoint is None else Params(checkpoints.load(checkpoint).weights, params.config)
        state = init_state(start, phase.recipe, phase.steps, step=step)
        if checkpoint is None or step == phase.first:
            return state
        beside = checkpoints.load_training(checkpoint, to_continue(state, params.config, phase))
        beside = jax.tree.map(jnp.asarray, beside)
        measured, fixed = split(state.weights, trained_layers(params.config, phase.recipe))
        return dataclasses.replace(
            state,
            weights=joined(beside["trained"], fixed) if state.average else state.weights,
            average=measured if state.average else {},
            optimizer=beside["optimizer"],
            updates=beside["updates"],
        )

    state: TrainState = hosts.same(hosts.together(read))
    return state
