"""Losses against slow loops and by hand, their limits and gradients."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax.coordinates import cells_to_pixels, normalize_vectors, pixel_grid
from rtn_jax.data.synthetic import WarpRange, random_warps, warp_jacobian, warp_mapping
from rtn_jax.losses import synthetic_loss, tie_loss, weak_loss
from tests import oracle

# Compiled once for many tests.
SYNTHETIC = jax.jit(synthetic_loss, static_argnames=("decay", "matrix_weight", "scale", "reduction"))
TIE = jax.jit(tie_loss, static_argnames=("normalization", "decay"))

# --- weak_loss


@pytest.fixture
def volume(rng):
    return rng.uniform(-1, 1, (2, 3, 4, 9)).astype(np.float32)


@pytest.fixture
def mask(rng):
    return (rng.uniform(size=(2, 3, 4)) < 0.5).astype(np.float32)


def slow_weak(volume, mask, temperature, reduction):
    total = 0.0
    for cell in np.ndindex(mask.shape):
        exponentials = [math.exp(temperature * c) for c in volume[cell].tolist()]
        share = mask[cell] if reduction == "sum" else mask[cell] / mask[cell[0]].sum()
        total -= share * math.log(exponentials[len(exponentials) // 2] / sum(exponentials))
    return total / len(volume)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_weak_equals_the_slow_loop(volume, mask, temperature, reduction):
    got = weak_loss(jnp.asarray(volume), jnp.asarray(mask), temperature=temperature, reduction=reduction)
    np.testing.assert_allclose(got, slow_weak(volume, mask, temperature, reduction), rtol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weak_is_the_mean_of_the_parts_of_a_batch(volume, mask, reduction):
    """However the batch is split over devices, and however much their masks differ."""
    mask = mask.copy()
    mask[0], mask[0, 0, 0] = 0, 1
    whole = weak_loss(jnp.asarray(volume), jnp.asarray(mask), reduction=reduction)
    parts = [
        weak_loss(jnp.asarray(volume[i : i + 1]), jnp.asarray(mask[i : i + 1]), reduction=reduction) for i in (0, 1)
    ]
    np.testing.assert_allclose(whole, np.mean(parts), rtol=1e-6)
    assert abs(parts[0] - parts[1]) > 1e-3


def test_weak_without_a_mask_takes_every_cell(volume):
    expected = slow_weak(volume, np.ones((2, 3, 4)), 1.0, "mean")
    np.testing.assert_allclose(weak_loss(jnp.asarray(volume)), expected, rtol=1e-5)


def test_weak_of_an_undecided_volume_is_the_log_of_the_candidates():
    np.testing.assert_allclose(weak_loss(jnp.full((1, 2, 2, 81), 0.3)), math.log(81), rtol=1e-6)


def test_weak_rewards_the_centre_alone():
    sure = jnp.zeros((1, 2, 2, 9)).at[..., 4].set(1)
    wrong = jnp.zeros((1, 2, 2, 9)).at[..., 3].set(1)
    assert weak_loss(sure, temperature=50.0) < 1e-6
    np.testing.assert_allclose(weak_loss(wrong, temperature=50.0), 50, rtol=1e-6)


def test_weak_with_an_empty_mask_is_zero(volume):
    for reduction in ("mean", "sum"):
        value, gradient = jax.value_and_grad(weak_loss)(jnp.asarray(volume), jnp.zeros((2, 3, 4)), reduction=reduction)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_weak_gradients_and_jit(x64, volume, mask):
    volume, mask = jnp.asarray(volume, jnp.float64), jnp.asarray(mask, jnp.float64)
    loss = jax.jit(partial(weak_loss, temperature=5.0))
    np.testing.assert_allclose(loss(volume, mask), weak_loss(volume, mask, temperature=5.0), rtol=1e-12)
    check_grads(lambda v: loss(v, mask), (volume,), order=1, modes=("fwd", "rev"))


def test_weak_of_half_precision_is_computed_in_single(volume):
    assert weak_loss(jnp.asarray(volume, jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("shape", "mask_shape", "reduction", "match"),
    [
        ((3, 4, 9), (3, 4), "mean", r"^correlation: expected \[b, h, w, m\] .* got shape \(3, 4, 9\)"),
        ((1, 3, 4, 8), (1, 3, 4), "mean", r"^correlation: .* \(m odd\), got shape \(1, 3, 4, 8\)"),
        ((1, 3, 4, 9), (1, 4, 3), "mean", r"^mask: expected \(1, 3, 4\), got \(1, 4, 3\)"),
        ((1, 3, 4, 9), (1, 3, 4), "max", r"^reduction: expected 'mean' or 'sum', got 'max'"),
    ],
)
def test_weak_refuses(unchecked, shape, mask_shape, reduction, match):
    with pytest.raises(ValueError, match=match):
        weak_loss(jnp.zeros(shape), jnp.ones(mask_shape), reduction=reduction)


# --- synthetic_loss


@pytest.fixture
def levels(rng):
    """Two levels with two and three iterations: (history, truth, valid), one pair seen well and the other hardly."""
    grids, iterations = [(2, 3), (4, 6)], [2, 3]
    history = [rng.standard_normal((k, 2, *grid, 2, 3)) for grid, k in zip(grids, iterations, strict=True)]
    truth = [rng.standard_normal((2, *grid, 2, 3)) for grid in grids]
    valid = [rng.uniform(size=(2, *grid)) < np.array([0.9, 0.3])[:, None, None] for grid in grids]
    return jax.tree.map(jnp.asarray, (history, truth, valid))


def pair_of(levels, i):
    """Pair `i` of the levels as a batch of one."""
    history, truth, valid = levels
    return [h[:, i : i + 1] for h in history], [t[i : i + 1] for t in truth], [v[i : i + 1] for v in valid]


def slow_synthetic(levels, **options):
    """The mean over pairs of the oracle's loss."""
    history, truth, valid = jax.tree.map(lambda x: np.asarray(x, np.float64), levels)
    one_by_one = [
        oracle.synthetic_loss([h[:, i] for h in history], [t[i] for t in truth], [v[i] for v in valid], **options)
        for i in range(len(truth[0]))
    ]
    return np.mean(one_by_one)


REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum"])


@REDUCTIONS
@pytest.mark.parametrize(
    ("decay", "matrix_weight", "scale"), [(0.8, 0.0, 0.0), (0.5, 0.25, 0.3), (1.0, 1.0, 2.0), (0.0, 0.5, 0.0)]
)
def test_synthetic_equals_the_slow_loop(levels, decay, matrix_weight, scale, reduction):
    options = {"decay": decay, "matrix_weight": matrix_weight, "scale": scale, "reduction": reduction}
    np.testing.assert_allclose(SYNTHETIC(*levels, **options), slow_synthetic(levels, **options), rtol=1e-5)


def test_synthetic_is_the_mean_of_the_parts_of_a_batch(levels):
    """However the batch is split over devices or accumulation steps, and however many cells of a pair are valid."""
    for reduction in ("mean", "sum"):
        options = {"matrix_weight": 0.3, "reduction": reduction}
        parts = [SYNTHETIC(*pair_of(levels, i), **options) for i in (0, 1)]
        np.testing.assert_allclose(SYNTHETIC(*levels, **options), np.mean(parts), rtol=1e-6)
        assert abs(parts[0] - parts[1]) > 1e-3


def test_synthetic_without_decay_sees_the_last_field_alone(levels):
    history, truth, valid = levels
    last = SYNTHETIC([history[1][-1:]], truth[1:], valid[1:], decay=0.7)
    np.testing.assert_allclose(SYNTHETIC(history, truth, valid, decay=0.0), last, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.3),
        ({"matrix_weight": 0.5}, 0.3 + 0.5 * 0.1),
        ({"reduction": "sum"}, 3 * (0.2 + 0.4)),
        ({"reduction": "sum", "matrix_weight": 0.5}, 3 * (0.2 + 0.4 + 0.5 * 4 * 0.1)),
    ],
)
def test_synthetic_by_hand(options, expected):
    """Translations off by 0.2 in x and 0.4 in y, matrices off by 0.1, in three valid cells of four."""
    truth = jnp.zeros((1, 2, 2, 2, 3))
    history = truth + jnp.array([[0.1, 0.1, 0.2], [0.1, 0.1, 0.4]])
    valid = jnp.ones((1, 2, 2), bool).at[0, 1, 0].set(False)
    np.testing.assert_allclose(synthetic_loss([history[None]], [truth], [valid], **options), expected, rtol=1e-6)
    options = {"decay": 0.8, "matrix_weight": 0.0, "reduction": "mean"} | options
    slow = oracle.synthetic_loss([np.asarray(history)], [np.zeros((2, 2, 2, 3))], [np.asarray(valid[0])], **options)
    np.testing.assert_allclose(slow, expected, rtol=1e-6)


