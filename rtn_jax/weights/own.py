"""Our own safetensors files: the tree as it is, `conv4_23_expand/kernel`, with the backbone and its settings beside it.

They are read back exactly, so that a network can be built of them without the file they were converted from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtn_jax.config import Config
from rtn_jax.weights.architectures import TITLES, shapes, title
from rtn_jax.weights.containers import UnusableFile
from rtn_jax.weights.formats import Contents, Format, Table
from rtn_jax.weights.layout import Wanted
from rtn_jax.weights.tensors import write_tensors

KEY = "rtn_jax"
"""Of the file's metadata, JSON. One key alone: the order of several would differ from one writing to the next."""
SETTINGS = ("pixel_mean", "stride_in")
"""Fields of `Config` that weights may decide."""


def _table(backbone: str) -> Table:
    return {
        layer: {part: Wanted(f"{layer}/{part}", shape) for part, shape in parts.items()}
        for layer, parts in shapes(backbone).items()
    }


OWN = Format(title="rtn_jax safetensors", backbones=tuple(TITLES), table=_table, build=dict, settings=lambda _: {})


def own_format(path: Path, metadata: Mapping[str, str]) -> Format | None:
    """The format of a file that says it is one of ours, with the settings it holds; None if it does not.

    Raises:
        UnusableFile: what it says is no backbone with its settings.
    """
    if KEY not in metadata:
        return None
    backbone, settings = _parsed(path, metadata[KEY])
    return dataclasses.replace(OWN, backbones=(backbone,), settings=lambda _: settings)


def write(path: Path, contents: Contents) -> None:
    """Writes a backbone's weights.

    Raises:
        ValueError: it cannot be written there, or the weights are not a whole backbone's, or are a whole network's.
    """
    if contents.geometry is not None:
        raise ValueError(
            "the file holds a whole network, not a backbone; rtn_jax.load reads it, rtn_jax.save writes it"
        )
    table = _table(contents.backbone)
    missing = [layer for layer in table if layer not in contents.layers]
    if missing:
        raise ValueError(f"expected all layers of {TITLES[contents.backbone]}, found none of {', '.join(missing)}")
    arrays = {
        wanted.name: contents.layers[layer][part] for layer, parts in table.items() for part, wanted in parts.items()
    }
    write_tensors(path, arrays, {KEY: json.dumps({"backbone": contents.backbone, "settings": contents.settings})})


def _parsed(path: Path, text: str) -> tuple[str, dict[str, Any]]:
    try:
        found = json.loads(text)
        backbone, settings = found["backbone"], found["settings"]
        title(backbone)
        unknown = [name for name in settings if name not in SETTINGS]
        if unknown:
            raise ValueError(f"expected settings {', '.join(SETTINGS)}, found {', '.join(unknown)}")
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        Config(backbone=backbone, **settings)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UnusableFile(f"{path}: expected a backbone and its settings, found {text[:200]!r} ({error})") from error
    return backbone, settings
