"""The recurrence at work: the target pulled back onto the source after every iteration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike

from rtn_jax.coordinates import pixel_grid, resize_points
from rtn_jax.images import resize, to_uint8
from rtn_jax.visualize.board import board, title_size
from rtn_jax.visualize.colors import HOLE, warp_overlay
from rtn_jax.visualize.drawing import fitted, text_width
from rtn_jax.visualize.figures import check_height
from rtn_jax.visualize.mesh import check_mapping, pull_back, sample


def iteration_strip(
    src: ArrayLike, tgt: ArrayLike, mappings: Sequence[ArrayLike], captions: Sequence[str], *, height: int = 200
) -> UInt8[np.ndarray, "h w 3"]:
    """All iterations in one picture: the source, the target pulled back by each mapping, and the target as it is.

    Args:
        src, tgt: `[H, W, 3]` of any two sizes.
        mappings: each `[H, W, 2]`, for every source pixel its position in the target (as `Output.mapping[0]`).
        captions: as many.
        height: of one picture in pixels.

    Raises:
        ValueError: arrays that are not images or mappings of the source, or another number of captions.
    """
    src, tgt = to_uint8(src, "src"), to_uint8(tgt, "tgt")
    warped = [picture for _, picture in _pulled(src, tgt, mappings, captions, height)]
    columns = [
        [("source", resize(src, fitted(src.shape[:2], height, 4.0)))],
        *([(caption, picture)] for caption, picture in zip(captions, warped, strict=True)),
        [("target", resize(tgt, fitted(tgt.shape[:2], height, 4.0)))],
    ]
    canvas, layer, _ = board(columns, height)
    return layer.over(canvas)


def iteration_frames(
    src: ArrayLike, tgt: ArrayLike, mappings: Sequence[ArrayLike], captions: Sequence[str], *, height: int = 300
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """One picture for each iteration, all of one shape: an animation, as `images.save_animation` writes it.

    Each shows the source, the target pulled back by that mapping, and both laid over each other.

    Args and errors are those of `iteration_strip`.
    """
    src, tgt = to_uint8(src, "src"), to_uint8(tgt, "tgt")
    view = resize(src, fitted(src.shape[:2], height, 4.0))
    widest = max((text_width(caption, title_size(height)) for caption in captions), default=0.0)
    frames = []
    for caption, pulled in _pulled(src, tgt, mappings, captions, height):
        columns = [
            [("source", view)],
            [(caption, pulled)],
            [("half and half", warp_overlay(view, pulled.astype(np.float32)))],
        ]
        canvas, layer, _ = board(columns, height, least_width=widest)  # or a longer caption would move the pictures
        frames.append(layer.over(canvas))
    return frames


def _pulled(
    src: UInt8[np.ndarray, "H W 3"],
    tgt: UInt8[np.ndarray, "H2 W2 3"],
    mappings: Sequence[ArrayLike],
    captions: Sequence[str],
    height: int,
) -> list[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
    """Captions and pulled-back targets at the resolution they are shown at; what the target does not know is grey."""
    check_height(height)
    if len(mappings) != len(captions) or not captions:
        raise ValueError(f"captions: expected one for each of {len(mappings)} mappings, got {len(captions)}")
    shape = fitted(src.shape[:2], height, 4.0)
    seen = fitted(tgt.shape[:2], height, 4.0)
    small = resize(tgt, seen)
    grid = resize_points(pixel_grid(shape, np.float64), shape, src.shape[:2])
    pictures = []
    for caption, mapping in zip(captions, mappings, strict=True):
        there: Float[np.ndarray, "h w 2"] = sample(check_mapping(mapping, src.shape[:2], "mappings"), grid)
        image, covered = pull_back(small, resize_points(there, tgt.shape[:2], seen))
        pictures.append((caption, to_uint8(np.where(covered[..., None], image, HOLE))))
    return pictures
