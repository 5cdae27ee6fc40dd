"""The step of the optimiser and where its batches come from."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.images import save_image
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.photos import make_batches
from rtn_jax.training.step import init_state, make_schedule, make_step, parallel
from tests.networks import ONE_LEVEL, moving_params, photos, small_config

TRAIN = TrainConfig(batch_size=2, steps=20, learning_rate=3e-3)


@pytest.fixture(scope="module")
def params():
    return moving_params(small_config(levels=ONE_LEVEL))


@pytest.fixture(scope="module")
def step(params):
    return parallel(make_step(params.config, TRAIN), 1)


@pytest.fixture(scope="module")
def batch():
    return {"photos": photos(np.random.default_rng(0), 2), "seeds": np.arange(2, dtype=np.uint32)}


def test_loss_falls_on_one_batch_and_the_backbone_stays(params, step, batch):
    state = init_state(params, TRAIN)
    losses = []
    for _ in range(12):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.7 * losses[0]
    assert int(state.step) == 12
    for a, b in zip(
        jax.tree.leaves(params.weights["backbone"]), jax.tree.leaves(state.weights["backbone"]), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert {"mean_axx", "mean_ayx", "mean_determinant", "folded", "gradient_norm", "learning_rate"} <= set(metrics)


def test_a_step_is_repeatable(params, step, batch):
    first, second = (step(init_state(params, TRAIN), batch) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_backbone_moves_when_asked(params, batch):
    train = dataclasses.replace(TRAIN, train_backbone=True)
    state, _ = parallel(make_step(params.config, train), 1)(init_state(params, train), batch)
    state, _ = parallel(make_step(params.config, train), 1)(state, batch)  # the first step's rate is zero
    moved = [
        float(jnp.abs(a - b).max())
        for a, b in zip(
            jax.tree.leaves(params.weights["backbone"]), jax.tree.leaves(state.weights["backbone"]), strict=True
        )
    ]
    assert max(moved) > 0


def test_the_weak_stage_lowers_its_loss(params):
    train = TrainConfig(stage="weak", data="unused", batch_size=2, steps=20, learning_rate=1e-3)
    both = photos(np.random.default_rng(4), 4)
    step, state = parallel(make_step(params.config, train), 1), init_state(params, train)
    losses = []
    for _ in range(8):
        state, metrics = step(state, {"src": both[:2], "tgt": both[2:]})
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(params):
    run = parallel(make_step(params.config, TRAIN), 2)
    odd = {"photos": np.zeros((3, 32, 32, 3), np.uint8), "seeds": np.zeros(3, np.uint32)}
    with pytest.raises(ValueError, match="batch_size: 3 pairs cannot be split evenly over 2 devices"):
        run(init_state(params, TRAIN), odd)


def test_the_schedule_warms_up_and_ends_at_zero():
    schedule = make_schedule(TrainConfig(steps=100, learning_rate=1.0))
    rates = [float(schedule(i)) for i in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[10] == 1
    assert rates[100] == pytest.approx(0, abs=1e-6)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_batches_are_a_function_of_seed_and_step(tmp_path):
    rng = np.random.default_rng(0)
    for i, photo in enumerate(photos(rng, 5, 20, 30)):
        (tmp_path / f"class{i % 2}").mkdir(exist_ok=True)
        save_image(tmp_path / f"class{i % 2}" / f"{i}.png", photo)
    synthetic = TrainConfig(data=str(tmp_path), batch_size=3)
    batches, about = make_batches(synthetic, (32, 32))
    assert "5 photos" in about
    again, _ = make_batches(synthetic, (32, 32))
    other, _ = make_batches(dataclasses.replace(synthetic, seed=1), (32, 32))
    for step in (0, 7):
        np.testing.assert_array_equal(batches(step)["seeds"], again(step)["seeds"])
        np.testing.assert_array_equal(batches(step)["photos"], again(step)["photos"])
        assert (batches(step)["seeds"] != other(step)["seeds"]).any()
    seen = np.concatenate([batches(step)["photos"] for step in range(5)])  # three epochs of five photos
    assert all(n == 3 for n in np.unique(seen.reshape(15, -1), axis=0, return_counts=True)[1])
    weak, about = make_batches(TrainConfig(stage="weak", data=str(tmp_path), batch_size=4), (32, 32))
    assert "2 classes" in about
    drawn = weak(3)
    assert drawn["src"].shape == drawn["tgt"].shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(drawn["src"], weak(3)["src"])
    assert all((a != b).any() for a, b in zip(drawn["src"], drawn["tgt"], strict=True))


def test_a_weak_stage_without_classes_is_refused(tmp_path):
    save_image(tmp_path / "lonely.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="folder per class"):
        make_batches(TrainConfig(stage="weak", data=str(tmp_path)), (32, 32))
    with pytest.raises(ValueError, match="weak stage needs --data"):
        TrainConfig(stage="weak")


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"temperature": 0.0}, {"decay": -0.1}, {"seed": -1}],
)
def test_wrong_choices_are_named(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}: expected"):
        TrainConfig(**change)
