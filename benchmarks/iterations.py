"""Accuracy after every iteration: whether the recurrence helps, and stays where it has come to.

    python -m benchmarks.iterations                                      # the shipped network, built-in photos
    python -m benchmarks.iterations --on pf_willow:PF-WILLOW pairs.json  # keypoint sets, as `train.py --val` takes them
    python -m benchmarks.iterations --ckpt=runs/vgg --more 3 --pairs 300 --out curve.json

One pass over the pairs: the field after each iteration (`Output.history`) carries the keypoints over. `--more`
iterations are added to those of the last level, which is what a user who turns the number up gets.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

import rtn_jax
from benchmarks.fresh import about, machine, table
from benchmarks.turns import write
from rtn_jax.commands import run
from rtn_jax.config import Config, Start
from rtn_jax.coordinates import pixel_grid, resize_points
from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.evaluation.matchers import BATCH, ImageFeatures, carried
from rtn_jax.evaluation.scores import Answer, figures
from rtn_jax.model import field_mapping, match
from rtn_jax.training.validation import validation_sets


@dataclass(frozen=True, kw_only=True)
class IterationsConfig:
    """Prints a table per set: PCK before the first and after every iteration."""

    ckpt: str = "vgg"
    """Checkpoint, run folder or name of a network that comes with the package."""
    on: tuple[str, ...] = ("builtin",)
    """Sets of keypoint pairs, as `train.py --val` takes them."""
    pairs: int = 0
    """Of each, evenly spread; 0: all."""
    more: int = 1
    """Iterations that are added to the last level's."""
    image_size: int | None = None
    """Both images are resized to this square; the checkpoint's unless given."""
    starts: tuple[Start, ...] | None = None
    """Where the recurrence is begun; as the checkpoint says unless given."""
    out: Path | None = None
    """JSON file of everything measured."""


def main(config: IterationsConfig) -> None:
    """Prints the tables."""
    params = rtn_jax.load(config.ckpt)
    *first, last = params.config.iterations
    params = params.configure_given(
        iterations=(*first, last + config.more), image_size=config.image_size, starts=config.starts
    )
    shape = params.config.image_shape
    sys.stdout.write(f"{about(machine())}\n{config.ckpt}, {shape}, begun at {' and '.join(params.config.starts)}\n")
    found = {}
    for opened in validation_sets(config.on, pairs=config.pairs, shape=shape):
        found[opened.key] = curve(params, opened.benchmark)
        sys.stdout.write(_shown(opened.key, params.config, found[opened.key], len(opened.benchmark.pairs)))
        write(config.out, machine(), None, {"ckpt": config.ckpt, "curves": found})


def curve(params: rtn_jax.Params, benchmark: Benchmark) -> list[dict[str, float]]:
    """A benchmark's figures before the first iteration and after every one, in per cent."""
    features, answers = ImageFeatures(params, benchmark.files), []
    for i in range(0, len(benchmark.pairs), BATCH):
        answers += list(_carried(features, benchmark.pairs[i : i + BATCH]))
    return [
        {figure.name: figure.percent for figure in figures(benchmark, of_one)} for of_one in zip(*answers, strict=True)
    ]


def _carried(features: ImageFeatures, pairs: Sequence[Pair]) -> Iterator[list[Answer]]:
    """Per pair, where its keypoints are before the first iteration and after every one."""
    config = features.params.config
    filled = [*pairs, *[pairs[-1]] * (BATCH - len(pairs))]
    src, src_shapes = features.batch([pair.src for pair in filled])
    tgt, tgt_shapes = features.batch([pair.tgt for pair in filled])
    fields = [field for level in match(features.params, src, tgt).history for field in level]
    flows = [np.asarray(_flow(config, field)) for field in fields]
    for n, pair in enumerate(pairs):
        start = resize_points(np.asarray(pair.src_points), src_shapes[n], config.image_shape)
        moved = [start, *(carried(flow[n], start) for flow in flows)]
        yield [Answer(points=resize_points(points, config.image_shape, tgt_shapes[n])) for points in moved]


@partial(jax.jit, static_argnums=0)
def _flow(config: Config, field: jax.Array) -> Float[jax.Array, "b H W 2"]:
    shape = config.image_shape
    return field_mapping(config, field, shape, shape) - pixel_grid(shape, np.float32)


def _shown(name: str, config: Config, found: list[dict[str, float]], pairs: int) -> str:
    layers = ["none", *("+".join(level.taps) for level in config.levels for _ in range(level.iterations))]
    figures_of = list(found[0])
    rows = [
        [str(number), layer, *(f"{of_one[figure]:.1f}" for figure in figures_of)]
        for number, (layer, of_one) in enumerate(zip(layers, found, strict=True))
    ]
    return f"\n{name}, {pairs} pairs\n\n{table(['iterations', 'level of the last', *figures_of], rows)}"


if __name__ == "__main__":
    run("benchmarks.iterations", IterationsConfig, main)
