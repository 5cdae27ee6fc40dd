"""Small networks with a last layer that is not zero, for tests that need fields to move."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import rtn_jax
from rtn_jax import Config, Level, Params
from rtn_jax.images import save_image

TWO_LEVELS = (Level(layer="conv3_1", iterations=1), Level(layer="conv2_1", iterations=2))
ONE_LEVEL = (Level(layer="conv3_1", iterations=2),)


def small_config(**changes) -> Config:
    """Two levels on shallow layers, not unrolled, so that a test compiles quickly."""
    return Config(levels=TWO_LEVELS, radius=2, image_size=32, geometry_width=4, unroll=False).replace(**changes)


def moving_params(config: Config | None = None, *, scale: float = 0.02, seed: int = 0, dtype=jnp.float32) -> Params:
    """Random weights whose residuals are of the given size, roughly."""
    params = rtn_jax.init(jax.random.key(seed), small_config() if config is None else config)
    last = params.weights["geometry"]["conv10"]
    noise = np.random.default_rng(seed).standard_normal(last["kernel"].shape) * scale
    last["kernel"] = jnp.asarray(noise, last["kernel"].dtype)
    return Params(jax.tree.map(lambda x: jnp.asarray(x, dtype), params.weights), params.config)


def photos(rng: np.random.Generator, count: int = 1, height: int = 32, width: int = 32) -> np.ndarray:
    """Smooth random pictures, uint8 `[count, height, width, 3]`."""
    coarse = jnp.asarray(rng.uniform(0, 255, (count, 5, 5, 3)), jnp.float32)
    return np.asarray(jax.image.resize(coarse, (count, height, width, 3), "cubic")).clip(0, 255).astype(np.uint8)


def write_two_classes(folder: Path, height: int, width: int, *, count: int = 7) -> None:
    """Photos that belong to one class and the other in turn, in a folder per class."""
    for i, photo in enumerate(photos(np.random.default_rng(0), count, height, width)):
        (folder / f"class{i % 2}").mkdir(exist_ok=True)
        save_image(folder / f"class{i % 2}" / f"{i}.png", photo)
