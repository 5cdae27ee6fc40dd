"""Pictures in files: reading any ordinary one as RGB, resizing as the network does, and writing without half a file.

Host side only (NumPy and Pillow). An image is `[H, W, 3]`, RGB, uint8 or float in 0..255. Colour profiles are ignored,
as they are by the data sets and by the pretrained backbones.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike
from PIL import Image, UnidentifiedImageError

from rtn_jax.coordinates import Shape

log = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000
"""A larger picture is refused before it is decoded: 100 megapixels are already 300 MB as an array."""

READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF orientation -> what makes the stored picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY16 = ("I", "I;16", "I;16B")  # how Pillow names 16-bit grey, by version and byte order

# What Pillow may raise on a damaged file besides OSError and ValueError; warnings where warnings are errors.
_DAMAGED = (SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, struct.error, zlib.error, Warning)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in a file, upright (its EXIF orientation applied), as 8-bit RGB.

    The content decides the format, not the name: PNG, JPEG, WebP, GIF or BMP. Grey, palette, CMYK and 16-bit
    pictures are converted; transparent pixels are laid over white; of an animation the first frame is taken.

    Raises:
        ValueError: the path is missing, a folder, empty, no picture, damaged or cut off, or has more than 100
            megapixels.
    """
    path = Path(path)
    with _explained(path):
        _check_ordinary(path)
        return _read(path, str(path))


def decode_image(content: bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in the bytes of a file, as `read_image` gives it; `name` is what error messages call it.

    Raises:
        ValueError: no picture, damaged or cut off, or more than 100 megapixels.
    """
    with _explained(name):
        return _read(io.BytesIO(content), name)


def read_resized(
    source: str | os.PathLike[str] | bytes, shape: Shape, name: str | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in a file, given as its path or its bytes, resized to `shape` (height, width): what training reads.

    Differs from rounding `resize(read_image(path), shape)` by a fifth of a grey level on average, and takes less time:
    it is resized in 8 bits, and a JPEG at least four times too large is decoded at a half, quarter or eighth of its
    size, never at less than twice the wanted one (where the average difference may reach two grey levels).

    Args:
        name: what error messages call it; the path unless given.

    Raises:
        ValueError: as `read_image`, or a shape without pixels.
    """
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"shape: expected a (height, width) of at least (1, 1), got {tuple(shape)}")
    label = str(source) if name is None and not isinstance(source, bytes) else str(name)
    with _explained(label):
        if not isinstance(source, bytes):
            _check_ordinary(Path(source))
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=READABLE) as image:
            _check_content(image, label)
            orientation = _orientation(image)
            size = (height, width) if orientation >= 5 else (width, height)  # as stored: sideways or not
            smaller = image.draft(image.mode, (2 * size[0], 2 * size[1]))  # nothing, of other formats than JPEG
            image.load()
            area = None if smaller is None else smaller[1]  # of an odd width, half of the last pixel is too much
            rgb = image if image.mode == "RGB" and not image.has_transparency_data else _to_rgb(image)  # without a copy
            resized = rgb.resize(size, Image.Resampling.BICUBIC, box=area)
    upright = _UPRIGHT.get(orientation)
    return np.array(resized if upright is None else resized.transpose(upright))


def read_rgba(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "H W 4"]:
    """The picture in a file, upright, with its transparency (255 is opaque): for overlays and cut-out masks.

    Raises:
        ValueError: as `read_image`.
    """
    path = Path(path)
    with _explained(path):
        _check_ordinary(path)
        with Image.open(path, formats=READABLE) as image:
            _check_content(image, str(path))
            image.load()
            upright = _UPRIGHT.get(_orientation(image))
            transparent = image.has_transparency_data and image.mode not in _GREY16
            rgba = image.convert("RGBA") if transparent else _to_rgb(image).convert("RGBA")
        return np.array(rgba if upright is None else rgba.transpose(upright))


def image_shape(source: str | os.PathLike[str] | bytes, name: str | None = None) -> Shape:
    """(height, width) that `read_image` (of a path) or `decode_image` (of bytes) would give, from the header alone.

    Raises:
        ValueError: the path is missing, a folder, empty, no picture, or one of more than 100 megapixels.
    """
    label = str(source) if name is None and not isinstance(source, bytes) else str(name)
    with _explained(label):
        if not isinstance(source, bytes):
            _check_ordinary(Path(source))
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=READABLE) as image:
            _check_pixels(image)  # first: Pillow looks for a PNG's EXIF data behind its pixels, which it decodes
            sideways = _orientation(image, warn=False) >= 5
            return (image.width, image.height) if sideways else (image.height, image.width)


