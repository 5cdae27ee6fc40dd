"""Figures of merit: the percentage of correct keypoints (PCK) and what it takes to report it honestly.

A transferred keypoint is correct if it lies within `alpha * L` of the true one. `L` has at least three definitions in
the literature and the same prediction scores very differently under each, so none is the default here and `pck_name`
puts the one that was used beside the number:

* `img`: the longer side of the target image, `max(H, W)` (PF-PASCAL);
* `bbox`: the longer side of the target object's box (SPair-71k);
* `bbox-kp`: the longer side of the box of the target's keypoints (PF-WILLOW).

The share of correct keypoints is taken per pair and then averaged over the pairs. Everything here runs on the host in
float64 and takes NumPy arrays, JAX arrays and lists alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args, overload

import numpy as np
from jaxtyping import Bool, Float

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
    predicted, true = _points("predicted", predicted), _points("true", true)
    if predicted.shape != true.shape:
        raise ValueError(f"predicted: expected the shape of true, {list(true.shape)}, got {list(predicted.shape)}")
    _check_finite("true", true)
    alphas = _array("alpha", alpha)
    if alphas.ndim > 1 or not alphas.size:
        raise ValueError(f"alpha: expected a number or a sequence of them, got shape {list(alphas.shape)}")
    if not _positive(alphas).all():
        raise ValueError(f"alpha: expected positive finite numbers, got {alpha}")
    length = _array("threshold_length", threshold_length)
    if length.ndim or not _positive(length):
        raise ValueError(f"threshold_length: expected a positive finite number of pixels, got {threshold_length}")
    distance = np.hypot(*(predicted - true).T)  # [n]
    correct = distance <= alphas[..., None] * length  # [n] or [a, n]; False where the distance is NaN
    share = correct.mean(axis=-1)
    return share if alphas.ndim else float(share)


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
        length = float(max(_shape("tgt_shape", _given(kind, "tgt_shape", tgt_shape))))
    elif kind == "bbox":
        box = _array("tgt_box", _given(kind, "tgt_box", tgt_box))
        if box.shape != (4,):
            raise ValueError(f"tgt_box: expected (left, top, right, bottom), got shape {list(box.shape)}")
        _check_finite("tgt_box", box)
        length = float((box[2:] - box[:2]).max())
    elif kind == "bbox-kp":
        points = _points("tgt_points", _given(kind, "tgt_points", tgt_points))
        _check_finite("tgt_points", points)
        length = float(np.ptp(points, axis=0).max())
    else:
        raise ValueError(f"kind: expected one of {', '.join(PCK_KINDS)}, got {kind!r}")
    if length <= 0:
        raise ValueError(f"kind: the length of {kind!r} must be positive, got {length}")
    return length


def pck_name(alpha: float, kind: PckKind) -> str:
    """The full name of a figure, such as `PCK@0.10 (bbox-kp)`.

    Raises:
        ValueError: if `kind` is unknown.
    """
    if kind not in PCK_KINDS:
        raise ValueError(f"kind: expected one of {', '.join(PCK_KINDS)}, got {kind!r}")
    rounded = f"{alpha:.2f}"
    return f"PCK@{rounded if float(rounded) == alpha else format(alpha, 'g')} ({kind})"


def summarize(per_pair: Any) -> Float[np.ndarray, " a"]:
    """Mean over the pairs of the per-pair figures: every pair weighs the same, however many keypoints it has.

    Args:
        per_pair: `[p, a]`, one row per pair, one column per `alpha`.

    Returns:
        `[a]`, in the units of `per_pair`.

    Raises:
        ValueError: if `per_pair` is not `[p, a]` with `p >= 1`, or holds a number that is not finite.
    """
    values = _array("per_pair", per_pair)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"per_pair: expected [pairs, alphas] with at least one pair, got shape {list(values.shape)}")
    _check_finite("per_pair", values)
    mean: Float[np.ndarray, " a"] = values.mean(axis=0)
    return mean


def bootstrap_interval(
    values: Any, *, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> Float[np.ndarray, " 2 *a"]:
    """Percentile bootstrap interval of a mean over pairs: how much the figure owes to the choice of the pairs.

    Pairs are drawn with replacement and stay whole, so the columns of one draw belong together. Pairs that share images
    are not independent: read the interval as a lower bound on the uncertainty. Efron and Tibshirani, "An introduction
    to the bootstrap" (1993), chapter 13.

    Args:
        values: `[p]` or `[p, a]`, one figure (or row of figures) per pair.
        confidence: probability mass between the two ends, in (0, 1).
        samples: number of draws.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        `[2]` or `[2, a]`: the lower and the upper end, in the units of `values`.

    Raises:
        ValueError: if `values` is not `[p]` or `[p, a]` with `p >= 1` or not finite, `confidence` is not in (0, 1), or
            `samples` is not positive.
    """
    values = _array("values", values)
    if values.ndim not in (1, 2) or not len(values):
        raise ValueError(f"values: expected [pairs] or [pairs, alphas] with a pair, got shape {list(values.shape)}")
    _check_finite("values", values)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    rng = np.random.default_rng(seed)
    # One draw at a time: all of them at once would take gigabytes on the largest benchmarks.
    means = np.stack([values[rng.integers(len(values), size=len(values))].mean(axis=0) for _ in range(samples)])
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    return np.asarray(np.quantile(means, ends, axis=0))


def _array(name: str, values: Any) -> Float[np.ndarray, " ..."]:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers, got {values!r}") from error


def _points(name: str, points: Any) -> Float[np.ndarray, "n 2"]:
    array = _array(name, points)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ValueError(f"{name}: expected [n, 2] keypoints (x, y) with n >= 1, got shape {list(array.shape)}")
    return array


def _shape(name: str, shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) not in (2, 3) or min(shape[:2]) < 1:
        raise ValueError(f"{name}: expected (H, W) or (H, W, 3) of at least one pixel, got {tuple(shape)}")
    return shape[0], shape[1]


def _given(kind: str, name: str, value: Any) -> Any:
    if value is None:
        raise ValueError(f"{name}: needed for the length of {kind!r}, got None")
    return value


def _check_finite(name: str, array: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise ValueError(f"{name}: expected finite numbers, got {array[tuple(bad[0])]} at index {bad[0].tolist()}")


def _positive(array: np.ndarray) -> Bool[np.ndarray, " ..."]:
    return np.asarray(np.isfinite(array) & (array > 0))
