"""What the stages minimise, against slow loops: the network is a stub that remembers what it was shown."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.backbones import Tap
from rtn_jax.correlation import l2_normalize
from rtn_jax.data.synthetic import WarpRange, random_warps, warp_photos
from rtn_jax.losses import correspondence_loss
from rtn_jax.model import Features, Output, apply, encode, grids, pair_confidence
from rtn_jax.params import Params
from rtn_jax.training import objectives
from rtn_jax.training.objectives import OBJECTIVES, box_mask, true_fields
from rtn_jax.training.recipes import RECIPES, Recipe
from tests import oracle
from tests.networks import ONE_LEVEL, moving_params, photos, small_config

PAIRS = 3
CONFIG = small_config()
SEEDS = np.array([5, 6, 2**32 - 1], np.uint32)
PHOTOS = photos(np.random.default_rng(2), 2 * PAIRS)
BOXES = np.array([[-0.5, -0.5, 31.5, 31.5], [4, 9, 20, 30], [17, 3, 17.5, 3.5]], np.float32)
WARPED = {"photos": PHOTOS[:PAIRS], "seeds": SEEDS}
PAIRED = {"src": PHOTOS[:PAIRS], "tgt": PHOTOS[PAIRS:], "src_box": BOXES, "tgt_box": BOXES[::-1], "seeds": SEEDS}


def made_up(part: int) -> Output:
    """Fields and volume that no network would give, other ones for every `PAIRS` pairs that are matched at once."""
    rng, history = np.random.default_rng(part), []
    for level, (_, shape) in zip(CONFIG.levels, grids(CONFIG), strict=True):
        noise = rng.normal(size=(level.iterations, PAIRS, *shape, 2, 3)) / 3
        history.append(jnp.asarray(np.eye(2, 3) + noise, jnp.float32))
    pixels = jnp.zeros((PAIRS, *CONFIG.image_shape, 2))
    volume = jnp.asarray(rng.uniform(-1, 1, (PAIRS, *shape, 25)), jnp.float32)
    return Output(pixels, pixels, history[-1][-1], tuple(history), volume, pixels[..., 0])


def together(parts: int) -> Output:
    """So many of `made_up` as one."""
    outs = [made_up(part) for part in range(parts)]
    history = tuple(jnp.concatenate(levels, 1) for levels in zip(*(out.history for out in outs), strict=True))
    rest = [dataclasses.replace(out, history=()) for out in outs]
    return dataclasses.replace(jax.tree.map(lambda *x: jnp.concatenate(x), *rest), history=history)


@functools.cache
def compiled(stage, recipe, config, sure):
    def compute(batch):
        shown, sures = [], iter(sure)

        def encode(params, images):
            return Features({"": Tap((), images)}, images.shape[1:3])

        def match(params, src, tgt):
            src, tgt = (features.taps[""].output for features in (src, tgt))
            parts = len(src) // PAIRS
            shown.extend(zip(jnp.split(src, parts), jnp.split(tgt, parts), strict=True))
            return together(parts)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objectives, "encode", encode)
            patch.setattr(objectives, "match", match)
            patch.setattr(objectives, "pair_confidence", lambda out: jnp.asarray(next(sures)))
            patch.setattr(objectives, "apply", lambda params, *pair: match(params, *(encode(params, x) for x in pair)))
            value, metrics = OBJECTIVES[stage](Params({}, config), batch, recipe)
        return value, metrics, shown

    return jax.jit(compute)


def look(stage, batch, recipe, config=CONFIG, sure=()):
    """The value of an objective, its metrics, and the images (src, tgt) that the network was shown.

    `sure`: what it thinks of the pairs, each time it is asked.
    """
    value, metrics, shown = jax.device_get(compiled(stage, recipe, config, sure)(batch))
    return float(value), {name: float(metric) for name, metric in metrics.items()}, shown


def cells_in(config, boxes):
    return np.asarray(box_mask(grids(config)[-1], jnp.asarray(boxes, jnp.float32)))


def warps(recipe):
    return random_warps(jax.vmap(jax.random.key)(SEEDS), WarpRange(translation=recipe.translation))


def slow_synthetic(out, recipe, config=CONFIG, box=None, scale=0.0):
    """The mean over the pairs of the oracle's loss of each."""
    truth = true_fields(config, warps(recipe), None if box is None else jnp.asarray(box))
    fields = [(np.asarray(truth), np.asarray(valid)) for truth, valid in truth]
    values = [
        oracle.synthetic_loss(
            [np.asarray(level[:, pair], np.float64) for level in out.history],
            [truth[pair] for truth, _ in fields],
            [valid[pair] for _, valid in fields],
            decay=recipe.decay,
            matrix_weight=recipe.matrix_weight,
            scale=scale,
            reduction=recipe.reduction,
        )
        for pair in range(PAIRS)
    ]
    return np.mean(values)


