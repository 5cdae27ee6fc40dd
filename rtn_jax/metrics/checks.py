"""What the figures of merit ask of the numbers they are given; every refusal names the argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from rtn_jax.coordinates import Shape


def as_array(name: str, values: Any) -> Float[np.ndarray, " ..."]:
    """The numbers as float64."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers, got {type(values).__name__}") from error


def as_points(name: str, points: Any) -> Float[np.ndarray, "n 2"]:
    """At least one point (x, y)."""
    array = as_array(name, points)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ValueError(f"{name}: expected [n, 2] keypoints (x, y) with n >= 1, got shape {list(array.shape)}")
    return array


def as_field(name: str, field: Any) -> Float[np.ndarray, "H W 2"]:
    """A vector or position (x, y) for every pixel of an image."""
    array = as_array(name, field)
    if array.ndim != 3 or array.shape[2] != 2 or not array.size:
        raise ValueError(f"{name}: expected [H, W, 2] with at least one pixel, got shape {list(array.shape)}")
    return array


def as_mask(name: str, mask: Any) -> Bool[np.ndarray, "H W"]:
    """A mask of Booleans: whether a number such as 1 or 255 means the object is for whoever reads the file to say."""
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim != 2 or not array.size:
        raise ValueError(
            f"{name}: expected a Boolean [H, W] with at least one pixel, got {array.dtype} of shape {list(array.shape)}"
        )
    return array


def as_shape(name: str, shape: Sequence[int]) -> Shape:
    """(H, W), also of a colour image's shape."""
    if len(shape) not in (2, 3) or min(shape[:2]) < 1:
        raise ValueError(f"{name}: expected (H, W) or (H, W, 3) of at least one pixel, got {tuple(shape)}")
    return shape[0], shape[1]


def check_same_shape(name: str, array: np.ndarray, other_name: str, other: np.ndarray) -> None:
    """Refuses arrays of different shapes."""
    if array.shape != other.shape:
        expected = f"expected the shape of {other_name}, {list(other.shape)}"
        raise ValueError(f"{name}: {expected}, got {list(array.shape)}")


def check_finite(name: str, array: np.ndarray) -> None:
    """Refuses NaN and infinity, and says where the first one is."""
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise ValueError(f"{name}: expected finite numbers, got {array[tuple(bad[0])]} at index {bad[0].tolist()}")


def as_positive(name: str, value: Any, what: str) -> float:
    """One positive finite number of `what`."""
    array = as_array(name, value)
    if array.ndim:
        raise ValueError(f"{name}: expected one number of {what}, got shape {list(array.shape)}")
    if not (np.isfinite(array) and array > 0):
        raise ValueError(f"{name}: expected a positive finite number of {what}, got {value}")
    return float(array)
