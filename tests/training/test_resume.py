"""A state to a checkpoint and back: every bit of it, whatever the recipe."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax import Params, checkpoints
from rtn_jax.coordinates import Shape
from rtn_jax.data.pipeline import photo_batches
from rtn_jax.data.sources import photo_source
from rtn_jax.params import expected_shapes
from rtn_jax.training.phases import Phase
from rtn_jax.training.recipes import Recipe
from rtn_jax.training.resume import state_at, to_continue
from rtn_jax.training.step import init_state
from tests.training.runs import CONFIG

SHAPE: Shape = (32, 32)
SGD = Recipe(optimizer="sgd", momentum=0.9)


def network(seed):
    """Random weights."""
    rng = np.random.default_rng(seed)
    shapes = expected_shapes(CONFIG)
    return Params(
        jax.tree.map(
            lambda shape: rng.standard_normal(shape).astype(np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
        ),
        CONFIG,
    )


def phase(recipe, first=0):
    batches = photo_batches(photo_source("builtin"), SHAPE, batch_size=4, seed=0)
    return Phase(stage="synthetic", recipe=recipe, steps=20, first=first, batches=batches, about="photos")


def far(recipe, step):
    """A state in which no two arrays are alike, as if many steps had been made."""
    rng = np.random.default_rng(step)
    state = init_state(network(1), recipe, 20, step=step)

    def other(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)
        return jnp.asarray(rng.integers(0, 2 if leaf.dtype == bool else 99, leaf.shape), leaf.dtype)

    moved = jax.tree.map(other, state)
    fixed = {name: layer for name, layer in state.weights["backbone"].items() if name not in _trained(recipe)}
    backbone = moved.weights["backbone"] | fixed
    return dataclasses.replace(moved, step=state.step, weights=moved.weights | {"backbone": backbone})


def _trained(recipe):
    layers = ["conv1_1", "conv1_2", "conv2_1"]
    return {"none": [], "all": layers, "conv1_2": layers[1:]}[recipe.train_backbone]


def kept(folder, state, of):
    """The checkpoint of a state, as the loop writes it."""
    params = Params(jax.tree.map(np.asarray, state.measured), CONFIG)
    checkpoints.save(folder, params, training=to_continue(state, CONFIG, of), step=int(state.step))
    return folder


def assert_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(train_backbone="conv1_2", clip=0, schedule="constant"),
        Recipe(train_backbone="all", backbone_rate=0),
        SGD,
        dataclasses.replace(SGD, momentum=0, weight_decay=0, last_rate=0.1),
    ],
    ids=["adamw", "partly", "wholly", "sgd", "no momentum"],
)
def test_every_bit_comes_back(tmp_path, recipe, average):
    recipe = dataclasses.replace(recipe, average=average)
    state = far(recipe, 7)
    found = state_at(network(2), phase(recipe), 7, kept(tmp_path / "c", state, phase(recipe)))
    assert_equal(found, state)


def test_a_checkpoints_weights_are_the_ones_that_are_measured(tmp_path):
    recipe = Recipe(average=0.9)
    state = far(recipe, 7)
    loaded = checkpoints.load(kept(tmp_path / "c", state, phase(recipe))).weights
    assert_equal(loaded["geometry"], state.average["geometry"])
    assert not np.array_equal(loaded["geometry"]["conv1"]["kernel"], state.weights["geometry"]["conv1"]["kernel"])


def test_without_a_checkpoint_it_is_a_new_one():
    assert_equal(state_at(network(1), phase(SGD), 0, None), init_state(network(1), SGD, 20))


def test_a_stage_begins_with_the_measured_weights_of_the_one_before_and_an_optimizer_of_its_own(tmp_path):
    before, recipe = Recipe(average=0.9, train_backbone="all"), SGD
    state = far(before, 20)
    checkpoint = kept(tmp_path / "c", state, phase(before))
    found = state_at(network(2), phase(recipe, first=20), 20, checkpoint)
    assert_equal(found, init_state(Params(state.measured, CONFIG), recipe, 20, step=20))


def test_the_state_of_another_optimizer_is_named(tmp_path):
    checkpoint = kept(tmp_path / "c", far(SGD, 7), phase(SGD))
    with pytest.raises(ValueError, match=r"training: the training state is of another optimiser or network: it lacks "):
        state_at(network(1), phase(Recipe()), 7, checkpoint)


def test_a_damaged_one_is_named(tmp_path):
    checkpoint = kept(tmp_path / "c", far(SGD, 7), phase(SGD))
    largest = max((checkpoint / "training").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"c: the checkpoint is damaged: training/.* is not what was saved$"):
        state_at(network(1), phase(SGD), 7, checkpoint)