def test_synthetic_with_a_scale_hardly_counts_what_is_far_off(levels):
    """Errors far below the scale count as they are, those far above it have no gradient."""
    history, truth, valid = levels
    near = [true + 1e-4 * (fields - true) for fields, true in zip(history, truth, strict=True)]
    np.testing.assert_allclose(SYNTHETIC(near, truth, valid, scale=1.0), SYNTHETIC(near, truth, valid), rtol=1e-3)
    far = [fields + 100 for fields in history]
    value, gradient = jax.value_and_grad(partial(SYNTHETIC, scale=0.5))(far, truth, valid)
    np.testing.assert_allclose(value, 0.5, rtol=1e-6)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-6


@REDUCTIONS
def test_synthetic_of_the_truth_is_zero(levels, reduction):
    _, truth, valid = levels
    history = [jnp.stack([true, true]) for true in truth]
    assert SYNTHETIC(history, truth, valid, matrix_weight=1.0, reduction=reduction) == 0


@REDUCTIONS
def test_synthetic_ignores_what_lies_outside(levels, reduction):
    history, truth, valid = levels
    spoiled = [
        jnp.where(inside[None, ..., None, None], field, 1e3) for field, inside in zip(history, valid, strict=True)
    ]
    loss = partial(SYNTHETIC, reduction=reduction)
    np.testing.assert_allclose(loss(spoiled, truth, valid), loss(history, truth, valid), rtol=1e-6)


@REDUCTIONS
def test_synthetic_of_a_pair_without_valid_cells_is_zero(levels, reduction):
    history, truth, valid = levels
    loss = partial(SYNTHETIC, reduction=reduction, matrix_weight=0.5)
    nothing = [jnp.zeros_like(inside) for inside in valid]
    value, gradient = jax.value_and_grad(loss)(history, truth, nothing)
    assert value == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))
    first_alone = [inside.at[1].set(False) for inside in valid]
    np.testing.assert_allclose(loss(history, truth, first_alone), loss(*pair_of(levels, 0)) / 2, rtol=1e-6)


@REDUCTIONS
def test_synthetic_gradients_and_jit(x64, levels, reduction):
    history, truth, valid = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype != bool else x, levels)
    options = {"truth": truth, "valid": valid, "matrix_weight": 0.3, "reduction": reduction}
    loss = jax.jit(partial(synthetic_loss, **options))
    slow = slow_synthetic((history, truth, valid), decay=0.8, matrix_weight=0.3, reduction=reduction)
    np.testing.assert_allclose(loss(history), slow, rtol=1e-12)
    if reduction == "mean":
        np.testing.assert_allclose(synthetic_loss(history, **options), slow, rtol=1e-12)
    check_grads(loss, (history,), order=1, modes=("fwd", "rev"), eps=1e-7, atol=1e-5, rtol=1e-5)


