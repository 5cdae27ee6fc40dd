"""The photos of installed packages load without a network, and folders of photos are listed."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import skimage.data

from rtn_jax.data import photos
from rtn_jax.data.photos import BUILTIN_HELD_OUT, BUILTIN_TRAIN, builtin_photos, photo_folder


@pytest.fixture(scope="module")
def loaded():
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*args, **kwargs):
            raise AssertionError("a built-in photo asked for the network")

        patch.setattr(socket.socket, "connect", refuse)
        return builtin_photos()


def test_every_photo_is_an_rgb_image_large_enough_to_warp(loaded):
    for name, photo in loaded.items():
        assert photo.dtype == np.uint8, name
        assert photo.ndim == 3, name
        assert photo.shape[2] == 3, name
        assert min(photo.shape[:2]) >= 128, name
        assert photo.std() > 20, name  # textured, not blank


def test_split_covers_all_and_does_not_overlap(loaded):
    assert set(BUILTIN_TRAIN) | set(BUILTIN_HELD_OUT) == set(loaded)
    assert not set(BUILTIN_TRAIN) & set(BUILTIN_HELD_OUT)
    assert len(BUILTIN_TRAIN) >= 4
    assert len(BUILTIN_HELD_OUT) >= 2
    for name in BUILTIN_HELD_OUT:
        photo = loaded[name].astype(int)
        assert np.abs(photo[..., 0] - photo[..., 2]).mean() > 5, name  # in colour


def test_photos_are_what_their_names_say(loaded):
    np.testing.assert_array_equal(loaded["astronaut"], skimage.data.astronaut())
    np.testing.assert_array_equal(loaded["chelsea"], skimage.data.chelsea())
    np.testing.assert_array_equal(loaded["coins"], np.repeat(skimage.data.coins()[..., None], 3, axis=-1))


def test_a_package_without_its_photo_is_named(monkeypatch):
    monkeypatch.setattr(photos, "_FILES", {"astronaut": ("skimage", "data/removed.png")})
    with pytest.raises(ValueError, match=r"astronaut: the installed skimage does not hold data/removed\.png"):
        builtin_photos()


def test_folder_is_listed_recursively_and_sorted(tmp_path):
    names = ["b.jpg", "a.PNG", "deep/er/c.jpeg", "deep/d.webp", "z.tiff"]
    others = ["notes.txt", "b.jpg.bak", "._b.jpg", ".cache/e.png", "jpg"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert photo_folder(tmp_path) == tuple(sorted(tmp_path / name for name in names))
    assert photo_folder(str(tmp_path)) == photo_folder(tmp_path)


def test_folder_below_a_hidden_one_is_listed(tmp_path):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").touch()
    assert photo_folder(tmp_path / ".hidden") == (tmp_path / ".hidden" / "a.png",)


def test_folder_without_photos_and_missing_folder_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected images .* found none"):
        photo_folder(tmp_path)
    with pytest.raises(ValueError, match=r"path: expected a folder of photos, got .*missing"):
        photo_folder(tmp_path / "missing")
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="path: expected a folder"):
        photo_folder(tmp_path / "a.png")
