"""A benchmark through a matcher, or through somebody's predictions, to named figures.

`evaluate.py` and the training loop both call this.
"""

from rtn_jax.evaluation.journal import Journal
from rtn_jax.evaluation.matchers import (
    ImageFeatures,
    Matcher,
    Transfer,
    identity,
    mirror_aware,
    nearest,
    network,
)
from rtn_jax.evaluation.run import Result, answers, evaluate, result
from rtn_jax.evaluation.scores import Answer, by_category, normalised_errors, per_pair
from rtn_jax.evaluation.survey import survey

__all__ = [
    "Answer",
    "ImageFeatures",
    "Journal",
    "Matcher",
    "Result",
    "Transfer",
    "answers",
    "by_category",
    "evaluate",
    "identity",
    "mirror_aware",
    "nearest",
    "network",
    "normalised_errors",
    "per_pair",
    "result",
    "survey",
]
