"""The command `train`, which is also `train.py`."""

from __future__ import annotations

from rtn_jax.training.config import TrainConfig

__all__ = ["TrainConfig", "train"]


def train(config: TrainConfig) -> None:
    """Runs the training loop."""
    from rtn_jax.training.loop import fit  # here, so that --help need not wait for it

    fit(config)
