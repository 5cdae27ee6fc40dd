"""PF-PASCAL: pairs of 20 PASCAL classes with keypoints, and the training pairs of the weakly supervised methods.

Ham, Cho, Schmid and Ponce, "Proposal flow: semantic correspondences from object proposals" (TPAMI 2018); the division
into 735 training, 308 validation and 299 test pairs goes back to Han et al., "SCNet" (ICCV 2017). Published as

    PF-dataset-PASCAL/JPEGImages/<id>.jpg, Annotations/<class>/<id>.mat
                                  www.di.ens.fr/willow/research/proposalflow/dataset/PF-dataset-PASCAL.zip
    test_pairs_pf_pascal.csv, val_pairs_pf_pascal.csv
                                  www.di.ens.fr/willow/research/cnngeometric/other_resources/
    train_pairs_pf_pascal.csv     passed on with the code of several methods, also as trn_pairs_pf_pascal.csv

Keypoints are those of the lists, boxes those of the annotations (`bbox`: left, top, right, bottom). Both refer to the
distributed JPEGs and are taken as MATLAB's pixels, the annotation tool's, as in PF-WILLOW: the code that came with the
lists normalises them as 1-based too. No source says so in words, and other evaluations use them as they are.

The training list that is passed on is no list of distinct pairs: it holds them as they are and swapped, either also
with `flip` = 1 (mirror both images), and some of its rows twice.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from rtn_jax.coordinates import Shape, flip_box, from_matlab
from rtn_jax.data.files import FolderFiles
from rtn_jax.data.pairs import Benchmark, Pair, check_box_inside, check_inside
from rtn_jax.data.published import matlab_numbers, published_list, top_folder
from rtn_jax.data.rows import collect, fields, finite_number, pair_id, read_csv, unique_ids

log = logging.getLogger(__name__)

NAME = "PF-PASCAL"
FOLDER = "PF-dataset-PASCAL"
IMAGES = "JPEGImages"
LISTS = {
    "test": ("test_pairs_pf_pascal.csv",),
    "val": ("val_pairs_pf_pascal.csv",),
    "train": ("train_pairs_pf_pascal.csv", "trn_pairs_pf_pascal.csv"),
}
"""The names under which each split's list is looked for."""

NO_TRAINING_LIST = "without the list of training pairs nothing is known of leaks: there is no leak-free figure"
"""The note of a split that was read without it."""

HEADER = ("source_image", "target_image", "class", "XA", "YA", "XB", "YB")
TRAIN_HEADER = ("source_image", "target_image", "class", "flip")
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""In PASCAL's order; the lists give the number, from 1."""

Annotated = Callable[[str, str], tuple[Shape, Float[np.ndarray, " 4"]]]
"""From an image's name and its class to the image's shape and the object's box."""


