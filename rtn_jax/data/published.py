"""What data sets published as folders and MATLAB files share: where they lie, and arrays whose shape is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float


def top_folder(data_dir: str | Path, name: str, dataset: str) -> Path:
    """The published top folder `name`: inside `data_dir`, or `data_dir` itself.

    Raises:
        ValueError: neither is a folder of that name, where the message says which folders were looked for; or
            `data_dir` is a file or does not exist.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        state = "is a file" if data_dir.exists() else "does not exist"
        raise ValueError(f"data_dir: {data_dir} {state}, expected a folder that holds {name} ({dataset})")
    folders = [data_dir / name] + ([data_dir] if data_dir.absolute().name == name else [])
    return _first(folders, [folder.is_dir() for folder in folders], f"{dataset} needs the folder {name!r}")


def published_list(folder: Path, names: Sequence[str], dataset: str) -> Path:
    """The first list of pairs that is there, beside or inside the top folder.

    Raises:
        ValueError: none is; the message says which files were looked for.
    """
    lists = [place / name for name in names for place in (folder.absolute().parent, folder)]
    wanted = " or ".join(repr(name) for name in names)
    return _first(lists, [path.is_file() for path in lists], f"{dataset} needs the list {wanted}")


def _first(paths: list[Path], there: list[bool], needed: str) -> Path:
    if not any(there):
        raise ValueError(f"data_dir: {needed}, not found: {' or '.join(str(path) for path in paths)}")
    return paths[there.index(True)]


def matlab_numbers(path: Path, name: str, shape: tuple[int | None, ...]) -> Float[np.ndarray, "..."]:
    """The numeric variable `name` of a MATLAB file as float64; its coordinates stay MATLAB's.

    Args:
        path: the file.
        name: of the variable.
        shape: that it must have; None stands for any length but 0.

    Raises:
        ValueError: the file is missing or damaged, has no such variable, or that has another shape or type or holds
            anything but finite numbers. The message begins with the path.
    """
    from rtn_jax.weights.matfile import open_variable

    try:
        with open_variable(path, name) as value:
            if value.dtype.kind not in "iuf" or not _fits(value.shape, shape):
                expected = str(["n" if length is None else length for length in shape]).replace("'", "")
                got = str(list(value.shape)) if value.dtype.kind in "iuf" else "no numbers"
                raise ValueError(f"{path}: expected {name!r} of {expected} numbers, got {got}")
            numbers = np.array(value.read(), np.float64)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if not np.isfinite(numbers).all():
        got = numbers[~np.isfinite(numbers)][0]
        raise ValueError(f"{path}: expected finite numbers in {name!r}, got {got}")
    return numbers


def _fits(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    pairs = zip(found, expected, strict=False)
    return len(found) == len(expected) and all(n == length or (length is None and n > 0) for n, length in pairs)
