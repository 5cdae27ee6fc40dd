"""Random warps: their mapping, derivative, spline, and the pictures made with them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.coordinates import denormalize_points, pixel_grid, window_offsets
from rtn_jax.data.synthetic import Warp, WarpRange, inside, random_warps, warp_jacobian, warp_mapping, warp_photos
from tests import oracle

SHAPES = [(32, 32), (24, 40)]
IDENTITY = np.eye(2, 3)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@pytest.fixture(scope="module")
def warps():
    """Four warps of the released ranges."""
    return random_warps(keys(4), WarpRange())


def make_warp(affine=IDENTITY, bend=0.0):
    return Warp(jnp.asarray(affine, jnp.float32)[None], jnp.broadcast_to(jnp.asarray(bend, jnp.float32), (1, 9, 2)))


def smooth(points, shape):
    """A smooth image with three channels as a formula, at any position (x, y)."""
    x, y = np.moveaxis(np.asarray(points, np.float64) / np.array([shape[1], shape[0]]), -1, 0)
    return np.stack([np.sin(3 * x + y), np.cos(2 * y - x), x * y], -1)


def slow_mapping(warp, point, shape):
    """Affine plus thin-plate spline at one point, the spline's coefficients solved for here (Bookstein 1989)."""
    affine, bend = np.asarray(warp.affine[0], np.float64), np.asarray(warp.bend[0], np.float64)
    half = np.array([shape[1], shape[0]]) / 2
    u = (np.asarray(point, np.float64) + 0.5) / half - 1
    control = [np.array([x, y], float) for y in (-1, 0, 1) for x in (-1, 0, 1)]

    def radial(a, b):
        squared = ((a - b) ** 2).sum()
        return squared * np.log(squared) if squared else 0.0

    system, right = np.zeros((12, 12)), np.zeros((12, 2))
    for i, at in enumerate(control):
        system[i] = [*(radial(at, other) for other in control), 1, *at]
        right[i] = bend[i]
        system[9:, i] = [1, *at]
    coefficients = np.linalg.solve(system, right)
    bent = np.array([*(radial(u, at) for at in control), 1, *u]) @ coefficients
    return (affine[:, :2] @ u + affine[:, 2] + bent + 1) * half - 0.5


# --- the mapping


@pytest.mark.parametrize("shape", SHAPES)
def test_mapping_equals_the_slow_formula(warps, rng, shape):
    points = rng.uniform(-5, 45, (6, 2))
    mapping = np.asarray(warp_mapping(warps, points, shape))
    for i in range(4):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], warps)
        np.testing.assert_allclose(mapping[i], [slow_mapping(one, p, shape) for p in points], atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_identity_maps_every_pixel_to_itself(shape):
    grid = pixel_grid(shape, np.float64)
    np.testing.assert_allclose(warp_mapping(make_warp(), grid, shape)[0], grid, atol=1e-4)
    derivative = warp_jacobian(make_warp(), grid, shape)[0]
    np.testing.assert_allclose(derivative, np.broadcast_to(np.eye(2), (*shape, 2, 2)), atol=1e-5)


def test_translation_by_hand():
    """Half an image of 24 x 40 to the right and a quarter of it up."""
    warp = make_warp([[1, 0, 1], [0, 1, -0.5]])
    points = np.array([[3.0, 4.0], [20.0, 11.5]])
    np.testing.assert_allclose(warp_mapping(warp, points, (24, 40))[0], points + np.array([20, -6]), atol=1e-4)


def test_the_spline_interpolates_its_control_displacements(rng):
    shape = (24, 40)
    bend = rng.uniform(-0.1, 0.1, (9, 2))
    control = denormalize_points(window_offsets(1).astype(np.float64), shape, "centers")
    expected = denormalize_points(window_offsets(1) + bend, shape, "centers")
    np.testing.assert_allclose(warp_mapping(make_warp(bend=bend), control, shape)[0], expected, atol=1e-4)


def test_the_spline_keeps_affine_displacements_exactly(rng):
    """Control displacements that an affine map makes bend nothing: everything moves by that map."""
    matrix, points = np.array([[0.1, -0.05], [0.02, 0.07]]), rng.uniform(0, 30, (20, 2))
    bent = make_warp(bend=window_offsets(1) @ matrix.T)
    straight = make_warp(np.concatenate([np.eye(2) + matrix, np.zeros((2, 1))], 1))
    np.testing.assert_allclose(
        warp_mapping(bent, points, (24, 40)), warp_mapping(straight, points, (24, 40)), atol=1e-4
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_jacobian_equals_finite_differences(x64, warps, rng, shape):
    warps = jax.tree.map(lambda x: x.astype(jnp.float64), warps)
    points = rng.uniform(0, 30, (7, 5, 2))
    step = 1e-4
    columns = [
        (warp_mapping(warps, points + d, shape) - warp_mapping(warps, points - d, shape)) / (2 * step)
        for d in (np.array([step, 0]), np.array([0, step]))
    ]
    jacobian = warp_jacobian(warps, points, shape)
    assert jacobian.shape == (4, 7, 5, 2, 2)
    np.testing.assert_allclose(jacobian, np.stack(columns, -1), atol=1e-5)


def test_jacobian_is_finite_at_the_control_points(warps):
    control = denormalize_points(window_offsets(1).astype(np.float64), (24, 40), "centers")
    assert jnp.isfinite(warp_jacobian(warps, control, (24, 40))).all()


def test_mapping_jit_and_gradient(warps, rng):
    points = rng.uniform(0, 30, (6, 2))
    expected = warp_mapping(warps, points, (24, 40))
    np.testing.assert_allclose(jax.jit(lambda w: warp_mapping(w, points, (24, 40)))(warps), expected, atol=1e-4)
    gradient = jax.grad(lambda w: warp_mapping(w, points, (24, 40)).sum())(warps)
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradient))


