"""The features stage as it is: the real loop, losses and measuring, on a small CAT-FCSS."""

from __future__ import annotations

import json

import jax
import numpy as np

import rtn_jax
from rtn_jax import Config, Level, checkpoints
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.loop import fit
from tests.training.runs import write_pairs, write_photos

CONFIG = Config(
    backbone="cat-fcss", levels=(Level(layer="stride8", iterations=1),), image_size=32, geometry_width=2, radius=1
)


def test_it_trains_the_head_and_measures_the_features(tmp_path):
    photos = write_photos(tmp_path / "photos", classes=1, count=3)
    start = rtn_jax.init(jax.random.key(0), CONFIG)
    rtn_jax.save(tmp_path / "start", start)
    train = TrainConfig(
        stage="features",
        init=str(tmp_path / "start"),
        data=str(photos),
        val=(str(write_pairs(photos)),),
        steps=2,
        batch_size=2,
        eval_every=2,
        learning_rate=0.05,
        run_dir=tmp_path / "run",
    )
    fit(train)
    rows = [json.loads(line) for line in (train.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["stage"], *(set(row) & {"train", "validation"})) for row in rows] == [
        (0, "features", "validation"),
        (2, "features", "train"),
        (2, "features", "validation"),
    ]
    assert {"features_loss", "mutual"} <= set(rows[1]["train"])
    assert "mean_axx" not in rows[0]["validation"]["pairs"]
    assert rows[0]["validation"]["pairs"]["confidence"] != rows[2]["validation"]["pairs"]["confidence"]
    end = rtn_jax.load(checkpoints.place(train.folder, 2))
    assert end.config == CONFIG
    for layer, before in start.weights["backbone"].items():
        after, changed = end.weights["backbone"][layer], layer.startswith(("pattern", "affine"))
        moved = [not np.array_equal(before[name], after[name]) for name in before]
        assert any(moved) == changed, layer
    jax.tree.map(np.testing.assert_array_equal, start.weights["geometry"], end.weights["geometry"])