def encode_png(image: ArrayLike) -> bytes:
    """An image `[H, W, 3]`, or a mask `[H, W]` of truth values (0 and 255), as the bytes of a PNG file.

    Raises:
        ValueError: neither.
    """
    array = np.asarray(image)
    picture = Image.fromarray(array if array.dtype == bool and array.ndim == 2 else to_uint8(image))
    output = io.BytesIO()
    picture.save(output, "PNG")
    return output.getvalue()


def _read(source: Path | io.BytesIO, name: str) -> UInt8[np.ndarray, "H W 3"]:
    with Image.open(source, formats=READABLE) as image:
        _check_content(image, name)
        image.load()
        upright = _UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image)
    return np.array(rgb if upright is None else rgb.transpose(upright))


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are read")


def _check_content(image: Image.Image, name: str) -> None:
    _check_pixels(image)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a phone's JPEG with a preview
        log.warning("%s: an animation, its first frame is taken", name)


def _check_ordinary(path: Path) -> None:
    if path.is_dir():
        raise ValueError("is a folder, not a picture")
    if not path.exists():
        raise ValueError("no such file")
    if not path.is_file():  # a pipe would block for ever
        raise ValueError("is not an ordinary file")
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")


@contextlib.contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    """Turns everything that reading a file may raise into one line that names the file and the reason."""
    try:
        yield
    except _BOMB as error:
        raise ValueError(f"{path}: too many pixels, at most {MAX_PIXELS:,} are read") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture of a kind that can be read ({', '.join(READABLE)})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {_reason(error)}") from error
    except (OSError, *_DAMAGED) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the operating system's, not a decoder's
            raise ValueError(f"{path}: {_reason(error)}") from error
        raise ValueError(f"{path}: damaged picture ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """One line: the operating system's words without the path, which the caller names already."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _orientation(image: Image.Image, *, warn: bool = True) -> int:
    """1..8; a picture whose EXIF block is damaged is as good as one without."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, ValueError, *_DAMAGED) as error:
        if warn:
            name = getattr(image, "filename", "") or "picture"
            log.warning("%s: EXIF data ignored, it is damaged (%s)", name, _reason(error))
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _GREY16:
        return Image.fromarray(_grey16_to_uint8(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _grey16_to_uint8(image: Image.Image) -> UInt8[np.ndarray, "H W"]:
    """0..65535 to 0..255 by the high byte, as Pillow itself reads 16-bit RGB."""
    grey = np.asarray(image).astype(np.int64)
    grey8 = (grey >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    return np.where(grey == transparent, np.uint8(255), grey8) if isinstance(transparent, int) else grey8


def check_image(image: ArrayLike, name: str = "image") -> np.ndarray:
    """`image` as a NumPy array after checking that it is `[H, W, 3]`, not empty, uint8 or float.

    Raises:
        ValueError: it is not; `name` is what the message calls it.
    """
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"{name}: expected an RGB image [H, W, 3], got shape {array.shape}")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name}: expected uint8 or float in 0..255, got {array.dtype}")
    return array


def to_uint8(image: ArrayLike, name: str = "image") -> UInt8[np.ndarray, "H W 3"]:
    """An image `[H, W, 3]` as uint8: floats in 0..255 are rounded and clipped.

    Raises:
        ValueError: not an image, or not finite everywhere.
    """
    array = check_image(image, name)
    if array.dtype == np.uint8:
        return array
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values in 0..255, got NaN or infinity")
    return np.asarray(np.clip(np.rint(array), 0, 255), np.uint8)


def resize(image: ArrayLike, shape: Shape) -> Float[np.ndarray, "h w 3"]:
    """An image resized to `shape` (height, width) by antialiased bicubic interpolation, float32 in 0..255, not rounded.

    Equals `jax.image.resize(image, ..., method="cubic", antialias=True)` clipped to 0..255, so an image may be resized
    while loading or inside the network. The outer edges of the two images coincide (`coordinates.resize_points`).

    Raises:
        ValueError: not an image `[H, W, 3]`, or a shape without pixels.
    """
    array = check_image(image)
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"shape: expected a (height, width) of at least (1, 1), got {tuple(shape)}")
    planes = (Image.fromarray(np.ascontiguousarray(array[..., c], np.float32)) for c in range(3))  # mode "F"
    channels = [np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC)) for plane in planes]
    return np.asarray(np.stack(channels, axis=-1).clip(0, 255), np.float32)


def save_image(path: str | os.PathLike[str], image: ArrayLike) -> None:
    """Writes an image `[H, W, 3]`, uint8 or float in 0..255; the suffix (.png, .jpg, .jpeg, .webp) decides the format.

    The file appears whole or not at all, and an older one stays until then.

    Raises:
        ValueError: not an image, an unknown suffix, or a path that cannot be written.
    """
    path = Path(path)
    picture, kind = Image.fromarray(to_uint8(image)), _format(path)
    write_atomically(path, lambda file: picture.save(file, kind, quality=95))


def save_mask(path: str | os.PathLike[str], mask: ArrayLike) -> None:
    """Writes a mask `[H, W]` of truth values as an 8-bit grey PNG of 0 and 255, whole or not at all.

    Raises:
        ValueError: not a mask, or a path that cannot be written.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype != bool or 0 in array.shape:
        raise ValueError(f"mask: expected truth values [H, W], got shape {array.shape} {array.dtype}")
    picture = Image.fromarray(np.where(array, np.uint8(255), np.uint8(0)))
    write_atomically(path, lambda file: picture.save(file, "PNG"))


def save_animation(
    path: str | os.PathLike[str], frames: Sequence[ArrayLike], *, milliseconds: int | Sequence[int] = 700
) -> None:
    """Writes images `[H, W, 3]` of one shape as an animated GIF that repeats, whole or not at all.

    All frames share one palette of 256 colours, so that what does not move does not flicker.

    Args:
        milliseconds: that each frame stays, or one number for all.

    Raises:
        ValueError: no frames, not images, of different shapes, another suffix than .gif, or a path that cannot be
            written.
    """
    path = Path(path)
    _check_animation_suffix(path)
    pictures = [to_uint8(frame, "frames") for frame in frames]
    if not pictures or len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"frames: expected images of one shape, got {[picture.shape for picture in pictures]}")
    palette = Image.fromarray(np.concatenate(pictures)[::2, ::2].copy()).quantize(256)  # of a quarter: it takes long
    first, *others = (Image.fromarray(picture).quantize(palette=palette) for picture in pictures)
    stays = milliseconds if isinstance(milliseconds, int) else list(milliseconds)
    write_atomically(
        path,
        lambda file: first.save(file, "GIF", save_all=True, append_images=others, duration=stays, loop=0, disposal=1),
    )