# --- random warps


def test_each_key_makes_its_own_warp(warps):
    np.testing.assert_allclose(random_warps(keys(4)[1:2], WarpRange()).affine, warps.affine[1:2], atol=1e-6)
    assert np.unique(np.asarray(warps.affine), axis=0).shape == (4, 2, 3)


def test_a_seed_goes_on_meaning_the_same_warp():
    """Runs that are continued, and figures that are repeated, rest on it: a change here is one users must be told."""
    warp = random_warps(jax.vmap(jax.random.key)(np.array([7, 2**32 - 1], np.uint32)), WarpRange())
    affine = [
        [[1.192495, -0.25301516, -0.21493272], [-0.04149183, 1.0092286, -0.14676848]],
        [[1.1624674, -0.00123911, 0.10999327], [-0.38399404, 0.82824033, 0.29845068]],
    ]
    corners = [
        [[-0.04030967, -0.09320512], [0.08710179, -0.03938789]],
        [[0.06967755, -0.01794841], [-0.04030244, -0.08070423]],
    ]
    np.testing.assert_allclose(warp.affine, affine, atol=1e-6)
    np.testing.assert_allclose(warp.bend[:, [0, 8]], corners, atol=1e-6)


def test_no_range_is_no_warp():
    limits = WarpRange(scale=(1.0, 1.0), rotation=0.0, shear=0.0, translation=0.0, bend=0.0)
    warp = random_warps(keys(3), limits)
    np.testing.assert_allclose(warp.affine, np.broadcast_to(IDENTITY, (3, 2, 3)), atol=1e-6)
    np.testing.assert_array_equal(warp.bend, 0)


NONE = {"scale": (1.0, 1.0), "rotation": 0.0, "shear": 0.0, "translation": 0.0, "bend": 0.0}


@pytest.mark.parametrize(
    ("name", "limit", "measure", "low", "high"),
    [
        ("scale", (0.5, 2.0), lambda w: w.affine[:, [0, 1], [0, 1]], 0.5, 2.0),
        ("rotation", 30.0, lambda w: np.degrees(np.arctan2(w.affine[:, 1, 0], w.affine[:, 0, 0])), -30, 30),
        ("shear", 30.0, lambda w: np.degrees(np.arctan(w.affine[:, [0, 1], [1, 0]])), -30, 30),
        ("translation", 0.3, lambda w: w.affine[:, :, 2], -0.3, 0.3),
        ("bend", 0.2, lambda w: w.bend, -0.2, 0.2),
        ("zoom", 2.0, lambda w: np.log2(np.diagonal(w.affine[..., :2], axis1=1, axis2=2)), -1, 1),
    ],
)
def test_ranges_are_kept_and_filled(name, limit, measure, low, high):
    warp = random_warps(keys(200), WarpRange(**{**NONE, name: limit}))
    values = np.asarray(measure(warp))
    margin = 0.02 * (high - low)
    assert low - 1e-4 <= values.min() < low + margin
    assert high - margin < values.max() <= high + 1e-4


