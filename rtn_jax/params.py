"""The weights of a network together with its config, and how a new network is made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from rtn_jax.backbones import Pretrained, backbone
from rtn_jax.config import Config
from rtn_jax.geometry import GeometryNetwork, weight_shapes


@partial(jax.tree_util.register_dataclass, data_fields=["weights"], meta_fields=["config"])
@dataclass(frozen=True)
class Params:
    """A network: its weights, which are the leaves, and its config, which is static. A pytree like any other."""

    weights: PyTree
    """`{"backbone": {layer: {name: array}}, "geometry": {layer: {"kernel", "bias"}}}`."""
    config: Config

    def configure(self, **changes: Any) -> Params:
        """The same weights under a changed config: `params.configure(image_size=512, iterations=(2, 5))`.

        Raises:
            ValueError: if a field does not exist, is invalid, or would need other weights.
        """
        config = self.config.replace(**changes)
        fixed = ("backbone", "radius", "geometry_width", "residual_units", "pixel_mean", "stride_in")
        changed = [name for name in fixed if getattr(config, name) != getattr(self.config, name)]
        if changed:
            raise ValueError(f"config: weights are for another {', '.join(changed)}; only a new network can change it")
        missing = set(backbone(config).weight_shapes()) - set(self.weights["backbone"])
        if missing:
            raise ValueError(f"levels: the backbone's weights lack {', '.join(sorted(missing))}")
        return Params(self.weights, config)

    def configure_given(self, **asked: Any) -> Params:
        """`configure` by the values that are not None: what a command line says, and not what it leaves out."""
        return self.configure(**{name: value for name, value in asked.items() if value is not None})


def init(key: Array, config: Config | None = None, *, backbone_weights: PyTree | Pretrained | None = None) -> Params:
    """A new network. Its geometry network ends in zeros, so untrained it leaves the identity field as it is.

    Args:
        key: of `jax.random`.
        config: `Config()` unless given.
        backbone_weights: pretrained weights, such as `rtn_jax.weights.pretrained("vgg")` returns (the fields of the
            config that go with them are then theirs), or just their layers. Layers beyond the deepest one the config
            needs are left out; the layers of a backbone's head may be missing and are then drawn. Random (He-normal)
            unless given.

    Raises:
        ValueError: if the config's layers do not exist, or `backbone_weights` lacks a layer or has another shape.
    """
    config = Config() if config is None else config
    if isinstance(backbone_weights, Pretrained):
        config = config.replace(**backbone_weights.settings)
        backbone_weights = backbone_weights.layers
    network = backbone(config)
    shapes = network.weight_shapes()
    drawn = tuple(shapes if backbone_weights is None else (x for x in network.head if x not in backbone_weights))
    weights = _random_weights(key, config, drawn)
    if backbone_weights is not None:
        given = {layer: backbone_weights.get(layer, {}) for layer in shapes if layer not in drawn}
        check_shapes("backbone_weights", given, {layer: shapes[layer] for layer in given})
        weights["backbone"] |= jax.tree.map(jnp.asarray, given)
    return Params(weights, config)


@partial(jax.jit, static_argnames=("config", "layers"))  # as one program; one by one, its parts take seconds
def _random_weights(key: Array, config: Config, layers: tuple[str, ...]) -> dict[str, Any]:
    """Of the geometry network and those layers of the backbone."""
    backbone_key, geometry_key = jax.random.split(key)
    volume = jnp.zeros((1, 16, 16, (2 * config.radius + 1) ** 2))
    geometry = geometry_network(config).init(geometry_key, volume)["params"]
    drawn = backbone(config).init(backbone_key) if layers else {}
    return {"geometry": geometry, "backbone": {layer: drawn[layer] for layer in layers}}


def expected_shapes(config: Config) -> dict[str, Any]:
    """Shape of every weight of a network with this config."""
    geometry = weight_shapes(config.geometry_width, (2 * config.radius + 1) ** 2)
    return {"geometry": geometry, "backbone": backbone(config).weight_shapes()}


def geometry_network(config: Config) -> GeometryNetwork:
    """The geometry network a config describes, without weights."""
    return GeometryNetwork(config.geometry_width, config.upsampling, jnp.dtype(config.compute_dtype))


def check_shapes(name: str, weights: PyTree, expected: PyTree) -> None:
    """Compares a tree of weights with a tree of shapes.

    Raises:
        ValueError: naming every entry that is missing, left over or of another shape.
    """
    found = {_path(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(weights)}
    wanted = {
        _path(path): shape
        for path, shape in jax.tree_util.tree_leaves_with_path(expected, is_leaf=lambda x: isinstance(x, tuple))
    }
    problems = [f"{path} is missing" for path in wanted if path not in found]
    problems += [f"{path} is left over" for path in found if path not in wanted]
    problems += [
        f"{path} has shape {found[path]}, expected {shape}"
        for path, shape in wanted.items()
        if path in found and found[path] != shape
    ]
    if problems:
        raise ValueError(f"{name}: {'; '.join(problems)}")


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
