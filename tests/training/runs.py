"""Runs for tests: folders that `train.py` takes, a network of three layers, and a loop around a loss that is cheap.

`Runner` is `fit` in this process: the real loop, data, optimiser and checkpoints, with a loss that is a line of algebra
on everything that is in a batch, and a validation that is one on the weights. What it tests is what comes before and
after a step, and that is the same to the bit whatever the loss is.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rtn_jax
from rtn_jax import Level, checkpoints
from rtn_jax.checkpoints.trees import read_tree
from rtn_jax.images import save_image
from rtn_jax.params import expected_shapes
from rtn_jax.training import loop
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.display import Display
from rtn_jax.training.objectives import OBJECTIVES
from rtn_jax.training.stopping import Stop
from tests.networks import photos, small_config

CONFIG = small_config(levels=(Level(layer="conv2_1", iterations=1),), geometry_width=2)
HEADLINE = "PCK@0.10 (img)"


def write_network(folder: Path) -> Path:
    """What `--init` takes: a network that already moves; made without compiling anything."""
    rng = np.random.default_rng(0)

    def scaled(shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(rng.normal(size=shape) / math.sqrt(max(1, math.prod(shape[:-1]))), np.float32)

    weights = jax.tree.map(scaled, expected_shapes(CONFIG), is_leaf=lambda x: isinstance(x, tuple))
    rtn_jax.save(folder, rtn_jax.Params(weights, CONFIG))
    return folder


def write_photos(folder: Path, *, classes: int = 3, count: int = 4) -> Path:
    """A folder with one folder of photos per class, as both stages draw from."""
    for kind, pictures in enumerate(np.split(photos(np.random.default_rng(1), classes * count, 40, 36), classes)):
        (folder / f"class{kind}").mkdir(parents=True)
        for number, picture in enumerate(pictures):
            save_image(folder / f"class{kind}" / f"{number}.png", picture)
    return folder


def write_pairs(folder: Path) -> Path:
    """A list of two pairs of photos of `write_photos` and their keypoints, for `--val`."""
    lines = [
        {"src": f"class0/{i}.png", "tgt": f"class0/{i + 1}.png", "src_points": [[9, 9], [20, 25]], "tgt_points": points}
        for i, points in enumerate(([[10, 8], [22, 24]], [[7, 12], [18, 22]]))
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "pairs.jsonl"


def arrays(run: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, the newest unless given, weights and what is needed to go on, by name."""
    folder = checkpoints.listed(run)[-1] if step is None else checkpoints.place(run, step)
    trees = {part: read_tree(folder / part, lambda _: None) for part in ("weights", "training")}
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of figures, without what depends on the time."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in found:
        row.get("train", {}).pop("pairs_per_second", None)
    return found


def steps(run: Path) -> list[int]:
    """Of the checkpoints that are there."""
    return [int(folder.name) for folder in checkpoints.listed(run)]


def assert_same(run: Path, other: Path) -> None:
    """To the bit: the newest checkpoint's weights and optimiser, and all figures."""
    ours, theirs = arrays(run), arrays(other)
    assert steps(run)[-1] == steps(other)[-1]
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    assert [json.dumps(row) for row in rows(run)] == [json.dumps(row) for row in rows(other)]  # NaN is NaN


def assert_close(run: Path, other: Path, step: int | None = None) -> None:
    """As `assert_same`, but for rounding; or only the arrays of the checkpoint of a step."""
    ours, theirs = arrays(run, step), arrays(other, step)
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5, err_msg=name)
    if step is not None:
        return
    for row, twin in zip(rows(run), rows(other), strict=True):
        assert (row["step"], row["stage"], set(row)) == (twin["step"], twin["stage"], set(twin))
        assert row.get("train", {}) == pytest.approx(twin.get("train", {}), rel=1e-5, abs=1e-5)


