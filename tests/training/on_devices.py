"""What `test_devices.py` compares, computed in a process that has four devices; its argument is the file to write."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rtn_jax.training.recipes import Recipe
from rtn_jax.training.step import STOP, init_state, make_step, parallel
from tests.training import reference, toys

TOY = Recipe(learning_rate=0.01, warmup=0, average=0.5, train_backbone="all")
GOOD = toys.batch(*np.linspace(-1, 2, 8))
NO_LOSS = toys.batch(*np.linspace(-1, 2, 8), extra=[0, 0, 0, 0, 0, 0, np.nan, 0])
NO_GRADIENT = toys.batch(*np.linspace(-1, 2, 8), factor=[1, 1, np.inf, 1, 1, 1, 1, 1])
WISH = {STOP: np.array([0, 0, 0, 0, 0, 1, 0, 0], np.float32)}
NO_DATA = {STOP: np.array([np.nan, 0, 0, 0, 0, 0, 0, 0], np.float32)}
BATCHES = (GOOD, NO_LOSS, GOOD | WISH, NO_GRADIENT, GOOD | NO_DATA, GOOD)


def toy_steps(devices: int, accumulate: int = 1) -> list[Any]:
    """Every step's state (the copies on all devices) and metrics."""
    step = parallel(make_step(toys.CONFIG, "synthetic", TOY, toys.TOTAL, accumulate=accumulate), devices)
    state, found = init_state(toys.params(), TOY, toys.TOTAL), []
    for batch in BATCHES:
        state, metrics = step(state, batch)
        copies = jax.tree.map(
            lambda x: [np.array(shard.data) for shard in x.addressable_shards], jax.tree.leaves(state)
        )
        found.append((copies, {name: float(value) for name, value in metrics.items()}))
    return found


def refusals() -> list[str]:
    """What is said of sizes that do not divide."""
    state, said = init_state(toys.params(), TOY, toys.TOTAL), []
    for pairs, devices, accumulate in ((6, 4, 1), (7, 2, 1), (8, 4, 4)):
        step = parallel(make_step(toys.CONFIG, "synthetic", TOY, toys.TOTAL, accumulate=accumulate), devices)
        with pytest.raises(ValueError) as caught:
            step(state, toys.batch(*range(pairs)))
        said.append(str(caught.value))
    return said


def main() -> None:
    found = {
        "devices": jax.device_count(),
        # Whole parts on one device's share at a time, and a share in two parts.
        "synthetic": reference.steps(reference.step("synthetic", 4), "synthetic", 2),
        "weak": reference.steps(reference.step("weak", 4, accumulate=2), "weak", 2),
    }
    with pytest.MonkeyPatch.context() as patch:
        toys.install(patch)
        found["toys"] = {devices: toy_steps(devices) for devices in (1, 2, 4)}
        found["toys in parts"] = toy_steps(2, accumulate=2)
        found["refusals"] = refusals()
    Path(sys.argv[1]).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
