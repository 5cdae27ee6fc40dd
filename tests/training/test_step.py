"""The step of the optimiser and where its batches come from."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.images import save_image
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.photos import held_out_photos, training_batches
from rtn_jax.training.step import box_mask, init_state, make_schedule, make_step, parallel
from tests.networks import ONE_LEVEL, moving_params, photos, small_config

TRAIN = TrainConfig(batch_size=2, steps=20, learning_rate=3e-3)
WEAK = TrainConfig(stage="weak", data="unused", batch_size=2, steps=20, learning_rate=1e-3)
WHOLE = np.array([[-0.5, -0.5, 31.5, 31.5]] * 2, np.float32)


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


@pytest.fixture(scope="module")
def weak_step(params):
    return parallel(make_step(params.config, WEAK), 1)


def test_the_weak_stage_lowers_its_loss(params, weak_step):
    both = photos(np.random.default_rng(4), 4)
    state, losses = init_state(params, WEAK), []
    for _ in range(8):
        state, metrics = weak_step(state, {"src": both[:2], "tgt": both[2:], "src_box": WHOLE})
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


def test_the_weak_loss_counts_the_box_alone(params, weak_step):
    both, state = photos(np.random.default_rng(4), 4), init_state(params, WEAK)

    def loss(*boxes):
        box = np.asarray(boxes, np.float32)
        return float(weak_step(state, {"src": both[:2], "tgt": both[2:], "src_box": box})[1]["loss"])

    left, right = [-0.5, -0.5, 15.5, 31.5], [15.5, -0.5, 31.5, 31.5]
    assert loss(*WHOLE) == pytest.approx((loss(left, left) + loss(right, right)) / 2, rel=1e-5)
    assert loss(left, left) != pytest.approx(loss(right, right), rel=1e-3)
    small, first_cell = [2, 2, 3, 3], [-0.5, -0.5, 3.5, 3.5]
    assert loss(small, small) == loss(first_cell, first_cell), "a box without a cell's centre"


def test_the_mask_holds_the_cells_whose_centres_lie_in_the_box():
    config = small_config(levels=ONE_LEVEL)  # 32 pixels, cells of 4: centres at 1.5, 5.5, ..., 29.5
    boxes = [[1.5, 6, 9.4, 14], [-0.5, -0.5, 31.5, 31.5], [6, 10, 6.5, 11]]
    mask = np.asarray(box_mask(config, jnp.asarray(boxes)))
    expected = np.zeros((8, 8))
    expected[2:4, 0:2] = 1
    np.testing.assert_array_equal(mask[0], expected)
    np.testing.assert_array_equal(mask[1], 1)
    assert np.argwhere(mask[2]).tolist() == [[2, 1]], "the cell that holds the middle of a box without a cell's centre"


@pytest.fixture
def folder(tmp_path):
    for i, photo in enumerate(photos(np.random.default_rng(0), 5, 20, 30)):
        (tmp_path / f"class{i % 2}").mkdir(exist_ok=True)
        save_image(tmp_path / f"class{i % 2}" / f"{i}.png", photo)
    return tmp_path


def test_either_stage_draws_what_its_step_takes(folder):
    batches, about = training_batches(TrainConfig(data=str(folder), batch_size=3), (32, 32))
    assert about == f"random warps of 5 photos of {folder}"
    assert {name: array.shape for name, array in batches[7].items()} == {"photos": (3, 32, 32, 3), "seeds": (3,)}
    batches, about = training_batches(TrainConfig(stage="weak", data=str(folder), batch_size=4), (32, 32))
    assert "2 classes" in about
    shapes = {name: array.shape for name, array in batches[3].items()}
    assert shapes == {"src": (4, 32, 32, 3), "tgt": (4, 32, 32, 3), "src_box": (4, 4)}


def test_the_seed_of_a_run_is_that_of_its_batches(folder):
    seeds = [
        training_batches(TrainConfig(data=str(folder), batch_size=3, seed=seed), (32, 32))[0][0]["seeds"]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(seeds[0], seeds[1])
    assert (seeds[0] != seeds[2]).all()


def test_photos_are_held_out_of_anything_that_can_be_trained_on(folder):
    photos = held_out_photos(TrainConfig(val=str(folder)), limit=3)
    assert list(photos) == ["class0/0.png", "class0/4.png", "class1/3.png"]
    assert photos["class0/0.png"].shape == (20, 30, 3)
    (folder / "photos.csv").write_text("image,class\nclass1/1.png,one\n")
    assert list(held_out_photos(TrainConfig(val=str(folder / "photos.csv")))) == ["class1/1.png"]
    assert list(held_out_photos(TrainConfig())) == ["chelsea", "motorcycle"]


def test_a_weak_stage_without_classes_is_refused(tmp_path):
    save_image(tmp_path / "lonely.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="folder per class"):
        training_batches(TrainConfig(stage="weak", data=str(tmp_path)), (32, 32))
    with pytest.raises(ValueError, match="weak stage needs --data"):
        TrainConfig(stage="weak")


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"temperature": 0.0},
        {"decay": -0.1},
        {"seed": -1},
        {"workers": -1},
    ],
)
def test_wrong_choices_are_named(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}: expected"):
        TrainConfig(**change)
