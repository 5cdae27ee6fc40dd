"""The percentage of correct keypoints (PCK) and what it takes to report it honestly.

A transferred keypoint is correct if it lies within `alpha * L` of the true one. `L` has at least three definitions in
the literature and the same prediction scores very differently under each, so none is the default here and `pck_name`
puts the one that was used beside the number:

* `img`: the longer side of the target image, `max(H, W)` (PF-PASCAL);
* `bbox`: the longer side of the target object's box (SPair-71k);
* `bbox-kp`: the longer side of the box of the target's keypoints (PF-WILLOW).

Two averages are in use as well. Per image: the share of correct keypoints is taken per pair (`pck`) and averaged over
the pairs. Per point: the correct keypoints of all pairs (`correct_points`) are divided by all keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args, overload

import numpy as np
from jaxtyping import Bool, Float

from rtn_jax.metrics.checks import as_array, as_points, as_positive, as_shape, check_finite, check_same_shape

PckKind = Literal["img", "bbox", "bbox-kp"]
"""What the threshold of PCK is relative to."""

PCK_KINDS: tuple[PckKind, ...] = get_args(PckKind)


@overload
def pck(predicted: Any, true: Any, *, threshold_length: float, alpha: float) -> float: ...


@overload
def pck(predicted: Any, true: Any, *, threshold_length: float, alpha: Sequence[float]) -> Float[np.ndarray, " a"]: ...


def pck(
    predicted: Any, true: Any, *, threshold_length: float, alpha: float | Sequence[float]
) -> float | Float[np.ndarray, " a"]:
    """Share of the keypoints of one pair that were transferred to within `alpha * threshold_length` (inclusive).

    Defined by Yang and Ramanan, "Articulated human detection with flexible mixtures of parts" (TPAMI 2013).

    Args:
        predicted: `[n, 2]` transferred keypoints (x, y), pixels of the target; one that is not finite counts as wrong.
        true: `[n, 2]` true keypoints, in the same pixels.
        threshold_length: `L` in these pixels, see `pck_length`.
        alpha: fraction of `L`, or `[a]` of them.

    Returns:
        A share in 0..1, or `[a]` of them when `alpha` is a sequence.

    Raises:
        ValueError: if the shapes differ or are not `[n, 2]` with `n >= 1`, if a true keypoint is not finite, or if
            `threshold_length` or an `alpha` is not a positive finite number.
    """
    correct = correct_points(predicted, true, threshold_length=threshold_length, alpha=alpha)
    share = correct.mean(axis=-1)
    return share if correct.ndim > 1 else float(share)


def correct_points(
    predicted: Any, true: Any, *, threshold_length: float, alpha: float | Sequence[float]
) -> Bool[np.ndarray, "*a n"]:
    """Which keypoints were transferred to within `alpha * threshold_length` (inclusive); takes what `pck` takes.

    Returns:
        `[n]`, or `[a, n]` when `alpha` is a sequence.

    Raises:
        ValueError: as `pck`.
    """
    error = point_errors(predicted, true)
    alphas = as_array("alpha", alpha)
    if alphas.ndim > 1 or not alphas.size:
        raise ValueError(f"alpha: expected a number or a sequence of them, got shape {list(alphas.shape)}")
    if not (np.isfinite(alphas) & (alphas > 0)).all():
        raise ValueError(f"alpha: expected positive finite numbers, got {alpha}")
    length = as_positive("threshold_length", threshold_length, "pixels")
    correct: Bool[np.ndarray, "*a n"] = error <= alphas[..., None] * length
    return correct


def point_errors(predicted: Any, true: Any) -> Float[np.ndarray, " n"]:
    """Distance of every transferred keypoint to the true one, pixels.

    Args:
        predicted: `[n, 2]` transferred keypoints (x, y), pixels of the target.
        true: `[n, 2]` true keypoints, in the same pixels.

    Returns:
        `[n]`, infinite where the prediction is not finite.

    Raises:
        ValueError: if the shapes differ or are not `[n, 2]` with `n >= 1`, or if a true keypoint is not finite.
    """
    predicted, true = as_points("predicted", predicted), as_points("true", true)
    check_same_shape("predicted", predicted, "true", true)
    check_finite("true", true)
    with np.errstate(over="ignore"):  # predictions of any size are answered, if only with infinity
        return np.where(np.isfinite(predicted).all(axis=-1), np.hypot(*(predicted - true).T), np.inf)


def pck_length(
    kind: PckKind,
    *,
    tgt_points: Any | None = None,
    tgt_shape: Sequence[int] | None = None,
    tgt_box: Any | None = None,
) -> float:
    """The length `L` in pixels that the threshold of PCK is a fraction of.

    Only the argument that `kind` needs is looked at, so a caller may pass all it has.

    Args:
        kind: `img`, `bbox` or `bbox-kp`; see the module's description.
        tgt_points: `[n, 2]` the target's true keypoints (x, y), those of this pair and no padding: padding with -1, as
            some published code does, inflates the length.
        tgt_shape: `(H, W)` or `(H, W, 3)` of the target.
        tgt_box: `[4]` the target object's box, `(left, top, right, bottom)` pixels; a side is `right - left`.

    Raises:
        ValueError: if `kind` is unknown, if the argument it needs is missing, malformed or not finite, or if the
            length is not positive (a single keypoint has no box).
    """
    if kind == "img":
        length = float(max(as_shape("tgt_shape", _given(kind, "tgt_shape", tgt_shape))))
    elif kind == "bbox":
        box = as_array("tgt_box", _given(kind, "tgt_box", tgt_box))
        if box.shape != (4,):
            raise ValueError(f"tgt_box: expected (left, top, right, bottom), got shape {list(box.shape)}")
        check_finite("tgt_box", box)
        length = float((box[2:] - box[:2]).max())
    elif kind == "bbox-kp":
        points = as_points("tgt_points", _given(kind, "tgt_points", tgt_points))
        check_finite("tgt_points", points)
        length = float(np.ptp(points, axis=0).max())
    else:
        raise ValueError(f"kind: expected one of {', '.join(PCK_KINDS)}, got {kind!r}")
    if length <= 0:
        raise ValueError(f"kind: the length of {kind!r} must be positive, got {length:g}")
    return length


def pck_name(alpha: float, kind: PckKind, *, detail: str = "") -> str:
    """The full name of a figure, such as `PCK@0.10 (bbox-kp)` or `PCK@0.10 (bbox, per point)`.

    Args:
        alpha: fraction of the length; never rounded to another one.
        kind: what the length is, see `pck_length`.
        detail: what else tells the figure from others: the average taken, the pairs left out.

    Raises:
        ValueError: if `kind` is unknown.
    """
    if kind not in PCK_KINDS:
        raise ValueError(f"kind: expected one of {', '.join(PCK_KINDS)}, got {kind!r}")
    rounded = f"{alpha:.2f}"
    return f"PCK@{rounded if float(rounded) == alpha else repr(float(alpha))} ({kind}{detail and f', {detail}'})"


def _given(kind: str, name: str, value: Any) -> Any:
    if value is None:
        raise ValueError(f"{name}: needed for the length of {kind!r}, got None")
    return value
