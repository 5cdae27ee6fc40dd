"""The field, what it does to a neighbourhood, and images pulled back along mappings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax.affine import (
    add_residual,
    compose_fields,
    field_flow,
    field_jacobian,
    field_statistics,
    identity_field,
    resize_field,
    sampling_positions,
    transfer_points,
    warp_image,
)
from rtn_jax.coordinates import normalize_vectors, pixel_grid
from tests import oracle


@pytest.fixture
def field(rng):
    """Random affines around the identity, `[2, 3, 4, 2, 3]`."""
    return jnp.asarray(np.eye(2, 3) + 0.3 * rng.standard_normal((2, 3, 4, 2, 3)), jnp.float32)


@pytest.fixture
def image(rng):
    return jnp.asarray(rng.uniform(0, 255, (2, 5, 7, 3)), jnp.float32)


# --- the field


def test_identity_field():
    field = identity_field(2, (3, 4))
    assert field.dtype == jnp.float32
    np.testing.assert_array_equal(field, np.broadcast_to(oracle.identity_field((3, 4)), (2, 3, 4, 2, 3)))
    np.testing.assert_array_equal(field_flow(field, (30, 40)), 0)


def test_residual_channels_are_rows_of_the_field(field):
    residual = jnp.broadcast_to(jnp.arange(6.0), (2, 3, 4, 6))
    np.testing.assert_allclose(
        add_residual(field, residual) - field, np.broadcast_to([[0, 1, 2], [3, 4, 5]], field.shape), atol=1e-6
    )
    assert add_residual(field, residual.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("normalization", ["corners", "centers"])
def test_a_residual_of_one_window_moves_by_its_radius(field, normalization):
    residual = jnp.broadcast_to(jnp.array([0.1, 0.2, 1.0, 0.3, 0.4, -0.5]), (2, 3, 4, 6))
    moved = add_residual(field, residual, window=3, normalization=normalization)
    before, after = (field_flow(x, (3, 4), normalization=normalization) for x in (field, moved))
    np.testing.assert_allclose(after - before, np.broadcast_to([3, -1.5], before.shape), atol=1e-5)
    np.testing.assert_array_equal(moved[..., :2], add_residual(field, residual)[..., :2])


@pytest.mark.parametrize(("border", "slow"), [("zero", oracle.upsample_released), ("edge", oracle.upsample_edge)])
def test_doubled_field_equals_the_slow_loop(field, border, slow):
    expected = np.stack([oracle.upsample_field(np.asarray(one), (6, 8), slow) for one in field])
    np.testing.assert_allclose(resize_field(field, (6, 8), border=border), expected, atol=1e-6)


def test_resized_identity_is_the_identity_except_for_the_released_border():
    identity = identity_field(1, (3, 4))
    np.testing.assert_allclose(resize_field(identity, (6, 8)), identity_field(1, (6, 8)))
    np.testing.assert_allclose(resize_field(identity, (7, 5)), identity_field(1, (7, 5)))
    shrunk = resize_field(identity, (6, 8), border="zero")
    np.testing.assert_allclose(shrunk[0, 0, 0, 0, 0], 0.5625)
    np.testing.assert_allclose(shrunk[0, 0, 1:-1, 1, 1], 0.75)
    np.testing.assert_allclose(shrunk[0, 1:-1, 1:-1], identity_field(1, (4, 6))[0])


@pytest.mark.parametrize(("normalization", "cells"), [("corners", (1.5, -2.0)), ("centers", (2.0, -2.5))])
def test_flow_by_hand(normalization, cells):
    # A grid of 5 x 4 cells; t = (1, -1): half the grid to the right, half the grid up.
    field = jnp.broadcast_to(jnp.array([[1.0, 0, 1], [0, 1, -1]]), (1, 5, 4, 2, 3))
    np.testing.assert_allclose(
        field_flow(field, (5, 4), normalization=normalization), np.broadcast_to(cells, (1, 5, 4, 2))
    )


@pytest.mark.parametrize("normalization", ["corners", "centers"])
def test_sampling_positions_equal_the_formula(field, normalization):
    got = np.asarray(sampling_positions(field, radius=2, normalization=normalization))
    assert got.shape == (2, 3, 4, 25, 2)
    for b, y, x, i, j in [(0, 0, 0, 0, 0), (1, 2, 3, 4, 1), (0, 1, 2, 2, 2), (1, 0, 3, 1, 4)]:
        matrix, t = np.asarray(field[b, y, x, :, :2]), np.asarray(field[b, y, x, :, 2])
        unit = [oracle.pixels_per_unit(n, normalization) for n in (4, 3)]
        expected = np.array([x, y]) + matrix @ [j - 2, i - 2] + t * unit
        np.testing.assert_allclose(got[b, y, x, 5 * i + j], expected, atol=1e-5)


def test_the_identity_samples_the_ordinary_neighbourhood():
    positions = sampling_positions(identity_field(1, (3, 4)))
    np.testing.assert_array_equal(positions[0, 1, 2], [[x, y] for y in (0, 1, 2) for x in (1, 2, 3)])


def test_field_gradients_jit_and_batch(x64, rng):
    field = jnp.asarray(rng.standard_normal((2, 3, 4, 2, 3)))
    positions = jax.jit(sampling_positions, static_argnames=("radius", "normalization"))
    np.testing.assert_allclose(positions(field), sampling_positions(field), atol=1e-12)
    np.testing.assert_allclose(positions(field[1:]), positions(field)[1:], atol=1e-12)
    check_grads(positions, (field,), order=1, modes=("fwd", "rev"))
    residual = jnp.asarray(rng.standard_normal((2, 3, 4, 6)))
    check_grads(jax.jit(add_residual), (field, residual), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("normalization", ["corners", "centers"])
def test_composition_equals_the_slow_loop(rng, normalization):
    """Also where the first field leads outside."""
    first, second = (np.eye(2, 3) + rng.standard_normal((2, 2, 5, 4, 2, 3)) / 2).astype(np.float32)
    composed = compose_fields(jnp.asarray(first), jnp.asarray(second), normalization=normalization)
    expected = [oracle.compose_fields(a, b, normalization) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(composed, np.stack(expected), atol=1e-5)


def test_composition_with_the_identity_and_of_affine_maps(x64, rng):
    """Of two affine maps of the plane the composition is their product, wherever the first stays inside."""
    field = jnp.asarray(np.eye(2, 3) + 0.3 * rng.standard_normal((1, 4, 6, 2, 3)))
    identity = identity_field(1, (4, 6), jnp.float64)
    np.testing.assert_allclose(compose_fields(field, identity), field, atol=1e-12)
    np.testing.assert_allclose(compose_fields(identity, field), field, atol=1e-12)
    centre = np.array([2.5, 1.5])
    maps = [np.array([[0.6, -0.3], [0.2, 0.5]]), np.array([[1.2, 0.4], [-0.1, 0.7]])]

    def as_field(matrix):
        flow = (pixel_grid((4, 6), np.float64) - centre) @ (matrix - np.eye(2)).T
        translation = normalize_vectors(flow, (4, 6), "centers")
        whole = np.concatenate([np.broadcast_to(matrix, (4, 6, 2, 2)), translation[..., None]], -1)
        return jnp.asarray(whole)[None]

    composed = compose_fields(as_field(maps[0]), as_field(maps[1]))
    np.testing.assert_allclose(composed, as_field(maps[1] @ maps[0]), atol=1e-12)


def test_composition_gradients_and_errors(x64, rng, unchecked):
    first, second = (jnp.asarray(np.eye(2, 3) + rng.standard_normal((1, 3, 4, 2, 3)) / 5) for _ in range(2))
    check_grads(jax.jit(compose_fields), (first, second), order=1, modes=("fwd", "rev"))
    with pytest.raises(ValueError, match="first, second: expected fields of one shape"):
        compose_fields(first, second[:, :2])


def test_statistics_by_hand():
    turned, folded = [[0.0, -2, 9], [2, 0, 9]], [[1.0, 0, 9], [0, -1, 9]]
    field = jnp.array([[turned, turned, folded, [[1.0, 0, 0], [0, 0, 0]]]])[:, None]
    statistics = field_statistics(field)
    means = [statistics[f"mean_a{ij}"] for ij in ("xx", "xy", "yx", "yy")]
    np.testing.assert_allclose(means, [0.5, -1, 1, -0.25])
    np.testing.assert_allclose(statistics["mean_determinant"], (4 + 4 - 1 + 0) / 4)
    np.testing.assert_allclose(statistics["folded"], 0.5)  # a collapsed cell counts


# --- field_jacobian

JACOBIAN = jax.jit(field_jacobian, static_argnames="normalization")


@pytest.mark.parametrize("normalization", ["corners", "centers"])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3), (1, 4), (4, 1), (1, 1)])
def test_jacobian_equals_the_slow_loop(rng, shape, normalization):
    field = rng.standard_normal((2, *shape, 2, 3)).astype(np.float32)
    expected = np.stack([oracle.field_jacobian(one.astype(np.float64), normalization) for one in field])
    got = JACOBIAN(jnp.asarray(field), normalization=normalization)
    assert got.shape == (2, *shape, 2, 2)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(("shape", "normalization"), [((5, 7), "centers"), ((2, 3), "corners")])
def test_jacobian_of_an_affine_field_is_its_matrix_everywhere(x64, shape, normalization):
    """p -> M p + c, borders and corners included; M is not symmetric, the grid is not square."""
    matrix = np.array([[1.2, -0.3], [0.5, 0.8]])
    grid = pixel_grid(shape, np.float64)
    t = normalize_vectors(grid @ matrix.T + np.array([2.0, -1.0]) - grid, shape, normalization)
    field = jnp.asarray(np.concatenate([np.full((*shape, 2, 2), 9.0), t[..., None]], -1))[None]
    got = JACOBIAN(field, normalization=normalization)
    np.testing.assert_allclose(got[0], np.broadcast_to(matrix, (*shape, 2, 2)), atol=1e-12)
    np.testing.assert_allclose(oracle.field_jacobian(np.asarray(field[0]), normalization), got[0], atol=1e-12)


def test_jacobian_by_hand():
    """One row of four cells: 1 unit is 2 cells; x moves by 0, 2, 6, 6 cells, y by 1 each. Nothing is known along y."""
    t = jnp.array([[0.0, 2], [1, 2], [3, 2], [3, 2]])
    field = jnp.concatenate([jnp.zeros((1, 1, 4, 2, 2)), t[None, None, :, :, None]], -1)
    got = field_jacobian(field)
    np.testing.assert_array_equal(got[0, 0, :, 0, 0], [1 + 2, 1 + 3, 1 + 2, 1 + 0])
    np.testing.assert_array_equal(got[0, 0, :, 1], [[0, 1]] * 4)
    np.testing.assert_array_equal(got[0, 0, :, 0, 1], 0)


def test_jacobian_of_fields_that_move_as_one_is_the_identity(field):
    still = identity_field(2, (3, 4)).at[..., 2].set(0.7)
    for normalization in ("corners", "centers"):
        identity = np.broadcast_to(np.eye(2), (2, 3, 4, 2, 2))
        np.testing.assert_allclose(JACOBIAN(still, normalization=normalization), identity, atol=1e-6)
    np.testing.assert_array_equal(JACOBIAN(field.at[..., :2].set(5)), JACOBIAN(field))


def test_jacobian_gradients_jit_and_batch(x64, rng):
    field = jnp.asarray(rng.standard_normal((2, 3, 4, 2, 3)))
    np.testing.assert_allclose(JACOBIAN(field), field_jacobian(field), atol=1e-12)
    np.testing.assert_allclose(JACOBIAN(field[1:]), JACOBIAN(field)[1:], atol=1e-12)
    check_grads(JACOBIAN, (field,), order=1, modes=("fwd", "rev"))


def test_an_unknown_normalization_is_refused(unchecked, field):
    with pytest.raises(ValueError, match=r"^normalization: expected 'corners' or 'centers', got 'edges'"):
        field_jacobian(field, normalization="edges")


# --- shapes


@pytest.mark.parametrize(
    "function",
    [
        lambda field: add_residual(field, jnp.zeros((1, 3, 4, 6))),
        lambda field: resize_field(field, (6, 8)),
        sampling_positions,
        lambda field: field_flow(field, (3, 4)),
        field_jacobian,
        field_statistics,
    ],
)
@pytest.mark.parametrize("shape", [(3, 4, 2, 3), (1, 3, 4, 3, 2), (1, 3, 4, 6)])
def test_a_field_of_another_shape_is_refused(unchecked, function, shape):
    with pytest.raises(ValueError, match=r"^field: expected \[b, h, w, 2, 3\], got shape \("):
        function(jnp.zeros(shape))


def test_a_residual_of_another_shape_is_refused(unchecked, field):
    with pytest.raises(ValueError, match=r"^residual: expected \(2, 3, 4, 6\), got \(2, 3, 4, 2, 3\)"):
        add_residual(field, field)


# --- warp_image, transfer_points


def test_warp_along_the_identity_is_the_image(image):
    grid = jnp.broadcast_to(jnp.asarray(pixel_grid((5, 7))), (2, 5, 7, 2))
    np.testing.assert_array_equal(warp_image(image, grid), image)


def test_warp_pulls_back(image):
    """A mapping that points two pixels to the right brings the image two pixels to the left."""
    mapping = jnp.asarray(pixel_grid((5, 7)))[None] + jnp.array([2.0, 0])
    warped = warp_image(image[:1], mapping)
    np.testing.assert_array_equal(warped[:, :, :-2], image[:1, :, 2:])
    np.testing.assert_array_equal(warped[:, :, -2:], 0)


def test_warp_takes_single_and_integer_images_of_another_size(image, rng):
    mapping = jnp.asarray(rng.uniform(0, 4, (3, 4, 2)), jnp.float32)
    whole = np.asarray(image[0]).astype(np.uint8)
    warped = warp_image(whole, mapping)
    assert warped.shape == (3, 4, 3)
    assert warped.dtype == jnp.float32
    expected = [[oracle.bilinear(whole.astype(float), *at) for at in row] for row in mapping.tolist()]
    np.testing.assert_allclose(warped, expected, atol=1e-3)
    np.testing.assert_array_equal(warped, warp_image(whole[None], mapping[None])[0])
    np.testing.assert_allclose(jax.jit(warp_image)(whole, mapping), warped, atol=1e-4)


@pytest.mark.parametrize(
    ("image_shape", "mapping_shape"),
    [
        ((5, 7, 3), (1, 5, 7, 2)),
        ((1, 5, 7, 3), (5, 7, 2)),
        ((5, 7), (5, 2)),
        ((2, 5, 7, 3), (3, 5, 7, 2)),
        ((5, 7, 3), (5, 7, 3)),
    ],
)
def test_warp_refuses(unchecked, image_shape, mapping_shape):
    with pytest.raises(ValueError, match=r"^(image, mapping|points): expected .*, got "):
        warp_image(jnp.zeros(image_shape), jnp.zeros(mapping_shape))


def test_points_are_looked_up_between_pixels():
    mapping = jnp.asarray(pixel_grid((5, 7))) * jnp.array([2.0, 3.0]) + 1
    points = jnp.array([[0.0, 0.0], [2.5, 1.25], [6.0, 4.0]])
    np.testing.assert_allclose(transfer_points(mapping, points), points * np.array([2, 3]) + 1, rtol=1e-6)


def test_points_outside_move_like_the_border():
    mapping = jnp.asarray(pixel_grid((5, 7))) + jnp.array([10.0, -3.0])
    points = jnp.array([[-2.0, 1.0], [9.0, 7.5]])
    np.testing.assert_allclose(transfer_points(mapping, points), points + jnp.array([10.0, -3.0]), rtol=1e-6)


def test_warp_and_transfer_gradients(x64, rng):
    image, mapping = jnp.asarray(rng.standard_normal((1, 4, 5, 2))), rng.integers(0, 3, (1, 3, 2, 2))
    mapping = jnp.asarray(mapping + rng.uniform(0.2, 0.8, mapping.shape))
    check_grads(jax.jit(warp_image), (image, mapping), order=1, modes=("fwd", "rev"))
    dense = jnp.asarray(rng.standard_normal((4, 5, 2)))
    check_grads(jax.jit(transfer_points), (dense, mapping.reshape(-1, 2)), order=1, modes=("fwd", "rev"))