def slow_tie(out, recipe, config=CONFIG):
    masks = [np.ones(shape) for _, shape in grids(config)]
    values = [
        oracle.tie_loss(
            [np.asarray(level[:, pair], np.float64) for level in out.history],
            masks,
            normalization=config.normalization,
            decay=recipe.decay,
        )
        for pair in range(PAIRS)
    ]
    return np.mean(values)


def slow_consistency(there, back, recipe, config=CONFIG):
    """As the synthetic loss of the composed fields, of cells that the warp takes into the target's box."""
    history = [
        np.stack(
            [
                [
                    oracle.compose_fields(*(np.asarray(x, np.float64) for x in fields), config.normalization)
                    for fields in zip(of_iteration, last[-1], strict=True)
                ]
                for of_iteration in level
            ]
        )
        for level, last in zip(there.history, back.history, strict=True)
    ]
    out = dataclasses.replace(there, history=tuple(map(jnp.asarray, history)))
    return slow_synthetic(out, recipe, config, box=PAIRED["tgt_box"], scale=recipe.consistency_scale)


def slow_weak(out, recipe, boxes=BOXES):
    """The cross-entropy of the window's centre over the cells in the box, and the mean cosine there."""
    losses, cosines = [], []
    for volume, mask in zip(np.asarray(out.correlation, np.float64), cells_in(CONFIG, boxes), strict=True):
        cells = [volume[y, x] for y, x in np.argwhere(mask)]
        entropies = [np.log(np.exp(recipe.temperature * (cell - cell[12])).sum()) for cell in cells]
        losses.append(sum(entropies) if recipe.reduction == "sum" else np.mean(entropies))
        cosines.append(np.mean([cell[12] for cell in cells]))
    return np.mean(losses), np.mean(cosines)


OURS = dataclasses.replace(RECIPES["default"]["weak"], decay=0.7, matrix_weight=0.3, tie_weight=0.6, temperature=5.0)


class TestSynthetic:
    @pytest.mark.parametrize("normalization", ["centers", "corners"])
    @pytest.mark.parametrize(
        "recipe",
        [OURS, RECIPES["released"]["synthetic"], Recipe(tie_weight=0, translation=0.1)],
        ids=["all", "release", "few"],
    )
    def test_loss(self, recipe, normalization):
        config = CONFIG.replace(normalization=normalization)
        value, metrics, _ = look("synthetic", WARPED, recipe, config)
        truth, tie = slow_synthetic(made_up(0), recipe, config), slow_tie(made_up(0), recipe, config)
        assert value == pytest.approx(truth + recipe.tie_weight * tie, rel=1e-5)
        assert metrics["synthetic_loss"] == pytest.approx(truth, rel=1e-5)
        assert ("tie_loss" in metrics) == bool(recipe.tie_weight)
        assert metrics.get("tie_loss", tie) == pytest.approx(tie, rel=1e-5)

    def test_the_network_sees_the_photo_and_its_warp(self):
        recipe = Recipe(translation=0.3)
        _, _, [(src, tgt)] = look("synthetic", WARPED, recipe)
        np.testing.assert_array_equal(tgt, PHOTOS[:PAIRS])
        expected = warp_photos(warps(recipe), jnp.asarray(PHOTOS[:PAIRS], jnp.float32))
        np.testing.assert_allclose(src, expected, atol=0.05)
        assert np.abs(src - tgt).mean((1, 2, 3)).min() > 5

    def test_a_pair_depends_on_its_own_seed(self):
        first, again = (look("synthetic", WARPED | {"seeds": s}, OURS)[2][0][0] for s in (SEEDS, SEEDS[[0, 2, 2]]))
        assert (first == again).all((1, 2, 3)).tolist() == [True, False, True]

    def test_how_far_warps_go(self):
        """Half the image, at most, of which a centre in the middle cannot be seen to move further."""
        far, near = (look("synthetic", WARPED, dataclasses.replace(OURS, translation=t))[2][0][0] for t in (1.0, 0.0))
        photo = PHOTOS[:PAIRS].astype(np.float64)
        centres = [np.abs(src - photo)[:, 13:19, 13:19].mean() for src in (far, near)]
        assert centres[0] > 2 * centres[1]


