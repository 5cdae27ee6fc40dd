"""Flow and confidence as colours, regions greyed out or tinted, and two images laid over each other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike
from scipy.ndimage import binary_dilation, binary_erosion

from rtn_jax.coordinates import pixel_grid
from rtn_jax.images import check_image, to_uint8
from rtn_jax.visualize.mesh import check_mapping

HOLE = 128
"""The grey of pixels about which nothing is known."""

# The colour of a long motion to the right, down, left and up. Of two opposite directions one pair differs in yellow
# against blue, the other in light against dark, which every kind of colour vision keeps.
_COMPASS = np.asarray([(214, 48, 40), (235, 195, 50), (40, 150, 205), (92, 40, 150)], np.float64)

_TINT = (86, 180, 233)
_FADED, _CONTRAST = 190.0, 0.35  # what is greyed out: lightness around which, and how much of its contrast is left


def flow_to_color(flow: ArrayLike, max_norm: float | int | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """A flow `[H, W, 2]` (x, y) as colours: the hue is the direction (right is red), the saturation the length.

    With theta the direction and R, D, L, U the colours of right, down, left and up, the colour of a full-length motion
    is the smooth closed curve through the four,
    `mean + (R - L)/2 cos(theta) + (D - U)/2 sin(theta) + (R - D + L - U)/4 cos(2 theta)`; a shorter one is mixed with
    white in proportion. `color_wheel` is the key.

    Args:
        flow: any unit; NaN, infinity and values of 1e9 or more are unknown and become grey.
        max_norm: the length of a full colour and of everything longer; the longest known motion unless given.

    Raises:
        ValueError: the shape is not `[H, W, 2]`, or `max_norm` is not above 0.
    """
    flow = check_mapping(flow, name="flow")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm: expected a length above 0, got {max_norm}")
    length = np.linalg.norm(flow, axis=-1)
    known = np.isfinite(length)
    full = max_norm if max_norm is not None else max(length[known].max(initial=0), np.finfo(np.float64).tiny)
    right, down, left, up = _COMPASS
    theta = np.arctan2(flow[..., 1], flow[..., 0])[..., None]
    hue = _COMPASS.mean(axis=0) + (right - left) / 2 * np.cos(theta) + (down - up) / 2 * np.sin(theta)
    hue = np.clip(hue + (right - down + left - up) / 4 * np.cos(2 * theta), 0, 255)
    share = np.minimum(length / full, 1)[..., None]
    return to_uint8(np.where(known[..., None], 255 + share * (hue - 255), HOLE))


def usual_maximum(flow: ArrayLike) -> float:
    """The length below which 98 % of the known motions of a flow `[H, W, 2]` stay, at least 0.001: for `max_norm`.

    A few wild ones would make all others pale.

    Raises:
        ValueError: the shape is not `[H, W, 2]`.
    """
    length = np.linalg.norm(check_mapping(flow, name="flow"), axis=-1)
    known = length[np.isfinite(length)]
    return max(float(np.percentile(known, 98)), 1e-3) if known.size else 1.0


def confidence_to_color(confidence: ArrayLike) -> UInt8[np.ndarray, "H W 3"]:
    """A confidence `[H, W]` in 0..1 as colours of even steps in lightness: dark blue is 0, yellow 1, grey unknown.

    Raises:
        ValueError: the shape is not `[H, W]`.
    """
    from matplotlib import colormaps  # here, so that importing the library stays light

    values = np.asarray(confidence, np.float64)
    if values.ndim != 2:
        raise ValueError(f"confidence: expected [H, W], got shape {values.shape}")
    rgb = colormaps["viridis"](np.clip(values, 0, 1))[..., :3] * 255
    return to_uint8(np.where(np.isfinite(values)[..., None], rgb, HOLE))


def grey_out(image: ArrayLike, keep: ArrayLike) -> UInt8[np.ndarray, "H W 3"]:
    """An image `[H, W, 3]` without colour and pale wherever `keep` `[H, W]` is False: what is not to be relied on.

    Raises:
        ValueError: not an image, or `keep` has another shape.
    """
    image, keep = check_image(image), np.asarray(keep, bool)
    if keep.shape != image.shape[:2]:
        raise ValueError(f"keep: expected shape {image.shape[:2]}, got {keep.shape}")
    grey = image.astype(np.float64).mean(axis=-1, keepdims=True)
    return to_uint8(np.where(keep[..., None], image, _FADED + _CONTRAST * (grey - _FADED)))


def mask_overlay(image: ArrayLike, mask: ArrayLike) -> UInt8[np.ndarray, "H W 3"]:
    """An image `[H, W, 3]` with the pixels of `mask` `[H, W]` tinted and outlined, the others darkened.

    Raises:
        ValueError: not an image, or a mask of another shape.
    """
    image, mask = check_image(image), np.asarray(mask, bool)
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask: expected shape {image.shape[:2]}, got {mask.shape}")
    tinted = 0.65 * image.astype(np.float64) + 0.35 * np.asarray(_TINT)
    laid = np.where(mask[..., None], tinted, 0.55 * image.astype(np.float64))
    width = max(1, round(max(mask.shape) / 400))
    outline = binary_dilation(mask, iterations=width) & ~binary_erosion(mask, iterations=width, border_value=1)
    return to_uint8(np.where(outline[..., None], 255, laid))


def color_wheel(size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The key of `flow_to_color`: a disc whose centre is no motion and whose rim is `max_norm`, on white.

    Raises:
        ValueError: `size` below 1.
    """
    if size < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size}")
    radius = size / 2
    offset = pixel_grid((size, size), np.float64) - (size - 1) / 2
    wheel = flow_to_color(offset, radius).astype(np.float64)
    disc = np.clip(radius - np.linalg.norm(offset, axis=-1), 0, 1)[..., None]  # its rim smoothed over one pixel
    return to_uint8(disc * wheel + (1 - disc) * 255)


def warp_overlay(warped: ArrayLike, tgt: ArrayLike) -> UInt8[np.ndarray, "H W 3"]:
    """Two images `[H, W, 3]` of one shape, half and half: what agrees is sharp, what does not is seen double.

    Raises:
        ValueError: not images, or of two shapes.
    """
    warped, tgt = _alike(warped, tgt, "warped", "tgt")
    return to_uint8((warped.astype(np.float64) + tgt) / 2)


def checkerboard(a: ArrayLike, b: ArrayLike, cells: int = 8) -> UInt8[np.ndarray, "H W 3"]:
    """Square cells taken in turn from two images `[H, W, 3]` of one shape; the one at the top left is from `a`.

    Args:
        cells: how many along the longer side.

    Raises:
        ValueError: not images, of two shapes, or `cells` below 1.
    """
    a, b = _alike(a, b, "a", "b")
    if cells < 1:
        raise ValueError(f"cells: expected at least 1, got {cells}")
    cell = pixel_grid((a.shape[0], a.shape[1]), np.int64) * cells // max(a.shape[:2])
    return to_uint8(np.where(cell.sum(axis=-1, keepdims=True) % 2 == 0, a, b))


def _alike(
    a: ArrayLike, b: ArrayLike, a_name: str, b_name: str
) -> tuple[
    Float[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W 3"]
]:
    a, b = check_image(a, a_name), check_image(b, b_name)
    if a.shape != b.shape:
        raise ValueError(f"{b_name}: expected the shape of {a_name}, {a.shape}, got {b.shape}")
    return a, b
