"""Every choice of an evaluation; the command line of `evaluate.py` is made from this."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rtn_jax.config import BackboneName, ResNetStride, Start
from rtn_jax.metrics import PckKind

DatasetName = Literal["held_out", "pf_willow", "pf_pascal", "tss", "caltech101", "spair71k", "json"]

FLOORS = ("identity", "nearest")
NETWORK_OPTIONS = ("image_size", "iterations", "starts", "search", "resnet_stride", "compute_dtype")
"""What can be changed about a network without other weights."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measures a matcher, or anybody's predictions, on a benchmark, beside the floors.

    Without a data set: fixed warps of built-in photos that no training run sees.
    """

    ckpt: str | None = None
    """Checkpoint or run folder, a net-epoch.mat of the release, or a floor: identity (nothing moves), nearest (nearest
    neighbour of backbone features)."""
    predictions: Path | None = None
    """Instead of a checkpoint: folder of answers of any method, predictions.jsonl (keypoints) or <pair>.flo / .npy."""
    dataset: DatasetName = "held_out"
    """Benchmark; json: keypoint pairs of one's own as JSON lines."""
    data_dir: Path | None = None
    """Folder of the benchmark, as published or as `python -m rtn_jax prepare` left it; json: the file of pairs."""
    split: str | None = None
    """Part of the benchmark; the one that published figures use unless given."""
    out: Path | None = None
    """Folder that receives results.json, pairs.csv and a picture of matches. An evaluation that was killed goes on from
    there."""
    report: bool = False
    """Also write report.html into --out: tables, curves, best and worst pairs, in one file."""
    save_predictions: bool = False
    """Also write the answers into the folder predictions in --out, which --predictions reads."""
    thresholds: tuple[PckKind, ...] | None = None
    """What PCK's threshold is relative to: image, object's box, box of the keypoints; as published unless given."""
    alphas: tuple[float, ...] | None = None
    """Fractions of it; as published unless given."""
    mirror_aware: bool = False
    """Match against the target and its mirror image, keep per pair the answer that is surer of itself."""
    skip_bad: bool = False
    """Leave pairs with unusable files out, and say how many, instead of stopping at the first."""
    shard: str | None = None
    """I/N: do the I-th (from 0) of N parts of the work, to be run by N processes with one --out; then once without."""
    image_size: int | None = None
    """Both images are resized to this square; the checkpoint's unless given."""
    iterations: tuple[int, ...] | None = None
    """Recurrent steps per level, coarse to fine; the checkpoint's unless given."""
    starts: tuple[Start, ...] | None = None
    """Where the recurrence is begun: identity, consensus (the affine map that most mutual nearest neighbours agree
    on), or both, of which each pair keeps the surer result; the checkpoint's unless given."""
    search: bool | None = None
    """Whether every cell looks around at the end for what fits it best; as the checkpoint does unless given."""
    resnet_stride: ResNetStride | None = None
    """ResNets: image pixels per cell of conv4, 16 or (dilated) 8; the checkpoint's unless given."""
    compute_dtype: Literal["float32", "bfloat16"] | None = None
    """Of features and convolutions; the checkpoint's unless given."""
    backbone: BackboneName = "vgg"
    """Whose features --ckpt=nearest compares."""
    weights: str = "pretrained"
    """Of that backbone: pretrained (fetched on first use), random, or the path of a weight file."""

    def __post_init__(self) -> None:
        for name in ("data_dir", "out", "predictions"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, getattr(self, name).expanduser())
        if (self.ckpt is None) == (self.predictions is None):
            raise ValueError("ckpt: expected either --ckpt or --predictions")
        self._check_folders()
        self._check_alphas()
        if self.dataset != "held_out" and self.data_dir is None:
            raise ValueError(f"data_dir: --dataset={self.dataset} needs --data_dir")
        if self.mirror_aware and self.ckpt in (None, "identity"):
            raise ValueError("mirror_aware: needs a matcher with a confidence, --ckpt=nearest or a checkpoint")
        if self.split is not None and self.dataset in ("held_out", "json"):
            raise ValueError(f"split: --dataset={self.dataset} has no splits")
        if self.dataset == "held_out" and self.data_dir is not None:
            raise ValueError("data_dir: the held-out warps need none; say which benchmark it holds with --dataset")
        for name in NETWORK_OPTIONS:
            if getattr(self, name) is not None and self.ckpt in (None, "identity"):
                raise ValueError(f"{name}: there is no network that it could be of")
        for name in ("report", "save_predictions", "shard"):
            if getattr(self, name) and self.out is None:
                raise ValueError(f"{name}: --{name} needs --out=FOLDER")
        self.part  # noqa: B018  (says what is wrong with --shard)

    def _check_folders(self) -> None:
        """What is written must not become part of the answers that are read."""
        if self.predictions is None or self.out is None:
            return
        given, out = self.predictions.resolve(), self.out.resolve()
        written = out / "predictions"
        if given == out or out in given.parents or given in out.parents or written in (given, *given.parents):
            raise ValueError(f"out: expected a folder apart from --predictions={self.predictions}, got {self.out}")

    def _check_alphas(self) -> None:
        for alpha in self.alphas or ():
            if not 0 < alpha <= 1:
                raise ValueError(f"alphas: expected fractions, more than 0 and at most 1, got {alpha}")
        if self.alphas is not None and len(set(self.alphas)) < len(self.alphas):
            raise ValueError(f"alphas: expected each once, got {self.alphas}")

    @property
    def part(self) -> tuple[int, int]:
        """Index and count of the shard; (0, 1) is the whole."""
        if self.shard is None:
            return 0, 1
        parts = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        index, count = (int(parts[1]), int(parts[2])) if parts else (1, 0)
        if index >= count:
            raise ValueError(f"shard: expected I/N with 0 <= I < N, such as 0/4, got {self.shard!r}")
        return index, count
