"""Bilinear sampling and resizing against the slow loop, at borders, and their gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax.coordinates import pixel_grid
from rtn_jax.sampling import average_pool, bilinear_sample, max_pool, resample, resize_bilinear
from tests import oracle


@pytest.fixture
def image(rng):
    return rng.standard_normal((2, 5, 7, 3)).astype(np.float32)


@pytest.fixture
def points(rng):
    """Inside, across the border, and far outside an image of 5 x 7."""
    return rng.uniform(-2.5, 9.5, (2, 6, 4, 2)).astype(np.float32)


def slow_sample(image, points):
    flat = points.reshape(len(points), -1, 2)
    values = [[oracle.bilinear(one, x, y) for x, y in at.tolist()] for one, at in zip(image, flat, strict=True)]
    return np.array(values).reshape(*points.shape[:-1], image.shape[-1])


# --- bilinear_sample


def test_sample_equals_the_slow_loop(image, points):
    expected = slow_sample(image, points)
    assert (expected == 0).all(-1).any()
    np.testing.assert_allclose(bilinear_sample(jnp.asarray(image), jnp.asarray(points)), expected, atol=2e-6)


def test_sample_at_the_pixels_is_the_image(image):
    grid = jnp.broadcast_to(jnp.asarray(pixel_grid((5, 7))), (2, 5, 7, 2))
    np.testing.assert_array_equal(bilinear_sample(jnp.asarray(image), grid), image)


def test_sample_falls_to_zero_within_one_pixel_outside():
    image = jnp.full((1, 3, 4, 1), 8.0)
    at = jnp.array(
        [[[3.0, 1], [3.25, 1], [3.75, 1], [4, 1], [4.5, 1], [-0.5, 1], [-1, 1], [1, -0.25], [1, 2.5], [1, 3]]]
    )
    np.testing.assert_allclose(bilinear_sample(image, at)[0, :, 0], [8, 6, 2, 0, 0, 4, 0, 6, 4, 0])


def test_sample_far_away_is_zero(image):
    far = jnp.array([[[1e9, 2], [2, -1e9], [-1e9, 1e9]]] * 2)
    np.testing.assert_array_equal(bilinear_sample(jnp.asarray(image), far), 0)


def test_a_translation_of_one_moves_an_impulse_by_exactly_one():
    impulse = np.zeros((1, 5, 7, 1), np.float32)
    impulse[0, 2, 3] = 1
    moved = bilinear_sample(jnp.asarray(impulse), jnp.asarray(pixel_grid((5, 7)))[None] + jnp.array([1.0, 0]))
    np.testing.assert_array_equal(moved, np.roll(impulse, -1, axis=2))


def test_sample_one_pixel():
    image = jnp.full((1, 1, 1, 2), 4.0)
    np.testing.assert_allclose(bilinear_sample(image, jnp.array([[[0.0, 0.0], [0.5, 0.5]]])), [[[4, 4], [1, 1]]])


def test_sample_is_per_image(image, points):
    image, points = jnp.asarray(image), jnp.asarray(points)
    alone = jnp.concatenate([bilinear_sample(image[i : i + 1], points[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(bilinear_sample(image, points), alone, atol=1e-6)


def test_sample_jit_and_dtype(image, points):
    image, points = jnp.asarray(image), jnp.asarray(points)
    expected = bilinear_sample(image, points)
    np.testing.assert_allclose(jax.jit(bilinear_sample)(image, points), expected, atol=1e-6)
    half = bilinear_sample(image.astype(jnp.bfloat16), points)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, atol=0.05)


def test_half_precision_reads_the_right_place_in_a_large_image():
    # bfloat16 cannot hold 1001: positions must not be rounded to the image's type.
    image = jnp.zeros((1, 1, 1200, 1), jnp.bfloat16).at[0, 0, 1001].set(1)
    np.testing.assert_array_equal(bilinear_sample(image, jnp.array([[[1001.0, 0.0], [1000.0, 0.0]]]))[0, :, 0], [1, 0])


def test_sample_gradients(x64, rng):
    image = jnp.asarray(rng.standard_normal((2, 4, 5, 2)))
    whole, part = rng.integers(-1, 5, (2, 6, 2)), rng.uniform(0.1, 0.9, (2, 6, 2))  # away from the kinks
    check_grads(jax.jit(bilinear_sample), (image, jnp.asarray(whole + part)), order=1, modes=("fwd", "rev"))


def test_sample_has_finite_gradients_at_the_kinks_and_far_outside(image):
    at = jnp.array([[[0.0, 0.0], [6.0, 4.0], [7.0, 5.0], [-1.0, -1.0], [1e9, 0.0]]] * 2)
    gradient = jax.grad(lambda p: (bilinear_sample(jnp.asarray(image), p) ** 2).sum())(at)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[:, -1], 0)


@pytest.mark.parametrize(
    ("image_shape", "points_shape", "match"),
    [
        ((5, 7, 3), (2, 4, 2), r"^image: expected \[b, h, w, c\], got shape \(5, 7, 3\)"),
        ((2, 5, 7, 3), (2, 4, 3), r"^points: expected \[2, \.\.\., 2\], got shape \(2, 4, 3\)"),
        ((2, 5, 7, 3), (3, 4, 2), r"^points: expected \[2, \.\.\., 2\], got shape \(3, 4, 2\)"),
        ((2, 5, 7, 3), (2,), r"^points: expected \[2, \.\.\., 2\], got shape \(2,\)"),
    ],
)
def test_sample_refuses(unchecked, image_shape, points_shape, match):
    with pytest.raises(ValueError, match=match):
        bilinear_sample(jnp.zeros(image_shape), jnp.zeros(points_shape))


# --- average_pool, max_pool, resize_bilinear, resample


def test_average_pool_by_hand(image, unchecked):
    pooled = average_pool(jnp.asarray(image[:, :4, :6]), 2)
    assert pooled.shape == (*image.shape[:1], 2, 3, image.shape[-1])
    np.testing.assert_allclose(pooled[1, 1, 2], image[1, 2:4, 4:6].mean((0, 1)), atol=1e-6)
    np.testing.assert_array_equal(average_pool(jnp.asarray(image), 1), image)
    with pytest.raises(ValueError, match="multiples of 2, got 5 x 7"):
        average_pool(jnp.asarray(image), 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "padding"), [(2, ((0, 0), (0, 0))), (2, ((0, 1), (0, 1))), (3, ((1, 1), (1, 1)))])
def test_max_pool_equals_the_slow_loop(image, dtype, size, padding):
    """An odd size with and without padding; what lies outside is never the largest, negative as everything is."""
    x = np.asarray(jnp.asarray(image, dtype) - 10, np.float32)
    (above, below), (left, right) = padding
    padded = np.full((2, 5 + above + below, 7 + left + right, 3), -np.inf, np.float32)
    padded[:, above : above + 5, left : left + 7] = x
    rows, columns = ((n - size) // 2 + 1 for n in padded.shape[1:3])
    expected = np.zeros((2, rows, columns, 3), np.float32)
    for i, j in np.ndindex(rows, columns):
        expected[:, i, j] = padded[:, 2 * i : 2 * i + size, 2 * j : 2 * j + size].max((1, 2))
    pooled = max_pool(jnp.asarray(x, dtype), size, padding)
    assert pooled.dtype == dtype
    np.testing.assert_array_equal(pooled.astype(jnp.float32), expected)


@pytest.mark.parametrize(("border", "slow"), [("zero", oracle.upsample_released), ("edge", oracle.upsample_edge)])
def test_doubling_equals_the_slow_loop(image, border, slow):
    doubled = resize_bilinear(jnp.asarray(image), (10, 14), border=border)
    np.testing.assert_allclose(doubled, np.stack([slow(one) for one in image]), atol=2e-6)


def test_the_released_doubling_shrinks_the_border():
    doubled = np.asarray(resize_bilinear(jnp.ones((1, 3, 3, 1)), (6, 6), border="zero"))[0, :, :, 0]
    expected = np.pad(np.ones((4, 4)), 1, constant_values=0.75)
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 0.5625
    np.testing.assert_allclose(doubled, expected)
    np.testing.assert_allclose(resize_bilinear(jnp.ones((1, 3, 3, 1)), (6, 6)), 1)


def test_resize_to_the_same_size_changes_nothing(image):
    np.testing.assert_array_equal(resize_bilinear(jnp.asarray(image), (5, 7)), image)


def test_resize_keeps_a_ramp():
    """Values that are positions become the half-pixel positions, except beyond the outer pixels' centres."""
    ramp = jnp.asarray(pixel_grid((6, 8)))[None]
    wide = np.asarray(resize_bilinear(ramp, (9, 20)))[0]
    np.testing.assert_allclose(wide[4, 2:-2, 0], ((np.arange(20) + 0.5) * 8 / 20 - 0.5)[2:-2], atol=1e-5)
    np.testing.assert_allclose(wide[2:-2, 4, 1], ((np.arange(9) + 0.5) * 6 / 9 - 0.5)[2:-2], atol=1e-5)


