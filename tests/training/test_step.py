"""The step of the optimiser: what it changes, what it leaves alone, and what it says."""

from __future__ import annotations

import dataclasses
import functools
import logging

import jax
import numpy as np
import pytest

from rtn_jax.model import apply
from rtn_jax.training.recipes import RECIPES, Recipe
from rtn_jax.training.step import STOP, init_state, make_step, parallel
from tests.training import reference, toys

PLAIN = Recipe(optimizer="sgd", learning_rate=0.01, schedule="constant", warmup=0, momentum=0, weight_decay=0, clip=0)
ADAMW = Recipe(learning_rate=0.01, warmup=0, clip=0, average=0.3, train_backbone="conv1_2")
BATCH = toys.batch(0.5, -1.0, 2.0, 0.1)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """Every test but those that take `reference` looks at the step around a loss, and needs no network for it."""
    toys.install(monkeypatch)


@functools.cache
def compiled(recipe, accumulate=1):
    return parallel(make_step(toys.CONFIG, "synthetic", recipe, toys.TOTAL, accumulate=accumulate), 1)


def started(recipe, step=0):
    return init_state(toys.params(), recipe, toys.TOTAL, step=step)


def after(step, recipe, *batches):
    """State and metrics after some batches."""
    state, metrics = started(recipe), {}
    for batch in batches:
        state, metrics = step(state, batch)
    return state, {name: float(value) for name, value in metrics.items()}


def same(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def near(first, second, **tolerance):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), first, second)


class TestOneStep:
    def test_goes_down_the_mean_gradient_of_the_pairs(self):
        state, metrics = after(compiled(PLAIN), PLAIN, BATCH)
        weights = toys.params().weights
        slope = toys.gradient(weights, BATCH)
        expected = jax.tree.map(lambda w, g: w - 0.01 * g, weights["geometry"], slope["geometry"])
        near(state.weights["geometry"], expected, rtol=1e-5)
        same(state.weights["backbone"], weights["backbone"])
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(slope["geometry"])))
        loss = np.mean([sum(((w - x) ** 4).sum() / 4 for w in jax.tree.leaves(weights)) for x in BATCH["x"]])
        expected = {"loss": loss, "mean_x": 0.4, "gradient_norm": norm, "learning_rate": 0.01}
        assert metrics == pytest.approx(expected | {"skipped_in_a_row": 0, STOP: 0}, rel=1e-5)

    def test_counts_from_where_the_run_is(self):
        state, _ = compiled(PLAIN)(started(PLAIN, step=70), BATCH)
        assert (int(state.step), int(state.updates)) == (71, 1)

    def test_says_whether_any_process_wants_to_stop(self):
        step = compiled(PLAIN)
        wish = {STOP: np.array([0, 0, 1, 0], np.float32)}
        assert after(step, PLAIN, BATCH)[1][STOP] == 0
        stopped, metrics = after(step, PLAIN, BATCH | wish)
        assert metrics[STOP] > 0
        same(stopped, after(step, PLAIN, BATCH)[0])

    def test_changes_nothing_where_a_process_has_no_data(self):
        state, metrics = after(compiled(ADAMW), ADAMW, BATCH | {STOP: np.array([0, np.nan, 0, 0], np.float32)})
        assert np.isnan(metrics[STOP])
        same(state, started(ADAMW))

    def test_consumes_the_state_and_not_the_network(self):
        network = toys.params()
        state = init_state(network, ADAMW, toys.TOTAL)
        compiled(ADAMW)(state, BATCH)
        kept = [leaf for leaf in jax.tree.leaves(state) if not leaf.is_deleted()]
        assert not kept, "memory for two states"
        same(network.weights, toys.params().weights)

    def test_is_compiled_once(self, caplog):
        step, state, compilations = compiled.__wrapped__(ADAMW), started(ADAMW), []
        for _ in range(3):
            caplog.clear()
            with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
                state, _ = step(state, BATCH)
            compilations.append(sum("Finished XLA compilation" in line for line in caplog.messages))
        assert compilations[0] > 0
        assert compilations[1:] == [0, 0]

    @pytest.mark.parametrize("devices", [0, 2])
    def test_takes_no_more_devices_than_there_are(self, devices):
        with pytest.raises(ValueError, match=f"^devices: expected 1 to 1, got {devices}$"):
            parallel(make_step(toys.CONFIG, "synthetic", PLAIN, 1), devices)


