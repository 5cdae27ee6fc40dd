"""Which files a `match` writes, what they are called, and the checks before any of them is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtn_jax.flow_files import check_flow_writable
from rtn_jax.images import WRITABLE, check_animation_writable, check_place, check_writable


@dataclass(frozen=True)
class TargetFiles:
    """What is written for one target; None is not asked for."""

    picture: Path
    flow: Path | None
    animation: Path | None
    mask: Path | None
    overlay: Path | None
    edit: Path | None

    def listed(self) -> dict[str, str]:
        """By what they are, in the order in which they are written."""
        return {name: str(path) for name, path in vars(self).items() if path is not None}


def planned(
    targets: Sequence[Path], *, out: Path, flow: Path | None, gif: Path | None, mask: bool, edit: bool
) -> list[TargetFiles]:
    """The files for every target.

    `out`, `flow` and `gif` are used as they are for a single target. For several, each file has the target's name
    before its suffix. An `out` that is a folder, or has no suffix, holds one picture per target under the target's
    name. What is carried over stands beside the picture.
    """
    labels = _labels(targets)
    into = out.is_dir() or not out.suffix
    several = len(targets) > 1

    def named(path: Path, label: str) -> Path:
        return path.with_name(f"{path.stem}_{label}{path.suffix}") if several else path

    files = []
    for target, label in zip(targets, labels, strict=True):
        picture = out / f"{label}.png" if into else named(out, label)
        kind = target.suffix if target.suffix.lower() in WRITABLE else ".png"
        files.append(
            TargetFiles(
                picture=picture,
                flow=named(flow, label) if flow else None,
                animation=named(gif, label) if gif else None,
                mask=picture.with_name(f"{picture.stem}_mask.png") if mask else None,
                overlay=picture.with_name(f"{picture.stem}_overlay{picture.suffix}") if mask else None,
                edit=picture.with_name(f"{picture.stem}_edit{kind}") if edit else None,
            )
        )
    return files


def check(files: Sequence[TargetFiles], json: Path | None, inputs: Sequence[Path], folder: Path | None) -> None:
    """Fails before the long work, if a file could not be written or would take the place of another.

    Args:
        files: of all targets.
        json: the file with the points.
        inputs: what is read.
        folder: is made for the pictures, if it is not there.

    Raises:
        ValueError: a wrong suffix, a folder that is missing or not writable, or a file that would replace one of the
            photos or one of the others.
    """
    written = [Path(path) for target in files for path in target.listed().values()] + ([json] if json else [])
    read = {os.path.realpath(path) for path in inputs}
    seen: set[str] = set()
    for path in written:
        real = os.path.realpath(path)
        if real in read:
            raise ValueError(f"{path}: would overwrite what is read from it; choose another name")
        if real in seen:
            raise ValueError(f"{path}: would be written twice; choose different names")
        seen.add(real)
    missing = folder is not None and not folder.exists()
    if folder is not None and missing:
        check_place(folder)
    for target in files:
        pictures = [path for path in (target.picture, target.mask, target.overlay, target.edit) if path is not None]
        for picture in () if missing else pictures:  # those in a new folder have the suffixes that they need
            check_writable(picture)
        if target.flow is not None:
            check_flow_writable(target.flow)
        if target.animation is not None:
            check_animation_writable(target.animation)
    if json is not None:
        if json.suffix.lower() != ".json":
            raise ValueError(f"{json}: expected a name that ends in .json, got {json.suffix!r}")
        check_place(json)


def _labels(targets: Sequence[Path]) -> list[str]:
    """The targets' names without suffixes; those that came before are followed by a number."""
    labels: list[str] = []
    for target in targets:
        label, number = target.stem, 2
        while label in labels:
            label, number = f"{target.stem}-{number}", number + 1
        labels.append(label)
    return labels