def test_an_exact_factor_crops_at_the_bottom_and_right(image):
    whole = resize_bilinear(jnp.asarray(image), (10, 14))
    np.testing.assert_allclose(resize_bilinear(jnp.asarray(image), (9, 13), scale=2), whole[:, :9, :13], atol=1e-6)


@pytest.mark.parametrize("border", ["edge", "zero"])
def test_resample_equals_sampling_of_a_grid(image, border):
    rows, columns = np.array([-0.4, 0.0, 2.3, 4.0, 4.7]), np.array([-0.2, 1.5, 6.0, 6.9])
    at = np.stack(np.meshgrid(columns, rows), -1)
    at = np.clip(at, 0, [6, 4]) if border == "edge" else at
    expected = slow_sample(image, np.broadcast_to(at, (2, *at.shape)))
    np.testing.assert_allclose(resample(jnp.asarray(image), rows, columns, border=border), expected, atol=2e-6)


def test_resize_jit_batch_and_gradients(x64, rng):
    image = jnp.asarray(rng.standard_normal((2, 3, 4, 2)))

    def double(x):
        return resize_bilinear(x, (6, 8), border="zero")

    np.testing.assert_allclose(jax.jit(double)(image), double(image), atol=1e-12)
    np.testing.assert_allclose(double(image[1:]), double(image)[1:], atol=1e-12)
    check_grads(jax.jit(double), (image,), order=1, modes=("fwd", "rev"))


def test_resize_refuses(unchecked):
    with pytest.raises(ValueError, match=r"^image: expected \[b, h, w, c\], got shape \(5, 7, 3\)"):
        resize_bilinear(jnp.zeros((5, 7, 3)), (2, 2))
    with pytest.raises(ValueError, match=r"^image: expected \[b, h, w, c\], got shape \(5, 7\)"):
        resample(jnp.zeros((5, 7)), np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match=r"^border: expected 'edge' or 'zero', got 'wrap'"):
        resize_bilinear(jnp.zeros((1, 5, 7, 3)), (2, 2), border="wrap")
