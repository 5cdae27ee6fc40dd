"""PF-WILLOW: 10 classes of 10 images with 10 keypoints each, matched in all 900 ordered pairs of a class.

Ham, Cho, Schmid and Ponce, "Proposal flow" (CVPR 2016). Published as

    PF-dataset/<class>/<name>.png, .mat    www.di.ens.fr/willow/research/proposalflow/dataset/PF-dataset.zip
    test_pairs_pf.csv                      www.di.ens.fr/willow/research/cnngeometric/other_resources/test_pairs_pf.csv

Each `.mat` holds `pts_coord`, 2 x 10, rows x and y, MATLAB's pixels. The list of pairs repeats the coordinates, in the
same pixels; the two are compared so that a mixture of versions or a damaged file does not pass for a benchmark.
"""

from __future__ import annotations

import csv
import functools
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, UInt8

from rtn_jax.coordinates import from_matlab
from rtn_jax.data.pairs import Benchmark, KeypointPair
from rtn_jax.images import read_image

FOLDER = "PF-dataset"
PAIRS_FILE = "test_pairs_pf.csv"
POINTS = 10
HEADER = ("imageA", "imageB", *(f"{axis}{k}" for axis in ("XA", "YA", "XB", "YB") for k in range(1, POINTS + 1)))
TOLERANCE = 0.01
"""Pixels that the two copies of a coordinate may differ by; they are equal to 12 decimals as published."""

# What scipy raises on a damaged or different file, seen by damaging files at random; NotImplementedError is MATLAB 7.3.
_DAMAGED = (
    *(OSError, ValueError, TypeError, LookupError, NameError, ArithmeticError),
    *(MemoryError, NotImplementedError, zlib.error),
)


def pf_willow(data_dir: str | Path) -> Benchmark:
    """Reads the list of pairs and all keypoints; images are decoded when the benchmark's `read_image` is called.

    Args:
        data_dir: the folder that holds `PF-dataset` and `test_pairs_pf.csv`, or `PF-dataset` itself with the list
            beside or inside it.

    Returns:
        A benchmark whose images are named `<class>/<name>.png`, with the threshold `bbox-kp`, as published figures use.

    Raises:
        ValueError: if the folder or the list is not there, or a file is missing or is not as published; the message
            names the file and the line of the list.
    """
    folder, pairs_file = _locate(Path(data_dir))
    read_points = functools.cache(functools.partial(_read_points, folder))
    pairs = []
    for line, row in _read_rows(pairs_file):
        try:
            pairs.append(_read_pair(row, read_points))
        except ValueError as error:
            raise ValueError(f"{pairs_file} line {line}: {error}") from error
    return Benchmark(
        name="PF-WILLOW",
        pairs=tuple(pairs),
        read_image=functools.partial(_read_image, folder),
        threshold="bbox-kp",
        alphas=(0.05, 0.10, 0.15),
    )


def _locate(data_dir: Path) -> tuple[Path, Path]:
    """The folder of images and the list of pairs."""
    folders = [data_dir / FOLDER] + ([data_dir] if data_dir.absolute().name == FOLDER else [])
    folder = next((candidate for candidate in folders if candidate.is_dir()), None)
    if folder is None:
        raise ValueError(f"data_dir: PF-WILLOW needs the folder {FOLDER!r}, not found: {_listed(folders)}")
    lists = [folder.absolute().parent / PAIRS_FILE, folder / PAIRS_FILE]
    pairs_file = next((candidate for candidate in lists if candidate.is_file()), None)
    if pairs_file is None:
        raise ValueError(f"data_dir: PF-WILLOW needs the list {PAIRS_FILE!r}, not found: {_listed(lists)}")
    return folder, pairs_file


def _listed(paths: list[Path]) -> str:
    return " or ".join(str(path) for path in paths)


def _read_rows(pairs_file: Path) -> list[tuple[int, list[str]]]:
    """The rows of the list below its header, with their line numbers; empty lines are left out."""
    try:
        with pairs_file.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{pairs_file}: cannot be read as a table of comma-separated values: {error}") from error
    if not rows or tuple(rows[0][1]) != HEADER:
        got = ",".join(rows[0][1])[:80] if rows else "an empty file"
        raise ValueError(f"{pairs_file}: expected the header {','.join(HEADER[:3])},...,{HEADER[-1]}, got {got}")
    if len(rows) == 1:
        raise ValueError(f"{pairs_file}: expected at least one pair below the header, got none")
    return rows[1:]


def _read_pair(row: list[str], read_points: Callable[[str], Float[np.ndarray, "n 2"]]) -> KeypointPair:
    if len(row) != len(HEADER):
        raise ValueError(f"expected {len(HEADER)} columns, got {len(row)}")
    src, tgt = (_image_name(path) for path in row[:2])
    listed = np.array([_number(name, text) for name, text in zip(HEADER[2:], row[2:], strict=True)])
    points = []
    for image, coordinates in zip((src, tgt), listed.reshape(2, 2, POINTS), strict=True):
        points.append(read_points(image))
        apart = np.abs(points[-1] - from_matlab(coordinates.T)).max()
        if apart > TOLERANCE:
            raise ValueError(f"keypoints of {image!r} are up to {apart:.3g} pixels from those in its .mat file")
    return KeypointPair(
        src=src, tgt=tgt, src_points=points[0], tgt_points=points[1], category=PurePosixPath(src).parent.name
    )


def _image_name(path: str) -> str:
    """`PF-dataset/<class>/<name>.png` of the list to `<class>/<name>.png`."""
    parts = PurePosixPath(path).parts
    if len(parts) != 3 or parts[0] != FOLDER or ".." in parts or not path.endswith(".png"):
        raise ValueError(f"expected an image as {FOLDER}/<class>/<name>.png, got {path!r}")
    return "/".join(parts[1:])


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {text!r}")
    return number


def _read_points(folder: Path, image: str) -> Float[np.ndarray, "n 2"]:
    """The ten keypoints of an image, in our pixels; also makes sure that the image is there."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not (folder / image).is_file():
        raise ValueError(f"image not found: {folder / image}")
    path = (folder / image).with_suffix(".mat")
    if not path.is_file():
        raise ValueError(f"keypoints not found: {path}")
    try:
        content = loadmat(path)
    except (*_DAMAGED, MatReadError) as error:
        raise ValueError(f"{path}: cannot be read as a MATLAB file: {' '.join(str(error).split())}") from error
    if "pts_coord" not in content:
        names = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise ValueError(f"{path}: expected a variable 'pts_coord', got {names}")
    points = content["pts_coord"]
    if points.shape != (2, POINTS) or points.dtype.kind not in "iuf":
        got = f"{list(points.shape)} {points.dtype}"
        raise ValueError(f"{path}: expected 'pts_coord' of [2, {POINTS}] numbers, got {got}")
    if not np.isfinite(points).all():
        raise ValueError(f"{path}: expected finite coordinates in 'pts_coord', got {points[~np.isfinite(points)][0]}")
    return np.asarray(from_matlab(points.T.astype(np.float64)))


def _read_image(folder: Path, image: str) -> UInt8[np.ndarray, "H W 3"]:
    """A function of the module and not a closure: worker processes receive it by pickle."""
    return read_image(folder / image)
