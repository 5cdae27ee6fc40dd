"""Training losses: the weak one on real pairs, synthetic pairs with known ground truth, and a tie within the field.

Each loss is taken per pair first and then averaged over the pairs, so that its value and gradient do not depend on how
a batch is split over devices or accumulation steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rtn_jax.affine import field_jacobian
from rtn_jax.coordinates import Normalization, Shape
from rtn_jax.correlation import mutual_nearest


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
            pairs.

    Returns:
        A scalar; a pair whose mask is empty counts as zero.

    Raises:
        ValueError: for a volume of another rank, without a centre, a mask that does not fit, or an unknown reduction.

    Source: RTN section 3.4; the release uses temperature 1 and sums.
    """
    _check_reduction(reduction)
    if correlation.ndim != 4 or correlation.shape[-1] % 2 == 0:
        raise ValueError(f"correlation: expected [b, h, w, m] with a centre (m odd), got shape {correlation.shape}")
    mask = jnp.ones(correlation.shape[:3], correlation.dtype) if mask is None else mask
    if mask.shape != correlation.shape[:3]:
        raise ValueError(f"mask: expected {correlation.shape[:3]}, got {mask.shape}")
    logits = temperature * _at_least_single(correlation)
    return _over_pairs(-jax.nn.log_softmax(logits)[..., logits.shape[-1] // 2], mask, reduction)


def synthetic_loss(
    history: Sequence[Float[Array, "_ b _ _ 2 3"]],
    truth: Sequence[Float[Array, "b _ _ 2 3"]],
    valid: Sequence[Bool[Array, "b _ _"]],
    *,
    decay: float = 0.8,
    matrix_weight: float = 0.0,
    scale: float = 0.0,
    reduction: str = "mean",
) -> Float[Array, ""]:
    """L1 between the field after every iteration and the field the pair was made with.

    Iteration `k` of all `K` (over all levels) weighs `decay^(K - k)`; the weights are normalised to sum to one.

    Args:
        history: `Output.history`, per level the field after each iteration, `[k, b, h, w, 2, 3]`.
        truth: per level, the true field on that grid, `[b, h, w, 2, 3]`: translations in the units of `history`, 2x2
            parts in cells.
        valid: per level, `[b, h, w]`, the cells whose true position lies inside the target.
        decay: 0 supervises the last iteration alone, as the release does.
        matrix_weight: of the L1 on the 2x2 part, which a loss on translations alone lets drift away from the truth.
        scale: a cell's error `e` counts as `scale (1 - exp(-e / scale))`, so that large ones have next to no gradient;
            0: as `e`.
        reduction: `mean` over the valid cells of each pair and the two coordinates (four entries of the 2x2 part), or
            `sum` over both as the release; then the mean over the pairs.

    Returns:
        A scalar, in normalised units (1 is half the image); a pair without a valid cell counts as zero.

    Raises:
        ValueError: if levels or shapes do not fit, for a decay below zero, or an unknown reduction.

    Source: the release's first stage (summed L1 on the final translations); the weighting of iterations is RAFT's.
    """
    _check_reduction(reduction)
    if not 0 < len(history) == len(truth) == len(valid):
        raise ValueError(
            f"history, truth, valid: expected one entry per level, got {len(history)}, {len(truth)}, {len(valid)}"
        )
    over_entries = jnp.sum if reduction == "sum" else jnp.mean
    errors = []
    for fields, true, inside in zip(history, truth, valid, strict=True):
        if fields.shape[1:] != true.shape or inside.shape != true.shape[:3]:
            raise ValueError(
                f"truth, valid: expected {fields.shape[1:]} and {fields.shape[1:4]}, got {true.shape} and "
                f"{inside.shape}"
            )
        difference = jnp.abs(_at_least_single(fields) - true)
        translation = over_entries(difference[..., 2], axis=-1)
        matrix = over_entries(difference[..., :2], axis=(-1, -2))
        error = translation + matrix_weight * matrix
        errors.append(_over_pairs(-scale * jnp.expm1(-error / scale) if scale else error, inside, reduction))
    return _over_iterations(errors, decay)


def tie_loss(
    fields: Sequence[Float[Array, "_ b _ _ 2 3"]],
    mask: Float[Array, "b h w"] | None = None,
    *,
    normalization: Normalization = "centers",
    decay: float = 0.8,
) -> Float[Array, ""]:
    """L1 between the 2x2 part of the field and the Jacobian of its own translations, after every iteration.

    Nothing but the matching itself holds the 2x2 part on real pairs, and the weak loss can be lowered by turning and
    stretching neighbourhoods; this asks them to turn and stretch as the field around them does.

    The gradient goes to the 2x2 part alone, through no Jacobian: the translations are what matching teaches, and a
    wrong 2x2 part must not bend them towards itself.

    Args:
        fields: `Output.history`, per level the field after each iteration, `[k, b, h, w, 2, 3]`.
        mask: `[b, h, w]` on the last level's grid, 1 where the field counts, 0 elsewhere; all ones unless given. A cell
            of a coarser grid counts by the share of it that the mask covers.
        normalization: the units of the translations.
        decay: of the weights of the iterations, as in `synthetic_loss`.

    Returns:
        A scalar: the mean over the four entries and the cells of each pair, then over the pairs. A pair whose mask is
        empty counts as zero.

    Raises:
        ValueError: if shapes do not fit, for a decay below zero, or an unknown normalization.

    Source: neither the paper nor the release has it.
    """
    if not fields:
        raise ValueError("fields: expected at least one level, got none")
    for level in fields:
        if level.ndim != 6 or level.shape[-2:] != (2, 3):
            raise ValueError(f"fields: expected [k, b, h, w, 2, 3] per level, got shape {level.shape}")
    finest = fields[-1].shape[1:4]
    mask = jnp.ones(finest, jnp.float32) if mask is None else mask
    if mask.shape != finest:
        raise ValueError(f"mask: expected {finest}, got {mask.shape}")
    errors = []
    for level in map(_at_least_single, fields):
        jacobian = jax.vmap(partial(field_jacobian, normalization=normalization))(level)
        difference = jnp.abs(level[..., :2] - jax.lax.stop_gradient(jacobian)).mean((-1, -2))
        errors.append(_over_pairs(difference, _covered(mask, level.shape[2:4]), "mean"))
    return _over_iterations(errors, decay)


def correspondence_loss(
    src: Float[Array, "b h w c"],
    tgt: Float[Array, "b h w c"],
    src_mask: Float[Array, "b h w"] | None = None,
    tgt_mask: Float[Array, "b h w"] | None = None,
    *,
    temperature: float = 1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy that asks features to tell each cell's match from all other cells, matches being what they say now.

    The matches are the mutual nearest neighbours inside the masks: cells whose best cell in the other image has them as
    its best. Each is classified among the other image's cells by `softmax(temperature * cosine)`, both ways.

    Args:
        src, tgt: `[b, h, w, c]` features of unit length.
        src_mask, tgt_mask: `[b, h, w]`, 1 inside the object, 0 outside; all ones unless given. Cells outside are
            neither matched nor candidates.
        temperature: multiplies the cosines.

    Returns:
        The loss, a mean over each pair's matches and then over the pairs, where a pair with an empty mask counts as
        zero; and the share of the source's masked cells that have a match.

    Raises:
        ValueError: for features of different shapes or masks that do not fit.

    Source: the correspondence classification of CAT-FCSS's weakly supervised training (Kim et al., TPAMI 2019), whose
    positive samples are mutual nearest neighbours inside the objects' boxes.
    """
    if src.ndim != 4 or src.shape != tgt.shape:
        raise ValueError(f"src, tgt: expected two arrays [b, h, w, c] of one shape, got {src.shape} and {tgt.shape}")
    masks = []
    for name, mask in (("src_mask", src_mask), ("tgt_mask", tgt_mask)):
        mask = jnp.ones(src.shape[:3], bool) if mask is None else mask
        if mask.shape != src.shape[:3]:
            raise ValueError(f"{name}: expected {src.shape[:3]}, got {mask.shape}")
        masks.append(mask.reshape(len(src), -1) > 0)
    a, b = (_at_least_single(x).reshape(len(x), -1, x.shape[-1]) for x in (src, tgt))
    allowed = masks[0][:, :, None] & masks[1][:, None, :]
    # Finite, so that a cell without any candidate has a loss and a gradient, which are then not counted.
    cosines = jnp.where(allowed, jnp.einsum("bnc,bmc->bnm", a, b), -2.0)
    best, mutual = mutual_nearest(cosines)
    mutual = mutual & masks[0] & masks[1].any(1, keepdims=True)
    logits = jnp.where(allowed, temperature * cosines, -1e9)
    matched = jnp.take_along_axis(logits, best[..., None], axis=2)[..., 0]
    backward = jnp.take_along_axis(jax.nn.logsumexp(logits, axis=1), best, axis=1)
    errors = (jax.nn.logsumexp(logits, axis=2) + backward) / 2 - matched
    share = mutual.sum(1) / jnp.maximum(masks[0].sum(1), 1)
    return _over_pairs(errors[:, None], mutual[:, None], "mean"), share.mean()


def _over_pairs(
    cells: Float[Array, "*k b h w"], weights: Float[Array, "b h w"] | Bool[Array, "b h w"], reduction: str
) -> Float[Array, "*k"]:
    """The weighted sum or mean over each pair's cells, zero where no weight is; then the mean over the pairs."""
    weights = weights.astype(cells.dtype)
    total = (cells * weights).sum((-1, -2))
    if reduction == "mean":
        count = weights.sum((-1, -2))
        total = total / jnp.where(count > 0, count, 1)
    return total.mean(-1)


def _over_iterations(errors: Sequence[Float[Array, " _"]], decay: float) -> Float[Array, ""]:
    """The mean over the iterations of all levels, each weighing `decay` times as much as the next."""
    if not decay >= 0:
        raise ValueError(f"decay: expected at least 0, got {decay}")
    per_iteration = jnp.concatenate(errors)
    importance = float(decay) ** np.arange(per_iteration.size - 1, -1, -1)  # 0^0 is 1
    return (jnp.asarray(importance / importance.sum(), per_iteration.dtype) * per_iteration).sum()


def _covered(mask: Float[Array, "b H W"], shape: Shape) -> Float[Array, "b h w"]:
    """The share of every cell of a coarser grid over the same image that the mask covers."""
    (rows, columns), (height, width) = mask.shape[1:], shape
    if rows % height or columns % width:
        raise ValueError(f"fields: expected grids that divide the last one, {(rows, columns)}, got {(height, width)}")
    return mask.reshape(-1, height, rows // height, width, columns // width).mean((2, 4))


def _at_least_single(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Half precision as single; sums over thousands of cells need it."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
