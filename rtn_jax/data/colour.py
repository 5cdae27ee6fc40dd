"""Random changes of a photo's colours, so that a network cannot match by them: on the device, a key for each photo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the grey of a colour (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True)
class ColourRange:
    """How far random colours go; hashable, so it can be static under `jax.jit`. All zero: photos stay as they are."""

    brightness: float = 0.2
    """The photo is multiplied by a factor of up to this much more or less than one."""
    contrast: float = 0.2
    """Likewise the differences from the photo's mean grey."""
    saturation: float = 0.2
    """Likewise the differences from each pixel's own grey."""
    hue: float = 0.0
    """Degrees to either side: colours turn around the axis of greys; 120 would turn red into green."""

    def __post_init__(self) -> None:
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 180)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: expected 0 to {most}, got {getattr(self, name)}")


def jitter_colours(
    keys: Key[Array, " b"], photos: Float[Array, "b H W 3"], limits: ColourRange
) -> Float[Array, "b H W 3"]:
    """Photos in random brightness, contrast, saturation and hue, drawn evenly within the limits.

    Pure, and each photo depends on its own key alone: the result is the same however a batch is split.

    Args:
        keys: `[b]`, one per photo.
        photos: `[b, H, W, 3]` RGB, float in 0..255.
        limits: how far to go; a limit of zero leaves that property exactly as it is.

    Returns:
        `[b, H, W, 3]` in the dtype of `photos`, clipped to 0..255.

    Raises:
        ValueError: for photos of another shape or type, or not one key per photo.
    """
    if photos.ndim != 4 or photos.shape[-1] != 3 or not jnp.issubdtype(photos.dtype, jnp.floating):
        raise ValueError(f"photos: expected float [b, H, W, 3], got {photos.dtype} of shape {photos.shape}")
    if keys.shape != photos.shape[:1]:
        raise ValueError(f"keys: expected one per photo, {photos.shape[:1]}, got shape {keys.shape}")
    return jax.vmap(partial(_jitter, limits=limits))(keys, photos)


def _jitter(key: Array, photo: Float[Array, "H W 3"], limits: ColourRange) -> Float[Array, "H W 3"]:
    keys = jax.random.split(key, 4)

    def draw(i: int, middle: float, limit: float) -> Array:
        # Single precision whatever JAX's default is: a key always means the same colours.
        return jax.random.uniform(keys[i], (), jnp.float32, middle - limit, middle + limit)

    return recolour(
        photo,
        brightness=draw(0, 1, limits.brightness),
        contrast=draw(1, 1, limits.contrast),
        saturation=draw(2, 1, limits.saturation),
        hue=draw(3, 0, limits.hue),
    )


def recolour(
    photo: Float[Array, "H W 3"],
    *,
    brightness: Float[Array, ""] | float = 1.0,
    contrast: Float[Array, ""] | float = 1.0,
    saturation: Float[Array, ""] | float = 1.0,
    hue: Float[Array, ""] | float = 0.0,
) -> Float[Array, "H W 3"]:
    """A photo with its brightness, contrast and saturation multiplied, in this order, and then its hue turned.

    Each change is linear in the colours and clipping to 0..255 comes last, so none hides what another brings back.

    Args:
        photo: `[H, W, 3]` RGB, float in 0..255.
        brightness: multiplies the colours: 0 is black.
        contrast: multiplies their differences from the photo's mean grey: 0 is that grey everywhere.
        saturation: multiplies their differences from their own grey: 0 is a grey photo.
        hue: degrees by which colours turn around the axis of greys, from red towards green; their mean stays.

    Returns:
        `[H, W, 3]` in the dtype of `photo`. With ones and no turn it is the photo itself, to the bit: every blend is
        written `f * photo + (1 - f) * other`.

    Source: Haeberli's blends with, and away from, a grey image, and his rotation about the axis of greys.
    """
    x = photo.astype(jnp.promote_types(photo.dtype, jnp.float32))
    x = brightness * x
    x = contrast * x + (1 - contrast) * _grey(x).mean()
    x = saturation * x + (1 - saturation) * _grey(x)
    angle = jnp.deg2rad(hue)
    # Rodrigues' formula for the axis (1, 1, 1) / sqrt(3), whose cross product with (r, g, b) is (b - g, r - b, g - r).
    across = (jnp.roll(x, 1, -1) - jnp.roll(x, -1, -1)) / math.sqrt(3)
    x = jnp.cos(angle) * x + (1 - jnp.cos(angle)) * x.mean(-1, keepdims=True) + jnp.sin(angle) * across
    return x.clip(0, 255).astype(photo.dtype)


def _grey(x: Float[Array, "H W 3"]) -> Float[Array, "H W 1"]:
    return (x * jnp.asarray(np.asarray(LUMA), x.dtype)).sum(-1, keepdims=True)
