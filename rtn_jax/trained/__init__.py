"""Trained networks that come with the package: `rtn_jax.load("vgg")`. Each has its card in docs/model_card.md.

A file holds the geometry network, rounded to bfloat16, and the config; the backbone is the published one, which is
fetched on first use and known by its digest. So nothing is stored twice, and the terms of either stay its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtn_jax.backbones import backbone
from rtn_jax.config import Config, Level
from rtn_jax.params import Params, check_shapes, expected_shapes
from rtn_jax.weights import pretrained
from rtn_jax.weights.containers import UnusableFile
from rtn_jax.weights.tensors import open_tensors, write_tensors

FOLDER = Path(__file__).parent
KEY = "rtn_jax_network"
"""Of the file's metadata, JSON: the config, and what the file was made of."""


def names() -> tuple[str, ...]:
    """The networks there are."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.safetensors")))


def load_trained(name: str) -> Params:
    """A network that comes with the package, in float32.

    Raises:
        ValueError: if there is none of that name.
        WeightsUnavailable: (a `ValueError`) if the backbone is to be fetched and no source answers.
    """
    if name not in names():
        raise ValueError(f"expected one of {', '.join(names())}, got {name!r}")
    return read_trained(FOLDER / f"{name}.safetensors")


def is_packed(path: Path) -> bool:
    """Whether a file says of itself that `write_trained` wrote it."""
    if path.suffix != ".safetensors":
        return False
    with open_tensors(path) as file:
        return KEY in file.metadata


def read_trained(path: str | os.PathLike[str]) -> Params:
    """A network from a file that `write_trained` wrote.

    Raises:
        ValueError: if it is no such file, is damaged, or its weights do not fit its config.
        WeightsUnavailable: (a `ValueError`) if the backbone is to be fetched and no source answers.
    """
    path = Path(path)
    with open_tensors(path) as file:
        if KEY not in file.metadata:
            raise UnusableFile(f"{path}: expected a network of rtn_jax, found a safetensors file of something else")
        config = Config.from_json(json.dumps(json.loads(file.metadata[KEY])["config"]))
        geometry: dict[str, Any] = {}
        for entry in file.entries():
            layer, _, part = entry.name.rpartition("/")
            geometry.setdefault(layer, {})[part] = np.asarray(entry.read(), np.float32)
    check_shapes(str(path), geometry, expected_shapes(config)["geometry"])
    return Params(jax.device_put({"backbone": _published(config), "geometry": geometry}), config)


def on_levels(params: Params, levels: tuple[Level, ...]) -> Params:
    """The same geometry network on other levels, with the layers of the published backbone that they need.

    Raises:
        ValueError: if the backbone's weights are not the published ones, or the levels do not fit it.
    """
    _check_published(params)
    config = params.config.replace(levels=levels)
    return Params({**params.weights, "backbone": jax.device_put(_published(config))}, config)


def write_trained(path: str | os.PathLike[str], params: Params, **notes: Any) -> None:
    """Writes a network whose backbone is the published one: its geometry network in bfloat16, and its config.

    Args:
        path: of the file, `<name>.safetensors`.
        params: the network.
        notes: JSON values kept beside the config, such as the run it came from.

    Raises:
        ValueError: if the backbone's weights are not the published ones, or the file cannot be written.
    """
    _check_published(params)
    arrays = {
        f"{layer}/{part}": np.asarray(array).astype(jnp.bfloat16)
        for layer, parts in params.weights["geometry"].items()
        for part, array in parts.items()
    }
    header = {"config": json.loads(params.config.to_json()), **notes}
    write_tensors(Path(path), arrays, {KEY: json.dumps(header)})


def _check_published(params: Params) -> None:
    for layer, parts in _published(params.config).items():
        for name, array in parts.items():
            if not np.array_equal(array, params.weights["backbone"][layer][name]):
                raise ValueError(f"params: {layer}/{name} is not the published backbone's, which is needed here")


def _published(config: Config) -> dict[str, Any]:
    """The layers of the published backbone that a network uses."""
    found = pretrained(config.backbone)
    differing = [name for name, value in found.settings.items() if getattr(config, name) != value]
    if differing:
        raise ValueError(f"config: the published backbone is used with another {', '.join(differing)}")
    shapes = backbone(config).weight_shapes()
    layers = {layer: found.layers.get(layer, {}) for layer in shapes}
    check_shapes(config.backbone, layers, shapes)
    return layers
