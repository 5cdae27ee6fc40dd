"""How a backbone looks from outside: it computes the taps of an image and redoes a last layer under a field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, PyTree

from rtn_jax.coordinates import Normalization

Weights = dict[str, Any]
"""`{layer: {name: array}}`, layers in the order in which an image passes them."""
Shapes = dict[str, dict[str, tuple[int, ...]]]
"""The same, of shapes."""


Redone = Callable[[Float[Array, "b h w 2 3"]], Float[Array, "b h w c"]]
"""A layer's features as a function of the field they are sampled under."""


class Tap(NamedTuple):
    """What matching needs of one layer of one image."""

    input: PyTree
    """What the layer's last part, which is redone under a field, is computed from: arrays `[b, ...]`."""
    output: Float[Array, "b h w c"]
    """The layer's features, not normalised."""


@dataclass(frozen=True)
class Pretrained:
    """Weights of a backbone as they come from a file."""

    layers: Weights
    """May lack a backbone's head, and may have more layers than a network uses."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Config` that go with these weights: what is subtracted from images, where strides are."""


@runtime_checkable
class Backbone(Protocol):
    """A feature extractor; frozen, without weights of its own."""

    @property
    def fill(self) -> tuple[float, float, float]:
        """The RGB colour that the backbone sees as nothing; images are padded with it."""

    @property
    def head(self) -> tuple[str, ...]:
        """Layers that networks trained on classification lack: drawn anew where weights lack them."""

    def stride(self, layer: str) -> int:
        """Image pixels per cell of that layer. Raises ValueError for a layer that does not exist."""

    def init(self, key: Array) -> Weights:
        """Random weights."""

    def weight_shapes(self) -> Shapes:
        """Shape of every weight, by layer and name."""

    def taps(self, weights: Weights, images: Float[Array, "b H W 3"]) -> dict[str, tuple[PyTree, Array]]:
        """The `Tap` of every layer asked for; images are RGB in 0..255, their sides multiples of the strides."""

    def redo(
        self,
        weights: Weights,
        layer: str,
        inputs: PyTree,
        normalization: Normalization,
    ) -> Redone:
        """The layer's output with its last part sampled under an affine field; the identity changes nothing.

        What does not depend on the field is done here, once for all iterations.
        """
