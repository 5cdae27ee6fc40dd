"""From a matcher's answers to named figures, by the protocol of the benchmark.

What is kept of an answer is an `Answer`: predicted keypoints, or the pair's figures where the answer itself is a dense
field. Figures are made of the answers of all pairs at once, so it does not matter when or where each was computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from rtn_jax.coordinates import Shape, pixel_grid
from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.evaluation.matchers import Points, Transfer
from rtn_jax.metrics import (
    Figure,
    PckKind,
    correct_points,
    flow_accuracy,
    intersection_over_union,
    label_accuracy,
    localization_error,
    pck_length,
    pck_name,
    point_errors,
    transfer_mask,
)

FLOW_THRESHOLD = 5.0
"""Pixels of an image whose longer side is 100 pixels: TSS's T."""
WITHOUT_MIRRORED = "without mirrored pairs"
LEAK_FREE = "leak-free"
PER_POINT = "per point"
MASK_FIGURES = ("LT-ACC", "IoU", "LOC-ERR")


@dataclass(frozen=True)
class Answer:
    """What is kept of a matcher's answer for one pair."""

    points: Points | None = None
    """Keypoints: their positions in the target, in the order of the pair's; not finite where there is no answer."""
    values: Mapping[str, float] | None = None
    """Flow and masks: the pair's figures, as shares."""


def answer(benchmark: Benchmark, pair: Pair, transfer: Transfer) -> Answer:
    """What a matcher's answer amounts to for a pair.

    Raises:
        ValueError: if the pair's flow or masks cannot be read.
    """
    if benchmark.protocol == "keypoints":
        return Answer(points=transfer.move(np.asarray(pair.src_points)))  # there: the benchmark's protocol needs them
    flow = transfer.flow(benchmark.files.shape(pair.src))
    if benchmark.protocol == "flow":
        true, tgt_shape = benchmark.files.flow(pair.id), benchmark.files.shape(pair.tgt)
        return Answer(values={"accuracy": flow_accuracy(flow, true, tgt_shape=tgt_shape, threshold=FLOW_THRESHOLD)})
    src_mask, tgt_mask = benchmark.files.mask(pair.src), benchmark.files.mask(pair.tgt)
    mapping = pixel_grid(flow.shape[:2], np.float64) + flow
    pulled = transfer_mask(tgt_mask, mapping)
    figures = (
        label_accuracy(pulled, src_mask),
        intersection_over_union(pulled, src_mask),
        localization_error(mapping, src_mask, tgt_mask),
    )
    return Answer(values=dict(zip(MASK_FIGURES, figures, strict=True)))


def figures(benchmark: Benchmark, answers: Sequence[Answer]) -> tuple[Figure, ...]:
    """The benchmark's figures, the published ones first.

    Args:
        benchmark: its pairs and their order.
        answers: one per pair.
    """
    if benchmark.protocol == "keypoints":
        return _pck_figures(benchmark, answers)
    if benchmark.protocol == "flow":
        return _flow_figures(benchmark, _column(answers, "accuracy"))
    return tuple(f for name in MASK_FIGURES for f in _over_defined(name, _column(answers, name)))


def per_pair(benchmark: Benchmark, answers: Sequence[Answer]) -> dict[str, Float[np.ndarray, " p"]]:
    """The numbers whose means the figures are, by name: one share per pair."""
    if benchmark.protocol == "keypoints":
        found: dict[str, Float[np.ndarray, " p"]] = {}
        for kind in benchmark.thresholds:
            correct = _correct(benchmark, answers, kind)
            found |= {
                pck_name(a, kind): np.array([c[i].mean() for c in correct]) for i, a in enumerate(benchmark.alphas)
            }
        return found
    return {name: _column(answers, name) for name in (MASK_FIGURES if benchmark.protocol == "masks" else ["accuracy"])}


