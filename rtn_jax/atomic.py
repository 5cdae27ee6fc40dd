"""Folders that are there whole or not at all, whenever their writer is killed or the power goes.

A new folder is written beside its place, as `.<name>.<letters>.partial`, and moved there when it is whole. The one it
replaces steps aside between two moves, as `.<name>.<letters>.old`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

_LEFT = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>partial|old)")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of `path` when the block ends well, and is removed when it does not.

    Raises:
        OSError: if that cannot be done; what was there is there still.
    """
    folder, old = _beside(path, "partial"), _beside(path, "old")
    folder.mkdir()
    try:
        yield folder
        _flush_all(folder)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(folder, path)
        except OSError:
            put_back(path.parent)
            raise
        _flush(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def remove(folder: Path) -> None:
    """Removes a folder; a kill leaves all of it, or only what `remove_leftovers` takes away.

    Raises:
        OSError: if it cannot be moved.
    """
    gone = _beside(folder, "partial")
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def reserve(folder: Path, size: int) -> None:
    """Finds out whether that many bytes can be written to a folder, by taking the room and giving it back.

    Raises:
        OSError: if they cannot: the disk is full, a quota used up, a file too large, the folder read-only.
    """
    file = folder / "room"
    try:
        with file.open("wb") as room:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(room.fileno(), 0, size)
    finally:
        file.unlink(missing_ok=True)


def put_back(parent: Path) -> None:
    """Moves folders back that stepped aside for others that never came.

    Raises:
        OSError: if one cannot be moved.
    """
    for entry, name, kind in _leftovers(parent):
        if kind == "old" and not (parent / name).exists():
            os.replace(entry, parent / name)


def remove_leftovers(parent: Path) -> None:
    """Removes what killed writers left in a folder, having put back what has no successor; nobody may write there now.

    Raises:
        OSError: if something cannot be put back.
    """
    put_back(parent)
    for entry, _, _ in _leftovers(parent):
        shutil.rmtree(entry, ignore_errors=True)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}")


def _leftovers(parent: Path) -> list[tuple[Path, str, str]]:
    entries = sorted(parent.iterdir()) if parent.is_dir() else []
    found = [(entry, _LEFT.fullmatch(entry.name)) for entry in entries]
    return [(entry, match["name"], match["kind"]) for entry, match in found if match]


def _flush_all(folder: Path) -> None:
    """Has the system write a folder to the disk: a name that is moved must not get there before what it stands for."""
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)
