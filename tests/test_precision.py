"""Coordinates are multiplied in full precision whatever the platform does by default.

On the CPU that is the default, so what is looked at is the traced program: the products in it, and what they ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rtn_jax import consensus
from rtn_jax.affine import compose_fields, field_frames, identity_field, sampling_positions, transfer_points
from rtn_jax.backbones.self_similarity import self_similarity
from rtn_jax.coordinates import pixel_grid
from rtn_jax.data.synthetic import WarpRange, random_warps, warp_jacobian, warp_mapping
from rtn_jax.model import field_mapping
from rtn_jax.sampling import resize_bilinear
from tests.networks import small_config

FIELD = identity_field(1, (4, 4))
PLACES = jnp.asarray(pixel_grid((3, 3)).reshape(-1, 2))


def warps(seed: Any) -> Any:
    return random_warps(jax.random.key(seed)[None], WarpRange())


def consensus_of_matches(best: Any) -> Any:
    return consensus._consensus(PLACES, best, jnp.ones(9, bool))


COORDINATES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], int]] = {
    "resize": (lambda x: resize_bilinear(x, (7, 5)), (jnp.ones((1, 4, 4, 2)),), 2),
    "positions": (sampling_positions, (FIELD,), 1),
    "frames": (field_frames, (FIELD,), 1),
    "composition": (compose_fields, (FIELD, FIELD), 1),
    "flow": (lambda field: field_mapping(small_config(), field, (40, 50), (30, 60)), (FIELD,), 2),
    "consensus": (consensus_of_matches, (jnp.arange(9),), 8),
    "map": (lambda maps: consensus.affine_field(maps, (4, 4)), (jnp.eye(2, 3)[None],), 1),
    "warp": (warps, (0,), 1),
    "where a warp leads": (lambda seed: warp_mapping(warps(seed), pixel_grid((4, 4), np.float64), (8, 8)), (0,), 3),
    "its Jacobian": (lambda seed: warp_jacobian(warps(seed), pixel_grid((4, 4), np.float64), (8, 8)), (0,), 2),
    "patterns": (
        self_similarity,
        (jnp.ones((1, 6, 6, 3)), PLACES, PLACES, jnp.ones((1, 4, 2)), jnp.ones((1, 4, 2, 2))),
        1,
    ),
}


def products(jaxpr: Any) -> Iterator[Any]:
    """Every `dot_general` of a program and of the programs in it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from products(inner.jaxpr)
            elif hasattr(inner, "eqns"):
                yield from products(inner)


@pytest.mark.parametrize("name", COORDINATES)
def test_coordinates_are_not_rounded(name):
    function, args, least = COORDINATES[name]
    found = list(products(jax.make_jaxpr(function)(*args).jaxpr))
    asked = [equation.params["precision"] for equation in found]
    assert asked.count((lax.Precision.HIGHEST, lax.Precision.HIGHEST)) >= least
    assert asked.count(None) == (name == "patterns"), "of features, summed over their channels"


def test_the_search_finds_what_asks_for_less():
    program = jax.jit(lambda x: jax.vmap(transfer_points)(x, x[:, 0]) @ jnp.ones((2, 2)))
    found = list(products(jax.make_jaxpr(program)(jnp.ones((1, 4, 4, 2))).jaxpr))
    assert None in {equation.params["precision"] for equation in found}
