"""Training losses: synthetic pairs with known ground truth, and the weak loss on real pairs."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def weak_loss(
    correlation: Float[Array, "b h w m"],
    mask: Float[Array, "b h w"] | None = None,
    *,
    temperature: float = 1.0,
    reduction: str = "mean",
) -> Float[Array, ""]:
    """Cross-entropy that asks every cell's best match in the warped target to be the window's centre.

    `-sum_j p*_j log p_j` with `p = softmax(temperature * C)` over the window and `p*_j = 1` where j is the centre.

    Args:
        correlation: `[b, h, w, m]` raw volume (cosines) at the final field: `Output.correlation`.
        mask: `[b, h, w]`, 1 inside the source's object, 0 outside; all ones unless given.
        temperature: multiplies the cosines.
        reduction: `mean` over the masked cells of each pair, or `sum` over them as the release; then the mean over the
            batch, so that a batch split over devices has the same loss.

    Returns:
        A scalar; a pair whose mask is empty counts as zero.

    Raises:
        ValueError: for a volume of another rank, without a centre, a mask that does not fit, or an unknown reduction.

    Source: RTN section 3.4; the release uses temperature 1 and sums.
    """
    if correlation.ndim != 4 or correlation.shape[-1] % 2 == 0:
        raise ValueError(f"correlation: expected [b, h, w, m] with a centre (m odd), got shape {correlation.shape}")
    mask = jnp.ones(correlation.shape[:3], correlation.dtype) if mask is None else mask
    if mask.shape != correlation.shape[:3]:
        raise ValueError(f"mask: expected {correlation.shape[:3]}, got {mask.shape}")
    logits = temperature * correlation.astype(jnp.promote_types(correlation.dtype, jnp.float32))
    cells = -jax.nn.log_softmax(logits)[..., logits.shape[-1] // 2] * mask
    if reduction == "sum":
        return cells.sum((1, 2)).mean()
    if reduction == "mean":
        return (cells.sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)).mean()
    raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")


def synthetic_loss(
    history: Sequence[Float[Array, "_ b _ _ 2 3"]],
    truth: Sequence[Float[Array, "b _ _ 2 3"]],
    valid: Sequence[Bool[Array, "b _ _"]],
    *,
    decay: float = 0.8,
    matrix_weight: float = 0.0,
) -> Float[Array, ""]:
    """L1 between the field after every iteration and the field the pair was made with.

    Iteration `k` of all `K` (over all levels) weighs `decay^(K - k)`; the weights are normalised to sum to one.

    Args:
        history: `Output.history`, per level the field after each iteration.
        truth: per level, the true field on that grid: translations in the units of `history`, 2x2 parts in cells.
        valid: per level, the cells whose true position lies inside the target.
        decay: 0 supervises the last iteration alone, as the release does.
        matrix_weight: of the L1 on the 2x2 part, which a loss on translations alone lets drift away from the truth.

    Returns:
        The mean over valid cells and the two coordinates, in normalised units (1 is half the image).

    Raises:
        ValueError: if levels or shapes do not fit.

    Source: the release's first stage (L1 on the final translations); the weighting of iterations is RAFT's.
    """
    if not len(history) == len(truth) == len(valid):
        raise ValueError(
            f"history, truth, valid: expected one entry per level, got {len(history)}, {len(truth)}, {len(valid)}"
        )
    errors = []
    for fields, true, inside in zip(history, truth, valid, strict=True):
        if fields.shape[1:] != true.shape or inside.shape != true.shape[:3]:
            raise ValueError(
                f"truth, valid: expected {fields.shape[1:]} and {fields.shape[1:4]}, got {true.shape} and "
                f"{inside.shape}"
            )
        weights = inside.astype(true.dtype)
        count = jnp.maximum(weights.sum(), 1)
        difference = jnp.abs(fields - true)
        translation = (difference[..., 2].mean(-1) * weights).sum((1, 2, 3)) / count
        matrix = (difference[..., :2].mean((-1, -2)) * weights).sum((1, 2, 3)) / count
        errors.append(translation + matrix_weight * matrix)
    per_iteration = jnp.concatenate(errors)
    steps_left = jnp.arange(per_iteration.size - 1, -1, -1)
    importance = jnp.where(steps_left == 0, 1.0, decay**steps_left) if decay else (steps_left == 0).astype(jnp.float32)
    return (importance * per_iteration).sum() / importance.sum()
