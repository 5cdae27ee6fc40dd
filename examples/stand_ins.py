"""What the examples share: a small random network and drawn pictures where none are given, and how they are started."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import UInt8

import rtn_jax
from rtn_jax.images import read_resized


def network(ckpt: Path | None) -> rtn_jax.Params:
    """The network of a checkpoint; without one a random network that computes in milliseconds, and says so."""
    if ckpt is not None:
        params = rtn_jax.load(ckpt)
        print(f"{ckpt}: {params.config.backbone}, {params.config.image_shape[0]} x {params.config.image_shape[1]}")
        return params
    print("no --ckpt: RANDOM WEIGHTS. The numbers show that the script runs; they are no result.")
    levels = (rtn_jax.Level(layer="conv2_1", iterations=2),)
    params = rtn_jax.init(
        jax.random.key(0), rtn_jax.Config(levels=levels, radius=2, image_size=32, geometry_width=4, unroll=False)
    )
    last = params.weights["geometry"]["conv10"]  # zero in a new network, which so leaves everything where it is
    last["kernel"] = jnp.asarray(np.random.default_rng(1).normal(0, 0.02, last["kernel"].shape), jnp.float32)
    return params


def photos(paths: list[Path], params: rtn_jax.Params) -> UInt8[np.ndarray, "n H W 3"]:
    """The photos in some files, at the network's own size."""
    return np.stack([read_resized(path, params.config.image_shape) for path in paths])


def pictures(count: int, params: rtn_jax.Params) -> UInt8[np.ndarray, "n H W 3"]:
    """Smooth random colours, the same in every run, at the network's own size."""
    coarse = np.random.default_rng(2).uniform(0, 255, (count, 7, 7, 3)).astype(np.float32)
    smooth = jax.image.resize(coarse, (count, *params.config.image_shape, 3), "cubic")
    return np.asarray(smooth).clip(0, 255).astype(np.uint8)


def run(main: Callable[..., None]) -> None:
    """A function as a command; of a photo or checkpoint that cannot be used it says so in one line."""
    try:
        tyro.cli(main)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
