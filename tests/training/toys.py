"""A stage that compiles at once and whose gradient is a line of NumPy, for tests of the step around it.

The loss of a pair is `sum (w - x)^4 / 4 + extra` over all weights, so its gradient is `(w - x)^3`; `factor` multiplies
the gradient and not the loss. Batches: `x`, `extra`, `factor`, all `[b]`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtn_jax.config import Level
from rtn_jax.params import Params
from rtn_jax.training.objectives import OBJECTIVES
from tests.networks import small_config

CONFIG = small_config(levels=(Level(layer="conv2_1", iterations=1),))
BACKBONE = ("conv1_1", "conv1_2", "conv2_1")
TOTAL = 20
"""Steps of the stage."""


def params() -> Params:
    """A few weights under the names of a network's."""
    rng = np.random.default_rng(1)

    def layer() -> dict[str, Any]:
        return {"kernel": jnp.asarray(rng.normal(size=3), jnp.float32)}

    geometry = {name: layer() for name in ("conv9b", "conv10")}
    return Params({"backbone": {name: layer() for name in BACKBONE}, "geometry": geometry}, CONFIG)


def batch(*x: float, extra: Any = 0.0, factor: Any = 1.0) -> dict[str, np.ndarray]:
    """One pair for every `x`."""
    given = {"x": x, "extra": extra, "factor": factor}
    return {name: np.array(np.broadcast_to(value, len(x)), np.float32) for name, value in given.items()}


def objective(params: Params, batch: dict[str, Any], recipe: Any) -> Any:
    """The loss, and a metric that is not."""
    assert set(batch) == {"x", "extra", "factor"}, "an objective sees data alone"

    x, extra, factor = (batch[name][:, None] for name in ("x", "extra", "factor"))
    of_pairs = [_times(jnp.broadcast_to(w, (len(x), *w.shape)), factor) for w in jax.tree.leaves(params.weights)]
    losses = sum(((w - x) ** 4).sum(1) / 4 for w in of_pairs) + extra[:, 0]
    return losses.mean(), {"mean_x": x.mean()}


def gradient(weights: Any, batch: dict[str, np.ndarray]) -> Any:
    """Its gradient in NumPy, double precision."""

    def of_leaf(w: Any) -> np.ndarray:
        w = np.asarray(w, np.float64)
        return np.mean([f * (w - x) ** 3 for x, f in zip(batch["x"], batch["factor"], strict=True)], axis=0)

    return jax.tree.map(of_leaf, weights)


def install(patch: pytest.MonkeyPatch) -> None:
    """Makes it the synthetic stage."""
    patch.setitem(OBJECTIVES, "synthetic", objective)


@jax.custom_vjp
def _times(x: Any, factor: Any) -> Any:
    """The array as it is; its gradient, multiplied."""
    return x


_times.defvjp(lambda x, factor: (x, factor), lambda factor, slope: (slope * factor, jnp.zeros_like(factor)))
