"""Trains a Recurrent Transformer Network: `python train.py --help`."""

from rtn_jax.commands import run
from rtn_jax.training.config import TrainConfig


def main(config: TrainConfig) -> None:
    """Runs the training loop."""
    from rtn_jax.training.loop import fit

    fit(config)


if __name__ == "__main__":
    run("train.py", TrainConfig, main)
