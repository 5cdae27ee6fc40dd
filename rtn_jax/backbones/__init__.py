"""How a backbone looks from outside: it computes the taps of an image and redoes a last convolution under a field.

Nothing outside this package knows which backbone runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float

from rtn_jax.backbones.vgg import VGGBackbone
from rtn_jax.config import Config
from rtn_jax.coordinates import Normalization

Weights = dict[str, Any]


class Tap(NamedTuple):
    """What matching needs of one layer of one image."""

    input: Float[Array, "b h w i"]
    """Of the layer's last convolution, to be sampled under a field."""
    output: Float[Array, "b h w c"]
    """The layer's features, not normalised."""


@runtime_checkable
class Backbone(Protocol):
    """A feature extractor; frozen, without weights of its own."""

    @property
    def fill(self) -> tuple[float, float, float]:
        """The RGB colour that the backbone sees as nothing; images are padded with it."""

    def stride(self, layer: str) -> int:
        """Image pixels per cell of that layer. Raises ValueError for a layer that does not exist."""

    def init(self, key: Array) -> Weights:
        """Random weights."""

    def weight_shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Shape of every weight, by layer and name."""

    def taps(self, weights: Weights, images: Float[Array, "b H W 3"]) -> dict[str, tuple[Array, Array]]:
        """Input and output of the last convolution of every layer asked for; images are RGB in 0..255."""

    def redo(
        self,
        weights: Weights,
        layer: str,
        inputs: Float[Array, "b h w i"],
        field: Float[Array, "b h w 2 3"],
        normalization: Normalization,
    ) -> Float[Array, "b h w c"]:
        """The layer's output with its last convolution sampled under an affine field; the identity changes nothing."""


_BACKBONES = {"vgg": VGGBackbone}


def backbone(config: Config) -> Backbone:
    """The backbone a config names, computing the layers of its levels.

    Raises:
        ValueError: if a level's layer does not exist or the levels are not ordered from coarse to fine.
    """
    built = _BACKBONES[config.backbone](
        layers=tuple(level.layer for level in config.levels), dtype=config.compute_dtype
    )
    strides = [built.stride(level.layer) for level in config.levels]
    if strides != sorted(strides, reverse=True):
        raise ValueError(f"levels: expected coarse to fine, got strides {strides}")
    return built