def pf_pascal(data_dir: str | Path, *, split: str = "test", skip_bad: bool = False, copies: int = 1) -> Benchmark:
    """Reads a split's list of pairs and the boxes of their objects; of the images only the headers.

    Args:
        data_dir: the folder that holds `PF-dataset-PASCAL` and the lists, or `PF-dataset-PASCAL` itself with the lists
            beside or inside it.
        split: "test", "val" (keypoints and boxes) or "train" (boxes only).
        skip_bad: leave out pairs that cannot be used, and list them in `left_out`, instead of failing.
        copies: of each training pair. 1: the rows as they are listed, mirrored where the list says so. 4: the two
            images once each as listed, mirrored, swapped, and swapped and mirrored, however often and however mirrored
            the list has them. Ids end in `-mirrored` where both images are, and in a number where a row is repeated.

    Returns:
        A benchmark whose images are named `JPEGImages/<id>.jpg`, with the threshold `img`, as published figures use
        (`bbox` and `bbox-kp` are possible too). A pair is `leaked` if its two images, in either order, are also a
        training pair; without a training list no pair is, and a warning and a note say so. With `skip_bad` a note
        says which rows of the training list are bad. Training pairs have no protocol.

    Raises:
        ValueError: another split or number of copies; the folder or the list is not there; or a file is missing or is
            not as published, where the message names the file and the line of the list.
    """
    if split not in LISTS:
        raise ValueError(f"split: {NAME} has {', '.join(map(repr, LISTS))}, got {split!r}")
    if copies not in (1, 4) or (copies == 4 and split != "train"):
        raise ValueError(f"copies: expected 1, or 4 for the split 'train', got {copies} for {split!r}")
    folder = top_folder(data_dir, FOLDER, NAME)
    files, path = FolderFiles(folder), published_list(folder, LISTS[split], NAME)
    annotated = functools.cache(functools.partial(_annotated, files))
    if split == "train":
        read = functools.partial(_read_training_pair, annotated)
        listed, left_out = collect(read_csv(path, TRAIN_HEADER), read, skip_bad=skip_bad)
        pairs = unique_ids(_four_copies(listed, files) if copies == 4 else listed)
        return Benchmark(name=NAME, pairs=pairs, files=files, protocol=None, left_out=left_out)
    trained, notes = _training_images(folder, skip_bad=skip_bad)
    read = functools.partial(_read_pair, annotated, trained)
    listed, left_out = collect(read_csv(path, HEADER), read, skip_bad=skip_bad)
    return Benchmark(
        name=NAME, pairs=unique_ids(listed), files=files, thresholds=("img",), left_out=left_out, notes=notes
    )


def _read_pair(annotated: Annotated, trained: frozenset[frozenset[str]], row: str) -> Pair:
    """A pair with keypoints."""
    values = fields(row, HEADER)
    pair = _with_boxes(annotated, values)
    points = _listed_points(values)
    for image, of_image in zip((pair.src, pair.tgt), points, strict=True):
        check_inside(image, of_image, annotated(image, pair.category)[0])
    leaked = frozenset((pair.src, pair.tgt)) in trained
    return dataclasses.replace(pair, src_points=points[0], tgt_points=points[1], leaked=leaked)


def _read_training_pair(annotated: Annotated, row: str) -> Pair:
    """A pair of the training list, mirrored if the list says so."""
    values = fields(row, TRAIN_HEADER)
    pair = _with_boxes(annotated, values)
    if values["flip"] not in ("0", "1"):
        raise ValueError(f"flip: expected 0 or 1, got {values['flip']!r}")
    widths = [annotated(image, pair.category)[0][1] for image in (pair.src, pair.tgt)]
    return _mirrored(pair, *widths) if values["flip"] == "1" else pair


def _with_boxes(annotated: Annotated, values: dict[str, str]) -> Pair:
    src, tgt = _image_name(values["source_image"]), _image_name(values["target_image"])
    category = _category(values["class"])
    boxes = [annotated(image, category)[1] for image in (src, tgt)]
    return Pair(id=pair_id(category, src, tgt), src=src, tgt=tgt, category=category, src_box=boxes[0], tgt_box=boxes[1])


def _image_name(path: str) -> str:
    """`PF-dataset-PASCAL/JPEGImages/<id>.jpg` of the list to `JPEGImages/<id>.jpg`."""
    parts = PurePosixPath(path).parts
    if parts[:-1] not in ((FOLDER, IMAGES), (IMAGES,)) or not path.endswith(".jpg"):
        raise ValueError(f"expected an image as {FOLDER}/{IMAGES}/<id>.jpg, got {path!r}")
    return f"{IMAGES}/{parts[-1]}"


def _category(text: str) -> str:
    """The class's name from its name or its number."""
    if text in CLASSES:
        return text
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= len(CLASSES):
        raise ValueError(f"class: expected 1 to {len(CLASSES)} or the name of a PASCAL class, got {text!r}")
    return CLASSES[number - 1]


