"""`python -m rtn_jax match`: where the points, the object or an edit of one photo lie in other photos."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from rtn_jax.config import Start
from rtn_jax.matching.answer import TOLERANCE
from rtn_jax.version import __version__

log = logging.getLogger(__name__)

_SLOW = 10.0
"""Seconds without a sign of life after which the user is told why: a second start on an idle machine takes less."""


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """Finds the points of one photo in others: a picture for each, and on request flows, points, masks and edits.

    A match is trusted if it comes back: every point is matched to the target and from there to the source, and what
    ends far from where it began is greyed out.
    """

    src: Positional[Path]
    """Photo whose points are looked for."""
    tgt: Positional[tuple[Path, ...]]
    """Photos they are looked for in, one or more."""
    ckpt: Path = Path("vgg")
    """Checkpoint or run folder, a net-epoch.mat of the release, or the name of a network that comes with the package
    (vgg)."""
    out: Path = Path("match.png")
    """Picture to write (.png, .jpg, .webp). With several targets the name of each is added to it
    (match_lion.png); a folder, or a name without suffix, gets a picture per target (matches/lion.png)."""
    points: str = "12"
    """How many matched points to show, spread over the reliable part; or which: "120,80 40,60" are x,y in pixels of
    the source, from its top left."""
    mask: Path | None = None
    """Mask of the source (its size; white, or opaque, on the object). Each target's is written beside the picture:
    match_mask.png of the target's size, and match_overlay.png to look at. Points are then chosen on the object."""
    edit: Path | None = None
    """The source painted on, or what was painted alone on a transparent ground (the source's size). The target with
    that on it is written beside the picture, as match_edit in the format of the target."""
    flow: Path | None = None
    """Flow to write (.flo, .npy): for every pixel of the source as given, the way to its match in pixels of the target
    as given. Named like the picture with several targets."""
    json: Path | None = None
    """File for the points of all targets: positions in both photos, confidence, whether reliable."""
    gif: Path | None = None
    """Animation: the target pulled onto the source after every iteration. Named like the picture with several."""
    tolerance: float = TOLERANCE
    """A match is reliable if it comes back within this share of the source's longer side."""
    image_size: int | None = None
    """Both photos are resized to this square inside; the checkpoint's unless given."""
    iterations: tuple[int, ...] | None = None
    """Recurrent steps per level, coarse to fine; the checkpoint's unless given."""
    starts: tuple[Start, ...] | None = None
    """Where the recurrence is begun: identity, consensus (the affine map that most mutual nearest neighbours agree
    on), or both, of which each pair keeps the surer result; the checkpoint's unless given."""
    search: bool | None = None
    """Whether every cell looks around at the end for what fits it best; as the checkpoint does unless given."""

    mirror_aware: bool = False
    """Match every target's mirror image, too, and keep what the network is surer of: for objects that may face the
    other way."""

    def __post_init__(self) -> None:
        from rtn_jax.matching.points import parse_points

        if not self.tgt:
            raise ValueError("tgt: missing, expected at least one photo to match with")
        if not (self.tolerance > 0 and math.isfinite(self.tolerance)):
            raise ValueError(f"tolerance: expected a share above 0, got {self.tolerance}")
        parse_points(self.points)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python does not look for garbage: next to nothing of what is imported and traced is any, and looking takes up to
    a second of the eight until the first result.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_collection()
def match(config: MatchConfig) -> None:
    """Writes what was asked for; all of it can be written and read, or nothing is.

    Raises:
        ValueError: for a photo, mask, edit, checkpoint, point or output that cannot be used.
    """
    from rtn_jax import checkpoints
    from rtn_jax.images import write_atomically
    from rtn_jax.matching import files
    from rtn_jax.matching.carried import read_edit, read_mask
    from rtn_jax.matching.job import prepared
    from rtn_jax.matching.photo import read_photo
    from rtn_jax.matching.points import parse_points
    from rtn_jax.programs import read_ahead

    folder = config.out if config.out.is_dir() or not config.out.suffix else None
    plan = files.planned(
        config.tgt,
        out=config.out,
        flow=config.flow,
        gif=config.gif,
        mask=config.mask is not None,
        edit=config.edit is not None,
    )
    inputs = [path for path in (config.src, *config.tgt, config.mask, config.edit) if path is not None]
    files.check(plan, config.json, inputs, folder)

    changes = {name: getattr(config, name) for name in ("image_size", "iterations", "starts", "search")}
    found = []
    with read_ahead(f"match {config.ckpt} {changes}"), _told_if_slow() as waiting:
        # Everything is read before anything is written.
        params = checkpoints.load(config.ckpt).configure_given(**changes)
        src, *targets = (read_photo(path, params.config) for path in (config.src, *config.tgt))
        job = prepared(
            params,
            src,
            points=parse_points(config.points),
            tolerance=config.tolerance,
            mask=None if config.mask is None else read_mask(config.mask, src.shape),
            edit=None if config.edit is None else read_edit(config.edit, config.src, src.shape),
            mirror_aware=config.mirror_aware,
        )
        if folder is not None:
            folder.mkdir(exist_ok=True)
        for photo, path, wanted in zip(targets, config.tgt, plan, strict=True):
            record = job.write(photo, path, wanted)
            waiting.cancel()
            name = f"{photo.name}, mirrored" if record["mirrored"] else photo.name
            share, tolerance = 100 * record["reliable"], record["tolerance"]
            log.info("%s: %.0f %% of %s comes back within %.3g pixels", name, share, src.name, tolerance)
            sys.stdout.write("".join(f"{path}\n" for path in wanted.listed().values()))
            found.append(record)
    if config.json is not None:
        source = {"file": src.name, "width": src.shape[1], "height": src.shape[0]}
        network = {"checkpoint": str(config.ckpt), "image_size": list(params.config.image_shape)}
        network |= {"iterations": [level.iterations for level in params.config.levels]}
        record = {"rtn_jax": __version__, "network": network, "source": source, "targets": found}
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        write_atomically(config.json, lambda file: file.write(text.encode()))
        sys.stdout.write(f"{config.json}\n")


@contextlib.contextmanager
def _told_if_slow() -> Iterator[threading.Timer]:
    """A timer that says, unless it is cancelled, what there is to wait for."""
    words = "still at work: the first start with a network and an image size compiles it, later ones are much faster"
    timer = threading.Timer(_SLOW, log.info, [words])
    timer.daemon = True
    timer.start()
    try:
        yield timer
    finally:
        timer.cancel()
