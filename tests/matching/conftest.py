"""A small network with a checkpoint, and the answer of a network to be replaced by one whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

import rtn_jax
from rtn_jax.matching import match_photos
from tests.networks import ONE_LEVEL, moving_params, photos, small_config


@pytest.fixture(scope="session")
def params():
    return moving_params(small_config(levels=ONE_LEVEL, residual_units="image"), scale=0.05)


@pytest.fixture(scope="session")
def answered(params):
    """The network's own, of a source of 90 x 40 and a target of 50 x 70 pixels."""
    src, tgt = photos(np.random.default_rng(0), 2)
    features = [rtn_jax.encode(params, image) for image in (src, tgt)]
    return match_photos(params, *features, (40, 90), (70, 50), tolerance=0.05)
