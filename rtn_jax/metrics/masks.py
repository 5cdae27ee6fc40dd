"""Label transfer (Caltech-101): the mask of one image carried over to the other by a dense mapping, and compared.

The definitions are those of the evaluation code published with "End-to-end weakly-supervised semantic alignment"
(Rocco, Arandjelovic and Sivic, CVPR 2018); the measures are those of Kim, Liu, Sha and Grauman, "Deformable spatial
pyramid matching for fast dense correspondences" (CVPR 2013). Other code under the same names rounds the flow to whole
pixels first, or moves the mask's outline instead of its pixels: such numbers do not compare.

Everything takes place at the images' original sizes, on the pixels of the image that the mapping is known for. That is
the source here; the published code calls it the target. A figure over many pairs is the plain mean of the pairs'
values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from rtn_jax.coordinates import between_centers, object_positions, pixel_grid
from rtn_jax.metrics.checks import as_field, as_mask, check_same_shape


def transfer_mask(tgt_mask: Any, mapping: Any) -> Bool[np.ndarray, "H W"]:
    """The target's mask pulled onto the source through the mapping.

    The mask is sampled bilinearly as 0 and 1, zero outside the image; more than one half is foreground.

    Args:
        tgt_mask: Boolean `[h, w]`, the target's foreground.
        mapping: `[H, W, 2]` position (x, y) in the target, pixels, of every source pixel; one that is not finite lies
            outside.

    Returns:
        `[H, W]`, the predicted foreground of the source.

    Raises:
        ValueError: if `tgt_mask` is not a Boolean `[h, w]` or `mapping` not `[H, W, 2]`.
    """
    mask, mapping = as_mask("tgt_mask", tgt_mask), as_field("mapping", mapping)
    size = np.asarray(mask.shape[::-1])
    padded = np.pad(mask, 1).astype(np.float64)  # a frame of background; what lies beyond it is moved onto its rim
    finite = np.isfinite(mapping).all(axis=-1, keepdims=True)
    places = (np.where(finite, mapping, -1) + 1).clip(0, size + 1)
    first = np.minimum(places.astype(np.int64), size)
    (x, y), (share_x, share_y) = np.moveaxis(first, -1, 0), np.moveaxis(places - first, -1, 0)
    upper = padded[y, x] * (1 - share_x) + padded[y, x + 1] * share_x
    lower = padded[y + 1, x] * (1 - share_x) + padded[y + 1, x + 1] * share_x
    return np.asarray(upper * (1 - share_y) + lower * share_y > 0.5)


def label_accuracy(predicted: Any, true: Any) -> float:
    """LT-ACC: share of all pixels, foreground and background, that have the right label.

    Args:
        predicted: Boolean `[H, W]`, such as `transfer_mask` gives.
        true: Boolean `[H, W]`, the true foreground of the same image.

    Returns:
        A share in 0..1.

    Raises:
        ValueError: if the shapes differ or are not Boolean `[H, W]`.
    """
    predicted, true = _masks(predicted, true)
    return float((predicted == true).mean())


def intersection_over_union(predicted: Any, true: Any) -> float:
    """IoU of the foreground: pixels that are foreground in both masks, over those that are in at least one.

    Args:
        predicted: Boolean `[H, W]`, such as `transfer_mask` gives.
        true: Boolean `[H, W]`, the true foreground of the same image.

    Returns:
        A share in 0..1.

    Raises:
        ValueError: if the shapes differ or are not Boolean `[H, W]`, or if neither mask has a foreground.
    """
    predicted, true = _masks(predicted, true)
    union = np.count_nonzero(predicted | true)
    if not union:
        raise ValueError("true: expected a foreground pixel in it or in predicted, got none in both")
    return float(np.count_nonzero(predicted & true) / union)


def localization_error(mapping: Any, src_mask: Any, tgt_mask: Any) -> float:
    """LOC-ERR: mean of `|dx| + |dy|` between a pixel's place in its object's box and its partner's in the other's.

    All source pixels count, background included, whose partner lies between the centres of the target's border pixels,
    not on them. The partner is the pixel whose centre is at or next
    to the left of and above the mapped position (truncated, not rounded).

    Args:
        mapping: `[H, W, 2]` position (x, y) in the target, pixels, of every source pixel; one that is not finite does
            not count.
        src_mask: Boolean `[H, W]`, the source's foreground.
        tgt_mask: Boolean `[h, w]`, the target's foreground.

    Returns:
        The error in units of the boxes' sides: 0 is perfect, there is no upper bound. NaN if no pixel counts; the
        published mean over pairs leaves such a pair out.

    Raises:
        ValueError: if a mask is not Boolean `[height, width]` or has no foreground, or if `mapping` is not `[H, W, 2]`
            of the source mask's size.
    """
    mapping, src_mask, tgt_mask = (
        as_field("mapping", mapping),
        as_mask("src_mask", src_mask),
        as_mask("tgt_mask", tgt_mask),
    )
    if mapping.shape[:2] != src_mask.shape:
        raise ValueError(f"mapping: expected the size of src_mask, {src_mask.shape}, got {mapping.shape[:2]}")
    for name, mask in (("src_mask", src_mask), ("tgt_mask", tgt_mask)):
        if not mask.any():
            raise ValueError(f"{name}: expected a foreground pixel, got none in {mask.shape}")
    counted = between_centers(mapping, tgt_mask.shape)
    if not counted.any():
        return float("nan")
    src_place = object_positions(pixel_grid(src_mask.shape, np.int64)[counted], src_mask)
    tgt_place = object_positions(np.floor(mapping[counted]), tgt_mask)
    difference: Float[np.ndarray, "n 2"] = src_place - tgt_place
    return float(np.abs(difference).sum(axis=-1).mean())


def _masks(predicted: Any, true: Any) -> tuple[Bool[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    predicted, true = as_mask("predicted", predicted), as_mask("true", true)
    check_same_shape("predicted", predicted, "true", true)
    return predicted, true
