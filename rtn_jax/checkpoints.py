"""Our checkpoints: a folder with the weights, the config that belongs to them, and the digests of all files.

    <checkpoint>/config.json     the network's config, the other files' digests, and the writer's notes (the step)
    <checkpoint>/weights/        the weights alone, an orbax tree
    <checkpoint>/training/       optimiser state and the like, present in checkpoints of a training run only

The weights can be read without knowing the optimiser. A folder is written beside its final place and moved there when
it is whole, so a reader never meets half a checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from rtn_jax.config import Config, released
from rtn_jax.params import Params, check_shapes, expected_shapes

FORMAT = "rtn_jax checkpoint 1"
_RUN_CHECKPOINT = "checkpoint"


def save(path: str | os.PathLike[str], params: Params, *, training: PyTree | None = None, **notes: Any) -> None:
    """Writes weights and config to a new folder, replacing a checkpoint that is there.

    Args:
        path: of the folder; its parent is made when missing.
        params: what to save.
        training: a tree of arrays needed to go on training, kept apart from the weights.
        notes: JSON values stored beside the config (`step=100`).

    An interruption (Ctrl-C) meanwhile takes effect when the checkpoint is written.

    Raises:
        ValueError: if something that is not a checkpoint is in the way, or the folder cannot be written.
    """
    from orbax.checkpoint import v1 as ocp  # half a second to import, for those who save

    path = Path(path).absolute()
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"{path}: exists and is not a checkpoint of rtn_jax; it is left as it is")
    header = {"format": FORMAT, "config": json.loads(params.config.to_json()), **notes}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _interrupted_later(), _replacing(path) as folder:
            ocp.save(folder / "weights", jax.tree.map(np.asarray, params.weights))
            if training is not None:
                ocp.save(folder / "training", jax.tree.map(np.asarray, training))
            header["files"] = _file_digests(folder)
            (folder / "config.json").write_text(json.dumps(header, indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Holds back SIGINT: orbax's threads, cut off in the middle, would wait for each other for many minutes."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's business
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if came:
        raise KeyboardInterrupt


def load(path: str | os.PathLike[str]) -> Params:
    """Reads a network: a checkpoint folder, a run folder of `train.py`, or a `net-epoch.mat` of the release.

    Raises:
        ValueError: if the path does not exist, is none of these, is damaged (a file's digest differs), or its weights
            do not fit its config; the message names every entry that is missing, left over or misshapen.
    """
    path = Path(path)
    if path.is_file():
        return _load_released(path)
    folder = find(path)
    header = read_header(folder)
    config = Config.from_json(json.dumps(header["config"]))
    _check_files(folder, header["files"], "weights/")
    weights = _read_tree(folder / "weights", lambda found: check_shapes(str(folder), found, expected_shapes(config)))
    return Params(jax.tree.map(jax.numpy.asarray, weights), config)


def _load_released(path: Path) -> Params:
    """The released network's `net-epoch.mat` under the preset that reproduces it."""
    from rtn_jax import weights

    tree = weights.read(path)
    if "geometry" not in tree:
        raise ValueError(f"{path}: holds weights of a backbone, not of a network; pass it to --weights of train.py")
    config = released()
    check_shapes(str(path), tree, expected_shapes(config))
    return Params(jax.tree.map(jax.numpy.asarray, tree), config)


def load_training(path: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Reads what `save(..., training=...)` wrote, in the structure of `like`.

    Raises:
        ValueError: if there is none or it does not have that structure.
    """
    folder = find(Path(path)) / "training"
    if not folder.is_dir():
        raise ValueError(f"{folder.parent}: holds weights but no training state to continue from")
    _check_files(folder.parent, read_header(folder.parent)["files"], "training/")
    leaves, structure = jax.tree.flatten(like)
    found = jax.tree.leaves(_read_tree(folder, lambda _: None))
    if [leaf.shape for leaf in found] != [np.shape(leaf) for leaf in leaves]:
        raise ValueError(f"{folder}: the training state is of another optimiser or network")
    return jax.tree.unflatten(structure, found)


def find(path: Path) -> Path:
    """The checkpoint folder at a path: the path itself, or the one a run folder holds.

    Raises:
        ValueError: if there is neither.
    """
    for folder in (path, path / _RUN_CHECKPOINT):
        if (folder / "config.json").is_file() and (folder / "weights").is_dir():
            return folder
    if not path.exists():
        raise ValueError(f"{path}: no such checkpoint (train.py writes them)")
    raise ValueError(
        f"{path}: not a checkpoint (expected a folder with config.json and weights/, or a run of train.py)"
    )


def read_header(folder: Path) -> dict[str, Any]:
    """The contents of a checkpoint's `config.json`.

    Raises:
        ValueError: if it is not such a file.
    """
    try:
        header: dict[str, Any] = json.loads((folder / "config.json").read_text())
        written = header["format"]
        header["config"], header["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'config.json'}: damaged, or not of a checkpoint ({error})") from error
    if written != FORMAT:
        raise ValueError(f"{folder / 'config.json'}: expected the format {FORMAT!r}, got {written!r}")
    return header


def _file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_files(folder: Path, digests: dict[str, str], part: str) -> None:
    """Compares files with the digests they were saved with, before a reader that trusts them sees any.

    Raises:
        ValueError: naming the first file that is missing, altered or cut off.
    """
    for name, digest in digests.items():
        if name.startswith(part) and not (folder / name).is_file():
            raise ValueError(f"{folder}: the checkpoint is damaged: {name} is missing")
        if name.startswith(part) and _sha256(folder / name) != digest:
            raise ValueError(f"{folder}: the checkpoint is damaged: {name} is not what was saved")


def _read_tree(folder: Path, check: Any) -> PyTree:
    """An orbax tree as NumPy arrays; `check` sees the tree of shapes before anything large is read."""
    from orbax.checkpoint import v1 as ocp

    try:
        found = ocp.metadata(folder.absolute()).metadata
    except Exception as error:
        raise ValueError(f"{folder}: damaged, or not weights ({_first_line(error)})") from error
    check(found)
    try:
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), found)
        return ocp.load(folder.absolute(), target)
    except Exception as error:
        raise ValueError(f"{folder}: the checkpoint is damaged ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of `path` when the block ends well, and is removed when it does not."""
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    folder.mkdir()
    try:
        yield folder
        if path.exists():
            os.replace(path, old)
        os.replace(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
