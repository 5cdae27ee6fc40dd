"""Caltech-101: pairs of images of 101 classes, whose objects' outlines are known. 1,515 pairs are the published list.

Fei-Fei, Fergus and Perona (CVPR workshop 2004); as a benchmark of correspondence Kim, Liu, Sha and Grauman, "Deformable
spatial pyramid matching" (CVPR 2013), and Rocco, Arandjelovic and Sivic (CVPR 2017). Published as

    101_ObjectCategories/<class>/image_0001.jpg    www.vision.caltech.edu/Image_Datasets/Caltech101/
    Annotations/<class>/annotation_0001.mat        from there too; four classes have other names, `RENAMED`
    test_pairs_caltech_with_category.csv           www.di.ens.fr/willow/research/weakalign/other_resources/

A row of the list is: source image, target image, number of the class, x and y of the source's outline, x and y of the
target's; the last four are numbers with commas between. These outlines, filled, are the masks of published figures,
with coordinates taken as they stand (the centre of the top-left pixel being (0, 0)). `outlines="annotations"` fills
those of the `.mat` files instead, as the first evaluation, in MATLAB, did: `obj_contour`, 2 x n, rows x and y, relative
to the corner of `box_coord` (top, bottom, left, right), MATLAB's pixels.

Direction: published label transfer lays the field on the list's *target* image and pulls the *source's* mask through it
onto the target, where the two masks are compared. Our fields live on `Pair.src`. So `Pair.src` is the list's target,
`Pair.tgt` the list's source, and the mask of `tgt`, pulled through the mapping, is compared with that of `src`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from rtn_jax.coordinates import Shape, distance_outside, from_matlab
from rtn_jax.data.files import FolderFiles
from rtn_jax.data.pairs import Benchmark, Pair, check_inside
from rtn_jax.data.published import matlab_numbers, published_list, top_folder
from rtn_jax.data.rows import Row, collect, fields, finite_number, pair_id, read_any_csv, unique_ids

FOLDER = "101_ObjectCategories"
PAIRS_FILE = "test_pairs_caltech_with_category.csv"
COLUMNS = ("source", "target", "class", "source_x", "source_y", "target_x", "target_y")
"""What we call the list's columns; the words of its header are nobody's business."""
CLASSES = 102
"""The largest number that may stand for a class: there are 101, and a folder of clutter. The images' folders say which
class a pair is of; how the list counts them is not known for sure."""
RENAMED = {
    "airplanes": "Airplanes_Side_2",
    "Faces": "Faces_2",
    "Faces_easy": "Faces_3",
    "Motorbikes": "Motorbikes_16",
}
"""Classes that have another name in `Annotations`."""
TOLERANCE = 0.01
"""Pixels by which an image's outline may differ from row to row."""
LARGE = 0.01
"""Share of an image from which an outline inside it holds some pixel for sure: no need to fill it to see."""

Outlines = Literal["list", "annotations"]
Outline = Float[np.ndarray, "n 2"]


def caltech101(
    data_dir: str | Path, *, split: str = "test", skip_bad: bool = False, outlines: Outlines = "list"
) -> Benchmark:
    """Reads the list of pairs with all outlines; images are decoded and masks filled when they are asked for.

    Args:
        data_dir: the folder that holds `101_ObjectCategories` and the list, or `101_ObjectCategories` itself with the
            list beside or inside it.
        split: `test`, there is no other.
        skip_bad: leave bad rows out instead of failing; `left_out` says which.
        outlines: where masks come from: the list, or the `.mat` files of `Annotations`, beside the images' folder.

    Returns:
        A benchmark of masks whose images are named `<class>/image_0001.jpg`. The list's *target* is `Pair.src`, where
        the field lives, and its source is `Pair.tgt` (module docstring).

    Raises:
        ValueError: a folder or the list is not there, or an image or an outline is missing or is not as published, or
            an outline holds no pixel of its image; the message names the line of the list and the file.
    """
    if split != "test":
        raise ValueError(f"split: Caltech-101 has only 'test', got {split!r}")
    if outlines not in get_args(Outlines):
        raise ValueError(f"outlines: expected one of {', '.join(get_args(Outlines))}, got {outlines!r}")
    folder = top_folder(data_dir, FOLDER, "Caltech-101")
    rows = _read_rows(published_list(folder, [PAIRS_FILE], "Caltech-101"))
    outline_of: Callable[[str, Sequence[str]], Outline] = _listed_outline
    if outlines == "annotations":
        annotations = top_folder(folder.absolute().parent, "Annotations", "Caltech-101")
        outline_of = functools.partial(_annotated_outline, annotations)
    found: dict[str, Outline] = {}
    read = functools.partial(_read_row, outline_of, functools.cache(FolderFiles(folder).shape), found)
    pairs, left_out = collect(rows, read, skip_bad=skip_bad)
    files = CaltechFiles(folder, found)
    return Benchmark(name="Caltech-101", pairs=unique_ids(pairs), files=files, protocol="masks", left_out=left_out)


