"""Figures of other methods to stand beside, per cent, as public repositories of this field state them.

Only figures whose benchmark and convention are those of a printed figure are here; which images a method was trained
on, and how it resizes or mirrors them, is its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rtn_jax.metrics import PckKind, pck_name


@dataclass(frozen=True)
class Published:
    """One method's figures on one benchmark."""

    method: str
    figures: Mapping[str, float]
    """Per cent by printed name, such as `PCK@0.10 (bbox-kp)`; what is not stated is not there."""


@dataclass(frozen=True)
class PublishedTable:
    """What is published about one benchmark."""

    pairs: int
    """That the figures are means over."""
    rows: tuple[Published, ...]
    split: str = "test"
    """Of the benchmark."""


def published(benchmark: str) -> PublishedTable | None:
    """Published figures on the benchmark of that name, or None."""
    return _TABLES.get(benchmark)


def _tss(method: str, *figures: float) -> Published:
    """At T = 5."""
    return Published(method, dict(zip(("FG3DCar", "JODS", "PASCAL", "mean"), figures, strict=True)))


def _pck(method: str, kind: PckKind, figures: Mapping[float, float]) -> Published:
    return Published(method, {pck_name(alpha, kind): figure for alpha, figure in figures.items()})


_TABLES = {
    "TSS": PublishedTable(
        pairs=800,
        rows=(
            _tss("PARN", 87.6, 71.6, 68.8, 76.0),
            _tss("NC-Net", 94.5, 81.4, 57.1, 77.7),
            _tss("DCCNet", 93.5, 82.6, 57.6, 77.9),
            _tss("GLU-Net", 93.2, 73.3, 71.1, 79.2),
            _tss("GLU-Net-GOCor", 94.6, 77.9, 77.7, 83.4),
            _tss("WarpC-SemanticGLU-Net", 97.1, 84.7, 79.7, 87.2),
        ),
    ),
    "PF-WILLOW": PublishedTable(
        pairs=900,
        rows=(
            _pck("SemanticGLU-Net", "bbox-kp", {0.05: 36.2, 0.10: 63.7}),
            _pck("HPF", "bbox-kp", {0.10: 74.4}),
            _pck("WarpC-SemanticGLU-Net", "bbox-kp", {0.05: 48.9, 0.10: 75.2}),
            _pck("SCOT", "bbox-kp", {0.05: 48.0, 0.10: 76.2, 0.15: 87.1}),
        ),
    ),
    "PF-PASCAL": PublishedTable(
        pairs=299,
        rows=(
            # Not CATs and its descendants: they measure on both images squeezed to one square.
            _pck("SCOT", "img", {0.05: 63.2, 0.10: 85.4, 0.15: 92.8}),
        ),
    ),
}
