"""Conversions by hand, by MATLAB's and the release's definitions, and back again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.coordinates import (
    RELEASED_AFFINE_CHANNELS,
    between_centers,
    cells_to_pixels,
    denormalize_points,
    denormalize_vectors,
    distance_outside,
    flip_box,
    flip_points,
    from_edges,
    from_matlab,
    from_released_affine,
    grid_points,
    mirror_points,
    normalize_points,
    normalize_vectors,
    object_positions,
    outer_edges,
    pixel_grid,
    pixels_to_cells,
    released_window_order,
    resize_points,
    resize_positions,
    scale_vectors,
    shrunk_shape,
    to_matlab,
    to_released_affine,
    window_offsets,
)

SHAPE, OTHER = (7, 12), (21, 8)
NORMALIZATIONS = ("corners", "centers")


@pytest.fixture
def points(rng):
    return rng.uniform(-3, 15, (5, 4, 2))


def test_pixel_grid_is_x_then_y():
    grid = pixel_grid((2, 3))
    np.testing.assert_array_equal(grid, [[[0, 0], [1, 0], [2, 0]], [[0, 1], [1, 1], [2, 1]]])
    assert grid.dtype == np.float32
    assert pixel_grid((2, 3), np.float64).dtype == np.float64


def test_grid_points_lie_half_a_spacing_from_the_edges():
    points = grid_points((10, 20), 2)
    np.testing.assert_allclose(points, [[4.5, 2.0], [14.5, 2.0], [4.5, 7.0], [14.5, 7.0]])


def test_shrunk_shape():
    assert shrunk_shape((300, 600), 200) == (100, 200)
    assert shrunk_shape((30, 60), 200) == (30, 60)
    assert shrunk_shape((1, 1000), 10) == (1, 10)


def test_resize_keeps_outer_edges_and_the_middle():
    edges = np.array([[-0.5, -0.5], [11.5, 6.5], [5.5, 3.0]])  # two corners of the image, and its middle
    np.testing.assert_allclose(resize_points(edges, SHAPE, OTHER), [[-0.5, -0.5], [7.5, 20.5], [3.5, 10.0]])


def test_resize_by_hand():
    # Of an image twice as large, pixel 0 lies at 0.5: between the first two pixels.
    np.testing.assert_allclose(resize_points(np.array([0.0, 1.0]), (4, 4), (8, 8)), [0.5, 2.5])
    np.testing.assert_allclose(scale_vectors(np.array([1.0, 1.0]), (4, 4), (8, 12)), [3, 2])


def test_resize_and_back(points):
    there = resize_points(points, SHAPE, OTHER)
    np.testing.assert_allclose(resize_points(there, OTHER, SHAPE), points, atol=1e-12)


def test_resize_in_two_steps_is_resize_in_one(points):
    np.testing.assert_allclose(
        resize_points(resize_points(points, SHAPE, (3, 5)), (3, 5), OTHER), resize_points(points, SHAPE, OTHER)
    )


def test_vectors_are_differences_of_points(points):
    difference = resize_points(points[1:], SHAPE, OTHER) - resize_points(points[:-1], SHAPE, OTHER)
    np.testing.assert_allclose(scale_vectors(points[1:] - points[:-1], SHAPE, OTHER), difference, atol=1e-12)


@pytest.mark.parametrize("stride", [2, 8, 16])
def test_cells_are_pixels_of_a_smaller_image(points, stride):
    grid = (3, 5)
    image = (3 * stride, 5 * stride)
    np.testing.assert_allclose(cells_to_pixels(points, stride), resize_points(points, grid, image))
    np.testing.assert_allclose(pixels_to_cells(cells_to_pixels(points, stride), stride), points, atol=1e-12)


def test_corners_and_centers_by_hand():
    # An image of 5 x 9 pixels: +1 in `corners` is the last pixel's centre, in `centers` its outer edge.
    last, edge = np.array([8.0, 4.0]), np.array([8.5, 4.5])
    np.testing.assert_allclose(normalize_points(last, (5, 9), "corners"), [1, 1])
    np.testing.assert_allclose(normalize_points(edge, (5, 9), "centers"), [1, 1])
    np.testing.assert_allclose(normalize_points(np.zeros(2), (5, 9), "corners"), [-1, -1])
    np.testing.assert_allclose(normalize_points(np.array([4.0, 2.0]), (5, 9), "centers"), [0, 0])
    np.testing.assert_allclose(denormalize_vectors(np.ones(2), (5, 9), "corners"), [4, 2])
    np.testing.assert_allclose(denormalize_vectors(np.ones(2), (5, 9), "centers"), [4.5, 2.5])


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_normalize_and_back(points, normalization):
    there = normalize_points(points, SHAPE, normalization)
    np.testing.assert_allclose(denormalize_points(there, SHAPE, normalization), points, atol=1e-12)
    there = normalize_vectors(points, SHAPE, normalization)
    np.testing.assert_allclose(denormalize_vectors(there, SHAPE, normalization), points, atol=1e-12)


def test_centers_mean_the_same_on_every_grid_and_corners_do_not(points):
    cells = normalize_vectors(scale_vectors(points, (32, 48), (4, 6)), (4, 6), "centers")
    np.testing.assert_allclose(cells, normalize_vectors(points, (32, 48), "centers"))
    cells = normalize_vectors(scale_vectors(points, (32, 48), (4, 6)), (4, 6), "corners")
    assert not np.allclose(cells, normalize_vectors(points, (32, 48), "corners"), rtol=0.05)


def test_a_grid_of_one_cell_has_no_corners(points, unchecked):
    assert np.isfinite(normalize_vectors(points, (1, 1), "centers")).all()
    with pytest.raises(ValueError, match=r"^shape: 'corners' .* got \(1, 4\)"):
        normalize_vectors(points, (1, 4), "corners")
    with pytest.raises(ValueError, match=r"^normalization: expected 'corners' or 'centers', got 'edges'"):
        denormalize_vectors(points, (4, 4), "edges")


def test_mirrored_points_read_the_mirrored_image():
    row = np.arange(5)
    mirrored = np.concatenate([row[::-1], row, row[::-1], row])  # symmetric padding: the edge pixel appears twice
    at = np.arange(-5.0, 15.0)
    points = mirror_points(np.stack([at, np.zeros_like(at)], -1), (3, 5))
    np.testing.assert_allclose(points[:, 0], mirrored)
    np.testing.assert_array_equal(points[:, 1], 0)


def test_mirror_leaves_the_inside_alone_and_folds_once(points):
    folded = mirror_points(points, SHAPE)
    assert (folded >= -0.5).all()
    assert (folded <= np.array([11.5, 6.5])).all()
    np.testing.assert_allclose(mirror_points(folded, SHAPE), folded, atol=1e-12)
    grid = pixel_grid(SHAPE, np.float64)
    np.testing.assert_array_equal(mirror_points(grid, SHAPE), grid)


def test_flip_is_the_mirror_image_of_the_pixels(rng):
    image = rng.integers(0, 9, (4, 6))
    flipped = image[:, ::-1]
    for x, y in [(0, 0), (5, 3), (2, 1)]:
        fx, fy = flip_points(np.array([x, y]), 6).astype(int)
        assert flipped[fy, fx] == image[y, x]
    points = rng.uniform(0, 6, (5, 2))
    np.testing.assert_allclose(flip_points(flip_points(points, 6), 6), points)


def test_distance_outside_is_from_the_outer_edges():
    inside = np.array([[-0.5, -0.5], [11.5, 6.5], [4.0, 3.0]])
    np.testing.assert_array_equal(distance_outside(inside, SHAPE), [0, 0, 0])
    outside = np.array([[[-2.5, 3.0], [12.5, 3.0]], [[4.0, -1.0], [12.0, 9.5]]])  # the last one beyond two edges
    np.testing.assert_array_equal(distance_outside(outside, SHAPE), [[2, 1], [0.5, 3]])


def test_a_flipped_box_encloses_the_flipped_pixels():
    """The box of a region of an image, and of the same region after mirroring."""
    image = np.zeros((7, 12))
    image[1:4, 2:9] = 1

    def box(picture):
        y, x = np.nonzero(picture)
        return np.array([x.min(), y.min(), x.max(), y.max()])

    np.testing.assert_array_equal(flip_box(box(image), 12), box(image[:, ::-1]))
    boxes = np.stack([box(image), [0.0, 0.5, 3.25, 6.0]])
    np.testing.assert_array_equal(flip_box(boxes, 12), [[3, 1, 9, 3], [7.75, 0.5, 11, 6]])
    np.testing.assert_array_equal(flip_box(flip_box(boxes, 12), 12), boxes)


def test_matlab_counts_from_one(points):
    np.testing.assert_array_equal(from_matlab(np.array([[1.0, 1.0], [3.0, 2.0]])), [[0, 0], [2, 1]])
    np.testing.assert_allclose(to_matlab(from_matlab(points)), points)


def test_edges_count_from_the_corner():
    corners = from_edges(np.array([[0, 0], [7, 4]]))  # of a whole image of 7 x 4 pixels
    np.testing.assert_array_equal(corners, outer_edges((4, 7)))


def test_released_affine_is_vertical_first():
    # (a11 a12 t1 a21 a22 t2), row 1 vertical: y' = a11 y + a12 x + t1, x' = a21 y + a22 x + t2.
    a11, a12, t1, a21, a22, t2 = released = np.array([1.1, 0.2, 0.3, -0.4, 0.9, -0.6])
    x, y = 2.0, 5.0
    expected = np.array([a21 * y + a22 * x + t2, a11 * y + a12 * x + t1])
    np.testing.assert_allclose(from_released_affine(released) @ [x, y, 1], expected)


def test_released_affine_and_back(rng):
    field = rng.standard_normal((2, 3, 4, 6))
    ours = from_released_affine(field)
    assert ours.shape == (2, 3, 4, 2, 3)
    np.testing.assert_array_equal(to_released_affine(ours), field)
    np.testing.assert_array_equal(ours.reshape(2, 3, 4, 6), field[..., list(RELEASED_AFFINE_CHANNELS)])
    np.testing.assert_array_equal(np.asarray(RELEASED_AFFINE_CHANNELS)[list(RELEASED_AFFINE_CHANNELS)], range(6))


@pytest.mark.parametrize("radius", [0, 1, 4])
def test_window_order(radius):
    side = 2 * radius + 1
    ours = [(dx, dy) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    np.testing.assert_array_equal(window_offsets(radius), ours)
    # The release: channel (j - 1) * side + i, i vertical (fast), j horizontal.
    released = [(dx, dy) for dx in range(-radius, radius + 1) for dy in range(-radius, radius + 1)]
    order = released_window_order(radius)
    assert sorted(order) == list(range(side * side))
    assert [released[i] for i in order] == ours


def test_between_centers_leaves_the_border_out():
    last = [11, 6]
    inside = [[1e-9, 3], [np.nextafter(11, 0), 5], [5.5, 3.25]]
    outside = [[0, 3], last, [3, 6], [-1, 3], [3, 7], [np.nan, 3], [3, np.inf], [-np.inf, 3]]
    np.testing.assert_array_equal(
        between_centers(np.array(inside + outside), SHAPE), [True] * 3 + [False] * len(outside)
    )
    assert between_centers(np.zeros((2, 3, 2)), (1, 1)).shape == (2, 3)


def test_object_positions_end_at_one():
    mask = np.zeros((9, 9), bool)
    mask[3, 2] = mask[6, 5] = True  # columns 2..5, rows 3..6
    positions = object_positions(np.array([[2, 3], [5, 6], [5, 3], [1, 2], [8, 0]]), mask)
    np.testing.assert_array_equal(positions, [[0.25, 0.25], [1, 1], [1, 0.25], [0, 0], [1.75, -0.5]])
    mask[:] = False
    mask[4, 7] = True
    np.testing.assert_array_equal(object_positions(np.array([7, 4]), mask), [1, 1])


def test_resize_positions_are_half_pixel():
    np.testing.assert_allclose(resize_positions(4, 2), [-0.25, 0.25, 0.75, 1.25])
    np.testing.assert_allclose(resize_positions(3, 2, scale=2), [-0.25, 0.25, 0.75])  # cropped, not squeezed
    points = np.stack([np.arange(8.0), np.zeros(8)], -1)
    np.testing.assert_allclose(resize_positions(8, 5), resize_points(points, (1, 8), (1, 5))[:, 0])


FUNCTIONS = {
    "resize_points": lambda p: resize_points(p, SHAPE, OTHER),
    "scale_vectors": lambda p: scale_vectors(p, SHAPE, OTHER),
    "cells_to_pixels": lambda p: cells_to_pixels(p, 8),
    "pixels_to_cells": lambda p: pixels_to_cells(p, 8),
    "normalize_points": lambda p: normalize_points(p, SHAPE, "corners"),
    "denormalize_points": lambda p: denormalize_points(p, SHAPE, "centers"),
    "mirror_points": lambda p: mirror_points(p, SHAPE),
    "flip_points": lambda p: flip_points(p, 12),
    "from_edges": from_edges,
    "from_matlab": from_matlab,
    "to_matlab": to_matlab,
    "object_positions": lambda p: object_positions(p, np.eye(3, 4, 1, bool)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_and_jax_alike(points, name):
    function, single = FUNCTIONS[name], points.astype(np.float32)
    expected = function(single)
    assert isinstance(expected, np.ndarray)
    assert expected.dtype == np.float32  # a Python number must not promote it
    for got in (function(jnp.asarray(single)), jax.jit(function)(single)):
        assert isinstance(got, jax.Array)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_whole_numbers_and_lists_are_not_truncated(name):
    expected = FUNCTIONS[name](np.array([[3.0, 5.0]]))
    np.testing.assert_allclose(FUNCTIONS[name](np.array([[3, 5]])), expected)
    np.testing.assert_allclose(FUNCTIONS[name]([[3, 5]]), expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_whole_numbers_of_jax_are_not_truncated(name):
    np.testing.assert_allclose(FUNCTIONS[name](jnp.array([[3, 5]])), FUNCTIONS[name]([[3, 5]]), rtol=1e-6)
