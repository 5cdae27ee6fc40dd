"""Forward-backward consistency: how far from its start a pixel ends that goes to the other image and comes back.

Two mappings estimated independently, source to target and target to source, agree where both are right and hardly ever
where one is wrong: the usual measure of how far a match can be trusted without knowing the truth (Sundaram, Brox and
Keutzer, "Dense point trajectories by GPU-accelerated large displacement optical flow", ECCV 2010, equation 5). It
cannot see errors that both have in common: two mappings that move nothing agree everywhere.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rtn_jax.coordinates import clip_points, outer_edges, pixel_grid
from rtn_jax.sampling import bilinear_sample


def round_trip(src_to_tgt: Float[Array, "*b H W 2"], tgt_to_src: Float[Array, "*b h w 2"]) -> Float[Array, "*b H W 2"]:
    """Where the way there and back ends, as seen from where it began: `tgt_to_src(src_to_tgt(p)) - p`.

    Args:
        src_to_tgt: `[b, H, W, 2]` or `[H, W, 2]`, for every source pixel its position (x, y) in pixels of the target.
        tgt_to_src: `[b, h, w, 2]` or `[h, w, 2]`, for every target pixel its position in pixels of the source; between
            pixels it is interpolated.

    Returns:
        Displacements in pixels of the source, in the shape of `src_to_tgt`; infinite where `src_to_tgt` is not finite
        or leaves the target's area, from where no way back is known.

    Raises:
        ValueError: if these are not mappings, or ranks or batches differ.
    """
    same_rank = src_to_tgt.ndim == tgt_to_src.ndim and src_to_tgt.ndim in (3, 4)
    vectors = src_to_tgt.shape[-1:] == tgt_to_src.shape[-1:] == (2,)
    if not (same_rank and vectors and src_to_tgt.shape[:-3] == tgt_to_src.shape[:-3]):
        raise ValueError(
            "src_to_tgt, tgt_to_src: expected [b, H, W, 2] and [b, h, w, 2] (or both without b), got "
            f"{src_to_tgt.shape} and {tgt_to_src.shape}"
        )
    there = src_to_tgt.reshape(-1, *src_to_tgt.shape[-3:])
    back = tgt_to_src.reshape(-1, *tgt_to_src.shape[-3:])
    low, high = outer_edges(back.shape[1:3])
    arrives = ((there >= low) & (there <= high)).all(-1, keepdims=True)  # False for NaN
    at = clip_points(jnp.where(arrives, there, 0), back.shape[1:3])
    ends = bilinear_sample(back, at) - jnp.asarray(pixel_grid(there.shape[1:3]), there.dtype)
    return jnp.where(arrives, ends, jnp.inf).reshape(src_to_tgt.shape)


def forward_backward_error(
    src_to_tgt: Float[Array, "*b H W 2"], tgt_to_src: Float[Array, "*b h w 2"]
) -> Float[Array, "*b H W"]:
    """The length of `round_trip` for every source pixel, in pixels of the source; infinite where nothing comes back.

    Differentiable with respect to both mappings; the gradient at zero error is zero.

    Raises:
        ValueError: as `round_trip`.
    """
    squared = jnp.sum(round_trip(src_to_tgt, tgt_to_src) ** 2, axis=-1)
    known = jnp.isfinite(squared)  # the way back may be NaN, too
    positive = known & (squared > 0)
    length = jnp.sqrt(jnp.where(positive, squared, 1))
    return jnp.where(positive, length, jnp.where(known, jnp.zeros_like(length), jnp.inf))


def consistency_confidence(error: Any, *, tolerance: float) -> Any:
    """A forward-backward error as a confidence in 0..1: `2 ** -(error / tolerance)^2`.

    1 is exact agreement, 0.5 an error of just `tolerance`, 0.06 twice that, 0 an infinite or unknown error.

    Args:
        error: `[...]`, 0 or more; a NumPy or a JAX array, and the result is of the same kind.
        tolerance: in the unit of `error`, the largest error at which a match still counts as reliable.

    Raises:
        ValueError: if `tolerance` is not above 0.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance: expected a length above 0, got {tolerance}")
    numbers = np if isinstance(error, np.ndarray) else jnp  # JAX would compile programs for every shape
    known = numbers.isfinite(error)
    return numbers.where(known, numbers.exp2(-((numbers.where(known, error, 0) / tolerance) ** 2)), 0)
