"""The field that a synthetic warp stands for: what training asks the network for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.affine import sampling_positions
from rtn_jax.config import Config
from rtn_jax.coordinates import cells_to_pixels, denormalize_vectors, pixel_grid, window_offsets
from rtn_jax.data.synthetic import Warp, WarpRange, inside, random_warps, warp_mapping, warp_photos
from rtn_jax.losses import synthetic_loss
from rtn_jax.training.objectives import true_fields

SIZE = (48, 80)
STRIDES = (16, 8)
NORMALIZATIONS = ["corners", "centers"]


@pytest.fixture(scope="module")
def warps():
    return random_warps(jax.random.split(jax.random.key(3), 3), WarpRange())


def config(normalization="centers", image_size=SIZE):
    return Config(image_size=image_size, normalization=normalization)


def test_shapes(warps):
    fields = true_fields(config(), warps)
    assert [(field.shape, valid.shape) for field, valid in fields] == [
        ((3, 3, 5, 2, 3), (3, 3, 5)),
        ((3, 6, 10, 2, 3), (3, 6, 10)),
    ]
    assert all(0.2 < valid.mean() < 1 for _, valid in fields)


def test_the_identity_warp_is_the_identity_field():
    warp = Warp(jnp.eye(2, 3)[None], jnp.zeros((1, 9, 2)))
    for field, valid in true_fields(config(), warp):
        np.testing.assert_allclose(field, np.broadcast_to(np.eye(2, 3), field.shape), atol=1e-5)
        assert valid.all()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_true_field_has_no_loss(warps, normalization):
    truth, valid = zip(*true_fields(config(normalization), warps), strict=True)
    history = [jnp.stack([true] * k) for true, k in zip(truth, (2, 3), strict=True)]
    assert synthetic_loss(history, truth, valid, matrix_weight=1.0) == 0
    wrong = [field.at[..., 2].add(0.1) for field in history]
    np.testing.assert_allclose(synthetic_loss(wrong, truth, valid), 0.1, rtol=1e-4)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_translations_reproduce_the_source(warps, normalization):
    """A smooth target, read where the true field points from every cell, is the source at that cell."""

    def smooth(points):
        x, y = np.moveaxis(np.asarray(points, np.float64) / 30, -1, 0)
        return np.stack([np.sin(x + y), np.cos(2 * y - x)], -1)

    target = jnp.asarray(np.broadcast_to(smooth(pixel_grid(SIZE)), (3, *SIZE, 2)), jnp.float32)
    source = np.asarray(warp_photos(warps, target))
    for (field, valid), stride in zip(true_fields(config(normalization), warps), STRIDES, strict=True):
        grid = valid.shape[1:]
        centres = cells_to_pixels(pixel_grid(grid), stride)  # half-way between pixels
        mapping = centres + stride * np.asarray(denormalize_vectors(field[..., 2], grid, normalization))
        top, left = (centres[..., i].astype(int) for i in (1, 0))
        around = sum(source[:, top + i, left + j] for i in (0, 1) for j in (0, 1)) / 4
        # The four pixels around a cell's centre are to see the target, too, and not its mirror image.
        clear = np.asarray(valid & inside(mapping - 2, SIZE) & inside(mapping + 2, SIZE))
        assert clear.mean() > 0.3
        np.testing.assert_allclose(smooth(mapping)[clear], around[clear], atol=0.01)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_neighbourhoods_are_those_of_an_affine_warp(warps, normalization):
    """Without bending, p + A o + t is exactly where the warp takes the neighbouring cell p + o."""
    straight = Warp(warps.affine, jnp.zeros_like(warps.bend))
    for (field, _), stride in zip(true_fields(config(normalization), straight), STRIDES, strict=True):
        positions = cells_to_pixels(sampling_positions(field, normalization=normalization), stride)
        cells = pixel_grid(field.shape[1:3], np.float64)[:, :, None] + window_offsets(1)
        expected = warp_mapping(straight, cells_to_pixels(cells, stride), SIZE)
        np.testing.assert_allclose(positions, expected, atol=1e-3)


def test_valid_cells_lie_inside_both_images(warps):
    for (_, valid), stride in zip(true_fields(config(), warps), STRIDES, strict=True):
        pixels = cells_to_pixels(pixel_grid(valid.shape[1:], np.float64), stride)
        np.testing.assert_array_equal(valid, inside(warp_mapping(warps, pixels, SIZE), SIZE))


def test_cells_in_the_padding_do_not_count():
    """An image of 34 x 70 is padded to 48 x 80: cells whose centre lies beyond it are not supervised."""
    warp = Warp(jnp.eye(2, 3)[None], jnp.zeros((1, 9, 2)))
    (_, coarse), (_, fine) = true_fields(config(image_size=(34, 70)), warp)
    expected = np.zeros((1, 3, 5), bool)
    expected[:, :2, :4] = True  # centres at 7.5, 23.5, 39.5; at 7.5, ..., 55.5, 71.5
    np.testing.assert_array_equal(coarse, expected)
    expected = np.zeros((1, 6, 10), bool)
    expected[:, :4, :9] = True  # at 3.5, ..., 27.5, 35.5; at 3.5, ..., 67.5, 75.5
    np.testing.assert_array_equal(fine, expected)


def test_jit(warps):
    eager = true_fields(config(), warps)
    for got, expected in zip(jax.jit(lambda w: true_fields(config(), w))(warps), eager, strict=True):
        np.testing.assert_allclose(got[0], expected[0], atol=1e-4)