class TestWeak:
    @pytest.mark.parametrize(
        "recipe",
        [
            dataclasses.replace(OURS, reduction="sum", synthetic_weight=10.0, consistency_weight=3.0, weak_weight=2.0),
            RECIPES["released"]["weak"],
            dataclasses.replace(OURS, tie_weight=0.0, synthetic_weight=2.5),
            dataclasses.replace(OURS, weak_weight=0.0, tie_weight=0.0, consistency_weight=2.0),
            dataclasses.replace(OURS, consistency_weight=2.0, consistency_scale=0.2),
        ],
        ids=["all", "release", "with warps", "consistency", "consistency within reach"],
    )
    def test_loss(self, recipe):
        value, metrics, shown = look("weak", PAIRED, recipe)
        loss, cosine = slow_weak(made_up(0), recipe)
        weights = {name: getattr(recipe, f"{name}_weight") for name in ("weak", "consistency", "synthetic", "tie")}
        terms = {
            "weak": loss,
            "tie": slow_tie(made_up(0), recipe),
            "consistency": slow_consistency(made_up(1), made_up(0), recipe),
            "synthetic": slow_synthetic(made_up(2 if recipe.consistency_weight else 1), recipe),
        }
        expected = {f"{name}_loss": terms[name] for name, weight in weights.items() if weight}
        expected |= {"centre_cosine": cosine} if recipe.weak_weight else {}
        assert {name: metrics[name] for name in metrics if "loss" in name or "cosine" in name} == pytest.approx(
            expected, rel=1e-5
        )
        assert value == pytest.approx(sum(weights[name] * terms[name] for name in weights), rel=1e-5)
        matched = 1 + bool(recipe.consistency_weight) + bool(recipe.synthetic_weight)
        assert len(shown) == matched, "a network that nobody asks for costs as much as the others"

    def test_the_network_sees_the_pair_and_warps_of_its_target(self):
        recipe = dataclasses.replace(OURS, synthetic_weight=1.0, consistency_weight=1.0)
        _, _, [(src, tgt), (warped, src_again), (warped_again, tgt_again)] = look("weak", PAIRED, recipe)
        for seen, expected in ((src, "src"), (src_again, "src"), (tgt, "tgt"), (tgt_again, "tgt")):
            np.testing.assert_array_equal(seen, PAIRED[expected])
        np.testing.assert_array_equal(warped, warped_again)
        same = look("synthetic", {"photos": PAIRED["tgt"], "seeds": SEEDS}, OURS)[2][0][0]
        np.testing.assert_allclose(warped, same, atol=1e-3)

    def test_a_source_is_mirrored_if_the_network_is_surer_of_it_then(self):
        """Of the three pairs the second; the network is asked with the photos as they are first."""
        recipe = dataclasses.replace(OURS, mirror_aware=True, consistency_weight=1.0)
        sure = ((0.5, 0.4, 0.5), (0.4, 0.5, 0.5))
        _, metrics, shown = look("weak", PAIRED, recipe, sure=sure)
        asked, asked_mirrored, (src, tgt), (_, src_again) = shown
        for seen, expected in ((asked[0], PAIRED["src"]), (asked_mirrored[0], PAIRED["src"][:, :, ::-1])):
            np.testing.assert_array_equal(seen, expected)
        for _, target in (asked, asked_mirrored, (src, tgt)):
            np.testing.assert_array_equal(target, PAIRED["tgt"])
        for seen in (src, src_again):
            np.testing.assert_array_equal(seen[1], PAIRED["src"][1, :, ::-1])
            np.testing.assert_array_equal(seen[::2], PAIRED["src"][::2])
        boxes = BOXES.copy()
        boxes[1] = [31 - 20, 9, 31 - 4, 30]
        assert metrics["weak_loss"] == pytest.approx(slow_weak(made_up(0), recipe, boxes)[0], rel=1e-5)
        assert metrics["mirrored"] == pytest.approx(1 / 3)
        plain = look("weak", PAIRED, dataclasses.replace(recipe, mirror_aware=False))
        assert plain[1]["weak_loss"] != pytest.approx(metrics["weak_loss"], rel=1e-3)
        assert "mirrored" not in plain[1]

    def test_choosing_a_side_teaches_nothing(self):
        """The gradient is that of the side that was chosen, as if the photos had come so."""
        params, recipe = moving_params(), dataclasses.replace(OURS, mirror_aware=True, tie_weight=0.0)
        batch = jax.tree.map(jnp.asarray, PAIRED)
        gradient = jax.jit(jax.grad(lambda *x: OBJECTIVES["weak"](*x)[0]), static_argnums=2)
        metrics = jax.jit(OBJECTIVES["weak"], static_argnums=2)(params, batch, recipe)[1]
        sure = [pair_confidence(apply(params, src, batch["tgt"])) for src in (batch["src"], batch["src"][:, :, ::-1])]
        chosen = sure[1] > sure[0]
        assert metrics["mirrored"] == pytest.approx(float(chosen.mean()))
        turned = jnp.where(chosen[:, None, None, None], batch["src"][:, :, ::-1], batch["src"])
        left, top, right, bottom = jnp.moveaxis(batch["src_box"], -1, 0)
        boxes = jnp.where(chosen[:, None], jnp.stack([31 - right, top, 31 - left, bottom], -1), batch["src_box"])
        expected = gradient(
            params, batch | {"src": turned, "src_box": boxes}, dataclasses.replace(recipe, mirror_aware=False)
        )
        for got, leaf in zip(jax.tree.leaves(gradient(params, batch, recipe)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, leaf, atol=1e-4 * max(1e-6, float(jnp.abs(leaf).max())))


class TestColours:
    @pytest.mark.parametrize(("stage", "batch"), [("synthetic", WARPED), ("weak", PAIRED)], ids=["synthetic", "weak"])
    def test_change_each_image_by_itself_and_nothing_else(self, stage, batch):
        """Of photos of one colour, which warps and resizing leave as they are."""
        colour = np.array([200, 90, 40])
        batch = {name: x * 0 + colour.astype(np.uint8) if x.ndim == 4 else x for name, x in batch.items()}
        plain, coloured = (look(stage, batch, dataclasses.replace(OURS, colour=c)) for c in (0.0, 0.4))
        assert plain[0] == coloured[0], "the field that is asked for stays"
        for images in plain[2]:
            np.testing.assert_allclose(images, np.broadcast_to(colour, np.shape(images)), atol=0.01)
        for images in coloured[2]:
            seen = np.mean(images, (2, 3), np.float64)  # [2, pairs, 3]
            np.testing.assert_allclose(images, np.broadcast_to(seen[:, :, None, None], np.shape(images)), atol=0.01)
            assert seen.min() >= 0 and seen.max() <= 255
            gains = np.ravel(seen @ [0.299, 0.587, 0.114]) / (colour @ [0.299, 0.587, 0.114])
            assert len(set(np.round(gains, 4))) == 2 * PAIRS, "either image of a pair has its own"
            assert 0.6 <= gains.min() < 0.95 < 1.05 < gains.max() <= 1.4

    def test_are_of_the_seed(self):
        recipe = dataclasses.replace(OURS, colour=0.4)
        first, again = (look("synthetic", WARPED | {"seeds": s}, recipe)[2][0][1] for s in (SEEDS, SEEDS[[1, 1, 2]]))
        assert (first == again).all((1, 2, 3)).tolist() == [False, True, True]


@pytest.mark.parametrize(("stage", "batch"), [("synthetic", WARPED), ("weak", PAIRED)], ids=["synthetic", "weak"])
def test_the_final_field_is_among_the_metrics(stage, batch):
    """A loss can fall by turning and stretching the field; so what it does to it is watched, of the real pairs."""
    matrix = np.asarray(made_up(0).affine, np.float64)[..., :2].reshape(-1, 2, 2)
    determinants = np.linalg.det(matrix)
    assert 0 < (determinants <= 0).mean() < 0.5
    expected = {f"mean_a{'xy'[i]}{'xy'[j]}": matrix[:, i, j].mean() for i in (0, 1) for j in (0, 1)}
    expected |= {"mean_determinant": determinants.mean(), "folded": (determinants <= 0).mean()}
    metrics = look(stage, batch, OURS)[1]
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)


