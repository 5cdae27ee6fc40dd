"""Masks and edits moved by mappings whose effect is known pixel by pixel."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rtn_jax.images import read_rgba
from rtn_jax.matching import carry_edit, carry_mask, changed_pixels
from rtn_jax.matching.carried import read_edit, read_mask
from tests.networks import photos

SHAPE = (64, 96)


@pytest.fixture
def moved(answered):
    """Source and target of 96 x 64 pixels; the target's content lies 6 pixels to the right and 4 further down."""
    flow = np.broadcast_to(np.asarray([2, 2], np.float32), (32, 32, 2))  # 2 * 96 / 32 = 6, 2 * 64 / 32 = 4
    return replace(answered, src_shape=SHAPE, tgt_shape=SHAPE, flow=flow, back=-flow)


def box(top, bottom, left, right, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_mask_moves_with_its_pixels_and_ends_at_the_edge(moved):
    np.testing.assert_array_equal(carry_mask(moved, box(10, 30, 20, 50)), box(14, 34, 26, 56))
    everything = carry_mask(moved, np.ones(SHAPE, np.uint8))
    np.testing.assert_array_equal(everything, box(4, 64, 6, 96))


def test_a_mask_comes_at_the_size_asked_for(moved):
    """Also through bands: 600 rows are more than one."""
    np.testing.assert_array_equal(
        carry_mask(moved, box(8, 32, 16, 48), shape=(32, 48)), box(6, 18, 11, 27, shape=(32, 48))
    )
    tall = carry_mask(moved, box(16, 32, 32, 64), shape=(640, 96))
    expected = box(200, 360, 38, 70, shape=(640, 96))
    assert (tall != expected).mean() < 0.01
    with pytest.raises(ValueError, match=r"mask: expected \[H, W\], got shape \(64, 96, 3\)"):
        carry_mask(moved, np.ones((*SHAPE, 3)))


def test_an_edit_is_laid_over_the_target_and_nothing_else_changes(moved, rng):
    src, tgt = photos(rng, 2, *SHAPE)
    opacity = 0.5 * box(10, 30, 20, 50)
    edited = carry_edit(moved, tgt, src, opacity)
    there = box(14, 34, 26, 56)
    np.testing.assert_array_equal(edited[~there], tgt[~there])
    expected = (src[10:30, 20:50].astype(float) + tgt[14:34, 26:56]) / 2
    np.testing.assert_allclose(edited[14:34, 26:56], expected, atol=0.51)
    with pytest.raises(ValueError, match=r"opacity: expected shape \(64, 96\), got \(96, 64\)"):
        carry_edit(moved, tgt, src, opacity.T)


def test_what_was_painted_is_found_even_after_compression(rng):
    src = photos(rng, 1, *SHAPE)[0] // 2 + rng.integers(0, 120, (*SHAPE, 1)).astype(np.uint8)
    painted = src.copy()
    painted[20:40, 30:60] = 250, 20, 240
    np.testing.assert_array_equal(changed_pixels(src, painted + np.uint8(3)), box(20, 40, 30, 60))
    file = io.BytesIO()
    Image.fromarray(painted).save(file, "JPEG", quality=60)
    decoded = np.asarray(Image.open(file))
    assert (np.abs(decoded.astype(int) - painted).max(-1) > 20).mean() > 0.02, "pixel by pixel, compression is paint"
    found = changed_pixels(src, decoded, lossy=True)
    assert found[22:38, 32:58].all()
    assert found[~box(14, 46, 24, 66)].mean() < 0.01
    with pytest.raises(ValueError, match=r"painted: expected the shape of src"):
        changed_pixels(src, painted[1:])


def test_masks_are_read_however_they_are_made(tmp_path):
    mask = box(10, 30, 20, 50)
    grey = np.where(mask, 200, 60).astype(np.uint8)
    pictures = {
        "bright.png": Image.fromarray(grey),
        "ones.png": Image.fromarray(mask.astype(np.uint8)),
        "cut.png": Image.fromarray(np.dstack([grey, grey, grey, 255 * mask.astype(np.uint8)])),
        "palette.png": Image.fromarray(mask.astype(np.uint8)).convert("P"),
        "bits.png": Image.fromarray(mask),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        np.testing.assert_array_equal(read_mask(tmp_path / name, SHAPE), mask, err_msg=name)
    Image.fromarray(grey * 0).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"black\.png: the mask is empty"):
        read_mask(tmp_path / "black.png", SHAPE)
    with pytest.raises(ValueError, match=r"bits\.png: expected the source's size, 10 x 20, got 96 x 64"):
        read_mask(tmp_path / "bits.png", (20, 10))


def test_edits_are_read_however_they_are_made(tmp_path, rng):
    src = photos(rng, 1, *SHAPE)[0]
    there = box(10, 30, 20, 50)
    painted = np.where(there[..., None], np.uint8(255) - src, src)
    Image.fromarray(src).save(tmp_path / "src.png")
    Image.fromarray(painted).save(tmp_path / "painted.png")
    Image.fromarray(np.dstack([painted, 128 * there.astype(np.uint8)])).save(tmp_path / "layer.png")
    edit = read_edit(tmp_path / "painted.png", tmp_path / "src.png", SHAPE)
    assert edit.opacity[there].mean() > 0.9  # but where the photo is middle grey, and its negative too
    assert not edit.opacity[~there].any()
    np.testing.assert_array_equal(edit.colors, painted)
    layer = read_edit(tmp_path / "layer.png", tmp_path / "src.png", SHAPE)
    np.testing.assert_allclose(layer.opacity, there * (128 / 255), rtol=1e-6)
    np.testing.assert_array_equal(read_rgba(tmp_path / "layer.png")[..., 3], 128 * there)
    Image.fromarray(np.dstack([painted, 0 * there.astype(np.uint8)])).save(tmp_path / "clear.png")
    for name, words in [("src.png", "does not differ from"), ("clear.png", "is transparent everywhere")]:
        with pytest.raises(ValueError, match=rf"{name}: {words}.*there is no edit to carry over"):
            read_edit(tmp_path / name, tmp_path / "src.png", SHAPE)
