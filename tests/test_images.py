from __future__ import annotations

import io
import logging
import os
import re
import struct
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rtn_jax import images
from rtn_jax.images import (
    check_image,
    check_writable,
    read_image,
    read_resized,
    resize,
    save_image,
    save_mask,
    to_uint8,
    write_atomically,
)


def smooth_picture(height=24, width=40):
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 4 * x, 30 + 6 * y, 200 - 2 * x - 2 * y], axis=-1).astype(np.uint8)


def stored(path, picture, kind, **options):
    Image.fromarray(picture).save(path, kind, **options)
    return path


def png(path, width, height, depth, color_type, rows, transparency=b""):
    """A PNG written by hand: Pillow writes neither 16-bit RGB nor a header that lies about the size."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = b"".join(b"\0" + row for row in rows)
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    body += chunk(b"tRNS", transparency) if transparency else b""
    body += chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# Reading


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_a_lossless_file_is_read_exactly_whatever_its_name(tmp_path, kind):
    picture = smooth_picture()
    options = {"lossless": True} if kind == "WEBP" else {}
    read = read_image(stored(tmp_path / "misleading.jpg", picture, kind, **options))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, picture)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_a_lossy_file_is_read_closely(tmp_path, kind):
    picture = smooth_picture()
    read = read_image(str(stored(tmp_path / "picture", picture, kind, quality=95)))
    assert np.abs(read.astype(int) - picture).mean() < 4
    assert read.shape == picture.shape


def as_stored(upright, orientation):
    """What a camera stores so that EXIF `orientation` shows `upright`; by the definition of the eight values."""
    turned = upright.swapaxes(0, 1)
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: turned,
        6: turned[::-1],
        7: turned[::-1, ::-1],
        8: turned[:, ::-1],
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_gives_the_upright_picture(tmp_path, kind, orientation):
    upright = smooth_picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    camera = np.ascontiguousarray(as_stored(upright, orientation))
    read = read_image(stored(tmp_path / "photo", camera, kind, exif=exif))
    assert read.shape == upright.shape
    np.testing.assert_allclose(read.astype(int), upright, atol=0 if kind == "PNG" else 12)


def test_orientation_six_is_a_quarter_turn_clockwise(tmp_path):
    camera = np.zeros((2, 3, 3), np.uint8)
    camera[0, 0] = 255  # the stored top left is the upright top right
    exif = Image.Exif()
    exif[0x0112] = 6
    read = read_image(stored(tmp_path / "photo.png", camera, "PNG", exif=exif))
    assert read.shape == (3, 2, 3)
    assert read[0, 1, 0] == 255


def test_damaged_exif_is_ignored(tmp_path, caplog):
    path = stored(tmp_path / "photo.png", smooth_picture(), "PNG", exif=b"Exif\0\0no such thing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(path), smooth_picture())
    assert "EXIF" in caplog.text


def test_grey_and_one_bit(tmp_path):
    grey = smooth_picture()[..., 0]
    np.testing.assert_array_equal(read_image(stored(tmp_path / "a", grey, "PNG")), grey[..., None].repeat(3, axis=-1))
    bits = grey > 100
    expected = np.where(bits, 255, 0)[..., None].repeat(3, axis=-1)
    np.testing.assert_array_equal(read_image(stored(tmp_path / "b", bits, "PNG")), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    picture = smooth_picture() if mode == "RGBA" else smooth_picture()[..., :1]
    alpha = np.linspace(0, 255, picture.shape[1]).astype(np.uint8)[None, :, None].repeat(picture.shape[0], axis=0)
    read = read_image(stored(tmp_path / "a", np.concatenate([picture, alpha], axis=-1), "PNG"))
    share = alpha / 255
    np.testing.assert_allclose(read, share * picture + (1 - share) * 255 + np.zeros(3), atol=1.01)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_is_looked_up_and_its_transparent_entry_is_white(tmp_path, kind):
    index = np.tile(np.arange(4, dtype=np.uint8), (3, 2))
    image = Image.fromarray(index).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    palette = np.asarray([(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200)], np.uint8)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a", kind, transparency=2)
    palette[2] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "a"), palette[index])


def test_sixteen_bit_grey_is_scaled(tmp_path):
    grey = np.linspace(0, 65535, 60).astype(np.uint16).reshape(5, 12)
    read = read_image(stored(tmp_path / "a.png", grey, "PNG"))
    np.testing.assert_array_equal(read, (grey // 256)[..., None].repeat(3, axis=-1))
    rows = [row.astype(">u2").tobytes() for row in grey]
    read = read_image(png(tmp_path / "b.png", 12, 5, 16, 0, rows, transparency=struct.pack(">H", int(grey[2, 3]))))
    np.testing.assert_array_equal(read[2, 3], 255)
    np.testing.assert_array_equal(read[2, 4], grey[2, 4] // 256)


def test_sixteen_bit_rgb_is_scaled(tmp_path):
    wide = (smooth_picture().astype(np.uint16) << 8) + 77
    path = png(tmp_path / "a.png", 40, 24, 16, 2, [row.astype(">u2").tobytes() for row in wide])
    np.testing.assert_array_equal(read_image(path), smooth_picture())


def test_cmyk_is_converted(tmp_path):
    Image.fromarray(smooth_picture()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg").astype(int), smooth_picture(), atol=12)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken_and_logged(tmp_path, caplog, kind):
    first, second = (Image.new("RGB", (6, 4), color) for color in ("red", "blue"))
    first.save(tmp_path / "a", kind, save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a"), np.full((4, 6, 3), (255, 0, 0)))
    assert "animation" in caplog.text


def test_a_phones_jpeg_with_a_preview_is_no_animation(tmp_path, caplog):
    first, preview = (Image.new("RGB", (16, 16), color) for color in ("white", "black"))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    with caplog.at_level(logging.WARNING):
        assert read_image(tmp_path / "a.jpg").min() == 255
    assert not caplog.text


def refused(path, *words):
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}: ")) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_what_is_no_picture_is_refused_in_words(tmp_path):
    refused(tmp_path / "missing.png", "no such file")
    refused(tmp_path, "is a folder")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty")
    (tmp_path / "text.jpg").write_text("not a picture\n" * 20)
    refused(tmp_path / "text.jpg", "not a picture", "PNG, JPEG")
    with pytest.raises(ValueError, match="no such file"):
        read_image("a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.timeout(10)
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "ordinary file")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_truncated_file_is_refused(tmp_path, kind, share):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(buffer.getvalue()[: int(share * buffer.tell())])
    refused(path)


def test_a_damaged_file_gives_a_picture_or_a_value_error(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged"
    outcomes = set()
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(smooth_picture()).save(buffer, kind)
        for _ in range(40):
            raw = bytearray(buffer.getvalue())
            for position in rng.integers(0, len(raw), 3):
                raw[position] = rng.integers(256)
            path.write_bytes(raw)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    outcomes.add(read_image(path).shape[-1])
                except ValueError:
                    outcomes.add("refused")
    assert outcomes == {3, "refused"}


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_an_absurd_size_is_refused_before_decoding(tmp_path, width, height):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        refused(png(tmp_path / "bomb.png", width, height, 8, 2, [b"\0" * 30]), "100,000,000")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(tmp_path / "bomb.png", "100,000,000")


# Resizing


@pytest.mark.parametrize("shape", [(31, 17), (24, 40), (9, 11), (60, 100), (100, 13), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_resize_equals_jax_resize_clipped(shape, dtype):
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(dtype)
    resized = resize(noise, shape)
    expected = jax.image.resize(jnp.asarray(noise, jnp.float32), (*shape, 3), method="cubic", antialias=True)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, np.clip(expected, 0, 255), atol=1e-2)


def test_resize_keeps_the_outer_edges():
    step = np.zeros((4, 8, 3), np.uint8)
    step[:, 4:] = 255
    resized = resize(step, (8, 16))
    np.testing.assert_allclose(resized, 255 - resized[:, ::-1], atol=1e-3)  # the edge stays in the middle


def test_resize_to_the_same_shape_changes_nothing():
    np.testing.assert_array_equal(resize(smooth_picture(), (24, 40)), smooth_picture())
    np.testing.assert_array_equal(resize(jnp.asarray(smooth_picture()), (24, 40)), smooth_picture())


def test_wrong_images_and_shapes_are_refused():
    with pytest.raises(ValueError, match=r"image: expected an RGB image \[H, W, 3\], got shape \(4, 5\)"):
        resize(np.zeros((4, 5)), (2, 2))
    with pytest.raises(ValueError, match=r"shape: .* at least \(1, 1\), got \(0, 5\)"):
        resize(smooth_picture(), (0, 5))
    with pytest.raises(ValueError, match=r"src: expected uint8 or float in 0\.\.255, got int64"):
        check_image(np.zeros((4, 5, 3), np.int64), "src")
    with pytest.raises(ValueError, match="image: expected finite values"):
        to_uint8(np.full((2, 2, 3), np.nan))


# Reading resized


def photo_like(height, width):
    """Smooth, with one oblique edge."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [128 + 90 * np.sin(9 * x + 5 * y + c) * np.cos(11 * y - 3 * x) for c in range(3)]
    return (np.stack(waves, axis=-1) * np.where(x + 0.4 * y > 0.6, 1, 0.4)[..., None]).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "size", "limit"),
    [
        ("PNG", (150, 200), 2),
        ("JPEG", (150, 200), 2),
        ("JPEG", (200, 150), 2),
        ("PNG", (30, 20), 2),
        ("JPEG", (601, 803), 12),  # decoded at half its size, not a whole number of pixels
        ("JPEG", (1300, 1700), 12),  # at a quarter
    ],
)
def test_reading_resized_is_close_to_resizing_what_was_read(tmp_path, kind, size, limit):
    path = stored(tmp_path / "photo", photo_like(*size), kind, quality=90)
    expected = np.rint(resize(read_image(path), (64, 72))).astype(int)
    for source in (path, str(path), path.read_bytes()):
        read = read_resized(source, (64, 72))
        assert read.dtype == np.uint8
        difference = np.abs(read.astype(int) - expected)
        assert difference.mean() < 0.6
        assert difference.max() <= limit