@dataclasses.dataclass(frozen=True)
class CaltechFiles(FolderFiles):
    """Images below `101_ObjectCategories`, and their masks."""

    outlines: Mapping[str, Outline]
    """By the image's name, (x, y) pixels, closed from the last point to the first."""

    def mask(self, name: str) -> Bool[np.ndarray, "H W"]:
        if name not in self.outlines:
            raise ValueError(f"{self.folder / name}: no outline is known")
        mask = _filled(self.outlines[name], self.shape(name))
        if not mask.any():
            raise ValueError(f"{self.folder / name}: its outline holds no pixel of the image")
        return mask


def _read_rows(path: Path) -> list[Row[str]]:
    """The rows below the header, whose words no evaluation looks at."""
    header, rows = read_any_csv(path)
    if len(header) != len(COLUMNS) or header[0].endswith(".jpg"):
        got = ",".join(header)[:80] if header else "an empty file"
        raise ValueError(f"{path}: expected a header of {len(COLUMNS)} columns, got {got}")
    if not rows:
        raise ValueError(f"{path}: expected at least one pair below the header, got none")
    return rows


def _read_row(
    outline_of: Callable[[str, Sequence[str]], Outline],
    shape: Callable[[str], Shape],
    found: dict[str, Outline],
    line: str,
) -> Pair:
    """A row's pair; adds the outlines of its images to `found`."""
    row = fields(line, COLUMNS)
    listed_src, listed_tgt = (_image_name(row[side]) for side in ("source", "target"))
    category = PurePosixPath(listed_src).parent.name
    if PurePosixPath(listed_tgt).parent.name != category:
        raise ValueError(f"expected two images of one class, got {row['source']!r} and {row['target']!r}")
    _check_class(row["class"], category)
    for image, side in ((listed_src, "source"), (listed_tgt, "target")):
        size = shape(image)
        outline = outline_of(image, (row[f"{side}_x"], row[f"{side}_y"]))
        if image not in found:
            _check_outline(image, outline, size)
            found[image] = outline
        elif len(found[image]) != len(outline) or np.abs(found[image] - outline).max() > TOLERANCE:
            raise ValueError(f"{image}: its outline differs from that of an earlier row")
    return Pair(
        id=pair_id(category, listed_tgt, listed_src), src=listed_tgt, tgt=listed_src, category=category, has_masks=True
    )


def _check_class(text: str, category: str) -> None:
    """That the class's column is the images' folder, or a number that some class may have."""
    number = text.removesuffix(".0")
    if text != category and not (number.isascii() and number.isdigit() and len(number) <= 3 and int(number) <= CLASSES):
        raise ValueError(f"class: expected {category!r} or a number up to {CLASSES}, got {text[:40]!r}")


def _image_name(path: str) -> str:
    """`101_ObjectCategories/<class>/image_0001.jpg` of the list to `<class>/image_0001.jpg`."""
    parts = PurePosixPath(path).parts
    if len(parts) != 3 or ".." in parts or "/" in parts or not path.endswith(".jpg"):
        raise ValueError(f"expected an image as {FOLDER}/<class>/image_0001.jpg, got {path!r}")
    return "/".join(parts[1:])


def _listed_outline(image: str, columns: Sequence[str]) -> Outline:
    x, y = ([finite_number(f"outline of {image}", part) for part in text.rstrip(", ").split(",")] for text in columns)
    if len(x) != len(y):
        raise ValueError(f"outline of {image}: expected as many y as x, {len(x)}, got {len(y)}")
    return np.stack([x, y], axis=-1)


def _annotated_outline(annotations: Path, image: str, _: Sequence[str]) -> Outline:
    """The outline in an image's `.mat` file, in our pixels; the list's columns are not looked at."""
    from rtn_jax.weights.matfile import open_variable

    category, name = image.split("/")
    folders = [annotations / folder for folder in (RENAMED.get(category, category), category)]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])  # a common script renames them back
    path = folder / f"{PurePosixPath(name).stem.replace('image', 'annotation')}.mat"
    if not path.is_file():
        raise ValueError(f"outline not found: {path}")
    with open_variable(path, "obj_contour") as value:
        points = value.shape[-1]
    contour = matlab_numbers(path, "obj_contour", (2, points))
    top, _, left, _ = matlab_numbers(path, "box_coord", (1, 4))[0]
    with np.errstate(over="ignore"):  # of a damaged file: infinitely far outside the image, which the caller checks
        return np.asarray(from_matlab(contour.T + np.array([left, top])))


def _check_outline(image: str, outline: Outline, shape: Shape) -> None:
    """That it lies on its image, but for what annotators click past the border, and its mask will not be empty."""
    what = f"outline of {image}"
    if len(outline) < 3:
        raise ValueError(f"{what}: expected at least 3 points, got {len(outline)}")
    check_inside(what, outline, shape, "point")
    x, y = outline.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    inside = distance_outside(outline, shape).max() == 0
    if not (inside and area >= LARGE * shape[0] * shape[1]) and not _filled(outline, shape).any():
        raise ValueError(f"{what}: it holds no pixel of the image of {shape[1]} x {shape[0]} pixels")


def _filled(outline: Outline, shape: Shape) -> Bool[np.ndarray, "H W"]:
    """The mask inside an outline, as published evaluations fill it."""
    from skimage.draw import polygon

    mask = np.zeros(shape, bool)
    mask[polygon(outline[:, 1], outline[:, 0], shape)] = True
    return mask
