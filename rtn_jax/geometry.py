"""The geometry network: an encoder-decoder from a correlation volume to the residual of an affine field."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rtn_jax.convolution import convolve
from rtn_jax.sampling import Border, max_pool, resize_bilinear

LAST_LAYER = "conv10"
"""Zero at the start; the release trains it more slowly."""

_ENCODER = (1, 2, 4, 8, 8)  # channels of the five stages, in units of the width


class GeometryNetwork(nn.Module):
    """Residual of the affine field, six channels (axx, axy, tx, ayx, ayy, ty), from a normalised correlation volume.

    Five encoder stages of two convolutions with 2x2 pooling between, four decoder stages of doubling, concatenation
    with the encoder's output of that size and two convolutions; the first and last convolution are 9x9, the others
    3x3; ReLU after all but the last. The last one starts at zero, so an untrained network leaves every field as it is.
    Any grid from one cell up: odd sizes are padded at the bottom and right when pooled and cropped when doubled.

    Source: the released network (`geo_conv1` to `geo_conv10`), 20,030,662 weights at width 64 and radius 4.
    """

    width: int = 64
    upsampling: Border = "edge"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, volume: Float[Array, "b h w m"]) -> Float[Array, "b h w 6"]:
        x = volume.astype(self.dtype)
        skips = []
        for stage, multiple in enumerate(_ENCODER, 1):
            if stage > 1:  # an odd size is padded at the bottom and right
                x = max_pool(x, 2, ((0, x.shape[1] % 2), (0, x.shape[2] % 2)))
            x = self._conv(x, multiple * self.width, f"conv{stage}", size=9 if stage == 1 else 3)
            x = self._conv(x, multiple * self.width, f"conv{stage}b")
            skips.append(x)
        for stage, skip in enumerate(reversed(skips[:-1]), len(_ENCODER) + 1):
            x = resize_bilinear(x, skip.shape[1:3], border=self.upsampling, scale=2)
            x = jnp.concatenate([x, skip], axis=-1)
            x = self._conv(x, skip.shape[-1], f"conv{stage}")
            x = self._conv(x, skip.shape[-1], f"conv{stage}b")
        return self._conv(x, 6, LAST_LAYER, size=9, last=True)

    def _conv(self, x: Array, features: int, name: str, *, size: int = 3, last: bool = False) -> Array:
        initializers = nn.initializers
        conv = nn.Conv(
            features,
            (size, size),
            dtype=self.dtype,
            conv_general_dilated=convolve,
            kernel_init=initializers.zeros_init() if last else initializers.he_normal(),
            name=name,
        )
        return conv(x) if last else nn.relu(conv(x))


def weight_shapes(width: int, candidates: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shape of every weight, by layer and name: what `GeometryNetwork(width)` has for volumes of so many candidates."""
    encoder = [multiple * width for multiple in _ENCODER]
    shapes, channels = {}, candidates
    skips = dict(enumerate(reversed(encoder[:-1]), len(encoder) + 1))
    for stage, out in [*enumerate(encoder, 1), *skips.items()]:
        size, into = 9 if stage == 1 else 3, channels + skips.get(stage, 0)
        shapes[f"conv{stage}"] = {"kernel": (size, size, into, out), "bias": (out,)}
        shapes[f"conv{stage}b"] = {"kernel": (3, 3, out, out), "bias": (out,)}
        channels = out
    return shapes | {LAST_LAYER: {"kernel": (9, 9, channels, 6), "bias": (6,)}}
