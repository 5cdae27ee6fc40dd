"""A figure of merit over many pairs: one percentage, and the interval that the choice of the pairs leaves it in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from rtn_jax.metrics.checks import as_array, check_finite

_CHUNK = 1 << 20
"""Pairs drawn at once: all draws together would take gigabytes on the largest benchmarks."""


@dataclass(frozen=True, eq=False)
class Figure:
    """A mean over pairs or over what the pairs consist of, in per cent: `100 * mean_g(sum_g values / sum_g weights)`.

    With the defaults it is the plain mean over the pairs. Weights make it a mean over keypoints (values: how many are
    correct, weights: how many there are); several groups make it the mean of the groups' figures, each of which weighs
    the same however many pairs it has (TSS's subsets, SPair-71k's classes). Pairs in no group, and pairs of weight
    zero, do not count; their values may be NaN.

    The arrays are copied to read-only float64.

    Raises:
        ValueError: if `values` is not `[p]` with `p >= 1`, if the value of a pair that counts is not finite, if
            `weights` is not `[p]`, finite and >= 0, if a pair of weight zero has a value, if there is no group, if a
            group's indices are not whole numbers in `0..p-1`, if a pair is in two groups or twice in one, or if no
            pair of a group counts.
    """

    name: str
    """As it is printed, threshold and average included: `PCK@0.10 (bbox, per point)`."""
    values: Float[np.ndarray, " p"]
    """A share of 1, or a sum of such shares, by pair."""
    weights: Float[np.ndarray, " p"] = None  # type: ignore[assignment]
    """What a pair's value is a sum over; one each if not given."""
    groups: tuple[Int[np.ndarray, " _"], ...] = None  # type: ignore[assignment]
    """Indices of the pairs of every group; one group of all pairs if not given."""

    def __post_init__(self) -> None:
        values = as_array("values", self.values)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"values: expected [pairs] with at least one pair, got shape {list(values.shape)}")
        weights = np.ones(len(values)) if self.weights is None else as_array("weights", self.weights)
        if weights.shape != values.shape:
            raise ValueError(f"weights: expected one for each of {len(values)} pairs, got shape {list(weights.shape)}")
        check_finite(f"weights of {self.name!r}", weights)
        if (weights < 0).any():
            raise ValueError(f"weights of {self.name!r}: expected numbers >= 0, got {weights.min()}")
        if (np.abs(values[weights == 0]) > 0).any():
            raise ValueError(f"weights of {self.name!r}: expected a value of 0 wherever the weight is 0")
        object.__setattr__(self, "values", _frozen(values))
        object.__setattr__(self, "weights", _frozen(weights))
        groups = (np.arange(len(values)),) if self.groups is None else self.groups
        object.__setattr__(self, "groups", _checked_groups(self.name, groups, weights))
        counting = np.isin(np.arange(len(values)), np.concatenate(self.groups)) & (weights > 0)
        check_finite(f"values of {self.name!r}", np.where(counting, values, 0))

    @property
    def percent(self) -> float:
        """The figure over all pairs that count."""
        return 100 * float(np.mean([values.sum() / weights.sum() for values, weights in self._counting()]))

    @property
    def pairs(self) -> int:
        """How many pairs count: those of all groups whose weight is not zero."""
        return sum(len(values) for values, _ in self._counting())

    def interval(self, *, confidence: float = 0.95, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap interval: how much the figure owes to the choice of the pairs.

        Pairs are drawn with replacement within each group, so every draw has the groups' sizes; a pair's value and
        weight stay together. Pairs that share images are not independent: read the interval as a lower bound on the
        uncertainty. Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapter 13.

        Args:
            confidence: probability mass between the two ends, in (0, 1).
            samples: number of draws.
            seed: of the draws. Figures with the same counting pairs draw the same ones from the same seed.

        Returns:
            The lower and the upper end, per cent.

        Raises:
            ValueError: if `confidence` is not in (0, 1) or `samples` is not positive.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
        if samples < 1:
            raise ValueError(f"samples: expected at least 1, got {samples}")
        rng = np.random.default_rng(seed)
        ratios = np.mean([_resampled(values, weights, samples, rng) for values, weights in self._counting()], axis=0)
        low, high = np.quantile(100 * ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def _counting(self) -> Iterator[tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]]:
        """Values and weights of the pairs that count, group by group."""
        for group in self.groups:
            members = group[self.weights[group] > 0]
            yield self.values[members], self.weights[members]


def _resampled(
    values: Float[np.ndarray, " g"], weights: Float[np.ndarray, " g"], samples: int, rng: np.random.Generator
) -> Float[np.ndarray, " s"]:
    """The group's figure for each of so many draws of its pairs."""
    size = len(values)
    equal = (weights == weights[0]).all()  # the sum of the weights is then the same in every draw
    ratios = []
    for start in range(0, samples, max(1, _CHUNK // size)):
        draws = min(max(1, _CHUNK // size), samples - start)
        drawn = rng.integers(size, size=(draws, size), dtype=np.int32)
        total = size * weights[0] if equal else weights[drawn].sum(axis=1)
        ratios.append(values[drawn].sum(axis=1) / total)
    return np.concatenate(ratios)


def _checked_groups(name: str, groups: object, weights: Float[np.ndarray, " p"]) -> tuple[Int[np.ndarray, " _"], ...]:
    """The groups as read-only indices."""
    if not isinstance(groups, tuple | list) or not groups:
        raise ValueError(f"groups of {name!r}: expected a tuple of index arrays with at least one, got {groups!r}")
    checked = tuple(_checked_group(f"groups[{i}] of {name!r}", group, weights) for i, group in enumerate(groups))
    indices, times = np.unique(np.concatenate(checked), return_counts=True)
    if (times > 1).any():
        raise ValueError(
            f"groups of {name!r}: expected every pair at most once, got pair {indices[times > 1][0]} again"
        )
    return checked


def _checked_group(where: str, group: object, weights: Float[np.ndarray, " p"]) -> Int[np.ndarray, " _"]:
    members = np.asarray(group)
    if members.ndim != 1 or not len(members):
        raise ValueError(f"{where}: expected indices of at least one pair, got shape {list(members.shape)}")
    if members.dtype.kind not in "iu":
        raise ValueError(f"{where}: expected whole numbers, got {members.dtype}")
    if members.min() < 0 or members.max() >= len(weights):
        raise ValueError(f"{where}: expected indices in 0..{len(weights) - 1}, got {members.min()}..{members.max()}")
    if not weights[members].any():
        raise ValueError(f"{where}: expected a pair whose weight is not zero")
    return _frozen(members.astype(np.int64))


def _frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array
