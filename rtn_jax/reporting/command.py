"""The command `evaluate`, which is also `evaluate.py`."""

from __future__ import annotations

from rtn_jax.reporting.config import EvaluateConfig
from rtn_jax.reporting.report import report

__all__ = ["EvaluateConfig", "evaluate"]


def evaluate(config: EvaluateConfig) -> None:
    """Evaluates, prints the table and writes what was asked for."""
    report(config)