class TestBox:
    """32 pixels in cells of 4, whose centres lie at 1.5, 5.5, ..., 29.5."""

    CONFIG = small_config(levels=ONE_LEVEL)

    def cells(self, *box, config=CONFIG):
        (mask,) = cells_in(config, [box])
        assert set(np.unique(mask)) <= {0, 1}
        return np.argwhere(mask)

    def test_holds_the_cells_whose_centres_it_holds(self):
        expected = [[row, column] for row in (2, 3) for column in (0, 1)]
        assert self.cells(1.5, 6, 9.4, 14).tolist() == expected
        assert len(self.cells(-0.5, -0.5, 31.5, 31.5)) == 64

    @pytest.mark.parametrize(
        ("box", "cells"),
        [
            ((6, 10, 6.5, 11), [[2, 1]]),
            ((2, 2, 3, 3), [[0, 0]]),
            ((31, 31, 31.5, 31.5), [[7, 7]]),
            ((3.5, 5, 3.5, 5), [[1, 0], [1, 1]]),  # on the border of two
        ],
    )
    def test_that_holds_no_centre_is_the_cell_of_its_middle(self, box, cells):
        assert self.cells(*box).tolist() == cells

    def test_of_any_size_holds_something(self, rng):
        corners = np.sort(rng.uniform(-0.5, 31.5, (200, 2, 2)), axis=1)
        corners[100:, 1] = corners[100:, 0] + rng.uniform(0, 0.5, (100, 2))
        mask = cells_in(self.CONFIG, np.minimum(corners, 31.5).reshape(200, 4))
        assert (mask.sum((1, 2)) > 0).all()

    def test_is_of_the_last_level(self):
        config = small_config(image_size=(36, 64))
        assert cells_in(config, BOXES).shape == (3, 18, 32)
        rows, columns = self.cells(10.5, 4.5, 20.5, 6.5, config=config).T
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 3, 5, 10)


