"""What a stage minimises: a function of network, batch and recipe, of the images as they come to the device.

A batch's arrays have the pair as their first axis. The synthetic pairs are made here, from photos and seeds, so that
the host only decodes photos.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Key, UInt8

from rtn_jax.affine import compose_fields, field_statistics
from rtn_jax.config import Config
from rtn_jax.coordinates import Shape, cells_to_pixels, flip_box, normalize_vectors, pixel_grid
from rtn_jax.data.colour import ColourRange, jitter_colours
from rtn_jax.data.synthetic import Warp, inside, random_warps, warp_jacobian, warp_mapping, warp_photos
from rtn_jax.losses import correspondence_loss, synthetic_loss, tie_loss, weak_loss
from rtn_jax.model import Features, Output, apply, encode, grids, match, pair_confidence, unit_features
from rtn_jax.params import Params
from rtn_jax.training.recipes import Recipe, StageName

Batch = dict[str, Any]
Metrics = dict[str, Array]
Objective = Callable[[Params, Batch, Recipe], tuple[Float[Array, ""], Metrics]]


def synthetic(params: Params, batch: Batch, recipe: Recipe) -> tuple[Float[Array, ""], Metrics]:
    """Photos beside random warps of them, whose fields are known.

    Batch: `photos` uint8 `[b, H, W, 3]` at the network's image size, `seeds` uint32 `[b]` of their warps.
    """
    keys = _keys(batch["seeds"])
    warp, src = _warped(batch["photos"], keys, recipe)
    out = apply(params, _coloured(src, keys, recipe, 1), _coloured(batch["photos"], keys, recipe, 2))
    value = _from_truth(params.config, out.history, warp, recipe)
    terms = {"synthetic_loss": value}
    if recipe.tie_weight:
        terms["tie_loss"] = _tie(params.config, out, recipe)
        value = value + recipe.tie_weight * terms["tie_loss"]
    return value, terms | field_statistics(lax.stop_gradient(out.affine))


def weak(params: Params, batch: Batch, recipe: Recipe) -> tuple[Float[Array, ""], Metrics]:
    """Pairs of photos of one class, of which nothing is known but the objects' boxes.

    Batch: `src`, `tgt` uint8 `[b, H, W, 3]` at the network's image size, `src_box`, `tgt_box` `[b, 4]` (left, top,
    right, bottom) in its pixels, `seeds` uint32 `[b]`.

    Warp consistency is the bipath constraint of Truong et al. (ICCV 2021): a warp T' of the target T, matched to the
    source S, and S matched to T, are together the warp, which is known. Nothing that ignores S can satisfy it.
    """
    keys = _keys(batch["seeds"])
    images = [_coloured(batch[name], keys, recipe, i) for i, name in enumerate(("src", "tgt"), 1)]
    if recipe.consistency_weight or recipe.synthetic_weight:
        warp, photos = _warped(batch["tgt"], keys, recipe)
        images.append(_coloured(photos, keys, recipe, 3))
    if recipe.mirror_aware:
        images.append(images[0][:, :, ::-1])
    src, tgt, *others = _encode_all(params, images)
    src_box = batch["src_box"]
    if recipe.mirror_aware:
        src, src_box, mirrored = _surer(params, src, others.pop(), tgt, src_box)
    pairs = [(src, tgt)]
    for warped in others:
        pairs += [(warped, src)] if recipe.consistency_weight else []
        pairs += [(warped, tgt)] if recipe.synthetic_weight else []
    matched = _match_all(params, pairs)
    out, terms, value = matched[0], {}, jnp.zeros(())
    if recipe.weak_weight:
        mask = box_mask(grids(params.config)[-1], src_box)
        terms["weak_loss"] = weak_loss(
            out.correlation, mask, temperature=recipe.temperature, reduction=recipe.reduction
        )
        value = value + recipe.weak_weight * terms["weak_loss"]
        centre = out.correlation[..., out.correlation.shape[-1] // 2]
        terms["centre_cosine"] = ((centre * mask).sum((1, 2)) / mask.sum((1, 2))).mean()
    if recipe.consistency_weight:
        there_and_back = [
            jax.vmap(partial(compose_fields, second=back[-1], normalization=params.config.normalization))(there)
            for there, back in zip(matched[1].history, out.history, strict=True)
        ]
        terms["consistency_loss"] = _from_truth(
            params.config, there_and_back, warp, recipe, batch["tgt_box"], recipe.consistency_scale
        )
        value = value + recipe.consistency_weight * terms["consistency_loss"]
    if recipe.synthetic_weight:
        terms["synthetic_loss"] = _from_truth(params.config, matched[-1].history, warp, recipe)
        value = value + recipe.synthetic_weight * terms["synthetic_loss"]
    if recipe.tie_weight:
        terms["tie_loss"] = _tie(params.config, out, recipe)
        value = value + recipe.tie_weight * terms["tie_loss"]
    if recipe.mirror_aware:
        terms["mirrored"] = mirrored.mean()
    return value, terms | field_statistics(lax.stop_gradient(out.affine))


def features(params: Params, batch: Batch, recipe: Recipe) -> tuple[Float[Array, ""], Metrics]:
    """Pairs of photos of one class, matched by their features alone; the mean over the levels' grids.

    Batch: as for `weak`, and `tgt_box`.
    """
    keys = _keys(batch["seeds"])
    sides = [_coloured(batch[name], keys, recipe, i) for i, name in enumerate(("src", "tgt"), 1)]
    src, tgt = (encode(params, side).taps for side in sides)
    values, shares = [], []
    for level, grid in zip(params.config.levels, grids(params.config), strict=True):
        described = [unit_features(level, taps) for taps in (src, tgt)]
        masks = [box_mask(grid, batch[name]) for name in ("src_box", "tgt_box")]
        value, share = correspondence_loss(*described, *masks, temperature=recipe.temperature)
        values.append(value)
        shares.append(share)
    loss = jnp.stack(values).mean()
    return loss, {"features_loss": loss, "mutual": jnp.stack(shares).mean()}


_COLOURS = 100
"""Added to the number of an image: the first numbers folded into a key give the keys that its warp is drawn with."""

OBJECTIVES: dict[StageName, Objective] = {"synthetic": synthetic, "weak": weak, "features": features}


def box_mask(grid: tuple[int, Shape], box: Float[Array, "b 4"]) -> Float[Array, "b h w"]:
    """1 for the cells of a grid whose centre lies in the box (left, top, right, bottom), 0 for the others.

    The cell that holds the box's middle always counts, so that no object is too small to be learned from.
    """
    stride, shape = grid
    centers = jnp.asarray(cells_to_pixels(pixel_grid(shape, "float64"), stride), box.dtype)
    middle = (box[:, None, None, :2] + box[:, None, None, 2:]) / 2
    holds_middle = (jnp.abs(centers - middle) <= stride / 2).all(-1)
    return (in_box(centers, box) | holds_middle).astype(box.dtype)


def in_box(points: Float[Array, "*b h w 2"], box: Float[Array, "b 4"]) -> Bool[Array, "b h w"]:
    """Whether positions lie in the box of their pair."""
    left_top, right_bottom = box[:, None, None, :2], box[:, None, None, 2:]
    return ((points >= left_top) & (points <= right_bottom)).all(-1)


def true_fields(
    config: Config, warp: Warp, box: Float[Array, "b 4"] | None = None
) -> list[tuple[Float[Array, "b h w 2 3"], Array]]:
    """Per level, the affine field that a warp stands for, and the cells whose true position lies in the target.

    With a box (left, top, right, bottom) of the target, in pixels of the network's images: in that.
    """
    fields = []
    for stride, shape in grids(config):
        pixels = cells_to_pixels(pixel_grid(shape, "float64"), stride)
        mapping = warp_mapping(warp, pixels, config.image_shape)
        cells = (mapping - jnp.asarray(pixels, mapping.dtype)) / stride
        translation = normalize_vectors(cells, shape, config.normalization)
        matrix = warp_jacobian(warp, pixels, config.image_shape)
        valid = inside(mapping, config.image_shape) & inside(jnp.asarray(pixels), config.image_shape)
        if box is not None:
            valid &= in_box(mapping, box)
        fields.append((jnp.concatenate([matrix, translation[..., None]], -1), valid))
    return fields


def _warped(photos: UInt8[Array, "b H W 3"], keys: Key[Array, " b"], recipe: Recipe) -> tuple[Warp, Array]:
    """Random warps, and photos seen through them."""
    warp = random_warps(keys, recipe.warps)
    return warp, warp_photos(warp, photos.astype(jnp.float32))


def _from_truth(
    config: Config,
    history: Sequence[Array],
    warp: Warp,
    recipe: Recipe,
    box: Float[Array, "b 4"] | None = None,
    scale: float = 0.0,
) -> Float[Array, ""]:
    """How far fields are from a warp's; with a box, where the warp leads into it."""
    truth, valid = zip(*true_fields(config, warp, box), strict=True)
    return synthetic_loss(
        history,
        truth,
        valid,
        decay=recipe.decay,
        matrix_weight=recipe.matrix_weight,
        scale=scale,
        reduction=recipe.reduction,
    )


