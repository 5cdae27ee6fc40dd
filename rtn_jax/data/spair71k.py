"""SPair-71k: 70,958 pairs of images of 18 classes with keypoints and boxes; 12,234 of them are the test pairs.

Min, Lee, Ponce and Cho, "SPair-71k: a large-scale benchmark for semantic correspondence" (2019). Published as
cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz:

    SPair-71k/JPEGImages/<class>/<name>.jpg
              PairAnnotation/{trn,val,test}/<number>-<source>-<target>:<class>.json
              Layout/large/{trn,val,test}.txt          one pair a line: the name of its annotation without `.json`

Keypoints and boxes are pixels of the images as distributed. Evaluators index the image with them, so they are taken as
they stand, the centre of the top-left pixel being (0, 0). PCK is relative to the target's box.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rtn_jax.coordinates import Shape
from rtn_jax.data.files import FolderFiles
from rtn_jax.data.pairs import Benchmark, Pair, check_box_inside, check_inside
from rtn_jax.data.published import top_folder
from rtn_jax.data.rows import collect, json_object, pair_id, read_json_lines, unique_ids

FOLDER = "SPair-71k"
IMAGES = "JPEGImages"
SPLITS = ("trn", "val", "test")
KEYS = (
    *("src_imname", "trg_imname", "category"),
    *("src_kps", "trg_kps", "src_bndbox", "trg_bndbox"),
)
"""What is read of an annotation. The published ones also hold the images' sizes, which are compared with the images."""

_NAME = re.compile(r"\d+-(?P<src>[^-:/\\]+)-(?P<trg>[^-:/\\]+):(?P<category>[^-:/\\]+)")


def spair71k(data_dir: str | Path, *, split: str = "test", skip_bad: bool = False) -> Benchmark:
    """Reads the list and the annotations of a split; images are decoded when they are asked for.

    Args:
        data_dir: the folder that holds `SPair-71k`, or `SPair-71k` itself.
        split: `test`, `val` or `trn`.
        skip_bad: leave bad pairs out instead of failing; `left_out` says which.

    Returns:
        A benchmark whose images are named `<class>/<name>.jpg`, in the list's order, with keypoints `[n, 2]` and boxes
        `[4]` in pixels and the threshold `bbox`, as published figures use.

    Raises:
        ValueError: the folder or the list is not there, or a listed pair's annotation or image is missing or is not as
            published; the message names the line of the list and the file.
    """
    if split not in SPLITS:
        raise ValueError(f"split: SPair-71k has {', '.join(SPLITS)}, got {split!r}")
    folder = top_folder(data_dir, FOLDER, "SPair-71k")
    annotations = folder / "PairAnnotation" / split
    files = FolderFiles(folder / IMAGES)
    shape = functools.cache(files.shape)
    pairs, left_out = collect(
        read_json_lines(folder / "Layout" / "large" / f"{split}.txt"),
        lambda line: _read_pair(annotations, line.strip(), shape),
        skip_bad=skip_bad,
    )
    return Benchmark(
        name="SPair-71k",
        pairs=unique_ids(pairs),
        files=files,
        thresholds=("bbox",),
        alphas=(0.05, 0.10, 0.15),
        left_out=left_out,
    )


def _read_pair(annotations: Path, name: str, shape: Callable[[str], Shape]) -> Pair:
    listed = _NAME.fullmatch(name)
    if not listed:
        raise ValueError(f"expected a pair as <number>-<source>-<target>:<class>, got {name[:80]!r}")
    path = annotations / f"{name}.json"
    try:
        return _pair_of(_read_json(path), listed, shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json_object(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("cannot be read as text") from error
    except OSError as error:
        raise ValueError(f"cannot be read, {error.strerror}") from error
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise ValueError(f"expected the keys {', '.join(KEYS)}, {', '.join(missing)} not found")
    return content


def _pair_of(content: dict[str, Any], listed: re.Match[str], shape: Callable[[str], Shape]) -> Pair:
    category = listed["category"]
    if content["category"] != category:
        raise ValueError(f"category: expected {category!r} as in the list, got {content['category']!r}")
    images, points, boxes = {}, {}, {}
    for side in ("src", "trg"):
        file = f"{listed[side]}.jpg"
        if content[f"{side}_imname"] != file:
            raise ValueError(f"{side}_imname: expected {file!r} as in the list, got {content[f'{side}_imname']!r}")
        images[side] = f"{category}/{file}"
        points[side] = _numbers(content, f"{side}_kps", (None, 2))
        boxes[side] = _numbers(content, f"{side}_bndbox", (4,))
        _check_size(content.get(f"{side}_imsize"), f"{side}_imsize", images[side], shape(images[side]))
        check_inside(f"{side}_kps", points[side], shape(images[side]))
        check_box_inside(f"{side}_bndbox", boxes[side], shape(images[side]))
    return Pair(
        id=pair_id(category, images["src"], images["trg"]),
        src=images["src"],
        tgt=images["trg"],
        category=category,
        src_points=points["src"],
        tgt_points=points["trg"],
        src_box=boxes["src"],
        tgt_box=boxes["trg"],
    )


def _numbers(content: dict[str, Any], key: str, expected: tuple[int | None, ...]) -> np.ndarray:
    """An array of finite numbers; None stands for any length above zero."""
    form = "[n, 2]" if expected == (None, 2) else str(list(expected))
    try:
        array = np.asarray(content[key])
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    fits = array.ndim == len(expected) and all(n in (None, m) and m for n, m in zip(expected, array.shape, strict=True))
    if not fits or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ValueError(f"{key}: expected finite numbers {form}, got {str(content[key])[:80]}")
    return array.astype(np.float64)


def _check_size(stated: Any, key: str, image: str, shape: Shape) -> None:
    """That an annotation belongs to the image that is there: `stated` is [width, height, channels], or None."""
    height, width = shape
    if stated is not None and (not isinstance(stated, list) or stated[:2] != [width, height]):
        raise ValueError(f"{key}: expected {width} x {height} as {image} has, got {str(stated)[:40]}")
