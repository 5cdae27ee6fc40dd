"""Photos to train on without any data set: those that ship inside installed packages, and a folder of one's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from rtn_jax.images import read_image

_FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "page": ("skimage", "data/page.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}

BUILTIN_HELD_OUT = ("chelsea", "motorcycle")
"""Photos that no training run may see: two of objects, in colour, textured all over."""

BUILTIN_TRAIN = tuple(name for name in _FILES if name not in BUILTIN_HELD_OUT)
"""The other photos: seven in colour, six in grey."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def builtin_photos() -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The photos that ship inside the wheels of scikit-image and matplotlib, by name, RGB; nothing is downloaded.

    The files are read by path: `skimage.data`'s own functions fall back to a download. Grey photos have three equal
    channels.

    Returns:
        The photos of `BUILTIN_TRAIN` and `BUILTIN_HELD_OUT`, at their own sizes (384 x 191 to 1411 x 1411).

    Raises:
        ValueError: if an installed package does not hold its file, as repackaged ones may not.
    """
    return {name: _read(name, package, path) for name, (package, path) in _FILES.items()}


def photo_folder(path: str | Path) -> tuple[Path, ...]:
    """All images below a folder, by suffix in either case, sorted by path; hidden files and folders are left out.

    Raises:
        ValueError: if the folder does not exist or holds no image.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"path: expected a folder of photos, got {str(folder)!r}, which is not a folder")
    photos = tuple(sorted(file for file in folder.rglob("*") if _is_photo(file.relative_to(folder)) and file.is_file()))
    if not photos:
        raise ValueError(f"path: expected images ({', '.join(SUFFIXES)}) below {str(folder)!r}, found none")
    return photos


def _is_photo(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)  # such as ._cat.jpg, which macOS puts into archives
    return relative.suffix.lower() in SUFFIXES and not hidden


def _read(name: str, package: str, path: str) -> UInt8[np.ndarray, "H W 3"]:
    file = resources.files(package) / path
    if not file.is_file():
        raise ValueError(f"{name}: the installed {package} does not hold {path}; reinstall it from its wheel")
    with resources.as_file(file) as location:
        return read_image(location)
