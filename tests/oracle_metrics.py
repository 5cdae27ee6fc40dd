"""Figures of merit in slow, plain loops: what rtn_jax.metrics is checked against.

Nothing here is shared with rtn_jax. Each definition is written out one keypoint, pixel or draw at a time, in the frame
its source uses (label transfer: pixels counted from one).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np


def point_errors(predicted, true) -> list[float]:
    """Distance of every prediction to the truth."""
    return [math.sqrt((px - x) ** 2 + (py - y) ** 2) for (px, py), (x, y) in zip(predicted, true, strict=True)]


def pck(predicted, true, length: float, alpha: float) -> float:
    """Share of the keypoints within alpha * length."""
    correct = 0
    for error in point_errors(predicted, true):
        if error <= alpha * length:
            correct += 1
    return correct / len(true)


def ratio(values, weights, groups) -> float:
    """Per cent: mean over the groups of the sum of the values over the sum of the weights."""
    total = 0.0
    for group in groups:
        above = below = 0.0
        for i in group:
            above += values[i]
            below += weights[i]
        total += above / below
    return 100 * total / len(groups)


def all_draws(values, weights, groups) -> Iterator[float]:
    """The figure of every possible draw with replacement within each group; all are equally likely."""
    every = [itertools.product(group, repeat=len(group)) for group in groups]
    for draw in itertools.product(*every):
        yield ratio(values, weights, draw)


def endpoint_error(predicted, true) -> np.ndarray:
    """NaN where the truth is unknown, infinity where a prediction is missing."""
    height, width = true.shape[:2]
    out = np.full((height, width), np.nan)
    for y in range(height):
        for x in range(width):
            (u, v), (pu, pv) = true[y, x].tolist(), predicted[y, x].tolist()
            if not (math.isfinite(u) and math.isfinite(v) and abs(u) < 1e9 and abs(v) < 1e9):
                continue
            missing = not (math.isfinite(pu) and math.isfinite(pv)) or abs(pu) >= 1e9 or abs(pv) >= 1e9
            out[y, x] = math.inf if missing else math.sqrt((pu - u) ** 2 + (pv - v) ** 2)
    return out


def flow_accuracy(predicted, true, tgt_shape: Sequence[int], threshold: float) -> float:
    """As the kit of TSS counts: a valid pixel is wrong if its error exceeds threshold per cent of the longer side."""
    limit = threshold * max(tgt_shape[0], tgt_shape[1]) / 100
    valid = wrong = 0
    for error in endpoint_error(predicted, true).reshape(-1).tolist():
        if math.isnan(error):
            continue
        valid += 1
        if error > limit:
            wrong += 1
    return 1 - wrong / valid


def rescale_flow(flow, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear between pixel centres, the border repeated outside; a vector of weight zero is not looked at."""
    height, width = flow.shape[:2]
    out = np.zeros((*shape, 2))
    for row in range(shape[0]):
        for column in range(shape[1]):
            # Whole numbers as long as possible: positions are multiples of 1 / (2 n), exactly.
            y = min(max(((2 * row + 1) * height - shape[0]) / (2 * shape[0]), 0.0), height - 1.0)
            x = min(max(((2 * column + 1) * width - shape[1]) / (2 * shape[1]), 0.0), width - 1.0)
            top, left = math.floor(y), math.floor(x)
            for i, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
                for j, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
                    if share_x * share_y > 0:
                        u, v = flow[i, j].tolist()
                        if not (abs(u) < 1e9 and abs(v) < 1e9):
                            u = v = math.nan
                        out[row, column] += share_x * share_y * np.array([u, v])
            out[row, column] *= [shape[1] / width, shape[0] / height]
    return out


def transfer_mask(mask, mapping) -> np.ndarray:
    """Every pixel's sample of the mask as 0 and 1, each of the four taps counted only if it lies inside."""
    height, width = mask.shape
    out = np.zeros(mapping.shape[:2], bool)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            x, y = mapping[row, column].tolist()
            if not (math.isfinite(x) and math.isfinite(y)):
                continue
            value = 0.0
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < height and 0 <= j < width and mask[i, j]:
                        value += (1 - abs(y - i)) * (1 - abs(x - j))
            out[row, column] = value > 0.5
    return out


def label_accuracy(predicted, true) -> float:
    """Equal labels over all labels."""
    pairs = list(zip(predicted.reshape(-1).tolist(), true.reshape(-1).tolist(), strict=True))
    return sum(a == b for a, b in pairs) / len(pairs)


def intersection_over_union(predicted, true) -> float:
    """Foreground in both over foreground in either."""
    pairs = list(zip(predicted.reshape(-1).tolist(), true.reshape(-1).tolist(), strict=True))
    return sum(a and b for a, b in pairs) / sum(a or b for a, b in pairs)


def localization_error(mapping, src_mask, tgt_mask) -> float:
    """With pixels counted from one and the boxes' corners from zero, as published."""

    def place(mask, x1: int, y1: int) -> tuple[float, float]:
        columns = [c for c in range(mask.shape[1]) if mask[:, c].any()]
        rows = [r for r in range(mask.shape[0]) if mask[r].any()]
        width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
        return (x1 - columns[0]) / width, (y1 - rows[0]) / height

    errors = []
    for y1 in range(1, src_mask.shape[0] + 1):
        for x1 in range(1, src_mask.shape[1] + 1):
            x2, y2 = (mapping[y1 - 1, x1 - 1] + 1).tolist()
            if math.isfinite(x2) and math.isfinite(y2) and 1 < x2 < tgt_mask.shape[1] and 1 < y2 < tgt_mask.shape[0]:
                a, b = place(src_mask, x1, y1), place(tgt_mask, math.trunc(x2), math.trunc(y2))
                errors.append(abs(a[0] - b[0]) + abs(a[1] - b[1]))
    return sum(errors) / len(errors) if errors else math.nan