def test_a_jpeg_that_is_much_too_large_is_not_decoded_whole(tmp_path, monkeypatch):
    decoded = []
    resize_picture = Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda image, *args, **options: decoded.append(image.size) or resize_picture(image, *args, **options),
    )
    path = stored(tmp_path / "photo", photo_like(520, 1040), "JPEG")
    for shape in [(64, 64), (130, 64), (131, 64), (64, 261), (256, 256)]:
        read_resized(path, shape)
    assert decoded == [(260, 130), (520, 260), (1040, 520), (1040, 520), (1040, 520)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(24, 40), (480, 800)])
def test_resized_pictures_are_upright_too(tmp_path, orientation, size):
    upright = photo_like(*size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    camera = np.ascontiguousarray(as_stored(upright, orientation))
    read = read_resized(stored(tmp_path / "photo", camera, "JPEG", exif=exif, quality=95), (30, 20))
    assert read.shape == (30, 20, 3)
    assert np.abs(read - resize(upright, (30, 20))).mean() < 3


def test_transparency_and_palettes_are_resolved_before_resizing(tmp_path):
    clear = np.zeros((20, 20, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_resized(tmp_path / "clear.png", (5, 5)), 255)
    palette = Image.fromarray(photo_like(40, 40)).quantize(16)
    palette.save(tmp_path / "palette.png")
    expected = resize(read_image(tmp_path / "palette.png"), (10, 10))
    np.testing.assert_allclose(read_resized(tmp_path / "palette.png", (10, 10)), expected, atol=2)


def test_what_cannot_be_read_resized_is_named(tmp_path):
    whole = stored(tmp_path / "whole.jpg", photo_like(500, 500), "JPEG").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for source, name, words in [
        (tmp_path / "cut.jpg", None, f"{tmp_path / 'cut.jpg'}: damaged picture"),
        (whole[:5000], "inside.jpg", "inside.jpg: damaged picture"),
        (b"words", "words.jpg", "words.jpg: not a picture"),
        (tmp_path / "none.jpg", None, f"{tmp_path / 'none.jpg'}: no such file"),
        (tmp_path, None, f"{tmp_path}: is a folder"),
    ]:
        for shape in ((400, 400), (40, 40)):
            with pytest.raises(ValueError, match=re.escape(words)):
                read_resized(source, shape, name)
    with pytest.raises(ValueError, match=r"shape: .* at least \(1, 1\), got \(0, 5\)"):
        read_resized(whole, (0, 5))


# Writing


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".webp"])
def test_what_is_saved_is_read_again(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    save_image(path, smooth_picture())
    tolerance = 0 if suffix.lower() == ".png" else 12
    np.testing.assert_allclose(read_image(path).astype(int), smooth_picture(), atol=tolerance)
    with Image.open(path) as image:
        assert image.format == images.WRITABLE[suffix.lower()]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_floats_are_rounded_and_clipped(tmp_path):
    save_image(tmp_path / "out.png", np.asarray([[[-3.0, 7.6, 300.0]]]))
    assert read_image(tmp_path / "out.png").tolist() == [[[0, 8, 255]]]


def test_a_path_that_cannot_be_written_is_refused_early_and_late(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for path, words in [
        (tmp_path / "out.gif", "expected a name that ends in one of .png, .jpg, .jpeg, .webp, got '.gif'"),
        (tmp_path / "out", "got ''"),
        (tmp_path / "folder.png", "it is a folder"),
        (tmp_path / "missing" / "out.png", "No such file or directory"),
        (tmp_path / "file" / "out.png", "Not a directory"),
        ("nul\0byte.png", "null byte"),
    ]:
        for attempt in (check_writable, lambda path: save_image(path, smooth_picture())):
            with pytest.raises(ValueError, match="^" + re.escape(f"{path}: ")) as caught:
                attempt(path)
            assert str(caught.value).count(str(path)) == 1
            assert words in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.png"]


def test_check_writable_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "new.png")
    assert not list(tmp_path.iterdir())
    save_image(tmp_path / "old.png", smooth_picture())
    check_writable(tmp_path / "old.png")
    np.testing.assert_array_equal(read_image(tmp_path / "old.png"), smooth_picture())


def test_the_old_file_stays_when_writing_fails(tmp_path):
    path = tmp_path / "old.webp"
    save_image(path, smooth_picture())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot be written"):
        save_image(path, np.zeros((1, 20_000, 3), np.uint8))  # wider than WebP allows

    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["old.webp"]


def test_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "elsewhere" / "real.png")
    save_image(tmp_path / "link.png", smooth_picture())
    assert (tmp_path / "link.png").is_symlink()
    assert not (tmp_path / "elsewhere" / "real.png").is_symlink()
    np.testing.assert_array_equal(read_image(tmp_path / "elsewhere" / "real.png"), smooth_picture())


def test_a_mask_is_written_as_grey_of_two_values(tmp_path):
    mask = np.eye(5, dtype=bool)[:, :3]
    save_mask(tmp_path / "m.png", mask)
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), 255 * mask)
    with pytest.raises(ValueError, match=r"mask: expected truth values \[H, W\], got shape \(5, 3\) uint8"):
        save_mask(tmp_path / "m.png", mask.astype(np.uint8))
