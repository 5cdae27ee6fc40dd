"""`python -m rtn_jax weights list|fetch|verify|convert`: files of pretrained weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from rtn_jax.config import BackboneName
from rtn_jax.weights import own
from rtn_jax.weights.architectures import TITLES
from rtn_jax.weights.assets import ASSETS, PUBLISHED, Asset, digest_of
from rtn_jax.weights.fetch import cache_folder, fetch_asset
from rtn_jax.weights.formats import Contents
from rtn_jax.weights.reading import read


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Lists the published files: where they come from, their licence and hash, and whether they are in the cache."""


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Fetches a published file into the cache, unless it is there."""

    backbone: Positional[BackboneName]
    """Whose weights."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Reads a file of weights completely and says what it holds."""

    file: Positional[Path]
    """Keras HDF5, safetensors or MATLAB."""
    backbone: BackboneName | None = None
    """The one it must hold; whichever it does unless given."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Writes the weights of a file to a safetensors file of rtn_jax, which is read back exactly."""

    file: Positional[Path]
    """Keras HDF5, safetensors or MATLAB."""
    out: Positional[Path]
    """File to write (.safetensors)."""

    def __post_init__(self) -> None:
        if self.out.suffix != ".safetensors":
            raise ValueError(f"out: expected a name that ends in .safetensors, got {self.out}")


Task = (
    Annotated[ListConfig, subcommand("list")]
    | Annotated[FetchConfig, subcommand("fetch")]
    | Annotated[VerifyConfig, subcommand("verify")]
    | Annotated[ConvertConfig, subcommand("convert")]
)


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Lists, fetches, verifies and converts files of pretrained weights."""

    task: OmitSubcommandPrefixes[OmitArgPrefixes[Task]]


def weights(config: WeightsConfig) -> None:
    """Does what is asked and says what came of it.

    Raises:
        ValueError: a file that cannot be had, read or written, or is not what it must be.
    """
    task = config.task
    if isinstance(task, ListConfig):
        lines = [line for asset in ASSETS for line in _described(asset)]
    elif isinstance(task, FetchConfig):
        path = fetch_asset(PUBLISHED[task.backbone])
        lines = [str(path), f"sha256 {digest_of(path, 'sha256')}"]
    elif isinstance(task, VerifyConfig):
        lines = _verified(task.file, read(task.file, task.backbone))
    else:
        own.write(task.out, read(task.file))
        lines = [str(task.out)]
    sys.stdout.write("\n".join(lines) + "\n")


def _described(asset: Asset) -> list[str]:
    rows = {
        "file": asset.name,
        "address": asset.url,
        "licence": asset.licence,
        "size": f"{asset.size:,} bytes",
        asset.digest[0]: asset.digest[1],
        "cache": _cached(cache_folder() / asset.name, asset),
    }
    return [f"{asset.backbone}: {TITLES[asset.backbone]}", *_aligned(rows), ""]


def _cached(path: Path, asset: Asset) -> str:
    """By its size alone: hashing all files would take seconds."""
    if not path.is_file():
        return "not there"
    size = path.stat().st_size
    return str(path) if size == asset.size else f"{path}: {size:,} bytes, not the published file"


def _verified(path: Path, contents: Contents) -> list[str]:
    published = next((asset for asset in ASSETS if asset.is_published(path)), None)
    numbers = sum(array.size for part in contents.tree.values() for layer in part.values() for array in layer.values())
    rows = {
        "format": contents.format,
        "backbone": f"{contents.backbone} ({TITLES[contents.backbone]})",
        "layers": f"{len(contents.layers)}, {next(iter(contents.layers))} to {list(contents.layers)[-1]}",
        "network": "the backbone alone" if contents.geometry is None else "backbone and geometry network",
        "arrays": f"{contents.used} used, {len(contents.ignored)} ignored",
        "numbers": f"{numbers:,}",
        "settings": ", ".join(f"{name} {value}" for name, value in contents.settings.items()),
        "sha256": digest_of(path, "sha256"),
        "published": "no file that rtn_jax knows" if published is None else f"{published.name} ({published.url})",
    }
    return [str(path), *_aligned(rows)]


def _aligned(rows: dict[str, str]) -> list[str]:
    return [f"  {name:10}{value}" for name, value in rows.items()]
