"""Transfers the mask of one photo to every photo of a folder, a batch at a time through `vmap`.

    python examples/transfer_labels.py --ckpt=runs/vgg --src=cat.jpg --mask=cat_mask.png --targets=photos --out=masks

Matched is from the target to the source: for each pixel of a target we ask where in the source it is, and take the
label from there, so that nothing stays without one. The source's features are computed once.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from stand_ins import network, photos, pictures, run

import rtn_jax
from rtn_jax.data.photos import photo_folder
from rtn_jax.images import save_image


@jax.jit
def transfer(
    params: rtn_jax.Params, src: rtn_jax.Features, mask: jax.Array, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Masks `[n, H, W]` of images `[n, H, W, 3]`, and the mean confidence of each."""

    def one(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = rtn_jax.match(params, rtn_jax.encode(params, image), src)
        return rtn_jax.warp_image(mask, out.mapping[0])[..., 0] > 0.5, out.confidence.mean()

    return jax.vmap(one)(images)


def main(
    ckpt: Path | None = None, src: Path | None = None, mask: Path | None = None, targets: Path | None = None,
    batch: int = 4, out: Path | None = None,
) -> None:  # fmt: skip
    """Transfers the mask (white on black) of a photo to those of a folder; `out` is a folder for the masks."""
    params = network(ckpt)
    names = [Path(f"{i}.png") for i in range(6)] if targets is None else list(photo_folder(targets))
    source = pictures(1, params) if src is None else photos([src], params)
    labels = source[0].mean(-1, keepdims=True) > 128 if mask is None else photos([mask], params)[0, ..., :1] > 128
    features = rtn_jax.encode(params, source)
    for begin in range(0, len(names), batch):
        some = names[begin : begin + batch]
        images = np.concatenate([source] * len(some)) if targets is None else photos(some, params)
        masks, confidence = transfer(params, features, labels.astype(np.float32), images)
        for name, found, sure in zip(some, np.asarray(masks), np.asarray(confidence), strict=True):
            print(f"{name.name}: {100 * found.mean():.1f} % of the pixels labelled, confidence {sure:.3f}")
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                save_image(out / f"{name.stem}.png", np.repeat(255 * found[..., None], 3, -1).astype(np.uint8))


if __name__ == "__main__":
    run(main)
