"""Photos are read small, upright and with their own size remembered."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rtn_jax.matching import photo_of, read_photo
from tests.networks import photos, small_config


def test_a_large_photo_is_read_small_and_upright(tmp_path, rng):
    picture = photos(rng, 1, 900, 1800)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown upright it is 1800 high
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    photo = read_photo(tmp_path / "turned.jpg", small_config())
    assert photo.name == str(tmp_path / "turned.jpg")
    assert photo.shape == (1800, 900)
    assert photo.pixels.shape == (1024, 512, 3)
    upright = photo_of(np.rot90(picture, -1), small_config())
    assert upright.shape == (1800, 900)
    assert np.abs(photo.pixels.astype(int) - upright.pixels).mean() < 2


def test_what_the_network_sees_is_not_lost(rng):
    """A long strip, squeezed to the network's square: its short side needs the pixels."""
    strip = photos(rng, 1, 300, 4000)[0]
    photo = photo_of(strip, small_config(image_size=128))
    assert photo.pixels.shape == (128, 1707, 3)
    assert photo.shown.shape == (77, 1024, 3)
    assert photo_of(strip[:, :500], small_config()).pixels.shape == (300, 500, 3)
    with pytest.raises(ValueError, match=r"photo: expected an RGB image \[H, W, 3\]"):
        photo_of(strip[..., 0], small_config())
