"""Pairs per second over a keypoint benchmark: ours, and the PyTorch peer called pair by pair as scripts do.

    python -m benchmarks.evaluate --data_dir=PF-WILLOW                  # all pairs, once each side, class by class
    python -m benchmarks.evaluate --data_dir=PF-WILLOW --classes 2      # the first two classes

Both read, resize and match every pair and carry its keypoints over. Ours goes the way of `evaluate.py`: features once
per image, pairs four at a time. The peer is given one pair after the other. They take turns by class; the ratio is that
of the whole, its spread that of the classes. Weights are random; both sides have to agree on where the keypoints go.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

import rtn_jax
from benchmarks.fresh import about, machine, table
from benchmarks.setup import random_weights
from benchmarks.turns import PAUSE, write
from rtn_jax.allocator import keep_freed_memory
from rtn_jax.config import Config, default
from rtn_jax.coordinates import denormalize_vectors, pixels_to_cells, resize_points
from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.data.pf_willow import pf_willow
from rtn_jax.evaluation.matchers import BATCH, ImageFeatures, network
from rtn_jax.images import resize

TOLERANCE = 0.05
"""Pixels that a keypoint may differ by between both sides."""

Points = list[np.ndarray]


@dataclass
class Turn:
    """One class through both sides."""

    name: str
    pairs: int
    images: int
    ours: float
    peer: float


def main(data_dir: Path, classes: int | None = None, image_size: int = 256, out: Path | None = None) -> None:
    """Matches the pairs of PF-WILLOW, class by class in turns, and prints a table.

    Args:
        data_dir: PF-WILLOW as published.
        classes: how many of its ten; all unless given.
        image_size: height and width that images are matched at.
        out: JSON file of everything measured.
    """
    here = machine()
    benchmark = pf_willow(data_dir)
    config = default("vgg").replace(image_size=image_size)
    params = rtn_jax.Params(random_weights(config), config)
    sides = {"ours": ours(params, benchmark), "peer": peer(params, benchmark)}
    for run in sides.values():  # compiles, and warms up
        run(benchmark.pairs[:BATCH])
    sys.stdout.write(f"{about(here)}\nfloat32, {image_size}x{image_size}, default VGG-19\n\n")
    turns = []
    for name in list(dict.fromkeys(pair.category for pair in benchmark.pairs))[:classes]:
        pairs = tuple(pair for pair in benchmark.pairs if pair.category == name)
        turns.append(_turn(name, pairs, sides))
        write(out, here, None, {"turns": turns})
    sys.stdout.write(turns_table(turns))


def _turn(name: str, pairs: tuple[Pair, ...], sides: dict[str, Callable[[tuple[Pair, ...]], Points]]) -> Turn:
    seconds, found = {}, {}
    for side, run in sides.items():
        time.sleep(PAUSE)
        start = time.perf_counter()
        found[side] = run(pairs)
        seconds[side] = time.perf_counter() - start
    apart = max(np.abs(a - b).max() for a, b in zip(found["ours"], found["peer"], strict=True))
    if not apart < TOLERANCE:
        raise SystemExit(f"{name}: both sides' keypoints lie up to {apart:.2g} pixels apart: nothing to time")
    images = len({image for pair in pairs for image in (pair.src, pair.tgt)})
    return Turn(name, len(pairs), images, seconds["ours"], seconds["peer"])


def ours(params: rtn_jax.Params, benchmark: Benchmark) -> Callable[[tuple[Pair, ...]], Points]:
    """As `evaluate.py` does it; features are forgotten between calls."""

    def run(pairs: tuple[Pair, ...]) -> Points:
        matcher = network(ImageFeatures(params, benchmark.files))
        batches = [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]
        answers = [answer for batch in batches for answer in matcher(batch)]
        return [answer.move(_points(pair)) for pair, answer in zip(pairs, answers, strict=True)]

    return run


def peer(params: rtn_jax.Params, benchmark: Benchmark) -> Callable[[tuple[Pair, ...]], Points]:
    """One pair after the other: read, resize, match, and the field at the keypoints."""
    import torch

    from benchmarks.peer import Peer

    config = params.config
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    module = Peer.of(params).to(device)

    def run(pairs: tuple[Pair, ...]) -> Points:
        found = []
        for pair in pairs:
            images = [benchmark.files.image(name) for name in (pair.src, pair.tgt)]
            sized = [np.asarray(resize(image, config.image_shape), np.float32)[None] for image in images]
            with torch.inference_mode():
                given = [torch.from_numpy(image).permute(0, 3, 1, 2).to(device) for image in sized]
                field = module(*given)[-1][0, ..., 2].float().cpu().numpy()
            points = resize_points(_points(pair), images[0].shape[:2], config.image_shape)
            moved = points + _flow_at(field, points, config)
            found.append(resize_points(moved, config.image_shape, images[1].shape[:2]))
        return found

    return run


def _points(pair: Pair) -> np.ndarray:
    if pair.src_points is None:
        raise ValueError(f"{pair.id}: expected a pair with keypoints")
    return pair.src_points


def _flow_at(translation: np.ndarray, points: np.ndarray, config: Config) -> np.ndarray:
    """The final translations at points of the resized source, bilinear, in its pixels."""
    cells = pixels_to_cells(points, config.image_shape[0] // translation.shape[0])
    cells = np.clip(cells, 0, np.array(translation.shape[1::-1]) - 1)
    low = np.minimum(np.floor(cells).astype(int), np.array(translation.shape[1::-1]) - 2)
    share = cells - low
    value = np.zeros((len(points), 2))
    for dx, share_x in ((0, 1 - share[:, 0]), (1, share[:, 0])):
        for dy, share_y in ((0, 1 - share[:, 1]), (1, share[:, 1])):
            value += (share_x * share_y)[:, None] * translation[low[:, 1] + dy, low[:, 0] + dx]
    return np.asarray(denormalize_vectors(value, config.image_shape, "centers"))


def turns_table(turns: list[Turn]) -> str:
    """Per class and in all: pairs per second of both sides, and the ratio."""
    rows = []
    whole = Turn("all", *(sum(getattr(turn, name) for turn in turns) for name in ("pairs", "images", "ours", "peer")))
    for turn in [*turns, whole]:
        rates = (turn.pairs / turn.ours, turn.pairs / turn.peer)
        numbers = [f"{rate:.2f}" for rate in rates] + [f"{turn.peer / turn.ours:.2f}"]
        rows.append([turn.name, str(turn.pairs), str(turn.images), *numbers])
    return table(("class", "pairs", "images", "ours, pairs/s", "peer, pairs/s", "times the peer's"), rows)


if __name__ == "__main__":
    keep_freed_memory()  # as the command lines do, for both sides
    tyro.cli(main)