class TestWhatIsTrained:
    @pytest.mark.parametrize(
        ("train_backbone", "fixed"), [("none", toys.BACKBONE), ("conv1_2", toys.BACKBONE[:1]), ("all", ())]
    )
    def test_the_layers_asked_for(self, train_backbone, fixed):
        recipe = dataclasses.replace(PLAIN, train_backbone=train_backbone, weight_decay=0.1)
        state, metrics = after(compiled(recipe), recipe, BATCH)
        start = toys.params().weights
        for part, layers in start.items():
            for name, layer in layers.items():
                moved = [(state.weights[part][name][kind] != layer[kind]).all() for kind in layer]
                assert moved == [name not in fixed], name
        slope = toys.gradient(start, BATCH)
        slope["backbone"] = {name: layer for name, layer in slope["backbone"].items() if name not in fixed}
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(slope)))
        assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5), "of the trained layers alone"

    def test_the_optimiser_remembers_nothing_of_the_others(self):
        layers = jax.tree_util.tree_leaves_with_path(started(RECIPES["default"]["synthetic"]).optimizer)
        assert "conv9b" in str(layers)
        assert "conv1_1" not in str(layers)

    def test_an_unknown_layer(self):
        with pytest.raises(
            ValueError, match=r"^train_backbone: expected none, all or one of conv1_1, .*, got 'conv9_9'$"
        ):
            started(Recipe(train_backbone="conv9_9"))


class TestParts:
    @pytest.mark.parametrize("parts", [2, 4])
    def test_of_a_batch_give_what_the_whole_gives(self, parts):
        whole, metrics = after(compiled(ADAMW), ADAMW, BATCH, BATCH)
        state, summed = after(compiled(ADAMW, parts), ADAMW, BATCH, BATCH)
        near(state.weights, whole.weights, rtol=1e-6)
        assert summed == pytest.approx(metrics, rel=1e-6)

    def test_that_are_not_even_are_refused(self):
        with pytest.raises(ValueError, match=r"^accumulate: 4 pairs of a device cannot be split evenly into 3 parts"):
            after(compiled(PLAIN, 3), PLAIN, BATCH)


def poisoned(*, loss=False, factor=1.0):
    """A batch one of whose pairs is bad."""
    extra, slope = np.zeros(4), np.ones(4)
    extra[2], slope[1] = np.nan if loss else 0, factor
    return toys.batch(*BATCH["x"], extra=extra, factor=slope)


class TestSkipping:
    @pytest.mark.parametrize("parts", [1, 2])
    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(poisoned(loss=True), id="loss"),
            pytest.param(poisoned(factor=np.nan), id="gradient"),
            pytest.param(poisoned(factor=np.inf), id="infinite gradient"),
            pytest.param(poisoned(factor=1e30), id="gradient whose square is infinite"),
        ],
    )
    def test_leaves_everything_as_if_the_batch_had_not_been(self, bad, parts):
        step = compiled(ADAMW, parts)
        clean, metrics = after(step, ADAMW, BATCH, BATCH, BATCH)
        state, again = after(step, ADAMW, BATCH, bad, bad, BATCH, bad, BATCH)
        same((state.weights, state.average, state.updates), (clean.weights, clean.average, clean.updates))
        same(state.optimizer.inner_state, clean.optimizer.inner_state)
        assert again == metrics, "the learning rate, too, is of the third update"
        assert (int(state.step), int(state.updates)) == (6, 3)
        assert int(state.optimizer.total_notfinite) == 3

    def test_is_counted_in_a_row(self):
        step, state, counts = compiled(ADAMW), started(ADAMW), []
        bad = poisoned(loss=True)
        for batch in (BATCH, bad, bad, bad, BATCH, bad):
            state, metrics = step(state, batch)
            counts.append(int(metrics["skipped_in_a_row"]))
        assert counts == [0, 1, 2, 3, 0, 1]

    def test_has_no_end_of_its_own(self):
        """When it is too much is for the loop to say; the optimiser never lets one through."""
        step = compiled(PLAIN)
        state, metrics = after(step, PLAIN, *[poisoned(loss=True)] * 30)
        same(state.weights, toys.params().weights)
        assert metrics["skipped_in_a_row"] == 30


