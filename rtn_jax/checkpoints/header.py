"""A checkpoint's `config.json`, and the digests in it that tell whether the checkpoint is whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FORMAT = "rtn_jax checkpoint 1"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a checkpoint, whole or damaged."""
    return (folder / "config.json").is_file() and (folder / "weights").is_dir()


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


def check(folder: Path) -> None:
    """Compares all files of a checkpoint with the digests they were saved with.

    Raises:
        ValueError: naming the first file that is missing, altered or cut off.
    """
    digests = read_header(folder)["files"]
    if not any(name.startswith("weights/") for name in digests):
        raise ValueError(f"{folder}: the checkpoint is damaged: no weights are listed")
    check_files(folder, digests, "")


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(folder: Path, digests: dict[str, str], part: str) -> None:
    """Compares files with the digests they were saved with, before a reader that trusts them sees any.

    Raises:
        ValueError: naming the first file that is missing, altered or cut off.
    """
    for name, digest in digests.items():
        if name.startswith(part) and not (folder / name).is_file():
            raise ValueError(f"{folder}: the checkpoint is damaged: {name} is missing")
        try:
            altered = name.startswith(part) and _sha256(folder / name) != digest
        except OSError as error:
            raise ValueError(f"{folder}: the checkpoint cannot be read: {name}: {error.strerror}") from error
        if altered:
            raise ValueError(f"{folder}: the checkpoint is damaged: {name} is not what was saved")
