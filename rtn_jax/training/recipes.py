"""How the stages are trained: our recipe and the release's. What each number means is said at `TrainConfig`.

The release has no stage that trains features alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rtn_jax.data.synthetic import WarpRange

StageName = Literal["synthetic", "weak", "features"]
RecipeName = Literal["default", "released"]
OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["cosine", "constant"]
Reduction = Literal["mean", "sum"]
_CHOICES: dict[str, Any] = {"optimizer": OptimizerName, "schedule": ScheduleName, "reduction": Reduction}


_LARGEST = 3.4e38
"""What float32 can hold."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The choices of one stage; the defaults are our synthetic stage's."""

    steps: int = 150
    epochs: int = 0
    """Where it is not 0, `steps` follows from it and the number of photos or pairs."""
    batch_size: int = 4
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 3e-4
    schedule: ScheduleName = "cosine"
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip: float = 1.0
    average: float = 0.0
    train_backbone: str = "none"
    backbone_rate: float = 0.1
    geometry_rate: float = 1.0
    last_rate: float = 1.0
    reduction: Reduction = "mean"
    decay: float = 0.8
    matrix_weight: float = 0.1
    tie_weight: float = 0.0
    temperature: float = 20.0
    weak_weight: float = 1.0
    consistency_weight: float = 0.0
    consistency_scale: float = 0.0
    mirror_aware: bool = False
    synthetic_weight: float = 0.0
    translation: float = 0.25
    rotation: float = 15.0
    zoom: float = 1.0
    mirror: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}: expected one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value < _LARGEST:
                raise ValueError(f"{field.name}: expected a finite number of at least 0, got {value}")
        for name in ("warmup", "average", "momentum", "colour"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}: expected less than 1, got {getattr(self, name)}")
        _ = self.warps  # refuses what it must

    @property
    def warps(self) -> WarpRange:
        """How far the synthetic warps go."""
        return WarpRange(translation=self.translation, rotation=self.rotation, zoom=self.zoom, mirror=self.mirror)


_SGD = Recipe(
    batch_size=16,
    optimizer="sgd",
    learning_rate=1e-5,
    schedule="constant",
    warmup=0.0,
    weight_decay=5e-4,
    clip=0.0,
    reduction="sum",
    decay=0.0,
    matrix_weight=0.0,
    temperature=1.0,
    translation=0.4,
)
"""What both stages of the release share. `decay` and `matrix_weight` of 0: the last translations alone are supervised,
so that the 2x2 part has no gradient of its own."""

RECIPES: dict[RecipeName, dict[StageName, Recipe]] = {
    "default": {
        "synthetic": Recipe(),
        "weak": Recipe(learning_rate=1e-5, tie_weight=1.0),
        "features": Recipe(
            learning_rate=3e-3, weight_decay=0.0, train_backbone="head", backbone_rate=1.0, geometry_rate=0.0
        ),
    },
    "released": {
        "synthetic": dataclasses.replace(_SGD, epochs=10),
        "weak": dataclasses.replace(_SGD, epochs=20, train_backbone="all", backbone_rate=0.1, last_rate=0.1),
    },
}
