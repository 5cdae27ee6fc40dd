"""Every choice of a training run; the command line of `train.py` is made from this."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rtn_jax.config import PRESETS, BackboneName, Config, DtypeName, PresetName, ResNetStride, Start
from rtn_jax.training.recipes import (
    RECIPES,
    OptimizerName,
    Recipe,
    RecipeName,
    Reduction,
    ScheduleName,
    StageName,
)

STAGES: dict[str, tuple[StageName, ...]] = {
    "synthetic": ("synthetic",),
    "weak": ("weak",),
    "both": ("synthetic", "weak"),
    "features": ("features",),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Trains a Recurrent Transformer Network.

    Without any flag: VGG-19 features, synthetic warps of photos that come with scikit-image. A flag whose default is
    None takes its value from the recipe; docs/training.md has both recipes' values. The same command again continues a
    run that was stopped or killed.
    """

    backbone: BackboneName = "vgg"
    """Feature extractor."""
    stage: Literal["synthetic", "weak", "both", "features"] = "synthetic"
    """synthetic: random warps of photos, with known ground truth. weak: pairs of photos of one class, without any.
    both: the one, then the other. features: such pairs, for the backbone alone: FCSS and CAT-FCSS need it first."""
    recipe: RecipeName = "default"
    """default: ours. released: the released code's optimiser, losses and network."""
    preset: PresetName | None = None
    """Schedule of levels and conventions: our default, the paper's single level, the released code's, ours with a wider
    first look (wide), or that with two layers compared at once (joint); the one of the recipe's name unless given."""
    data: str = "builtin"
    """What to draw from. builtin: photos that come with the installed packages (synthetic only); a folder of photos
    (weak, features: one folder per class); the folder of PF-dataset-PASCAL (its training pairs); a .csv table of photos
    with image,class,xmin,ymin,xmax,ymax; or a .jsonl list of pairs."""
    weak_data: str | None = None
    """Both: what the weak stage draws from; as --data unless given."""
    workers: int = 0
    """Processes that read and resize photos; 0: a thread of this one."""
    max_bad: float = 0.05
    """Share of the draws that may be replaced because a photo cannot be read; more stop the run."""
    val: tuple[str, ...] = ("builtin",)
    """What is measured during training; the first decides which checkpoint is the best. builtin, a folder or a .csv:
    fixed warps of up to 16 of their photos; NAME:FOLDER: a benchmark, such as pf_willow:../PF-WILLOW; a .json or .jsonl
    list of keypoint pairs."""
    val_pairs: int = 200
    """Pairs of each benchmark or list, evenly spread; 0: all."""
    eval_every: int = 50
    """Steps between validations, each of which writes a line of figures, curves, a picture and a checkpoint."""
    save_every: int | None = None
    """Steps between checkpoints; as eval_every unless given."""
    keep: int = 2
    """Latest checkpoints that are kept, besides the best."""
    init: str | None = None
    """Checkpoint whose weights to start from; the network's config is then the checkpoint's, but for what other flags
    ask for."""
    weights: str = "pretrained"
    """Backbone weights: pretrained (fetched on first use), random, or the path of a weight file."""
    run_dir: Path | None = None
    """Folder of the run; runs/<backbone> unless given. A run that is there and not finished is continued."""
    seed: int = 0
    """Of weights, warps and order."""

    steps: int | None = None
    """Optimiser steps (of each stage)."""
    weak_steps: int | None = None
    """Both: steps of the weak stage; as steps unless given."""
    epochs: int | None = None
    """Instead of steps: passes over the photos or pairs (of each stage)."""
    batch_size: int | None = None
    """Pairs per step, over all devices."""
    accumulate: int = 1
    """Parts of a batch whose gradients are computed one after another: the same result; less memory, except on the
    CPU."""
    optimizer: OptimizerName | None = None
    """adamw, or sgd with momentum."""
    learning_rate: float | None = None
    """Peak of the schedule."""
    schedule: ScheduleName | None = None
    """cosine: to zero at the end; constant."""
    warmup: float | None = None
    """Share of the steps in which the learning rate rises from zero."""
    momentum: float | None = None
    """Of sgd."""
    weight_decay: float | None = None
    """Of adamw; of sgd, added to the gradient."""
    clip: float | None = None
    """Largest norm of a gradient; 0: any."""
    average: float | None = None
    """Share of the old in a moving average of the weights, which is what is measured and kept; 0: none is made."""
    train_backbone: str | None = None
    """Which of the backbone's layers are trained: none, all, head (what networks of classification lack: the patterns
    of FCSS), or a layer and those after it."""
    backbone_rate: float | None = None
    """The backbone's learning rate, relative."""
    geometry_rate: float | None = None
    """The geometry network's learning rate, relative; 0: it stays as it is."""
    last_rate: float | None = None
    """The geometry network's last layer's learning rate, relative."""
    reduction: Reduction | None = None
    """Of a pair's loss over its cells."""
    decay: float | None = None
    """Synthetic: weight of each iteration relative to the next one. 0: only the last counts."""
    matrix_weight: float | None = None
    """Synthetic: weight of the error of the 2x2 part beside that of the translation."""
    tie_weight: float | None = None
    """Weight of the difference between the 2x2 part and the Jacobian of the translation field."""
    temperature: float | None = None
    """Weak: multiplies the cosines before the softmax."""
    weak_weight: float | None = None
    """Weak: weight of the paper's loss, the cross-entropy of the best match being the window's centre."""
    consistency_weight: float | None = None
    """Weak: weight of warp consistency: a warp of the target, matched to the source and from there back to the target,
    is to give that warp. 0: none is made."""
    consistency_scale: float | None = None
    """Weak: errors of warp consistency well beyond this (1 is half the image) hardly count: there, nothing matches.
    0: all count."""
    mirror_aware: bool | None = None
    """Weak: let each pair have its source mirrored if the network, as it is, then matches it more confidently."""
    synthetic_weight: float | None = None
    """Weak: weight of the synthetic loss on warps of the pairs' target photos; 0: none are made."""
    translation: float | None = None
    """Largest translation of a synthetic warp; 1 is half the image."""
    rotation: float | None = None
    """Largest rotation of a synthetic warp, degrees."""
    zoom: float | None = None
    """Largest factor by which a synthetic warp changes an object's size, either way; 1: only as its axes are scaled."""
    mirror: float | None = None
    """Share of synthetic warps that also mirror left and right."""
    colour: float | None = None
    """Strength of random changes of brightness, contrast and saturation, to either image by itself; 0: none."""

    max_skipped: int = 10
    """Updates in a row that may be skipped because loss or gradient is not finite; more stop the run."""
    image_size: int | None = None
    """Both images are resized to this square; the preset's or the checkpoint's unless given."""
    iterations: tuple[int, ...] | None = None
    """Recurrent steps per level, coarse to fine; the preset's or the checkpoint's unless given."""
    starts: tuple[Start, ...] = ("identity",)
    """Fields that the recurrence is begun from: identity, consensus, or both, of which each pair keeps the surer."""
    geometry_width: int | None = None
    """Channels of the geometry network's first stage; the preset's unless given."""
    resnet_stride: ResNetStride | None = None
    """ResNets: image pixels per cell of conv4, 16 or (dilated) 8; the preset's unless given."""
    compute_dtype: DtypeName = "float32"
    """Of features and convolutions."""
    remat: bool = False
    """Recompute iterations in the backward pass: less memory, more time."""

    distributed: bool = False
    """Train on several hosts that JAX finds by itself (SLURM, Open MPI, TPU pods, Kubernetes)."""
    coordinator: str | None = None
    """Several hosts: host:port of the first process."""
    processes: int | None = None
    """Several hosts: how many processes."""
    process: int | None = None
    """Several hosts: which process this is, from 0."""

    def __post_init__(self) -> None:
        for name, known in (("stage", [*STAGES]), ("recipe", [*RECIPES]), ("preset", [*PRESETS])):
            value = getattr(self, name)
            if value not in known and (name, value) != ("preset", None):
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        for name in ("eval_every", "accumulate", "keep", "max_skipped"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("seed", "workers", "val_pairs", "max_bad"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"seed: expected less than {2**32}, got {self.seed}")
        for name in ("save_every", "weak_steps", "epochs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.val:
            raise ValueError("val: expected something to measure, got nothing")
        if self.epochs is not None and (self.steps is not None or self.weak_steps is not None):
            raise ValueError("steps, epochs: expected one of them, got both")
        for name in ("preset", "geometry_width", "resnet_stride"):
            if getattr(self, name) is not None and self.init is not None:
                raise ValueError(
                    f"{name}: the network is that of the checkpoint; expected one of {name} and init, got both"
                )
        for name in ("weak_data", "weak_steps"):
            if getattr(self, name) is not None and self.stage != "both":
                raise ValueError(f"{name}: belongs to --stage=both, got --stage={self.stage}")
        for stage in STAGES[self.stage]:
            self.chosen(stage)
        last = STAGES[self.stage][-1]
        if last != "synthetic" and self.data_of(last) == "builtin":
            raise ValueError(
                f"data: the {last} stage needs --data: a folder with one folder of photos per class, or a list"
            )

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return self.run_dir or Path("runs") / self.backbone

    @property
    def saves_memory(self) -> bool:
        """Whether something was asked for that takes less memory if the device goes through it in order."""
        return self.remat or self.accumulate > 1

    def chosen(self, stage: StageName) -> Recipe:
        """The recipe of a stage, with what was asked for instead.

        Raises:
            ValueError: for a number that is out of range, or a stage that the recipe does not have.
        """
        if stage not in RECIPES[self.recipe]:
            raise ValueError(f"recipe: {self.recipe} has the stages {', '.join(RECIPES[self.recipe])}, not {stage}")
        recipe = RECIPES[self.recipe][stage]
        names = {field.name for field in dataclasses.fields(Recipe)} & {
            field.name for field in dataclasses.fields(self)
        }
        asked = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if stage == "weak" and self.weak_steps is not None:
            asked["steps"] = self.weak_steps
        if "steps" in asked:
            asked["epochs"] = 0
        return dataclasses.replace(recipe, **asked)

    def data_of(self, stage: StageName) -> str:
        """What a stage draws from."""
        return self.weak_data if stage == "weak" and self.weak_data is not None else self.data

    def network(self) -> Config:
        """The config of a new network.

        Raises:
            ValueError: if the flags do not fit the preset.
        """
        chosen: dict[str, Any] = {
            "image_size": self.image_size,
            "geometry_width": self.geometry_width,
            "iterations": self.iterations,
            "starts": self.starts,
            "resnet_stride": self.resnet_stride,
        }
        changes = {name: value for name, value in chosen.items() if value is not None}
        return PRESETS[self.preset or self.recipe](self.backbone).replace(
            compute_dtype=self.compute_dtype, remat=self.remat, **changes
        )

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        return {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(self).items()}
