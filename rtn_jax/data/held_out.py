"""A benchmark that needs no data set: fixed warps of held-out photos, whose correspondence is known exactly."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from rtn_jax.coordinates import Shape, grid_points
from rtn_jax.data.files import ArrayFiles
from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.data.synthetic import WarpRange, inside, random_warps, warp_mapping, warp_photos
from rtn_jax.images import resize

POINTS_PER_SIDE = 10
HELD_OUT_WARPS = WarpRange(translation=0.25)
"""The same for every run, whatever it trains on, so that figures compare."""


def held_out_benchmark(
    photos: Mapping[str, UInt8[np.ndarray, "H W 3"]],
    *,
    shape: Shape = (256, 256),
    pairs_per_photo: int = 8,
    limits: WarpRange = HELD_OUT_WARPS,
    seed: int = 0,
) -> Benchmark:
    """Every photo beside a number of random warps of it, with a grid of keypoints.

    Args:
        photos: by name; resized to `shape` first.
        shape: (height, width) of all images of the benchmark.
        pairs_per_photo: warps of each.
        limits: of the warps.
        seed: the same seed gives the same pairs.

    Returns:
        A `Benchmark` whose source images are the warps and whose targets are the photos; PCK relative to `img`. Only
        points whose true position lies inside the photo count.

    Raises:
        ValueError: if there are no photos or a warp leaves no point inside.
    """
    if not photos:
        raise ValueError("photos: expected at least one, got none")
    grid = grid_points(shape, POINTS_PER_SIDE)
    images: dict[str, UInt8[np.ndarray, "H W 3"]] = {}
    pairs = []
    for i, (name, photo) in enumerate(photos.items()):
        tgt = resize(photo, shape)
        images[name] = np.rint(tgt).astype(np.uint8)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), i), pairs_per_photo)
        for j, key in enumerate(keys):
            src, points = (np.asarray(array[0]) for array in _warped(key, images[name], limits))
            kept = np.asarray(inside(jnp.asarray(points), shape))
            warped = f"{name} warp {j}"
            images[warped] = src
            pairs.append(
                Pair(
                    id=warped,
                    src=warped,
                    tgt=name,
                    src_points=grid[kept],
                    tgt_points=points[kept],
                    category=name,
                )
            )
    return Benchmark(name="held-out warps", pairs=tuple(pairs), files=ArrayFiles(images), thresholds=("img",))


@partial(jax.jit, static_argnames="limits")
def _warped(key: Array, photo: Array, limits: WarpRange) -> tuple[Array, Array]:
    """One warp of a photo as uint8 `[1, H, W, 3]`, and where the grid of points on it lies in the photo."""
    warp = random_warps(key[None], limits)
    image = jnp.rint(warp_photos(warp, photo[None].astype(jnp.float32))).astype(jnp.uint8)
    return image, warp_mapping(warp, grid_points(photo.shape[:2], POINTS_PER_SIDE), photo.shape[:2])
