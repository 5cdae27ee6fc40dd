"""Our checkpoints: a folder with the weights, the config that belongs to them, and a digest of both.

    <checkpoint>/config.json     the network's config, the digest of the weights, and the writer's notes (the step)
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

    Raises:
        ValueError: if something that is not a checkpoint is in the way, or the folder cannot be written.
    """
    from orbax.checkpoint import v1 as ocp  # half a second to import, for those who save

    path = Path(path).absolute()
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"{path}: exists and is not a checkpoint of rtn_jax; it is left as it is")
    weights = jax.tree.map(np.asarray, params.weights)
    header = {"format": FORMAT, "config": json.loads(params.config.to_json()), "digest": digest(weights), **notes}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as folder:
            ocp.save(folder / "weights", weights)
            if training is not None:
                ocp.save(folder / "training", jax.tree.map(np.asarray, training))
            (folder / "config.json").write_text(json.dumps(header, indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from error


def load(path: str | os.PathLike[str]) -> Params:
    """Reads a network: a checkpoint folder, a run folder of `train.py`, or a `net-epoch.mat` of the release.

    Raises:
        ValueError: if the path does not exist, is none of these, is damaged (its digest differs), or its weights do not
            fit its config; the message names every entry that is missing, left over or misshapen.
    """
    path = Path(path)
    if path.is_file():
        return _load_released(path)
    folder = find(path)
    config = Config.from_json(json.dumps(read_header(folder)["config"]))
    weights = _read_tree(folder / "weights", lambda found: check_shapes(str(folder), found, expected_shapes(config)))
    if digest(weights) != read_header(folder)["digest"]:
        raise ValueError(
            f"{folder}: the checkpoint is damaged: its weights do not have the digest they were saved with"
        )
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
        raise ValueError(f"{path}: no such checkpoint")
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
        header["config"], header["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'}: damaged, or not of a checkpoint ({error})") from error
    if written != FORMAT:
        raise ValueError(f"{folder / 'config.json'}: expected the format {FORMAT!r}, got {written!r}")
    return header


def digest(weights: PyTree) -> str:
    """SHA-256 over the names, shapes and values of all weights."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        array = np.ascontiguousarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        sha.update(array.view(np.uint8).data if array.size else b"")
    return sha.hexdigest()


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
