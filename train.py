"""Trains a Recurrent Transformer Network: `python train.py --help`."""

from rtn_jax.commands import run
from rtn_jax.training.command import TrainConfig, train

if __name__ == "__main__":
    run("train.py", TrainConfig, train)