class TestFeatures:
    def test_matches_inside_both_boxes_teach_the_backbone(self):
        params = moving_params()
        batch = jax.tree.map(jnp.asarray, PAIRED)
        recipe = dataclasses.replace(RECIPES["default"]["features"], temperature=7.0)
        objective = jax.value_and_grad(lambda params: OBJECTIVES["features"](params, batch, recipe), has_aux=True)
        (value, metrics), gradient = jax.jit(objective)(params)
        src, tgt = (encode(params, batch[name]).taps for name in ("src", "tgt"))
        expected = []
        for level, grid in zip(CONFIG.levels, grids(CONFIG), strict=True):
            described = [l2_normalize(taps[level.layer].output) for taps in (src, tgt)]
            masks = [box_mask(grid, batch[box]) for box in ("src_box", "tgt_box")]
            expected.append(correspondence_loss(*described, *masks, temperature=7.0))
        np.testing.assert_allclose((value, metrics["mutual"]), np.mean(expected, 0), rtol=1e-5)
        assert metrics["features_loss"] == value
        assert 0 < metrics["mutual"] < 1
        assert all(not leaf.any() for leaf in jax.tree.leaves(gradient.weights["geometry"]))
        assert all(leaf.any() for leaf in jax.tree.leaves(gradient.weights["backbone"]))
