"""Random colours: each change against slow loops and by hand, their limits, and what must stay as it is."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.data.colour import ColourRange, jitter_colours, recolour
from tests import oracle

NONE = ColourRange(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
STRONG = ColourRange(brightness=0.4, contrast=0.4, saturation=0.4, hue=40.0)
GREY = np.array([0.299, 0.587, 0.114])
NAMES = ("brightness", "contrast", "saturation", "hue")


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@pytest.fixture
def photos(rng):
    """Values between whole numbers, pure black and white among them."""
    photos = rng.uniform(0, 255, (3, 6, 9, 3)).astype(np.float32)
    photos[:, 0, 0], photos[:, 0, 1] = 0, 255
    return jnp.asarray(photos)


@pytest.fixture(scope="module")
def dull():
    """Colours so far from black and white that no change is clipped."""
    return jnp.asarray(np.random.default_rng(0).uniform(100, 140, (200, 4, 5, 3)), jnp.float32)


# --- recolour


@pytest.mark.parametrize(
    "change",
    [
        {"brightness": 1.3},
        {"contrast": 0.6},
        {"saturation": 1.4},
        {"hue": 25.0},
        {"brightness": 0.7, "contrast": 1.4, "saturation": 0.2, "hue": -110.0},
    ],
)
def test_recolour_equals_the_slow_loop(photos, change):
    complete = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0} | change
    expected = oracle.recolour(np.asarray(photos[0], np.float64), **complete)
    got = jax.jit(recolour)(photos[0], **change)
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert np.abs(got - photos[0]).mean() > 5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"brightness": 0.5}, [[50, 25, 0], [50, 50, 50]]),
        ({"brightness": 3.0}, [[255, 150, 0], [255, 255, 255]]),  # clipped
        ({"contrast": 0.0}, [[79.625, 79.625, 79.625]] * 2),  # half of 59.25 + 100
        ({"contrast": 2.0}, [[120.375, 20.375, 0], [120.375, 120.375, 120.375]]),
        ({"saturation": 0.0}, [[59.25, 59.25, 59.25], [100, 100, 100]]),  # 0.299 * 100 + 0.587 * 50
        ({"saturation": 0.5}, [[79.625, 54.625, 29.625], [100, 100, 100]]),
        ({"hue": 120.0}, [[0, 100, 50], [100, 100, 100]]),  # red to green, green to blue
        ({"hue": -120.0}, [[50, 0, 100], [100, 100, 100]]),
        ({"hue": 180.0}, [[0, 50, 100], [100, 100, 100]]),  # 2 * 50 - colour
    ],
)
def test_recolour_by_hand(change, expected):
    """An orange pixel beside a grey one."""
    photo = np.array([[[100.0, 50, 0], [100, 100, 100]]])
    np.testing.assert_allclose(recolour(jnp.asarray(photo, jnp.float32), **change)[0], expected, atol=1e-3)
    complete = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0} | change
    np.testing.assert_allclose(oracle.recolour(photo, **complete)[0], expected, atol=1e-9)


def test_what_one_change_takes_beyond_white_another_brings_back():
    """Black and light grey: 0 and 300 after the first change, 75 and 225 after the second. Clipped last, not first."""
    photo = jnp.array([[[0.0, 0, 0], [200, 200, 200]]])
    expected = [[[75, 75, 75], [225, 225, 225]]]
    np.testing.assert_allclose(recolour(photo, brightness=1.5, contrast=0.5), expected, atol=1e-3)


# --- jitter_colours


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_range_gives_the_photos_back_exactly(photos, dtype):
    photos = photos.astype(dtype)
    for jitter in (jitter_colours, jax.jit(jitter_colours, static_argnums=2)):
        got = jitter(keys(3), photos, NONE)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, photos)


def test_the_default_range_changes_every_photo(photos):
    got = np.asarray(jitter_colours(keys(3), photos, ColourRange()))
    assert got.shape == photos.shape
    assert (np.abs(got - photos).mean((1, 2, 3)) > 1).all()


def test_photos_stay_within_black_and_white(photos):
    got = np.asarray(
        jitter_colours(keys(3), photos, ColourRange(brightness=1.0, contrast=1.0, saturation=1.0, hue=180))
    )
    assert got.min() >= 0
    assert got.max() <= 255
    assert ((got == 0) | (got == 255)).any()


def chroma(photos):
    """Along two axes at right angles to that of greys, as complex numbers; turning the hue turns them."""
    red, green, blue = np.moveaxis(np.asarray(photos, np.float64), -1, 0)
    return (2 * red - green - blue) / np.sqrt(6) + 1j * (green - blue) / np.sqrt(2)


def measured(name, before, after):
    """The parameter of the change of that kind that made `after` of `before`, per photo."""
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if name == "brightness":
        return after.mean((1, 2, 3)) / before.mean((1, 2, 3))
    if name == "contrast":
        return after.std((1, 2, 3)) / before.std((1, 2, 3))
    if name == "saturation":
        return np.abs(chroma(after)).mean((1, 2)) / np.abs(chroma(before)).mean((1, 2))
    return np.degrees(np.angle((chroma(after) * chroma(before).conj()).sum((1, 2))))


@pytest.fixture(scope="module")
def parameters(dull):
    """What `jitter_colours` drew for each dull photo, measured with each change alone; `[4, 200]`."""
    alone = [dataclasses.replace(NONE, **{name: getattr(STRONG, name)}) for name in NAMES]
    return np.stack(
        [measured(n, dull, jitter_colours(keys(200), dull, limits)) for n, limits in zip(NAMES, alone, strict=True)]
    )


def test_ranges_are_kept_and_filled(parameters):
    for name, values in zip(NAMES, parameters, strict=True):
        middle, limit = float(name != "hue"), getattr(STRONG, name)
        assert middle - 1.001 * limit <= values.min() < middle - 0.95 * limit
        assert middle + 0.95 * limit < values.max() <= middle + 1.001 * limit


def test_the_four_are_drawn_independently(parameters):
    correlation = np.corrcoef(parameters) - np.eye(4)
    assert np.abs(correlation).max() < 0.25


def test_jitter_equals_the_slow_loop_with_what_it_drew(dull, parameters):
    """Photo by photo: all four changes at once, with the parameters measured one by one."""
    got = np.asarray(jitter_colours(keys(200), dull, STRONG))
    for i in range(5):
        expected = oracle.recolour(np.asarray(dull[i], np.float64), *parameters[:, i])
        np.testing.assert_allclose(got[i], expected, atol=0.02)


def test_a_photo_depends_on_its_own_key_alone(photos):
    """However a batch is split; and the same photo under another key looks different."""
    jitter = jax.jit(jitter_colours, static_argnums=2)
    whole = jitter(keys(3), photos, STRONG)
    np.testing.assert_allclose(jitter(keys(3)[1:2], photos[1:2], STRONG), whole[1:2], atol=1e-3)
    np.testing.assert_allclose(jitter_colours(keys(3), photos, STRONG), whole, atol=1e-3)
    twice = np.asarray(jitter(keys(2), jnp.stack([photos[0], photos[0]]), STRONG))
    assert np.abs(twice[0] - twice[1]).mean() > 1


def test_double_precision_draws_the_same_colours(photos):
    single = np.asarray(jitter_colours(keys(3), photos, STRONG))
    with jax.enable_x64(True):
        double = jitter_colours(keys(3), jnp.asarray(photos, jnp.float64), STRONG)
        assert double.dtype == jnp.float64
        np.testing.assert_allclose(double, single, atol=1e-2)


# --- wrong input


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"brightness": -0.1}, r"^brightness: expected 0 to 1, got -0\.1"),
        ({"contrast": 1.1}, r"^contrast: expected 0 to 1, got 1\.1"),
        ({"saturation": float("nan")}, r"^saturation: expected 0 to 1, got nan"),
        ({"hue": 181.0}, r"^hue: expected 0 to 180, got 181\.0"),
    ],
)
def test_range_refuses(limits, match):
    with pytest.raises(ValueError, match=match):
        ColourRange(**limits)


@pytest.mark.parametrize(
    ("shape", "dtype", "count", "match"),
    [
        ((4, 5, 3), jnp.float32, 4, r"^photos: expected float \[b, H, W, 3\], got float32 of shape \(4, 5, 3\)"),
        ((2, 4, 5, 4), jnp.float32, 2, r"^photos: .* of shape \(2, 4, 5, 4\)"),
        ((2, 4, 5, 3), jnp.uint8, 2, r"^photos: expected float .*, got uint8 of shape"),
        ((2, 4, 5, 3), jnp.float32, 3, r"^keys: expected one per photo, \(2,\), got shape \(3,\)"),
    ],
)
def test_jitter_refuses(unchecked, shape, dtype, count, match):
    with pytest.raises(ValueError, match=match):
        jitter_colours(keys(count), jnp.zeros(shape, dtype), NONE)
