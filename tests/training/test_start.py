"""What a run begins with."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import rtn_jax
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.start import _network
from tests.networks import moving_params, small_config


@pytest.fixture
def network(tmp_path):
    """A checkpoint that is begun at the consensus and ends with a search."""
    rtn_jax.save(tmp_path / "network", moving_params(small_config(starts=("consensus",), search=True)))
    return str(tmp_path / "network")


def test_a_checkpoint_goes_on_as_it_is_but_from_the_identity_and_without_a_search(network):
    params, config = _network(TrainConfig(init=network))
    assert config == small_config(starts=("identity",)).replace(unroll=config.unroll)
    jax.tree.map(np.testing.assert_array_equal, params.weights, rtn_jax.load(network).weights)


def test_a_checkpoint_goes_on_at_another_size(network):
    """Small images first, then large ones: the weights fit both."""
    train = TrainConfig(init=network, image_size=64, iterations=(2, 1), starts=("identity", "consensus"))
    params, config = _network(train)
    assert (config.image_size, config.iterations) == ((64, 64), (2, 1))
    assert config.starts == ("identity", "consensus")
    assert params.config == config


def test_a_checkpoint_has_its_number_of_levels(network):
    with pytest.raises(ValueError, match=r"^iterations: expected 2 numbers, one per level, got \(1, 2, 3\)"):
        _network(TrainConfig(init=network, iterations=(1, 2, 3)))
