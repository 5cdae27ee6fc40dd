"""A network to a folder and back, with or without what is needed to go on training it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from rtn_jax import atomic
from rtn_jax.checkpoints.header import FORMAT, check_files, file_digests, read_header
from rtn_jax.checkpoints.runs import find
from rtn_jax.checkpoints.trees import read_tree, reason, write_tree
from rtn_jax.config import Config, released
from rtn_jax.params import Params, check_shapes, expected_shapes


def save(path: str | os.PathLike[str], params: Params, *, training: PyTree | None = None, **notes: Any) -> None:
    """Writes weights and config to a new folder, replacing a checkpoint that is there.

    Args:
        path: of the folder; its parent is made when missing.
        params: what to save.
        training: a tree of arrays needed to go on training, kept apart from the weights.
        notes: JSON values stored beside the config (`step=100`).

    An interruption (Ctrl-C) meanwhile takes effect when the checkpoint is written. Among the processes of
    `jax.distributed` only the first can write, and need not wait for the others.

    Raises:
        ValueError: if something that is not a checkpoint is in the way, or the folder cannot be written; what was
            there is there still.
    """
    path = Path(path).absolute()
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"{path}: exists and is not a checkpoint of rtn_jax; it is left as it is")
    if jax.process_index() != 0:
        raise ValueError(f"{path}: only the first of {jax.process_count()} processes can write a checkpoint")
    header = {"format": FORMAT, "config": json.loads(params.config.to_json()), **notes}
    trees = {"weights": jax.tree.map(np.asarray, params.weights)}
    if training is not None:
        header["training"] = _names(training)
        if header["training"]:  # orbax refuses an empty tree, and turns tuples with names into dicts of another order
            trees["training"] = [np.asarray(leaf) for leaf in jax.tree.leaves(training)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _interrupted_later(), atomic.replacing(path) as folder, _told_if_removed(folder):
            # Orbax's threads would answer a full disk with pages of tracebacks.
            atomic.reserve(folder, sum(array.nbytes for array in jax.tree.leaves(trees)))
            for name, tree in trees.items():
                write_tree(folder / name, tree)
            header["files"] = file_digests(folder)
            (folder / "config.json").write_text(json.dumps(header, indent=1) + "\n")
    except Exception as error:  # orbax wraps the system's errors in its own
        raise ValueError(f"{path}: cannot be written: {reason(error)}") from error


@contextlib.contextmanager
def _told_if_removed(folder: Path) -> Iterator[None]:
    """Orbax, whose folder is removed while it writes, fails in one of many ways, some of them a page long."""
    try:
        yield
    except Exception as error:
        if folder.exists():
            raise
        raise FileNotFoundError(errno.ENOENT, "the folder was removed meanwhile", str(folder)) from error


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
    """Reads a network: a checkpoint folder, a run folder of `train.py`, what `pack` made of one, or a `net-epoch.mat`
    of the release.

    The name of a network that comes with the package (`vgg`) will do as well, where nothing of that name lies in the
    working directory; its backbone is fetched on first use.

    Raises:
        ValueError: if the path does not exist, is none of these, is damaged (a file's digest differs), or its weights
            do not fit its config; the message names every entry that is missing, left over or misshapen.
    """
    from rtn_jax import trained

    path = Path(path)
    if path.is_file():
        return trained.read_trained(path) if trained.is_packed(path) else _load_released(path)
    if not path.exists() and str(path) in trained.names():
        return trained.load_trained(str(path))
    folder = find(path)
    header = read_header(folder)
    config = Config.from_json(json.dumps(header["config"]))
    check_files(folder, header["files"], "weights/")
    weights = read_tree(folder / "weights", lambda found: check_shapes(str(folder), found, expected_shapes(config)))
    return Params(jax.device_put(weights), config)  # `asarray` would compile a program for every shape


def _load_released(path: Path) -> Params:
    """The released network's `net-epoch.mat` under the preset that reproduces it."""
    from rtn_jax import weights

    contents = weights.read(path)
    if contents.geometry is None:
        raise ValueError(f"{path}: holds weights of a backbone, not of a network; pass it to --weights of train.py")
    config = released()
    check_shapes(str(path), contents.tree, expected_shapes(config))
    return Params(jax.device_put(contents.tree), config)


def load_training(path: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Reads what `save(..., training=...)` wrote, as NumPy arrays in the structure of `like`.

    Args:
        path: of the checkpoint.
        like: arrays, or anything with shapes and types, in the structure that was saved.

    Raises:
        ValueError: if there is none, it is damaged, or of another structure: the message names what differs first.
    """
    folder = find(Path(path))
    header = read_header(folder)
    names, wanted = header.get("training"), _names(like)
    if names is None or (names and not (folder / "training").is_dir()):
        raise ValueError(f"{folder}: holds weights but no training state to continue from")
    other = f"{folder / 'training'}: the training state is of another optimiser or network"
    if names != wanted:
        lacks = [f"lacks {name}" for name in wanted if name not in names]
        left = [f"has {name} left over" for name in names if name not in wanted]
        raise ValueError(f"{other}: it {[*lacks, *left, 'is in another order'][0]}")
    if not names:
        return like
    check_files(folder, header["files"], "training/")

    def check_leaves(found: PyTree) -> None:
        for name, leaf, expected in zip(names, jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
            have, want = (f"{np.dtype(x.dtype)} {tuple(x.shape)}" for x in (leaf, expected))
            if have != want:
                raise ValueError(f"{other}: {name} is {have}, expected {want}")

    leaves = jax.tree.leaves(read_tree(folder / "training", check_leaves))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _names(tree: PyTree) -> list[str]:
    """Of the leaves, in their order: `['momentum']['conv1'].trace`."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