def cheapen(patch: pytest.MonkeyPatch) -> None:
    """Takes the costly parts out of `fit`."""
    for stage in ("synthetic", "weak"):
        patch.setitem(OBJECTIVES, stage, _objective)
    patch.setattr(loop, "validate", _validate)
    patch.setattr(loop, "curves_picture", lambda rows: np.zeros((2, 2, 3), np.uint8))
    patch.setattr(loop, "matches_picture", lambda params, benchmark, *, matcher: np.zeros((2, 2, 3), np.uint8))


class Runner:
    """`fit` with cheap parts; compiled steps are kept for later runs."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.photos = write_photos(folder / "photos")
        self.pairs = write_pairs(self.photos)
        self.network = write_network(folder / "network")
        self.stop: Stop = _Asked()
        self.heard: Callable[[int], object] = lambda step: None
        """Called after every step that the loop has looked at."""
        cheapen(patch)
        patch.setattr(loop, "make_step", functools.cache(loop.make_step))
        patch.setattr(loop, "parallel", functools.cache(loop.parallel))
        patch.setattr(loop, "Display", self._display)

    def config(self, run: str | Path, **changes: Any) -> TrainConfig:
        """Six steps of either stage, measured every third."""
        given = {
            "init": str(self.network),
            "data": str(self.photos),
            "stage": "both",
            "val": (str(self.pairs),),
            "batch_size": 2,
            "steps": 6,
            "eval_every": 3,
            "optimizer": "sgd",  # which compiles in half the time
            "average": 0.9,
            "seed": 1,
            "run_dir": self.folder / run,
        }
        return TrainConfig(**(given | changes))

    def fit(self, run: str | Path, *, stop_after: int | None = None, **changes: Any) -> Path:
        """Trains, and asks it to stop when it has made so many steps; the run's folder."""
        with pytest.MonkeyPatch.context() as patch:
            if stop_after is not None:
                self.stop = _Asked()
                self.stop.by = "SIGTERM" if stop_after == 0 else None
                patch.setattr(loop, "Stop", lambda: self.stop)
                patch.setattr(self, "heard", self._stopping(self.heard, stop_after))
            config = self.config(run, **changes)
            loop.fit(config)
        return config.folder

    def _stopping(self, heard: Callable[[int], object], after: int) -> Callable[[int], object]:
        def stopping(step: int) -> None:
            heard(step)
            if step == after:
                self.stop.by = "SIGTERM"

        return stopping

    def _display(self, *arguments: Any) -> Display:
        runner = self

        class Watched(Display):
            def step(self, step: int, metrics: dict[str, float]) -> None:
                super().step(step, metrics)
                runner.heard(step)

        return Watched(*arguments)


def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A `Runner` for the tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        yield Runner(tmp_path_factory.mktemp("runs"), patch)


class _Asked(Stop):
    """Hears the test instead of signals."""

    def __enter__(self) -> Stop:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _objective(params: Any, batch: dict[str, Any], recipe: Any) -> Any:
    """Of every weight's distance to a number that depends on all that is in a pair; NaN for a photo that is white."""
    means = [jnp.asarray(array, jnp.float32).reshape(len(array), -1).mean(1) for array in batch.values()]
    pair = sum(jnp.sin(mean * 0.1) for mean in means)
    white = sum(mean == 255 for mean in means) > 0
    losses = sum(((w.reshape(-1, 1) - pair) ** 2).mean(0) for w in jax.tree.leaves(params.weights))
    return jnp.where(white, jnp.nan, losses).mean(), {"pair": pair.mean()}


def _validate(
    params: Any, validation: Any, *, matcher: str, devices: Any, progress: Callable[[int], None]
) -> dict[str, float]:
    total = 0.0
    for done, leaf in enumerate(jax.tree.leaves(params.weights)):
        progress(done)
        total += float(np.asarray(leaf, np.float64).sum())
    return {validation.headline: 50 + 40 * math.sin(3 * total), "mean_axx": 1.0}
