"""`evaluate.py`: a checkpoint, a floor or predictions on a benchmark, as a table and in files."""

from rtn_jax.reporting.config import EvaluateConfig
from rtn_jax.reporting.report import report

__all__ = ["EvaluateConfig", "report"]
