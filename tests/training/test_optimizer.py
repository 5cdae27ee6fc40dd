"""The optimiser against slow loops in double precision, the schedules, and which weights follow which rule."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.config import Config, Level, released
from rtn_jax.training.optimizer import joined, make_optimizer, make_schedule, moved_average, split, trained_layers
from rtn_jax.training.recipes import RECIPES, Recipe
from tests.networks import ONE_LEVEL, small_config

STEPS = 12
RATES = {"geometry": 1.0, "last": 0.1, "backbone": 0.2}
ADAMW = Recipe(learning_rate=0.03, weight_decay=0.1, clip=1.5, last_rate=0.1, backbone_rate=0.2)
SGD = dataclasses.replace(RECIPES["released"]["weak"], learning_rate=1e-3, backbone_rate=0.2)


def weights(rng):
    def layer():
        return {"kernel": rng.normal(size=(2, 3)).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)}

    return {"geometry": {"conv9b": layer(), "conv10": layer()}, "backbone": {"conv3_1": layer()}}


@functools.cache
def updated(recipe):
    """The compiled update."""
    optimizer = make_optimizer(recipe, STEPS)

    def update(state, weights, gradient):
        changes, state = optimizer.update(gradient, state, weights)
        return state, jax.tree.map(jnp.add, weights, changes)

    return optimizer.init, jax.jit(update)


def trajectory(recipe, start, gradients):
    init, update = updated(recipe)
    state, found, current = init(start), [], start
    for gradient in gradients:
        state, current = update(state, current, gradient)
        found.append(current)
    return found


def rate_of(path):
    """The relative learning rate of a weight, by where it is."""
    names = [entry.key for entry in path]
    return RATES["backbone"] if names[0] == "backbone" else RATES["last"] if names[1] == "conv10" else 1.0


def slow(rule, recipe, start, gradients):
    """`rule(w, g, memory, t)` gives the step of one weight for a learning rate of one."""
    tree = jax.tree_util.tree_map_with_path(lambda path, w: (rate_of(path), np.float64(w)), start)
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, tuple))
    rates, current = zip(*leaves, strict=True)
    memories: list[dict] = [{} for _ in leaves]
    found = []
    for t, gradient in enumerate(gradients):
        slopes = [np.float64(g) for g in jax.tree.leaves(gradient)]
        norm = math.sqrt(sum((g**2).sum() for g in slopes))
        shrink = recipe.clip / norm if recipe.clip and norm > recipe.clip else 1
        steps = [rule(w, g * shrink, m, t) for w, g, m in zip(current, slopes, memories, strict=True)]
        lr = learning_rate(recipe, t)
        current = [w - lr * rate * step for w, rate, step in zip(current, rates, steps, strict=True)]
        found.append(structure.unflatten(current))
    return found


def learning_rate(recipe, t, steps=STEPS):
    warmup = round(recipe.warmup * steps)
    if t < warmup:
        return recipe.learning_rate * t / warmup
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * (1 + math.cos(math.pi * (t - warmup) / (steps - warmup))) / 2


def gradients(rng, start, scales):
    return [jax.tree.map(lambda w, s=s: np.float32(s * rng.normal(size=w.shape)), start) for s in scales]


def near(first, second):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), first, second)


SCALES = (0.01, 3, 1, 0.1, 5, 1, 1, 0.2, 1, 2, 1, 1)
"""Of the gradients: some are clipped, some are not."""


def test_the_release_is_momentum_with_decay_in_the_gradient(rng):
    """MatConvNet: `m = mu m - lr (wd w + g)`, `w = w + m`, the same for kernels and biases."""
    start = weights(rng)
    given = gradients(rng, start, SCALES)

    def rule(w, g, memory, _):
        memory["m"] = SGD.momentum * memory.get("m", 0) - (
            SGD.weight_decay * w + g
        )  # lr is constant: it stands outside
        return -memory["m"]

    assert (SGD.momentum, SGD.weight_decay, SGD.clip, SGD.schedule) == (0.9, 5e-4, 0, "constant")
    for got, expected in zip(trajectory(SGD, start, given), slow(rule, SGD, start, given), strict=True):
        near(got, expected)


def test_weight_decay_of_sgd_shows(rng):
    """The release's is too small to be seen above: the same with a hundred times as much, and no gradient."""
    recipe, start = dataclasses.replace(SGD, weight_decay=0.05, momentum=0.0, learning_rate=1.0), weights(rng)
    (got,) = trajectory(recipe, start, gradients(rng, start, [0]))
    near(got, jax.tree_util.tree_map_with_path(lambda path, w: w * (1 - 0.05 * rate_of(path)), start))


