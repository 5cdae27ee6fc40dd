"""What is timed beside the PyTorch peer: the same work on either side, given the same weights and images.

`forward`: the affine field after every iteration. `gradient`: that of the mean absolute final translation by all
weights of the geometry network, VGG frozen. `step`: a step of the synthetic stage's optimiser.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rtn_jax
from rtn_jax.config import Config
from rtn_jax.losses import synthetic_loss
from rtn_jax.model import grids, without_gradient
from rtn_jax.training.optimizer import make_optimizer
from rtn_jax.training.recipes import Recipe

Ours = tuple[Callable[..., Any], tuple[Any, ...]]
"""A call, and what it is given."""

STEPS = 1000
RECIPE = Recipe(schedule="constant", warmup=0.0)
"""Of the steps that are timed."""


def random_images(batch: int, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Two batches [2, b, H, W, 3] of coloured blocks, float32 in 0..255."""
    small = np.random.default_rng(seed).uniform(0, 255, (2, batch, shape[0] // 8, shape[1] // 8, 3))
    return np.repeat(np.repeat(small, 8, axis=2), 8, axis=3).astype(np.float32)


def our_forward(params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> Ours:
    """What runs rtn_jax to the fields after every iteration, and what it is given; rolled, as `apply` by itself is."""
    run = jax.jit(
        lambda params, src, tgt: [field for level in rtn_jax.apply(params, src, tgt).history for field in level]
    )
    return run, (without_gradient(params), *jax.device_put((src, tgt)))


def our_gradient(params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> Ours:
    """What runs rtn_jax to the gradient of every weight of the geometry network, and what it is given."""

    def loss(geometry: Any, params: rtn_jax.Params, src: jax.Array, tgt: jax.Array) -> jax.Array:
        moved = rtn_jax.Params({**params.weights, "geometry": geometry}, params.config)
        return jnp.abs(rtn_jax.apply(moved, src, tgt).affine[..., 2]).mean()

    return jax.jit(jax.grad(loss)), (params.weights["geometry"], params, *jax.device_put((src, tgt)))


def our_step(params: rtn_jax.Params, src: np.ndarray, tgt: np.ndarray) -> Ours:
    """What makes the next step of training on pairs whose fields are known and gives its loss: as `peer_step`."""
    optimizer = make_optimizer(RECIPE, STEPS)
    fixed = jax.device_put(params.weights["backbone"])
    images, truth = jax.device_put((src, tgt)), true_fields_of(params.config, len(src))
    valid = [jnp.ones(field.shape[:3], bool) for field in truth]

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, fixed: Any, images: Any, truth: Any) -> Any:
        def loss(geometry: Any) -> jax.Array:
            moved = rtn_jax.Params({"backbone": fixed, "geometry": geometry}, params.config)
            history = rtn_jax.apply(moved, *images).history
            return synthetic_loss(history, truth, valid, decay=RECIPE.decay, matrix_weight=RECIPE.matrix_weight)

        trained, optimizer_state = state
        value, gradient = jax.value_and_grad(loss)(trained["geometry"])
        changes, optimizer_state = optimizer.update({"geometry": gradient}, optimizer_state, trained)
        return (optax.apply_updates(trained, changes), optimizer_state), value

    trained = {"geometry": jax.tree.map(jnp.array, params.weights["geometry"])}
    carried = [(trained, optimizer.init(trained))]

    def run() -> jax.Array:
        carried[0], value = step(carried[0], fixed, images, truth)
        return value

    return run, ()


def true_fields_of(config: Config, batch: int) -> list[jax.Array]:
    """Per level, what the pairs of the step are said to have been made with: a shift by an eighth of the image."""
    moved = jnp.asarray([[1, 0, 0.25], [0, 1, -0.25]], jnp.float32)
    return [jnp.broadcast_to(moved, (batch, *shape, 2, 3)) for _, shape in grids(config)]


def peer_forward(module: Any, run: Any, src: Any, tgt: Any, _: Config) -> Callable[[], list[Any]]:
    """Runs the peer: the fields after every iteration."""
    import torch

    def forward() -> list[Any]:
        with torch.inference_mode():
            return run(src, tgt)

    return forward


def peer_gradient(module: Any, run: Any, src: Any, tgt: Any, _: Config) -> Callable[[], list[Any]]:
    """Runs the peer: the gradient of every weight of the geometry network, sorted by name, kernels HWIO."""

    def gradient() -> list[Any]:
        module.zero_grad(set_to_none=True)
        run(src, tgt)[-1][..., 2].abs().mean().backward()
        gradients = []
        for _, layer in sorted(module.geometry.items()):
            gradients += [layer.bias.grad, layer.weight.grad.permute(2, 3, 1, 0)]
        return gradients

    return gradient


def peer_step(module: Any, run: Any, src: Any, tgt: Any, config: Config) -> Callable[[], Any]:
    """Makes the peer's next step of training, of which it has the same recipe, and gives its loss."""
    import torch

    from benchmarks.peer import step

    return step(
        module,
        run,
        src,
        tgt,
        [torch.from_numpy(np.array(field)).to(src.device) for field in true_fields_of(config, len(src))],
        learning_rate=RECIPE.learning_rate,
        weight_decay=RECIPE.weight_decay,
        clip=RECIPE.clip,
        decay=RECIPE.decay,
        matrix_weight=RECIPE.matrix_weight,
    )


JOBS: dict[str, tuple[Callable[..., Ours], Callable[..., Callable[[], Any]]]] = {
    "forward": (our_forward, peer_forward),
    "gradient": (our_gradient, peer_gradient),
    "step": (our_step, peer_step),
}


def for_torch(module: Any, images: np.ndarray) -> Any:
    """[b, H, W, 3] as [b, 3, H, W], without a copy, where and as the peer's weights are."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).to(next(module.parameters()).device)
