"""`apply` inside another jitted training step, on several devices: a colour correction that is learned by matching.

    python examples/train_through_it.py --ckpt=runs/vgg --devices=4 --batch=8

What is trained makes targets look like the sources that they are matched to. A CPU counts as several devices here.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from stand_ins import network, pictures, run

import rtn_jax

Model = dict[str, jax.Array]
Step = tuple[Model, optax.OptState, jax.Array]
ADAM = optax.adam(0.05)


def loss(model: Model, params: rtn_jax.Params, src: jax.Array, tgt: jax.Array) -> jax.Array:
    """Mean difference, in grey levels, between sources and the corrected targets pulled onto them."""
    corrected = tgt * model["gain"] + 100 * model["offset"]
    aligned = rtn_jax.warp_image(corrected, rtn_jax.apply(params, src, corrected).mapping)
    return jnp.abs(aligned - src).mean()


@jax.jit
def step(model: Model, state: optax.OptState, params: rtn_jax.Params, src: jax.Array, tgt: jax.Array) -> Step:
    """One of Adam; what is differentiated goes through `apply`."""
    value, gradient = jax.value_and_grad(loss)(model, params, src, tgt)
    update, state = ADAM.update(gradient, state)
    return optax.apply_updates(model, update), state, value


def main(ckpt: Path | None = None, devices: int = 2, batch: int = 4, steps: int = 10) -> None:
    """Trains a colour correction through the matcher; `batch` is over all devices."""
    jax.config.update("jax_num_cpu_devices", devices)  # before anything is computed
    src = pictures(batch, params := network(ckpt)).astype(np.float32)
    tgt = np.roll(src, 2, axis=2) * (0.5, 0.8, 1.0)  # moved, and of another colour
    for some in (jax.devices()[:1], jax.devices()[:devices]):
        mesh = Mesh(np.array(some), ("data",))
        split, copied = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
        model = {"gain": jnp.ones(3), "offset": jnp.zeros(3)}
        (model, state, everywhere), losses = jax.device_put((model, ADAM.init(model), params), copied), []
        for _ in range(steps):
            model, state, value = step(model, state, everywhere, *jax.device_put((src, tgt), split))
            losses.append(float(value))
        print(f"{len(some)} device(s): loss {losses[0]:.4f} -> {losses[-1]:.4f}, gain {np.round(model['gain'], 3)}")


if __name__ == "__main__":
    run(main)
