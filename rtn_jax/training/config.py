"""Every choice of a training run; the command line of `train.py` is made from this."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rtn_jax.config import PRESETS, BackboneName, Config, DtypeName

Stage = Literal["synthetic", "weak"]
PresetName = Literal["default", "paper", "released"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Trains a Recurrent Transformer Network.

    Without any flag: VGG-19 features, synthetic warps of photos that come with scikit-image.
    """

    backbone: BackboneName = "vgg"
    """Feature extractor."""
    preset: PresetName = "default"
    """Schedule of levels and conventions: our default, the paper's single level, or the released code's."""
    stage: Stage = "synthetic"
    """synthetic: random warps of photos, with known ground truth. weak: pairs of photos of one class, without any."""
    data: str = "builtin"
    """What to draw from. builtin: photos that come with the installed packages (synthetic only); a folder of photos
    (weak: one folder per class); the folder of PF-dataset-PASCAL (its training pairs); a .csv table of photos with
    image,class,xmin,ymin,xmax,ymax; or a .jsonl list of pairs."""
    workers: int = 0
    """Processes that read and resize photos; 0: a thread of this one."""
    val: str = "builtin"
    """Photos that are held out, builtin or as for data: the network is measured on fixed warps of them."""
    init: str | None = None
    """Checkpoint whose weights to start from; the network's config is then the checkpoint's."""
    weights: str = "pretrained"
    """Backbone weights: pretrained (fetched on first use), random, or the path of a weight file."""
    run_dir: Path | None = None
    """Folder of the run; runs/<backbone> unless given. A run that is there and not finished is continued."""
    steps: int = 150
    """Optimiser steps."""
    batch_size: int = 4
    """Pairs per step, over all devices."""
    learning_rate: float = 3e-4
    """Peak of the schedule: linear warm-up over a tenth of the steps, then cosine to zero."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    decay: float = 0.8
    """Synthetic: weight of each iteration relative to the next one. 0: only the last counts."""
    matrix_weight: float = 0.1
    """Synthetic: weight of the error of the 2x2 part beside that of the translation."""
    temperature: float = 20.0
    """Weak: multiplies the cosines before the softmax."""
    translation: float = 0.25
    """Synthetic: largest translation of a warp; 1 is half the image. The release uses 0.4."""
    train_backbone: bool = False
    """Train the backbone too, not only the geometry network."""
    seed: int = 0
    """Of weights, warps and order."""
    image_size: int | None = None
    """Both images are resized to this square; the preset's unless given."""
    iterations: tuple[int, ...] | None = None
    """Recurrent steps per level, coarse to fine; the preset's unless given."""
    geometry_width: int | None = None
    """Channels of the geometry network's first stage; the preset's unless given."""
    compute_dtype: DtypeName = "float32"
    """Of features and convolutions."""
    remat: bool = False
    """Recompute iterations in the backward pass: less memory, more time."""
    eval_every: int = 50
    """Steps between evaluations, each of which writes a checkpoint, a picture and a line of figures."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("weight_decay", "decay", "matrix_weight", "translation", "seed", "workers"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.stage == "weak" and self.data == "builtin":
            raise ValueError(
                "data: the weak stage needs --data: a folder with one folder of photos per class, or a list"
            )

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return self.run_dir or Path("runs") / self.backbone

    def network(self) -> Config:
        """The config of a new network.

        Raises:
            ValueError: if the flags do not fit the preset.
        """
        chosen: dict[str, Any] = {
            "image_size": self.image_size,
            "geometry_width": self.geometry_width,
            "iterations": self.iterations,
        }
        changes = {name: value for name, value in chosen.items() if value is not None}
        return PRESETS[self.preset](self.backbone).replace(
            compute_dtype=self.compute_dtype, remat=self.remat, **changes
        )

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        return {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(self).items()}
