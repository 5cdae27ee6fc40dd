"""Uploads: what is taken, what is refused and how early; the built-in pairs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFile

from rtn_jax.demo import photos as demo_photos
from rtn_jax.demo.photos import EXAMPLES, LONGEST, MAX_BYTES, Photo, as_photo, example_photos, read_photo
from rtn_jax.images import resize
from tests.large_files import black_png, empty_file
from tests.networks import photos


@pytest.fixture
def undecoded(monkeypatch):
    """Fails if a picture is decoded, or a file read."""

    def refuse(*_args, **_options):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    return monkeypatch


def test_a_large_photo_is_kept_small_and_knows_its_size(tmp_path, rng):
    picture = photos(rng, 1, 1200, 1600)[0]
    Image.fromarray(picture).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png", "a.png")
    assert photo.original == (1200, 1600)
    assert photo.shape == (480, LONGEST)
    assert np.abs(photo.image - resize(picture, (480, LONGEST))).mean() < 1


def test_a_photo_taken_sideways_is_upright(tmp_path, rng):
    stored = Image.fromarray(photos(rng, 1, 40, 60)[0])
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    photo = read_photo(tmp_path / "a.jpg", "a.jpg")
    assert photo.original == (60, 40)
    assert photo.shape == (LONGEST, 427), "a small one is enlarged"
    upright = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    assert np.abs(resize(photo.image, (60, 40)) - upright).mean() < 4


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path, undecoded):
    black_png(tmp_path / "huge.png", 20_000, 20_000)
    with pytest.raises(ValueError, match=r"^huge\.png: too many pixels, at most 100,000,000 are read"):
        read_photo(tmp_path / "huge.png", "huge.png")
    black_png(tmp_path / "large.png", 12_000, 9_000)  # below the size at which Pillow itself refuses
    with pytest.raises(ValueError, match=r"^large\.png: 12000 x 9000 pixels, at most 100,000,000 are read"):
        read_photo(tmp_path / "large.png", "large.png")


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path, undecoded):
    path = tmp_path / "long.jpg"
    empty_file(path, MAX_BYTES + 1)
    undecoded.setattr(demo_photos.Path, "read_bytes", None)
    with pytest.raises(ValueError, match=r"^holiday\.jpg: 20 MB, at most 20 MB are taken"):
        read_photo(path, "holiday.jpg")


def test_what_is_no_picture_is_told_apart(tmp_path):
    (tmp_path / "a.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match=r"^notes\.jpg: not a picture"):
        read_photo(tmp_path / "a.jpg", "notes.jpg")


def test_equal_pixels_have_one_key(rng):
    a, b = photos(rng, 2, 24, 32)
    assert as_photo(a).key == as_photo(a.copy()).key != as_photo(b).key
    assert Photo(a, (24, 32)).key != Photo(a.reshape(32, 24, 3), (32, 24)).key


def test_examples_are_pairs_of_different_photos():
    examples = example_photos()
    assert list(examples) == list(EXAMPLES)
    for src, tgt in examples.values():
        assert src.key != tgt.key
        assert max(src.shape) == LONGEST == max(tgt.shape)
        assert min(src.image.std(), tgt.image.std()) > 20
    warped, same = examples["A cat, warped"]
    difference = np.abs(warped.image.astype(float) - same.image).mean()
    assert 10 < difference < 80, "moved, but the same cat"
