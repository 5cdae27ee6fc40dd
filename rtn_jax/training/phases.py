"""The stages of a run one after another: each with its recipe, its steps and its batches."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from rtn_jax.coordinates import Shape
from rtn_jax.data.pipeline import KEPT_BYTES, Batches, pair_batches, photo_batches
from rtn_jax.data.sources import pair_source, photo_source
from rtn_jax.training.config import STAGES, TrainConfig
from rtn_jax.training.recipes import Recipe, StageName


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stage of a run."""

    stage: StageName
    recipe: Recipe
    steps: int
    first: int
    """Steps of the run before it."""
    batches: Batches
    """`batches[i]` belongs to step `first + i`."""
    about: str
    """What it draws from, in words."""

    @property
    def end(self) -> int:
        """Steps of the run when it is over."""
        return self.first + self.steps

    def to_dict(self) -> dict[str, Any]:
        """JSON values of what was chosen, by the recipe or by the user."""
        return {"stage": self.stage, **dataclasses.asdict(self.recipe), "steps": self.steps}


def phases_of(train: TrainConfig, shape: Shape, shard: tuple[int, int] = (0, 1)) -> tuple[Phase, ...]:
    """The phases of a run, at least one.

    Args:
        train: the choices.
        shape: (height, width) of the network's images.
        shard: which process of how many this is.

    Raises:
        ValueError: if the data does not hold what a stage needs, or a batch cannot be split over the processes.
    """
    phases: list[Phase] = []
    for stage in STAGES[train.stage]:
        recipe = train.chosen(stage)
        batches, about = stage_batches(train, stage, shape, shard)
        steps = math.ceil(recipe.epochs * batches.items / recipe.batch_size) if recipe.epochs else recipe.steps
        first = phases[-1].end if phases else 0
        phases.append(Phase(stage=stage, recipe=recipe, steps=steps, first=first, batches=batches, about=about))
    return tuple(phases)


def stage_batches(
    train: TrainConfig, stage: StageName, shape: Shape, shard: tuple[int, int] = (0, 1)
) -> tuple[Batches, str]:
    """The batches of a stage, one per step, and a line that says what they are drawn from.

    Raises:
        ValueError: if the data does not hold what the stage needs.
    """
    size = train.chosen(stage).batch_size
    kept = KEPT_BYTES // max(1, train.workers)
    data = train.data_of(stage)
    if stage == "synthetic":
        photos = photo_source(data)
        batches = photo_batches(photos, shape, batch_size=size, seed=train.seed, shard=shard, kept_bytes=kept)
        return batches, f"random warps of {photos.about}"
    pairs = pair_source(data)
    return pair_batches(pairs, shape, batch_size=size, seed=train.seed, shard=shard, kept_bytes=kept), pairs.about


def phase_at(phases: tuple[Phase, ...], step: int) -> Phase:
    """The phase of the step after `step` steps; the last one at the end."""
    return next((phase for phase in phases if step < phase.end), phases[-1])