def test_zoom_is_of_both_axes():
    affine = random_warps(keys(20), WarpRange(**NONE, zoom=2.0)).affine
    np.testing.assert_allclose(affine[:, 0, 0], affine[:, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(affine[:, [0, 1], [1, 0]], 0)


@pytest.mark.parametrize(("share", "low", "high"), [(1.0, 1, 1), (0.25, 0.15, 0.35)])
def test_mirrored_warps_show_the_photo_from_the_other_side_first(share, low, high):
    """As many as asked for; a warp of a mirrored photo is otherwise the one that is drawn without."""
    plain, mirrored = (random_warps(keys(200), WarpRange(mirror=m)) for m in (0.0, share))
    flipped = np.linalg.det(mirrored.affine[..., :2]) < 0
    assert low <= flipped.mean() <= high
    expected = plain.affine * np.where(flipped[:, None, None], [-1.0, 1.0, 1.0], 1.0)
    np.testing.assert_allclose(mirrored.affine, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mirrored.bend, plain.bend)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"zoom": 0.9}, r"^zoom: expected at least 1, got 0\.9"),
        ({"mirror": 1.1}, r"^mirror: expected a share from 0 to 1, got 1\.1"),
        ({"scale": (0.0, 1.0)}, r"^scale: expected 0 < low <= high, got \(0\.0, 1\.0\)"),
        ({"scale": (1.2, 0.8)}, r"^scale: expected 0 < low <= high, got \(1\.2, 0\.8\)"),
        ({"rotation": -1.0}, r"^rotation: expected at least 0, got -1\.0"),
        ({"shear": float("nan")}, r"^shear: expected at least 0, got nan"),
        ({"translation": -0.1}, r"^translation: "),
        ({"bend": -0.1}, r"^bend: "),
    ],
)
def test_range_refuses(unchecked, fields, match):
    with pytest.raises(ValueError, match=match):
        WarpRange(**fields)


# --- pictures


@pytest.mark.parametrize("shape", SHAPES)
def test_the_identity_warp_gives_the_photo(rng, shape):
    photo = jnp.asarray(rng.uniform(0, 255, (1, *shape, 3)), jnp.float32)
    # Positions carry float32 rounding, so neighbours mix by about 1e-6.
    np.testing.assert_allclose(warp_photos(make_warp(), photo), photo, atol=2e-3)


def test_whole_pixels_shift_and_the_edge_mirrors(rng):
    photo = rng.uniform(0, 255, (1, 24, 40, 3)).astype(np.float32)
    warp = make_warp([[1, 0, 2 / 20], [0, 1, 0]])  # G looks two pixels to the right
    expected = np.concatenate([photo[:, :, 2:], photo[:, :, :-3:-1]], axis=2)
    np.testing.assert_allclose(warp_photos(warp, jnp.asarray(photo)), expected, atol=5e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_source_at_p_is_target_at_g_of_p(warps, shape):
    grid = pixel_grid(shape, np.float64)
    photos = jnp.asarray(np.broadcast_to(smooth(grid, shape), (4, *shape, 3)), jnp.float32)
    mapping = warp_mapping(warps, grid, shape)
    visible = np.asarray(inside(mapping, shape))
    assert 0.3 < visible.mean() < 1
    sources = np.asarray(warp_photos(warps, photos))
    np.testing.assert_allclose(sources[visible], smooth(mapping, shape)[visible], atol=5e-3)
    assert np.abs(sources - smooth(grid, shape))[visible].mean() > 0.05  # the warp did something


def test_warps_of_a_batch_are_independent(warps, rng):
    photos = jnp.asarray(rng.uniform(0, 255, (4, 24, 40, 3)), jnp.float32)
    sources = jax.jit(warp_photos)(warps, photos)
    last = jax.tree.map(lambda x: x[3:], warps)
    np.testing.assert_allclose(warp_photos(last, photos[3:]), sources[3:], atol=0.05)


def test_a_mirrored_photo_has_no_seams():
    """A constant photo stays constant however far a warp looks beyond it."""
    warp = make_warp([[1, 0, 1.71], [0, 1, -2.33]])
    source = warp_photos(warp, jnp.full((1, 24, 40, 1), 8.0))
    np.testing.assert_allclose(source, 8, rtol=1e-5)


def test_inside():
    points = jnp.array([[0.0, 0.0], [39.0, 23.0], [39.01, 5.0], [5.0, 23.01], [-0.01, 5.0], [5.0, -0.01], [20.0, 10.0]])
    expected = [True, True, False, False, False, False, True]
    np.testing.assert_array_equal(inside(points, (24, 40)), expected)
    np.testing.assert_array_equal(inside(np.asarray(points), (24, 40)), expected)


def test_the_oracle_reads_the_same_pixels(warps, rng):
    """A rough photo, pixel by pixel: what bilinear sampling at the mapped position gives."""
    photo = rng.uniform(0, 1, (12, 16, 1))
    one = jax.tree.map(lambda x: x[:1], warps)
    source = np.asarray(warp_photos(one, jnp.asarray(photo, jnp.float32)[None]))[0]
    mapping = np.asarray(warp_mapping(one, pixel_grid((12, 16), np.float64), (12, 16)))[0]
    for y, x in zip(*np.nonzero(np.asarray(inside(mapping, (12, 16)))), strict=True):
        np.testing.assert_allclose(source[y, x], oracle.bilinear(photo, *mapping[y, x]), atol=1e-4)