def _surer(
    params: Params, src: Features, mirrored: Features, tgt: Features, box: Float[Array, "b 4"]
) -> tuple[Features, Float[Array, "b 4"], Float[Array, " b"]]:
    """Per pair, the source or its mirror image, whichever is matched more confidently; its box; 1 where mirrored."""
    matched = _match_all(lax.stop_gradient(params), lax.stop_gradient([(src, tgt), (mirrored, tgt)]))
    plain, other = (pair_confidence(out) for out in matched)
    flip = other > plain

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(flip.reshape(-1, *[1] * (a.ndim - 1)), b, a)

    flipped = flip_box(box, params.config.image_shape[1])
    return jax.tree.map(choose, src, mirrored), choose(box, flipped), flip.astype(box.dtype)


def _encode_all(params: Params, images: Sequence[Array]) -> list[Features]:
    """Features of several batches of images, all through the backbone as one."""
    together, parts = encode(params, jnp.concatenate(images)), len(images)
    stacked = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), together)
    return [jax.tree.map(itemgetter(i), stacked) for i in range(parts)]


def _match_all(params: Params, pairs: Sequence[tuple[Features, Features]]) -> list[Output]:
    """Matches several batches of pairs as one."""
    src, tgt = (jax.tree.map(lambda *x: jnp.concatenate(x), *side) for side in zip(*pairs, strict=True))
    out = match(params, src, tgt)
    parts = len(pairs)
    # All have the pairs as their first axis, but for the history, where it follows the iteration.
    histories = zip(*(jnp.split(level, parts, axis=1) for level in out.history), strict=True)
    stacked = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), dataclasses.replace(out, history=()))
    return [
        dataclasses.replace(jax.tree.map(itemgetter(i), stacked), history=history)
        for i, history in enumerate(histories)
    ]


def _coloured(photos: Array, keys: Key[Array, " b"], recipe: Recipe, image: int) -> Float[Array, "b H W 3"]:
    """Photos in changed colours, each image of a pair in its own."""
    photos = photos.astype(jnp.float32)
    if not recipe.colour:
        return photos
    strength = ColourRange(brightness=recipe.colour, contrast=recipe.colour, saturation=recipe.colour)
    own = jax.vmap(lambda key: jax.random.fold_in(key, _COLOURS + image))(keys)
    return jitter_colours(own, photos, strength)


def _tie(config: Config, out: Output, recipe: Recipe) -> Float[Array, ""]:
    return tie_loss(out.history, normalization=config.normalization, decay=recipe.decay)


def _keys(seeds: Array) -> Key[Array, " b"]:
    return jax.vmap(jax.random.key)(seeds)
