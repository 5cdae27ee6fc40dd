"""What a stage minimises: a function of network, batch and recipe, of the images as they come to the device.

A batch's arrays have the pair as their first axis. The synthetic pairs are made here, from photos and seeds, so that
the host only decodes photos.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, UInt8

from rtn_jax.affine import field_statistics
from rtn_jax.config import Config
from rtn_jax.coordinates import Shape, cells_to_pixels, normalize_vectors, pixel_grid
from rtn_jax.correlation import l2_normalize
from rtn_jax.data.colour import ColourRange, jitter_colours
from rtn_jax.data.synthetic import Warp, WarpRange, inside, random_warps, warp_jacobian, warp_mapping, warp_photos
from rtn_jax.losses import correspondence_loss, synthetic_loss, tie_loss, weak_loss
from rtn_jax.model import Output, apply, encode, grids
from rtn_jax.params import Params
from rtn_jax.training.recipes import Recipe, StageName

Batch = dict[str, Any]
Metrics = dict[str, Array]
Objective = Callable[[Params, Batch, Recipe], tuple[Float[Array, ""], Metrics]]


def synthetic(params: Params, batch: Batch, recipe: Recipe) -> tuple[Float[Array, ""], Metrics]:
    """Photos beside random warps of them, whose fields are known.

    Batch: `photos` uint8 `[b, H, W, 3]` at the network's image size, `seeds` uint32 `[b]` of their warps.
    """
    out, value, terms = _on_warps(params, batch["photos"], batch["seeds"], recipe)
    if recipe.tie_weight:
        terms["tie_loss"] = _tie(params.config, out, recipe)
        value = value + recipe.tie_weight * terms["tie_loss"]
    return value, terms | field_statistics(lax.stop_gradient(out.affine))


def weak(params: Params, batch: Batch, recipe: Recipe) -> tuple[Float[Array, ""], Metrics]:
    """Pairs of photos of one class, of which nothing is known but the source's box.

    Batch: `src`, `tgt` uint8 `[b, H, W, 3]` at the network's image size, `src_box` `[b, 4]` (left, top, right, bottom)
    in its pixels, `seeds` uint32 `[b]`.
    """
    keys = _keys(batch["seeds"])
    src, tgt = (_coloured(batch[name], keys, recipe, i) for i, name in enumerate(("src", "tgt"), 1))
    out = apply(params, src, tgt)
    mask = box_mask(grids(params.config)[-1], batch["src_box"])
    value = weak_loss(out.correlation, mask, temperature=recipe.temperature, reduction=recipe.reduction)
    centre = out.correlation[..., out.correlation.shape[-1] // 2]
    terms = {"weak_loss": value, "centre_cosine": ((centre * mask).sum((1, 2)) / mask.sum((1, 2))).mean()}
    if recipe.tie_weight:
        terms["tie_loss"] = _tie(params.config, out, recipe)
        value = value + recipe.tie_weight * terms["tie_loss"]
    if recipe.synthetic_weight:
        _, known, synthetic_terms = _on_warps(params, batch["src"], batch["seeds"], recipe)
        terms |= synthetic_terms
        value = value + recipe.synthetic_weight * known
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
        described = [l2_normalize(taps[level.layer].output) for taps in (src, tgt)]
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
    left_top, right_bottom = box[:, None, None, :2], box[:, None, None, 2:]
    inside_box = ((centers >= left_top) & (centers <= right_bottom)).all(-1)
    holds_middle = (jnp.abs(centers - (left_top + right_bottom) / 2) <= stride / 2).all(-1)
    return (inside_box | holds_middle).astype(box.dtype)


def true_fields(config: Config, warp: Warp) -> list[tuple[Float[Array, "b h w 2 3"], Array]]:
    """Per level, the affine field that a warp stands for, and the cells whose true position lies in the target."""
    fields = []
    for stride, shape in grids(config):
        pixels = cells_to_pixels(pixel_grid(shape, "float64"), stride)
        mapping = warp_mapping(warp, pixels, config.image_shape)
        cells = (mapping - jnp.asarray(pixels, mapping.dtype)) / stride
        translation = normalize_vectors(cells, shape, config.normalization)
        matrix = warp_jacobian(warp, pixels, config.image_shape)
        valid = inside(mapping, config.image_shape) & inside(jnp.asarray(pixels), config.image_shape)
        fields.append((jnp.concatenate([matrix, translation[..., None]], -1), valid))
    return fields


def _on_warps(
    params: Params, photos: UInt8[Array, "b H W 3"], seeds: Array, recipe: Recipe
) -> tuple[Output, Float[Array, ""], Metrics]:
    """The network on random warps of photos, and how far its fields are from the true ones."""
    keys = _keys(seeds)
    warp = random_warps(keys, WarpRange(translation=recipe.translation))
    src = warp_photos(warp, photos.astype(jnp.float32))
    out = apply(params, _coloured(src, keys, recipe, 1), _coloured(photos, keys, recipe, 2))
    truth, valid = zip(*true_fields(params.config, warp), strict=True)
    value = synthetic_loss(
        out.history,
        truth,
        valid,
        decay=recipe.decay,
        matrix_weight=recipe.matrix_weight,
        reduction=recipe.reduction,
    )
    return out, value, {"synthetic_loss": value}


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
