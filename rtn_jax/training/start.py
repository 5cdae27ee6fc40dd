"""Where a run begins: everything it needs is opened and checked, and what its folder holds is taken up again."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rtn_jax import checkpoints
from rtn_jax.config import Config
from rtn_jax.params import Params, expected_shapes, init
from rtn_jax.training import hosts
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.folder import ROWS, RunFolder
from rtn_jax.training.optimizer import trained_layers
from rtn_jax.training.phases import Phase, phase_at, phases_of
from rtn_jax.training.resume import state_at
from rtn_jax.training.saver import newest_whole
from rtn_jax.training.step import TrainState
from rtn_jax.training.validation import Validation, validation_sets
from rtn_jax.weights import pretrained

_LOG = logging.getLogger(__name__)

_NOTHING = -1
"""Instead of a number of steps: there is no checkpoint."""

RECENT = "recent"
"""Note of a checkpoint: see `Start.recent`."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run before its next step. All processes have the same, but for `recent` and the folder's rows."""

    config: Config
    phases: tuple[Phase, ...]
    validations: tuple[Validation, ...]
    folder: RunFolder
    state: TrainState
    done: int
    """Steps made so far."""
    validated: bool
    """Whether the network of these steps has been measured."""
    recent: list[dict[str, float]]
    """Of the first process: metrics of the steps that no line of figures has told of yet."""


def start(train: TrainConfig) -> Start:
    """Opens data, network and folder; nothing is written before all that was asked for is known to be good.

    Raises:
        ValueError: in all processes, if any of it is not.
    """
    given, config = hosts.together(lambda: _network(train))
    phases = hosts.together(lambda: phases_of(train, config.image_shape, hosts.shard()))
    _check(train, config, phases)
    validations = hosts.together(lambda: validation_sets(train.val, pairs=train.val_pairs, shape=config.image_shape))
    folder = RunFolder(train.folder, {**train.to_dict(), "phases": [phase.to_dict() for phase in phases]})

    def new() -> Params:
        return given if given is not None else _new_params(train, config)

    there = hosts.first(folder.check)
    params = None if hosts.told(bool(there)) else hosts.together(new)
    checkpoint = hosts.first(lambda: _open(folder))
    done = hosts.told(_NOTHING if checkpoint is None else _step(checkpoint))
    if done == _NOTHING:
        done, params = 0, params if params is not None else hosts.together(new)
    else:
        # The checkpoint has them, and its config what came with them: nothing is fetched or made.
        text = "" if checkpoint is None else json.dumps(checkpoints.read_header(checkpoint)["config"])
        params = _blank_params(Config.from_json(hosts.told_text(text)))
    validated = any(row["step"] == done and "validation" in row for row in folder.rows)
    return Start(
        config=params.config,
        phases=phases,
        validations=validations,
        folder=folder,
        state=state_at(params, phase_at(phases, done), done, checkpoint),
        done=done,
        validated=bool(hosts.told(validated)),
        recent=[] if checkpoint is None else list(checkpoints.read_header(checkpoint).get(RECENT, [])),
    )


def _open(folder: RunFolder) -> Path | None:
    """Takes the folder for this process; its newest whole checkpoint."""
    folder.open()
    checkpoint = newest_whole(folder.path)
    if checkpoint is None and (folder.path / ROWS).exists():
        _LOG.warning("%s: there is no checkpoint to continue from; beginning anew", folder.path)
    folder.take_rows(_NOTHING if checkpoint is None else _step(checkpoint))
    return checkpoint


def _step(checkpoint: Path) -> int:
    return int(checkpoints.read_header(checkpoint)["step"])


def _network(train: TrainConfig) -> tuple[Params | None, Config]:
    """The checkpoint to start from, computed the way this run asks for, and the network's config."""
    if train.init is None:
        return None, train.network()
    params = checkpoints.load(train.init)
    # Whatever the checkpoint begins and ends with: what they spare the recurrence it does not learn.
    params = params.configure(compute_dtype=train.compute_dtype, remat=train.remat, starts=train.starts, search=False)
    params = params.configure_given(image_size=train.image_size, iterations=train.iterations)
    return params, params.config


def _new_params(train: TrainConfig, config: Config) -> Params:
    """A new network with the backbone weights asked for."""
    backbone_weights = None if train.weights == "random" else pretrained(train.backbone, train.weights)
    return init(jax.random.key(train.seed), config, backbone_weights=backbone_weights)


def _blank_params(config: Config) -> Params:
    """A network without weights, for its structure."""

    def zeros(shape: Any) -> np.ndarray:
        return np.zeros(shape, np.float32)

    return Params(jax.tree.map(zeros, expected_shapes(config), is_leaf=lambda x: isinstance(x, tuple)), config)


def _check(train: TrainConfig, config: Config, phases: tuple[Phase, ...]) -> None:
    """Every device needs the same number of pairs, and every part of its batch too; layers to train have to be there.

    Raises:
        ValueError: with both numbers, or the layers there are.
    """
    devices = jax.device_count()
    for phase in phases:
        size = phase.recipe.batch_size
        if size % devices:
            raise ValueError(f"batch_size: {size} pairs cannot be split evenly over {devices} devices")
        if (size // devices) % train.accumulate:
            each, parts = size // devices, train.accumulate
            raise ValueError(f"accumulate: {each} pairs of each device cannot be split evenly into {parts} parts")
        trained_layers(config, phase.recipe)