def _listed_points(values: dict[str, str]) -> list[Float[np.ndarray, "n 2"]]:
    """The keypoints of source and target from the four columns of numbers joined by `;`, in our pixels."""
    columns = {name: [finite_number(name, text) for text in values[name].split(";")] for name in HEADER[3:]}
    counts = [len(numbers) for numbers in columns.values()]
    if len(set(counts)) != 1:
        raise ValueError(f"{', '.join(columns)}: expected equally many numbers, got {', '.join(map(str, counts))}")
    return [np.asarray(from_matlab(np.stack([columns[f"X{k}"], columns[f"Y{k}"]], axis=1))) for k in "AB"]


def _annotated(files: FolderFiles, image: str, category: str) -> tuple[Shape, Float[np.ndarray, " 4"]]:
    """The shape of an image and the box of its object, in our pixels; makes sure that both files are there."""
    shape = files.shape(image)
    path = files.folder / "Annotations" / category / f"{PurePosixPath(image).stem}.mat"
    corners = matlab_numbers(path, "bbox", (None, 4))[0].reshape(2, 2)  # every published reader takes the first row
    box = np.asarray(from_matlab(corners)).reshape(4)
    if not (box[2:] > box[:2]).all():
        raise ValueError(f"{path}: expected 'bbox' as left, top, right, bottom, got {corners.reshape(4).tolist()}")
    check_box_inside(f"{path}: bbox", box, shape)
    return shape, box


def _training_images(folder: Path, *, skip_bad: bool) -> tuple[frozenset[frozenset[str]], tuple[str, ...]]:
    """The pairs of images of the training list, in either order, and notes on what is not known of them."""
    try:
        path = published_list(folder, LISTS["train"], NAME)
    except ValueError as error:
        log.warning("no pair is marked as leaked into the training list, which is not there: %s", error)
        return frozenset(), (NO_TRAINING_LIST,)

    def read(row: str) -> frozenset[str]:
        values = fields(row, TRAIN_HEADER)
        return frozenset((_image_name(values["source_image"]), _image_name(values["target_image"])))

    trained, bad = collect(read_csv(path, TRAIN_HEADER), read, skip_bad=skip_bad)
    if not bad:
        return frozenset(trained), ()
    if len(bad) == 1:
        return frozenset(trained), (f"1 row of {path} is bad, leaks of that pair are unknown: {bad[0]}",)
    unknown = f"{len(bad)} rows of {path} are bad, leaks of those pairs are unknown, the first: {bad[0]}"
    return frozenset(trained), (unknown,)


def _mirrored(pair: Pair, src_width: int, tgt_width: int) -> Pair:
    """Both images of a training pair mirrored left to right (or back), with their boxes."""
    suffix = "-mirrored"
    return dataclasses.replace(
        pair,
        id=pair.id.removesuffix(suffix) if pair.src_flipped else pair.id + suffix,
        src_box=flip_box(pair.src_box, src_width),
        tgt_box=flip_box(pair.tgt_box, tgt_width),
        src_flipped=not pair.src_flipped,
        tgt_flipped=not pair.tgt_flipped,
    )


def _swapped(pair: Pair) -> Pair:
    """Source and target of a training pair exchanged."""
    name = pair_id(pair.category, pair.tgt, pair.src)
    return dataclasses.replace(pair, id=name, src=pair.tgt, tgt=pair.src, src_box=pair.tgt_box, tgt_box=pair.src_box)


def _four_copies(listed: Iterable[Pair], files: FolderFiles) -> list[Pair]:
    """Every two images of the list once as they are, mirrored, swapped, and swapped and mirrored."""
    width = functools.cache(lambda image: files.shape(image)[1])
    seen: set[tuple[str, frozenset[str]]] = set()
    copies = []
    for pair in listed:
        key = (pair.category, frozenset((pair.src, pair.tgt)))
        if key in seen:
            continue
        seen.add(key)
        upright = _mirrored(pair, width(pair.src), width(pair.tgt)) if pair.src_flipped else pair
        for copy in (upright, _swapped(upright)):
            copies += [copy, _mirrored(copy, width(copy.src), width(copy.tgt))]
    return copies
