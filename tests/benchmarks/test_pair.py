"""The PyTorch peer computes what rtn_jax does: without that there is nothing to compare."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import rtn_jax
from benchmarks.jobs import JOBS, RECIPE, random_images
from benchmarks.pair import compare
from benchmarks.setup import random_weights
from rtn_jax.config import default, released

SMALL = {"image_size": 64, "geometry_width": 4}


def both(name, config, **peer):
    """Ours and the peer's second results."""
    torch = pytest.importorskip("torch")
    from benchmarks.peer import Peer

    params = rtn_jax.Params(random_weights(config), config)
    images = random_images(2, config.image_shape, seed=0)
    module = Peer.of(params, **peer)
    ours, theirs = JOBS[name]
    run, used = ours(params, *images)
    call = theirs(module, module, *(torch.from_numpy(x).permute(0, 3, 1, 2) for x in images), config)
    found = []
    for way in (lambda: run(*used), call):
        way()
        arrays = jax.tree.leaves(way())
        found.append([np.asarray(x.detach() if hasattr(x, "detach") else x, np.float64) for x in arrays])
    return found


@pytest.mark.parametrize("sampling", ["bags", "grid"])
@pytest.mark.parametrize("name", JOBS)
def test_the_peer_computes_the_same(name, sampling):
    absolute, relative = compare(*both(name, default().replace(**SMALL), sampling=sampling))
    assert relative < 1e-3
    assert name != "forward" or absolute < 1e-5


def test_the_peer_computes_the_same_under_the_releases_conventions():
    assert compare(*both("gradient", released().replace(**SMALL)))[1] < 1e-3


def test_a_step_changes_the_loss():
    """Otherwise the losses after it would agree whatever the optimiser did."""
    config = default().replace(**SMALL)
    run, used = JOBS["step"][0](rtn_jax.Params(random_weights(config), config), *random_images(2, (64, 64), seed=0))
    first, second = float(run(*used)), float(run(*used))
    assert second < first - 0.1 * RECIPE.learning_rate
