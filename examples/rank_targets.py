"""One source against a thousand targets, ranked by confidence.

    python examples/rank_targets.py --ckpt=runs/vgg --src=cat.jpg --targets=photos

Features are computed once per image, and pairs are matched in batches of one shape, so that few programs are compiled.
Without photos the targets are drawn, and one of them is the source with noise on it, which should come first.
"""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np
from stand_ins import network, photos, pictures, run

import rtn_jax
from rtn_jax.data.photos import photo_folder


@jax.jit
def confidence(params: rtn_jax.Params, src: rtn_jax.Features, tgt: rtn_jax.Features) -> jax.Array:
    """Mean confidence of one source in each of a batch of targets."""
    batch = jax.tree.leaves(tgt)[0].shape[0]
    repeated = jax.tree.map(lambda x: jax.numpy.broadcast_to(x, (batch, *x.shape[1:])), src)
    return rtn_jax.match(params, repeated, tgt).confidence.mean((1, 2))


def main(
    ckpt: Path | None = None,
    src: Path | None = None,
    targets: Path | None = None,
    count: int = 1000,
    batch: int = 25,
    show: int = 5,
) -> None:
    """Ranks the photos of a folder, or `count` drawn ones, by how surely the source is found in them."""
    params = network(ckpt)
    source = pictures(1, params) if src is None else photos([src], params)
    names = [*photo_folder(targets)] if targets is not None else [Path(f"drawn {i}") for i in range(count)]
    drawn = None if targets is not None else pictures(count + 1, params)[1:]
    if drawn is not None:
        noise = np.random.default_rng(0).normal(0, 8, source[0].shape)
        drawn[count // 3] = np.clip(source[0] + noise, 0, 255)
    features, scores, begun = rtn_jax.encode(params, source), [], time.perf_counter()
    for begin in range(0, len(names), batch):
        images = photos(names[begin : begin + batch], params) if drawn is None else drawn[begin : begin + batch]
        full = np.resize(images, (batch, *images.shape[1:]))  # the last batch, too, has the size of the others
        scores += confidence(params, features, rtn_jax.encode(params, full))[: len(images)].tolist()
    seconds = time.perf_counter() - begun
    for rank, i in enumerate(np.argsort(scores)[::-1][:show], 1):
        print(f"{rank}. {names[i]}: confidence {scores[i]:.4f}")
    print(f"{len(names)} targets in {seconds:.1f} s, compiling included: {len(names) / seconds:.3g} per second")


if __name__ == "__main__":
    run(main)
