"""Images are found by name in a folder and in memory, and whatever is wrong names the file."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from rtn_jax.data.files import ArrayFiles, FolderFiles
from rtn_jax.images import decode_image


@pytest.fixture
def photo(rng):
    return rng.integers(0, 256, (5, 7, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, photo):
    (tmp_path / "deep").mkdir()
    Image.fromarray(photo).save(tmp_path / "deep" / "a.png")
    return FolderFiles(tmp_path)


def test_folder(folder, photo):
    np.testing.assert_array_equal(folder.image("deep/a.png"), photo)
    assert folder.shape("deep/a.png") == (5, 7)
    assert folder.encoded("deep/a.png") == (folder.folder / "deep" / "a.png").read_bytes()


def test_memory(photo):
    files = ArrayFiles({"a": photo})
    np.testing.assert_array_equal(files.image("a"), photo)
    np.testing.assert_array_equal(decode_image(files.encoded("a"), "a"), photo)
    assert files.shape("a") == (5, 7)


def test_they_survive_a_pickle(folder, photo):
    """Worker processes get them by pickle."""
    for files, name in ((folder, "deep/a.png"), (ArrayFiles({"a": photo}), "a")):
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(files)).image(name), photo)


@pytest.mark.parametrize("ask", ["image", "shape", "encoded"])
def test_a_missing_image_is_named(folder, ask):
    with pytest.raises(ValueError, match=r"deep/b\.png: [Nn]o such file"):
        getattr(folder, ask)("deep/b.png")
    with pytest.raises(ValueError, match=r"^b: no such image"):
        getattr(ArrayFiles({}), ask)("b")


def test_the_shape_comes_from_the_header_and_the_damage_shows_on_decoding(tmp_path, rng):
    path = tmp_path / "cut.jpg"
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    files = FolderFiles(tmp_path)
    assert files.shape("cut.jpg") == (60, 80)
    with pytest.raises(ValueError, match=r"cut\.jpg: damaged picture"):
        files.image("cut.jpg")


def test_masks_and_flows_are_not_known(folder):
    with pytest.raises(ValueError, match="no mask is known"):
        folder.mask("deep/a.png")
    with pytest.raises(ValueError, match="no flow is known"):
        folder.flow("deep/a")