def test_synthetic_and_tie_of_half_precision_are_computed_in_single(levels):
    history, truth, valid = levels
    half, half_truth = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (history, truth))
    for loss, expected in [(SYNTHETIC(half, half_truth, valid), SYNTHETIC(*levels)), (TIE(half), TIE(history))]:
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, expected, rtol=0.01)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h, t, v: (h[:1], t, v), r"^history, truth, valid: expected one entry per level, got 1, 2, 2"),
        (lambda h, t, v: ([], [], []), r"^history, truth, valid: expected one entry per level, got 0, 0, 0"),
        (lambda h, t, v: (h, t[::-1], v), r"^truth, valid: expected \(2, 2, 3, 2, 3\) and \(2, 2, 3\), got "),
        (lambda h, t, v: (h, t, v[::-1]), r"^truth, valid: .* and \(2, 4, 6\)"),
    ],
)
def test_synthetic_refuses(unchecked, levels, change, match):
    with pytest.raises(ValueError, match=match):
        synthetic_loss(*change(*levels))


def test_synthetic_refuses_options(unchecked, levels):
    with pytest.raises(ValueError, match=r"^decay: expected at least 0, got -0\.5"):
        synthetic_loss(*levels, decay=-0.5)
    with pytest.raises(ValueError, match=r"^reduction: expected 'mean' or 'sum', got 'max'"):
        synthetic_loss(*levels, reduction="max")


# --- tie_loss


@pytest.fixture
def fields(levels):
    """The fields of two levels, 2 x 3 and 4 x 6 cells, after two and three iterations."""
    return levels[0]


@pytest.fixture
def object_mask():
    """`[2, 4, 6]`: a box that covers whole, half and quarter cells of the coarser grid, and a pair with one cell."""
    mask = np.zeros((2, 4, 6), np.float32)
    mask[0, 0:3, 1:4] = 1
    mask[1, 3, 5] = 1
    return mask


def slow_tie(fields, mask, **options):
    """The mean over pairs of the oracle's loss; a coarse cell counts by the mean of its two by two finest cells."""
    total = 0.0
    for i in range(2):
        coarse = np.array([[mask[i, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() for x in range(3)] for y in range(2)])
        one = [np.asarray(level[:, i], np.float64) for level in fields]
        total += oracle.tie_loss(one, [coarse, mask[i]], **options)
    return total / 2


@pytest.mark.parametrize(("normalization", "decay"), [("centers", 0.8), ("corners", 0.5), ("centers", 0.0)])
def test_tie_equals_the_slow_loop(fields, object_mask, normalization, decay):
    options = {"normalization": normalization, "decay": decay}
    expected = slow_tie(fields, object_mask, **options)
    np.testing.assert_allclose(TIE(fields, jnp.asarray(object_mask), **options), expected, rtol=1e-5)


def test_tie_without_a_mask_takes_every_cell(fields):
    expected = slow_tie(fields, np.ones((2, 4, 6)), normalization="centers", decay=0.8)
    np.testing.assert_allclose(TIE(fields), expected, rtol=1e-5)


def test_tie_by_hand():
    """Nothing moves, so the Jacobian is the identity: turned by a quarter, all four entries are off by one."""
    turned = jnp.broadcast_to(jnp.array([[0.0, -1, 0.3], [1, 0, 0.3]]), (1, 1, 2, 3, 2, 3))
    np.testing.assert_allclose(TIE([turned]), 1, rtol=1e-6)
    still = jnp.broadcast_to(jnp.eye(2, 3), (1, 1, 2, 3, 2, 3))
    assert TIE([still]) == 0
    # In the last iteration of two, whose weights are 0.5 / 1.5 and 1 / 1.5, or in the first.
    np.testing.assert_allclose(TIE([still, turned], decay=0.5), 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(TIE([jnp.concatenate([turned, still])], decay=0.5), 1 / 3, rtol=1e-6)
    slow = oracle.tie_loss([np.asarray(turned[0])] * 2, [np.ones((2, 3))] * 2, normalization="centers", decay=0.5)
    np.testing.assert_allclose(slow, 1, rtol=1e-6)


def test_tie_of_an_affine_warps_true_field_is_zero():
    """Without bending, the true 2x2 part is the Jacobian of the true translations, on a grid that is not square."""
    size, stride, shape = (48, 80), 8, (6, 10)

    @jax.jit
    def true_fields(keys):
        warp = random_warps(keys, WarpRange(bend=0.0))
        pixels = cells_to_pixels(pixel_grid(shape, np.float64), stride)
        cells = (warp_mapping(warp, pixels, size) - jnp.asarray(pixels, jnp.float32)) / stride
        matrix = warp_jacobian(warp, pixels, size)
        units = {name: normalize_vectors(cells, shape, name)[..., None] for name in ("corners", "centers")}
        return {name: jnp.concatenate([matrix, t], -1)[None] for name, t in units.items()}

    for normalization, field in true_fields(jax.random.split(jax.random.key(1), 3)).items():
        assert TIE([field], normalization=normalization) < 1e-4
        wrong = field + np.array([[0.4, 0, 0], [0, 0, 0]], np.float32)
        np.testing.assert_allclose(TIE([wrong], normalization=normalization), 0.1, rtol=1e-3)


def test_tie_is_the_mean_of_the_parts_of_a_batch(fields, object_mask):
    mask = jnp.asarray(object_mask)
    parts = [TIE([level[:, i : i + 1] for level in fields], mask[i : i + 1]) for i in (0, 1)]
    np.testing.assert_allclose(TIE(fields, mask), np.mean(parts), rtol=1e-6)
    assert abs(parts[0] - parts[1]) > 1e-3


def test_tie_with_an_empty_mask_is_zero(fields):
    value, gradient = jax.value_and_grad(TIE)(fields, jnp.zeros((2, 4, 6)))
    assert value == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))


