"""Photos with a class and perhaps a box of the object: a folder of class folders, or a table.

A folder may be nested as it likes; a photo's class is the name of the folder it lies in (Caltech-101's layout is
`101_ObjectCategories/<class>/image_0001.jpg`). Photos at the top have no class.

A table is a CSV file with a header. It needs the columns `image` (a path below the table's folder) and `class`, and
may have `xmin`, `ymin`, `xmax`, `ymax`: the object's box in pixels, counted from the image's top left corner, so that
the whole image is `0, 0, width, height`; left empty where it is not known. With `width` and `height` the images have to
be of that size, so that boxes are not taken for those of another copy. Other columns are ignored.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rtn_jax.coordinates import Shape, from_edges
from rtn_jax.data.files import FolderFiles
from rtn_jax.data.pairs import check_box_inside
from rtn_jax.data.photos import photo_folder
from rtn_jax.data.rows import collect, fields, finite_number, read_csv, relative_name

COLUMNS = ("image", "class")
BOX = ("xmin", "ymin", "xmax", "ymax")
SIZE = ("width", "height")

CLUTTER = "BACKGROUND_Google"
"""A folder of Caltech-101 that is no class: its photos have nothing in common."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo of an object."""

    name: str
    """As `Files` takes it."""
    category: str = ""
    """Its class; empty if it has none."""
    box: Float[np.ndarray, " 4"] | None = None
    """(left, top, right, bottom) of the object, our pixels of the photo as distributed."""
    width: int = 0
    """Of the photo, pixels; known where the box is."""


def class_folder(folder: Path) -> tuple[FolderFiles, tuple[Photo, ...]]:
    """Every photo below a folder, with the folder it lies in as its class.

    Raises:
        ValueError: if the folder does not exist or holds no photo.
    """
    return FolderFiles(folder), tuple(_in_folder(file.relative_to(folder)) for file in photo_folder(folder))


def class_table(path: Path) -> tuple[FolderFiles, tuple[Photo, ...]]:
    """The photos of a table, one per row, all checked to be there (their headers alone are read).

    Raises:
        ValueError: the file cannot be read or lacks a column; or a row is too short, has no class, or names an image
            that is not there, of another size than listed, or with a box that is empty or outside; the message names
            the file and the line.
    """
    header = _header(path)
    rows = read_csv(path, header)
    files = FolderFiles(path.parent)
    shape = functools.cache(files.shape)
    return files, collect(rows, lambda row: _listed(fields(row, header), shape), skip_bad=False)[0]


def _header(path: Path) -> Sequence[str]:
    """The table's first row if it will do; else what is needed, so that `read_csv` says what is wrong."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return COLUMNS
    return header if set(COLUMNS) <= set(header) else COLUMNS


def _in_folder(file: Path) -> Photo:
    category = file.parent.name
    return Photo(file.as_posix(), "" if category == CLUTTER else category)


def _listed(values: Mapping[str, str], shape: Callable[[str], Shape]) -> Photo:
    """A row of a table."""
    name = relative_name("image", values["image"])
    if not values["class"]:
        raise ValueError("class: expected a name, got ''")
    height, width = shape(name)
    if all(column in values for column in SIZE):
        listed = [finite_number(column, values[column]) for column in SIZE]
        if listed != [width, height]:
            expected = "{:g} x {:g}".format(*listed)
            raise ValueError(f"width, height: expected {name} to be of {expected} pixels, got {width} x {height}")
    box = [values.get(column, "") for column in BOX]
    if not any(box):
        return Photo(name, values["class"])
    corners = [finite_number(column, text) for column, text in zip(BOX, box, strict=True)]
    return Photo(name, values["class"], _checked_box(corners, (height, width)), width)


def _checked_box(corners: list[float], shape: Shape) -> Float[np.ndarray, " 4"]:
    """A box of a table in our pixels."""
    if not (corners[0] < corners[2] and corners[1] < corners[3]):
        raise ValueError(f"{', '.join(BOX)}: expected a box with an area, got {', '.join(f'{c:g}' for c in corners)}")
    box = np.asarray(from_edges(np.asarray(corners).reshape(2, 2)), np.float64).reshape(4)
    check_box_inside("box", box, shape)
    return box