def test_adamw_clips_then_adapts_then_decays(rng):
    """Loshchilov and Hutter 2019 (decay beside the adapted gradient, times the rate), on gradients of bounded norm."""
    start = weights(rng)
    given = gradients(rng, start, SCALES)

    def rule(w, g, memory, t):
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
        memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * g**2
        adapted = memory["m"] / (1 - 0.9 ** (t + 1)) / (np.sqrt(memory["v"] / (1 - 0.999 ** (t + 1))) + 1e-8)
        return adapted + ADAMW.weight_decay * w

    norms = [np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient))) for gradient in given]
    assert min(norms) < ADAMW.clip < max(norms)
    for got, expected in zip(trajectory(ADAMW, start, given), slow(rule, ADAMW, start, given), strict=True):
        near(got, expected)


def test_clipping_is_of_all_weights_together(rng):
    recipe = Recipe(optimizer="sgd", momentum=0, weight_decay=0, learning_rate=1, schedule="constant", warmup=0, clip=1)
    start = weights(rng)
    (given,) = gradients(rng, start, [4])
    (got,) = trajectory(dataclasses.replace(recipe, last_rate=1, backbone_rate=1), start, [given])
    change = np.concatenate([np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (start, got)), strict=True)])
    assert np.linalg.norm(change) == pytest.approx(1, rel=1e-5)
    (free,) = trajectory(dataclasses.replace(recipe, last_rate=1, backbone_rate=1, clip=0), start, [given])
    near(free, jax.tree.map(np.subtract, start, given))


def test_an_empty_backbone_is_no_obstacle(rng):
    """Where the backbone is frozen the optimiser sees none of it."""
    start = weights(rng) | {"backbone": {}}
    (got,) = trajectory(SGD, start, gradients(rng, start, [1]))
    assert got["backbone"] == {}


class TestSchedule:
    @pytest.mark.parametrize("relative", [1.0, 0.1])
    @pytest.mark.parametrize("schedule", ["cosine", "constant"])
    @pytest.mark.parametrize("warmup", [0, 0.1, 0.25])
    def test_equals_the_formula(self, schedule, warmup, relative):
        recipe = Recipe(schedule=schedule, warmup=warmup, learning_rate=0.02)
        rates = [float(make_schedule(recipe, 40, relative)(t)) for t in range(40)]
        assert rates == pytest.approx([relative * learning_rate(recipe, t, 40) for t in range(40)], rel=1e-5, abs=1e-8)

    def test_rises_to_the_peak_and_falls_to_zero(self):
        rates = [float(make_schedule(Recipe(learning_rate=1.0), 100)(t)) for t in range(101)]
        assert rates[0] == 0
        assert max(rates) == rates[10] == 1
        assert rates[99] > 0, "no step is lost"
        assert rates[100] == pytest.approx(0, abs=1e-6)
        assert sorted(rates[10:], reverse=True) == rates[10:]

    @pytest.mark.parametrize("steps", [1, 2, 3])
    def test_leaves_something_to_the_shortest_runs(self, steps):
        rates = [float(make_schedule(Recipe(warmup=0.9, learning_rate=1.0), steps)(t)) for t in range(steps)]
        assert max(rates) == 1