def by_category(benchmark: Benchmark, answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Percentages by class of the objects, then by figure."""
    names = [pair.category for pair in benchmark.pairs]
    found = {}
    for category in dict.fromkeys(names):
        chosen = [i for i, name in enumerate(names) if name == category]
        part = benchmark.replace(pairs=tuple(benchmark.pairs[i] for i in chosen), left_out=())
        found[category] = {f.name: f.percent for f in figures(part, [answers[i] for i in chosen])}
    return found


def normalised_errors(benchmark: Benchmark, answers: Sequence[Answer], kind: PckKind) -> list[Float[np.ndarray, " n"]]:
    """Per pair, the keypoints' distances from the truth as fractions of the threshold's length.

    PCK over alpha is the share of those that are at most alpha.
    """
    errors = []
    for pair, given in zip(benchmark.pairs, answers, strict=True):
        errors.append(point_errors(given.points, pair.tgt_points) / threshold_length(benchmark, pair, kind))
    return errors


def _correct(benchmark: Benchmark, answers: Sequence[Answer], kind: PckKind) -> list[Bool[np.ndarray, "a n"]]:
    """Per pair, which keypoints are correct at which alpha."""
    return [
        correct_points(
            given.points,
            pair.tgt_points,
            threshold_length=threshold_length(benchmark, pair, kind),
            alpha=benchmark.alphas,
        )
        for pair, given in zip(benchmark.pairs, answers, strict=True)
    ]


def threshold_length(benchmark: Benchmark, pair: Pair, kind: PckKind) -> float:
    """What PCK's alphas are fractions of for a pair, pixels of the target.

    Raises:
        ValueError: if it is zero, such as the box of a single keypoint.
    """
    shape: Shape | None = benchmark.files.shape(pair.tgt) if kind == "img" else None
    try:
        return pck_length(kind, tgt_points=pair.tgt_points, tgt_shape=shape, tgt_box=pair.tgt_box)
    except ValueError as error:
        raise ValueError(f"pair {pair.id!r} has no length for the threshold {kind!r}: {error}") from error


def _pck_figures(benchmark: Benchmark, answers: Sequence[Answer]) -> tuple[Figure, ...]:
    found = []
    leak_free = np.flatnonzero([not pair.leaked for pair in benchmark.pairs])
    for kind in benchmark.thresholds:
        points_correct = _correct(benchmark, answers, kind)
        counts = np.array([c.shape[1] for c in points_correct], np.float64)
        sums = np.array([c.sum(axis=1) for c in points_correct], np.float64).T  # [a, p]
        correct = dict(zip(benchmark.alphas, sums, strict=True))
        shares = {alpha: number / counts for alpha, number in correct.items()}
        found += [Figure(name=pck_name(alpha, kind), values=share) for alpha, share in shares.items()]
        if 0 < len(leak_free) < len(benchmark.pairs):
            found += [
                Figure(name=pck_name(alpha, kind, detail=LEAK_FREE), values=share, groups=(leak_free,))
                for alpha, share in shares.items()
            ]
        subsets = {name: np.flatnonzero([p.subset == name for p in benchmark.pairs]) for name in _subsets(benchmark)}
        if len(subsets) > 1:
            found += [
                Figure(name=pck_name(alpha, kind, detail=name or "no subset"), values=share, groups=(members,))
                for name, members in subsets.items()
                for alpha, share in shares.items()
            ]
        if len(set(counts)) > 1:  # otherwise every pair weighs the same and the two averages are one
            found += [
                Figure(name=pck_name(alpha, kind, detail=PER_POINT), values=number, weights=counts)
                for alpha, number in correct.items()
            ]
    return tuple(found)


def _flow_figures(benchmark: Benchmark, accuracy: Float[np.ndarray, " p"]) -> tuple[Figure, ...]:
    """By subset, and the unweighted mean of all subsets; then the same without mirrored pairs, if there are any."""
    subsets = {name: np.array([pair.subset == name for pair in benchmark.pairs]) for name in _subsets(benchmark)}
    mirrored = np.array([pair.mirrored for pair in benchmark.pairs])

    def part(detail: str, kept: np.ndarray) -> list[Figure]:
        groups = {name: np.flatnonzero(members & kept) for name, members in subsets.items()}
        groups = {name: group for name, group in groups.items() if len(group)}
        suffix = f" ({detail})" if detail else ""
        each = [Figure(name=f"{name}{suffix}", values=accuracy, groups=(group,)) for name, group in groups.items()]
        if set(groups) != set(subsets):
            return each  # a mean of other subsets would pass for that of all
        return [*each, Figure(name=f"mean{suffix}", values=accuracy, groups=tuple(groups.values()))]

    rest = part(WITHOUT_MIRRORED, ~mirrored) if mirrored.any() else []
    return (*part("", np.ones_like(mirrored)), *rest)


def _subsets(benchmark: Benchmark) -> list[str]:
    return list(dict.fromkeys([*benchmark.subsets, *(pair.subset for pair in benchmark.pairs)]))


def _over_defined(name: str, values: Float[np.ndarray, " p"]) -> tuple[Figure, ...]:
    """Pairs without a value do not count: a localisation error needs a pixel that stays inside."""
    defined = np.flatnonzero(np.isfinite(values))
    return (Figure(name=name, values=values, groups=(defined,)),) if len(defined) else ()


def _column(answers: Sequence[Answer], name: str) -> Float[np.ndarray, " p"]:
    return np.array([given.values[name] for given in answers if given.values is not None], np.float64)
