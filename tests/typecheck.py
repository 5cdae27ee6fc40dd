"""The checker behind the annotations of arguments and results while tests run."""

from __future__ import annotations

from typing import Any

from beartype import BeartypeConf, beartype

_CONFIG = BeartypeConf(is_pep484_tower=True)  # whole numbers fit `float`, as for static type checkers


def check(function: Any) -> Any:
    """The function with its arguments and result checked at every call."""
    return beartype(function, conf=_CONFIG)
