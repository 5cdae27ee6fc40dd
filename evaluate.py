"""Measures a matcher on a benchmark, beside the floors: `python evaluate.py --help`."""

from rtn_jax.commands import run
from rtn_jax.reporting.command import EvaluateConfig, evaluate

if __name__ == "__main__":
    run("evaluate.py", EvaluateConfig, evaluate)