class TestAverage:
    def test_follows_the_trained_weights(self):
        step, state = compiled(ADAMW), started(ADAMW)
        start = toys.params().weights
        average, before = jax.tree.map(np.float64, start), None
        for update in range(8):
            state, _ = step(state, BATCH)
            share = min(0.3, (1 + update) / (10 + update))  # 0.1, 0.18, 0.25, 0.3, 0.3 ...
            now = jax.device_get(state.weights)
            average = jax.tree.map(lambda old, new, d=share: d * old + (1 - d) * new, average, now)
            measured = jax.device_get(state.measured)
            near(measured, average, rtol=1e-5)
            assert (measured["geometry"]["conv9b"]["kernel"] != now["geometry"]["conv9b"]["kernel"]).all()
            same(measured["backbone"]["conv1_1"], start["backbone"]["conv1_1"])
            assert before is None or (measured["backbone"]["conv1_2"]["kernel"] != before).all()
            before = measured["backbone"]["conv1_2"]["kernel"]

    def test_is_not_made_unless_asked_for(self):
        state, _ = after(compiled(PLAIN), PLAIN, BATCH)
        assert state.average == {}
        same(state.measured, state.weights)

    def test_begins_with_the_network(self):
        same(started(ADAMW).measured, toys.params().weights)


class TestNetwork:
    """The same with the real losses, on the reference's data."""

    @pytest.fixture(autouse=True)
    def toy(self):
        """Nothing is replaced."""

    @pytest.mark.parametrize("stage", ["synthetic", "weak"])
    def test_learns(self, stage):
        losses = [made.metrics["loss"] for made in reference.run(stage)]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.998 * losses[0]

    @pytest.mark.parametrize("stage", ["synthetic", "weak"])
    def test_gives_the_same_bits_again(self, stage):
        first, again = reference.run(stage)[:2], reference.steps(reference.plain(stage), stage, 2)
        same([dataclasses.astuple(made) for made in first], [dataclasses.astuple(made) for made in again])

    def test_trains_the_backbone_where_it_should(self):
        start = reference.network().weights["backbone"]
        same(reference.run("synthetic")[-1].weights["backbone"], start)
        for name, layer in reference.run("weak")[-1].weights["backbone"].items():
            assert (layer["kernel"] != start[name]["kernel"]).mean() > 0.5, name

    def test_in_parts_and_recomputed(self):
        assert "remat" in printed(remat=True)
        assert "remat" not in printed(remat=False)
        step = reference.step("synthetic", accumulate=2, remat=True)
        for made, expected in zip(reference.steps(step, "synthetic", 2), reference.run("synthetic"), strict=False):
            near(made.weights, expected.weights, atol=1e-5)
            near(made.measured, expected.measured, atol=1e-5)
            assert made.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)

    def test_in_half_precision(self):
        step = reference.step("weak", compute_dtype="bfloat16")
        made, expected = reference.steps(step, "weak", 1)[0], reference.run("weak")[0]
        assert made.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=0.02)
        start = reference.network().weights
        half, single = (flat(jax.tree.map(np.subtract, m.weights, start)) for m in (made, expected))
        assert half.dtype == np.float32
        cosine = half @ single / np.linalg.norm(half) / np.linalg.norm(single)
        assert 0.98 < cosine < 1 - 1e-7


def printed(**changes):
    """The program of the network, in words."""
    params = reference.network(**changes)
    pictures = reference.batch("weak")
    return str(jax.make_jaxpr(lambda p: apply(p, pictures["src"], pictures["tgt"]))(params))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
