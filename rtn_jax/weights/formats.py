"""What a format is, and the reading of a file by the tables of the formats it may have.

A format is one table: for every backbone, the name and shape under which each array of each layer stands in a file.
Which backbone a file holds is told by its names, as the table with the fewest differences.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rtn_jax.backbones import Pretrained
from rtn_jax.config import CAFFE_MEAN
from rtn_jax.weights.architectures import RESNETS, SERVES, TITLES, shapes, title
from rtn_jax.weights.containers import UnusableFile
from rtn_jax.weights.layout import AnyArray, Entry, Layers, Wanted, collect, listed

Table = dict[str, dict[str, Wanted]]
"""`{our layer: {part: what the file holds}}`; the format knows how a layer comes from its parts."""

GEOMETRY_LAYER = "geometry/"
"""What the layers of the geometry network, in a table of the released network, begin with."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way of naming a backbone's arrays in a file."""

    title: str
    """For messages."""
    backbones: tuple[str, ...]
    """Whose weights come in this format."""
    table: Callable[[str], Table]
    """Of a backbone."""
    build: Callable[[Mapping[str, AnyArray]], dict[str, AnyArray]]
    """A layer's parts to the layer."""
    finish: Callable[[Layers], Layers] = lambda layers: layers
    """What concerns more than one layer, or only one of them."""
    ignored: Callable[[Table], Collection[str]] = lambda table: ()
    """Names that such files may hold beside the table's."""
    settings: Callable[[str], dict[str, Any]]
    """Fields of `Config` that go with a backbone's weights in this format."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file of weights holds."""

    format: str
    """`Keras HDF5`."""
    backbone: str
    """`vgg`."""
    layers: Layers
    """Of the backbone, for RGB images in 0..255 less the mean in `settings`."""
    settings: dict[str, Any]
    """Fields of `Config` that go with these weights."""
    geometry: Layers | None = None
    """Of the geometry network, where the file holds a whole network."""
    used: int = 0
    """How many arrays of the file these are made of."""
    ignored: tuple[str, ...] = field(default=(), repr=False)
    """Names of the arrays that nothing is made of."""

    @property
    def tree(self) -> dict[str, Layers]:
        """`{"backbone": layers}`, and `"geometry"` where there is one."""
        return {"backbone": self.layers} | ({} if self.geometry is None else {"geometry": self.geometry})

    @property
    def pretrained(self) -> Pretrained:
        """What `rtn_jax.init` takes."""
        return Pretrained(self.layers, self.settings)


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A format's table for one backbone."""

    format: Format
    backbone: str
    table: Table
    ignored: Collection[str]

    @property
    def wanted(self) -> list[Wanted]:
        return [array for parts in self.table.values() for array in parts.values()]

    @property
    def what(self) -> str:
        return f"{title(self.backbone)} ({self.format.title})"

    def differences(self, names: Collection[str]) -> tuple[list[str], list[str]]:
        """The names that are missing, and those that are left over."""
        known = {array.name for array in self.wanted} | set(self.ignored)
        missing = [array.name for array in self.wanted if array.name not in names and not array.optional]
        return missing, [name for name in names if name not in known]


def read_entries(path: Path, entries: Sequence[Entry], formats: Sequence[Format], backbone: str | None) -> Contents:
    """Makes a backbone's weights of a file's arrays.

    Args:
        path: the file, for error texts.
        entries: all its arrays.
        formats: those it may have.
        backbone: the one it must hold, or hold the first layers of; None: whichever it does.

    Raises:
        UnusableFile: another network, or not exactly the arrays of a format's table.
    """
    found = _recognised(path, entries, formats, backbone)
    arrays = collect(path, entries, found.wanted, ignored=found.ignored, what=found.what)
    layers = found.format.finish(
        {
            layer: found.format.build({part: arrays[a.name] for part, a in parts.items() if a.name in arrays})
            for layer, parts in found.table.items()
        }
    )
    _check_finite(path, layers)
    if backbone not in (None, found.backbone):  # another backbone's weights, as far as they are this one's
        layers = {layer: layers[layer] for layer in shapes(str(backbone)) if layer in layers}
    used = {array.name for layer in layers for array in found.table[layer].values() if array.name in arrays}
    geometry = {name.removeprefix(GEOMETRY_LAYER): layers.pop(name) for name in _geometry(layers)}
    return Contents(
        format=found.format.title,
        backbone=backbone or found.backbone,
        layers=layers,
        settings=found.format.settings(found.backbone),
        geometry=geometry or None,
        used=len(used),
        ignored=tuple(entry.name for entry in entries if entry.name not in used),
    )


def vectors(names: Mapping[str, str], channels: int) -> dict[str, Wanted]:
    """Parts with one number per channel."""
    return {part: Wanted(name, (channels,)) for part, name in names.items()}


def caffe_settings(backbone: str) -> dict[str, Any]:
    """Of the original weights, in whatever format: Oxford's VGGs and the ResNets that stride in the first 1x1."""
    return {"pixel_mean": CAFFE_MEAN} | ({"stride_in": "1x1"} if backbone in RESNETS else {})


def _recognised(path: Path, entries: Sequence[Entry], formats: Sequence[Format], asked: str | None) -> _Candidate:
    names = dict.fromkeys(entry.name for entry in entries)
    candidates = [
        _Candidate(format=format_, backbone=backbone, table=table, ignored=format_.ignored(table))
        for format_ in formats
        for backbone in format_.backbones
        for table in (format_.table(backbone),)
    ]
    closest = min(candidates, key=lambda candidate: sum(map(len, candidate.differences(names))))
    if not any(array.name in names for array in closest.wanted):
        known = " or ".join(f"{', '.join(map(title, f.backbones))} ({f.title})" for f in formats)
        found = listed(list(names), 5) or "none"
        raise UnusableFile(f"{path}: expected the arrays of {known}; found arrays named {found}")
    serving = SERVES.get(asked, (asked,)) if asked is not None else tuple(TITLES)
    if closest.backbone in serving:
        return closest
    expected = next((c for c in candidates if c.backbone in serving and c.format is closest.format), None)
    missing, left = expected.differences(names) if expected is not None else ([], [])
    texts = [f"{kind} {listed(found, 3)}" for kind, found in (("it lacks", missing), ("it has", left)) if found]
    why = f": {', '.join(texts)}" if texts else ""
    raise UnusableFile(f"{path}: expected {title(str(asked))}, found what looks like {closest.what}{why}")


def _check_finite(path: Path, layers: Layers) -> None:
    bad = [layer for layer, arrays in layers.items() if not all(np.isfinite(array).all() for array in arrays.values())]
    if bad:
        raise UnusableFile(f"{path}: expected batch norms whose variance is positive, found others at {listed(bad)}")


def _geometry(layers: Layers) -> list[str]:
    return [layer for layer in layers if layer.startswith(GEOMETRY_LAYER)]