def check_animation_writable(path: str | os.PathLike[str]) -> None:
    """Fails now rather than after the long work, if `save_animation(path, ...)` could not write there.

    Raises:
        ValueError: another suffix than .gif, the path is a folder, or its folder is missing or not writable.
    """
    _check_animation_suffix(Path(path))
    check_place(path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Fails now rather than after the long work, if `save_image(path, ...)` could not write there.

    Raises:
        ValueError: an unknown suffix, the path is a folder, or its folder is missing or not writable.
    """
    _format(Path(path))
    check_place(path)


def check_place(path: str | os.PathLike[str]) -> None:
    """Fails now rather than after the long work, if `write_atomically(path, ...)` could not write there.

    Raises:
        ValueError: the path is a folder, or its folder is missing or not writable.
    """
    with _temporary(Path(path)):
        pass


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` with a temporary file of the same folder and moves that to `path` when all went well.

    Raises:
        ValueError: the path is a folder, or its folder is missing, not writable or full.
    """
    path = Path(path)
    with _temporary(path) as temporary:
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, os.path.realpath(path))  # through a symbolic link to the file it stands for


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, gone afterwards; a mistake in `path` becomes a ValueError that names it."""
    temporary = None
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        folder = Path(os.path.realpath(path)).parent
        beside = folder / f".{secrets.token_hex(8)}.tmp"  # short: fits wherever the path itself does
        beside.open("xb").close()  # opened, not mkstemp: the user's umask decides who may read it
        temporary = beside
        yield temporary
    except (OSError, ValueError) as error:  # ValueError: the encoder's, of a picture too large for its format
        raise ValueError(f"{path}: cannot be written, {_reason(error)}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _format(path: Path) -> str:
    if path.suffix.lower() not in WRITABLE:
        raise ValueError(f"{path}: expected a name that ends in one of {', '.join(WRITABLE)}, got {path.suffix!r}")
    return WRITABLE[path.suffix.lower()]


def _check_animation_suffix(path: Path) -> None:
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path}: expected a name that ends in .gif, got {path.suffix!r}")
