"""FCSS and CAT-FCSS in slow, plain NumPy, written from a description of the released network. One image at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests import oracle

LEVELS = (("conv2_2", 2), ("conv3_2", 4), ("conv3_4", 4))  # layer, image pixels per cell


def level_features(weights: Mapping[str, oracle.Layer], image: np.ndarray) -> list[np.ndarray]:
    """The three levels before ReLU, of unit length."""
    taps = oracle.vgg_taps(weights, image)
    convolved = [oracle.conv2d(oracle.layer_input(taps, name), *_arrays(weights[name])) for name, _ in LEVELS]
    return [oracle.l2_normalize(features) for features in convolved]


def similarity(features: np.ndarray, pattern: oracle.Layer, place: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """exp(-|| D(q + A u_l) - D(q + A v_l) ||^2 / bandwidth) of every pair, at one place."""
    values = []
    for u, v in zip(pattern["u"], pattern["v"], strict=True):
        first, second = (oracle.bilinear(features, *(place + matrix @ shift)) for shift in (u, v))
        values.append(np.exp(-np.sum((first - second) ** 2) / pattern["bandwidth"][0]))
    return np.array(values)


def pool(x: np.ndarray) -> np.ndarray:
    """2x2 maximum with stride 1; beyond the last row and column there is nothing to take it over."""
    out = np.zeros_like(x)
    for i, j in np.ndindex(x.shape[:2]):
        out[i, j] = x[i : i + 2, j : j + 2].max(axis=(0, 1))
    return out


def upsample(x: np.ndarray, factor: int) -> np.ndarray:
    """Half-pixel bilinear, the border repeated."""
    out = np.zeros((x.shape[0] * factor, x.shape[1] * factor, x.shape[2]))
    for i, j in np.ndindex(out.shape[:2]):
        row, column = ((n + 0.5) / factor - 0.5 for n in (i, j))
        out[i, j] = oracle.bilinear(x, min(max(column, 0), x.shape[1] - 1), min(max(row, 0), x.shape[0] - 1))
    return out


def transformer(weights: Mapping[str, oracle.Layer], features: np.ndarray) -> np.ndarray:
    """The 2x2 matrix that CAT sees at every cell of conv3_4."""
    hidden = oracle.relu(oracle.conv2d(features, *_arrays(weights["affine1"])))
    out = oracle.conv2d(hidden, *_arrays(weights["affine2"]))
    return np.eye(2) + out.reshape(*out.shape[:2], 2, 2)


def matrix_at(matrices: np.ndarray, x: float, y: float) -> np.ndarray:
    """Interpolated, the border's outside."""
    height, width = matrices.shape[:2]
    return oracle.bilinear(
        matrices.reshape(height, width, 4), min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    ).reshape(2, 2)


def fcss(weights: Mapping[str, oracle.Layer], image: np.ndarray) -> np.ndarray:
    """The descriptor of every pixel, [H, W, 192]."""
    levels = level_features(weights, image)
    matrices = transformer(weights, levels[-1]) if "affine1" in weights else None
    described = []
    for i, (features, (_, stride)) in enumerate(zip(levels, LEVELS, strict=True), start=1):
        out = np.zeros((*features.shape[:2], 64))
        for y, x in np.ndindex(features.shape[:2]):
            at = [(n + 0.5) * stride / 4 - 0.5 for n in (x, y)]  # the same place on conv3_4's grid
            matrix = np.eye(2) if matrices is None else matrix_at(matrices, *at)
            out[y, x] = similarity(features, weights[f"pattern{i}"], np.array([x, y]), matrix)
        described.append(oracle.l2_normalize(upsample(pool(out), stride)))
    return oracle.l2_normalize(np.concatenate(described, axis=-1))


def fcss_under_field(
    weights: Mapping[str, oracle.Layer], image: np.ndarray, affine: np.ndarray, stride: int
) -> np.ndarray:
    """The descriptor on a grid of that stride, every cell's pattern under its affine (translations in `centers`)."""
    levels = level_features(weights, image)
    matrices = transformer(weights, levels[-1]) if "affine1" in weights else None
    height, width = affine.shape[:2]
    described = []
    for i, (features, (_, own)) in enumerate(zip(levels, LEVELS, strict=True), start=1):
        out = np.zeros((height, width, 64))
        for y, x in np.ndindex(height, width):
            a, t = affine[y, x, :, :2], affine[y, x, :, 2] * np.array([width, height]) / 2
            pixel = (np.array([x, y]) + t + 0.5) * stride - 0.5
            matrix = a if matrices is None else a @ matrix_at(matrices, *((pixel + 0.5) / 4 - 0.5))
            out[y, x] = similarity(features, weights[f"pattern{i}"], (pixel + 0.5) / own - 0.5, matrix)
        pooled = pool(out)
        described.append(oracle.l2_normalize(pooled - pooled.mean(axis=-1, keepdims=True)))
    return oracle.l2_normalize(np.concatenate(described, axis=-1))


def _arrays(layer: oracle.Layer) -> tuple[np.ndarray, np.ndarray]:
    return layer["kernel"], layer["bias"]