def test_tie_gradients_and_jit(x64, fields, object_mask):
    fields, mask = [level.astype(jnp.float64) for level in fields], jnp.asarray(object_mask, jnp.float64)
    loss = partial(TIE, mask=mask)
    slow = slow_tie(fields, object_mask, normalization="centers", decay=0.8)
    np.testing.assert_allclose(loss(fields), slow, rtol=1e-12)
    np.testing.assert_allclose(tie_loss(fields, mask), slow, rtol=1e-12)

    def of_matrices(matrices):
        return loss([level.at[..., :2].set(part) for level, part in zip(fields, matrices, strict=True)])

    matrices = [level[..., :2] for level in fields]
    check_grads(of_matrices, (matrices,), order=1, modes=("fwd", "rev"), eps=1e-7, atol=1e-5, rtol=1e-5)


def test_tie_bends_the_matrices_and_never_the_translations(fields):
    for gradient in jax.grad(TIE)(fields):
        np.testing.assert_array_equal(gradient[..., 2], 0)
        assert (gradient[..., :2] != 0).all()


@pytest.mark.parametrize(
    ("fields_of", "mask_shape", "options", "match"),
    [
        (lambda f: [], None, {}, r"^fields: expected at least one level, got none"),
        (
            lambda f: [f[0][0]],
            None,
            {},
            r"^fields: expected \[k, b, h, w, 2, 3\] per level, got shape \(2, 2, 3, 2, 3\)",
        ),
        (lambda f: f, (2, 6, 4), {}, r"^mask: expected \(2, 4, 6\), got \(2, 6, 4\)"),
        (lambda f: f[::-1], None, {}, r"^fields: expected grids that divide the last one, \(2, 3\), got \(4, 6\)"),
        (lambda f: f, None, {"decay": -1.0}, r"^decay: expected at least 0, got -1\.0"),
        (
            lambda f: f,
            None,
            {"normalization": "edges"},
            r"^normalization: expected 'corners' or 'centers', got 'edges'",
        ),
    ],
)
def test_tie_refuses(unchecked, fields, fields_of, mask_shape, options, match):
    mask = None if mask_shape is None else jnp.ones(mask_shape)
    with pytest.raises(ValueError, match=match):
        tie_loss(fields_of(fields), mask, **options)
