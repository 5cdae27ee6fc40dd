"""Optimises an image through the matcher's gradient: noise is changed until the source finds itself in it.

    python examples/optimise_image.py --ckpt=runs/vgg --src=cat.jpg --steps=200 --out=found.png

Raised is the mean confidence: the cosine between each source feature and the one it is matched to.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from stand_ins import network, photos, pictures, run

import rtn_jax
from rtn_jax.images import save_image


def main(
    ckpt: Path | None = None, src: Path | None = None, steps: int = 30, rate: float = 4.0, out: Path | None = None
) -> None:
    """Changes noise by Adam, up to `rate` grey levels a step, until `src` finds itself in it; writes it to `out`."""
    params = network(ckpt)
    source = pictures(1, params) if src is None else photos([src], params)
    image = start = jax.random.uniform(jax.random.key(3), source.shape, minval=100, maxval=156)
    optimizer = optax.adam(rate)
    state = optimizer.init(image)

    def distance(image: jax.Array, params: rtn_jax.Params) -> tuple[jax.Array, jax.Array]:
        found = rtn_jax.apply(params, source, image)
        return 1 - found.confidence.mean(), jnp.linalg.norm(found.flow, axis=-1).mean()

    @jax.jit
    def step(image: jax.Array, state: optax.OptState, params: rtn_jax.Params) -> tuple[jax.Array, ...]:
        (loss, moved), gradient = jax.value_and_grad(distance, has_aux=True)(image, params)
        update, state = optimizer.update(gradient, state)
        return jnp.clip(image + update, 0, 255), state, 1 - loss, moved

    for i in range(steps):
        image, state, confidence, moved = step(image, state, params)
        if i in (0, steps - 1) or i % 10 == 0:
            print(f"step {i}: confidence {confidence:.4f}, mean flow {moved:.2f} px")
    print(f"{image.size:,} values changed by {jnp.abs(image - start).mean():.1f} grey levels on average")
    if out is not None:
        save_image(out, image[0])


if __name__ == "__main__":
    run(main)
