"""What is carried from the source to the target with the pixels it lies on: a mask, or an edit painted on the source.

Every pixel of the target looks up, along the way from target to source, what lies where it comes from: there are no
holes, and a target of any size is done band by band.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import ArrayLike
from PIL import Image
from scipy.ndimage import uniform_filter

from rtn_jax.coordinates import Shape, shrunk_shape
from rtn_jax.images import check_image, to_uint8
from rtn_jax.matching.answer import Answer, bands
from rtn_jax.visualize.mesh import inside, sample

_SAME = 8
"""Grey levels by which pixels may differ that nobody painted on: decoders and editors round differently."""
_SAME_LOSSY = 20
"""The same in a JPEG, where the mean of 3x3 pixels is compared: what compression does cancels out, paint does not."""


def carry_mask(answer: Answer, mask: ArrayLike, *, shape: Shape | None = None) -> Bool[np.ndarray, "h w"]:
    """A mask of the source carried over to the target.

    Args:
        answer: of the two photos.
        mask: `[H, W]`, nonzero where the object is, at the source's size or any other.
        shape: (height, width) of the result; the target's unless given.

    Raises:
        ValueError: if the mask is not `[H, W]`.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"mask: expected [H, W], got shape {mask.shape}")
    shape = answer.tgt_shape if shape is None else shape
    small = _shrunk((mask != 0).astype(np.float32), max(shape))
    carried = np.zeros(shape, bool)
    for rows in bands(shape):
        at = answer.back_mapping(shape, small.shape, rows)
        carried[rows] = (sample(small, at) > 0.5) & inside(at, small.shape)
    return carried


def changed_pixels(src: ArrayLike, painted: ArrayLike, *, lossy: bool = False) -> Bool[np.ndarray, "H W"]:
    """Where a picture was painted on: all pixels that differ from the source by more than rounding.

    Args:
        src, painted: `[H, W, 3]` of one shape, uint8.
        lossy: the painted picture went through a lossy format such as JPEG.

    Raises:
        ValueError: not images, or of two shapes.
    """
    src, painted = to_uint8(src, "src"), to_uint8(painted, "painted")
    if src.shape != painted.shape:
        raise ValueError(f"painted: expected the shape of src, {src.shape}, got {painted.shape}")
    changed = np.zeros(src.shape[:2], bool)
    for channel in range(3):
        difference = painted[..., channel].astype(np.float32) - src[..., channel]
        if lossy:
            difference = uniform_filter(difference, 3)
        changed |= np.abs(difference) > (_SAME_LOSSY if lossy else _SAME)
    return changed


def carry_edit(answer: Answer, tgt: ArrayLike, colors: ArrayLike, opacity: ArrayLike) -> UInt8[np.ndarray, "h w 3"]:
    """An edit of the source carried over to a picture of the target.

    Args:
        answer: of the two photos.
        tgt: `[h, w, 3]`, the target at any size; the result has it too.
        colors: `[H, W, 3]`, what was painted, at the source's size or any other.
        opacity: `[H, W]` in 0..1, where and how densely.

    Raises:
        ValueError: not images, or an opacity of another shape.
    """
    result, colors = to_uint8(tgt, "tgt").copy(), check_image(colors, "colors")
    opacity = np.asarray(opacity, np.float32)
    if opacity.shape != colors.shape[:2]:
        raise ValueError(f"opacity: expected shape {colors.shape[:2]}, got {opacity.shape}")
    longest = max(result.shape[:2])
    alpha = _shrunk(opacity, longest)
    layers = [_shrunk(colors[..., c].astype(np.float32) * opacity, longest) for c in range(3)]  # as paint mixes
    for rows in bands(result.shape[:2]):
        at = answer.back_mapping(result.shape[:2], alpha.shape, rows)
        share = np.where(inside(at, alpha.shape), sample(alpha, at), 0)
        y, x = np.nonzero(share > 1 / 255)
        if len(y):
            paint = np.stack([sample(layer, at[y, x]) for layer in layers], axis=-1)
            below = result[rows][y, x].astype(np.float64)
            result[rows][y, x] = np.rint(np.clip(paint + (1 - share[y, x, None]) * below, 0, 255)).astype(np.uint8)
    return result


def _shrunk(plane: Float[np.ndarray, "H W"], longest: int) -> Float[np.ndarray, "h w"]:
    """Averaged down, where it is finer than what it is wanted for: sampling it would skip pixels."""
    height, width = shrunk_shape(plane.shape, longest)
    if (height, width) == plane.shape:
        return plane.astype(np.float64)  # as `sample` wants it: otherwise each band would convert all of it
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BOX), np.float64)
