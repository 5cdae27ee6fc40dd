"""PF-WILLOW: 10 classes of 10 images with 10 keypoints each, matched in all 900 ordered pairs of a class.

Ham, Cho, Schmid and Ponce, "Proposal flow" (CVPR 2016). Published as

    PF-dataset/<class>/<name>.png, .mat    www.di.ens.fr/willow/research/proposalflow/dataset/PF-dataset.zip
    test_pairs_pf.csv                      www.di.ens.fr/willow/research/cnngeometric/other_resources/test_pairs_pf.csv

Each `.mat` holds `pts_coord`, 2 x 10, rows x and y, MATLAB's pixels. The list of pairs repeats the coordinates, in the
same pixels; the two are compared so that a mixture of versions or a damaged file does not pass for a benchmark.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from rtn_jax.coordinates import from_matlab
from rtn_jax.data.files import FolderFiles
from rtn_jax.data.pairs import Benchmark, Pair, check_inside
from rtn_jax.data.published import matlab_numbers, published_list, top_folder
from rtn_jax.data.rows import collect, fields, finite_number, pair_id, read_csv, unique_ids

NAME = "PF-WILLOW"
FOLDER = "PF-dataset"
PAIRS_FILE = "test_pairs_pf.csv"
POINTS = 10
COORDINATES = tuple(f"{axis}{k}" for axis in ("XA", "YA", "XB", "YB") for k in range(1, POINTS + 1))
HEADER = ("imageA", "imageB", *COORDINATES)
TOLERANCE = 0.01
"""Pixels that the two copies of a coordinate may differ by; they are equal to 12 decimals as published."""


def pf_willow(data_dir: str | Path, *, split: str = "test", skip_bad: bool = False) -> Benchmark:
    """Reads the list of pairs and all keypoints; of the images only the headers.

    Args:
        data_dir: the folder that holds `PF-dataset` and `test_pairs_pf.csv`, or `PF-dataset` itself with the list
            beside or inside it.
        split: "test", the only one there is.
        skip_bad: leave out pairs that cannot be used, and list them in `left_out`, instead of failing.

    Returns:
        A benchmark whose images are named `<class>/<name>.png`, with the threshold `bbox-kp`, as published figures use.

    Raises:
        ValueError: another split; the folder or the list is not there; or a file is missing or is not as published,
            where the message names the file and the line of the list.
    """
    if split != "test":
        raise ValueError(f"split: {NAME} has only 'test', got {split!r}")
    folder = top_folder(data_dir, FOLDER, NAME)
    rows = read_csv(published_list(folder, (PAIRS_FILE,), NAME), HEADER)
    files = FolderFiles(folder)
    read_points = functools.cache(functools.partial(_read_points, files))
    pairs, left_out = collect(rows, functools.partial(_read_pair, read_points), skip_bad=skip_bad)
    return Benchmark(name=NAME, pairs=unique_ids(pairs), files=files, thresholds=("bbox-kp",), left_out=left_out)


def _read_pair(read_points: Callable[[str], Float[np.ndarray, "n 2"]], row: str) -> Pair:
    values = fields(row, HEADER)
    src, tgt = _image_name(values["imageA"]), _image_name(values["imageB"])
    listed = np.array([finite_number(name, values[name]) for name in COORDINATES]).reshape(2, 2, POINTS)
    points = []
    for image, coordinates in zip((src, tgt), listed, strict=True):
        points.append(read_points(image))
        apart = np.abs(points[-1] - from_matlab(coordinates.T)).max()
        if apart > TOLERANCE:
            raise ValueError(f"keypoints of {image!r} are up to {apart:.3g} pixels from those in its .mat file")
    category = PurePosixPath(src).parent.name
    return Pair(
        id=pair_id(category, src, tgt), src=src, tgt=tgt, category=category, src_points=points[0], tgt_points=points[1]
    )


def _image_name(path: str) -> str:
    """`PF-dataset/<class>/<name>.png` of the list to `<class>/<name>.png`."""
    parts = PurePosixPath(path).parts
    if len(parts) != 3 or parts[0] != FOLDER or ".." in parts or not path.endswith(".png"):
        raise ValueError(f"expected an image as {FOLDER}/<class>/<name>.png, got {path!r}")
    return "/".join(parts[1:])


def _read_points(files: FolderFiles, image: str) -> Float[np.ndarray, "n 2"]:
    """The ten keypoints of an image, in our pixels; also makes sure that the image is there and holds them."""
    shape = files.shape(image)
    path = (files.folder / image).with_suffix(".mat")
    points = np.asarray(from_matlab(matlab_numbers(path, "pts_coord", (2, POINTS)).T))
    check_inside(str(path), points, shape)
    return points