class TestLayers:
    CONFIG = small_config(levels=ONE_LEVEL)
    ALL = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")

    @pytest.mark.parametrize(
        ("asked", "layers"), [("none", ()), ("all", ALL), ("conv2_2", ALL[3:]), ("conv1_1", ALL), ("conv3_1", ALL[4:])]
    )
    def test_from_the_one_asked_for_on(self, asked, layers):
        assert trained_layers(self.CONFIG, Recipe(train_backbone=asked)) == layers

    def test_of_the_released_network_are_all_it_has(self):
        layers = trained_layers(released(), RECIPES["released"]["weak"])
        assert (len(layers), layers[0], layers[-1]) == (13, "conv1_1", "conv5_1")

    def test_of_a_backbones_head(self):
        config = small_config(backbone="cat-fcss", levels=(Level(layer="stride8", iterations=1),))
        patterns = ("pattern1", "pattern2", "pattern3")
        assert trained_layers(config, Recipe(train_backbone="head")) == (*patterns, "affine1", "affine2")
        assert trained_layers(config, RECIPES["default"]["features"])[:3] == patterns
        assert trained_layers(config, Recipe(train_backbone="conv3_4")) == ("conv3_4", *patterns, "affine1", "affine2")
        with pytest.raises(ValueError, match=r"^train_backbone: expected none, all, head or one of .*, got 'heads'$"):
            trained_layers(config, Recipe(train_backbone="heads"))

    @pytest.mark.parametrize("asked", ["conv3_2", "", "None", "conv10", "head"])
    def test_that_are_not_computed_are_refused(self, asked):
        message = f"^train_backbone: expected none, all or one of conv1_1, .*, conv3_1, got '{asked}'$"
        with pytest.raises(ValueError, match=message):
            trained_layers(self.CONFIG, Recipe(train_backbone=asked))

    def test_the_default_network_has_layers_to_begin_with(self):
        assert trained_layers(Config(), Recipe(train_backbone="conv4_1"))[0] == "conv4_1"

    @pytest.mark.parametrize("layers", [(), ("conv3_1",), ALL])
    def test_what_is_split_can_be_joined(self, layers):
        whole = {"backbone": {name: {"kernel": name} for name in self.ALL}, "geometry": {"conv10": {"bias": 3}}}
        trained, fixed = split(whole, layers)
        assert set(trained["backbone"]) == set(layers)
        assert set(fixed) == set(self.ALL) - set(layers)
        assert joined(trained, fixed) == whole

    def test_joining_takes_the_trained_weights(self):
        """An average is put over the weights it is the average of."""
        old = {"conv1_1": 1, "conv3_1": 1}
        assert joined({"geometry": 0, "backbone": {"conv3_1": 2}}, old)["backbone"] == {"conv1_1": 1, "conv3_1": 2}


@pytest.mark.parametrize("recipe", [ADAMW, SGD], ids=["adamw", "sgd"])
def test_a_part_whose_rate_is_zero_stays_as_it_is(recipe, rng):
    """Weight decay included, and nothing is kept for it: the features stage has no use for the geometry network."""
    frozen = dataclasses.replace(recipe, geometry_rate=0.0)
    start = weights(rng)
    gradient = jax.tree.map(np.ones_like, start)
    last = trajectory(frozen, start, [gradient] * 3)[-1]
    jax.tree.map(np.testing.assert_array_equal, last["geometry"], start["geometry"])
    assert np.abs(last["backbone"]["conv3_1"]["kernel"] - start["backbone"]["conv3_1"]["kernel"]).min() > 0
    kept = sum(leaf.size for leaf in jax.tree.leaves(make_optimizer(frozen, STEPS).init(start)))
    assert kept < sum(leaf.size for leaf in jax.tree.leaves(make_optimizer(recipe, STEPS).init(start))) / 2


@pytest.mark.parametrize(("updates", "share"), [(0, 0.1), (1, 2 / 11), (80, 0.9), (81, 0.9), (10**6, 0.9)])
def test_the_average_forgets_its_start_soon(updates, share):
    old, new = {"a": jnp.ones(2)}, {"a": jnp.zeros(2)}
    moved = moved_average(old, new, Recipe(average=0.9), jnp.asarray(updates, jnp.int32))
    np.testing.assert_allclose(moved["a"], share, rtol=1e-6)
