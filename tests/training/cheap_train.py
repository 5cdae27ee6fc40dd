"""`train.py` with the loss of `runs.py`, which compiles at once; everything else is real."""

from __future__ import annotations

import pytest

from rtn_jax.commands import run
from rtn_jax.training.command import TrainConfig, train
from tests.training import runs

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        runs.cheapen(patch)
        run("train.py", TrainConfig, train)
