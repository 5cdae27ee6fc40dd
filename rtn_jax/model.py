"""Recurrent Transformer Networks: two images in, the field of local affine transformations between them out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from rtn_jax.affine import add_residual, field_centres, identity_field, resize_field, transfer_points
from rtn_jax.backbones import Tap, backbone, level_strides
from rtn_jax.config import Config, Level, Search, Start
from rtn_jax.consensus import affine_consensus, affine_field
from rtn_jax.coordinates import (
    Shape,
    denormalize_vectors,
    normalize_vectors,
    pixel_grid,
    pixels_to_cells,
    resize_points,
)
from rtn_jax.correlation import l2_normalize, window_correlation
from rtn_jax.params import Params, geometry_network
from rtn_jax.programs import Kept
from rtn_jax.sampling import average_pool, resample, resize_bilinear
from rtn_jax.search import local_search


@partial(jax.tree_util.register_dataclass, data_fields=["taps"], meta_fields=["image_shape"])
@dataclass(frozen=True)
class Features:
    """What `match` needs of a batch of images, computed once however many pairs they are in."""

    taps: dict[str, Tap]
    """Per level's layer, what is redone under a field is computed from, and the features."""
    image_shape: Shape
    """(height, width) of the images that were given; results come back in their pixels."""

    def of_image(self, shape: Shape) -> Features:
        """The same features as of images of another size, for images that were resized before they were encoded."""
        return Features(self.taps, shape)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["mapping", "flow", "affine", "history", "correlation", "confidence"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Output:
    """Correspondence from every source pixel into the target; axis `b` is the pair."""

    mapping: Float[Array, "*b H W 2"]
    """For every source pixel its position (x, y) in the target, in pixels of the target image."""
    flow: Float[Array, "*b H W 2"]
    """`mapping` minus the source's pixel grid."""
    affine: Float[Array, "*b h w 2 3"]
    """The final field (after the search, if there is one) on the finest grid: A in cells, t in normalised units."""
    history: tuple[Float[Array, "... 2 3"], ...]
    """Per level, the field after every iteration, `[k, b, h, w, 2, 3]`."""
    correlation: Float[Array, "*b h w m"]
    """The last raw volume (cosines), which the weak loss sees; the window's centre is the recurrence's estimate."""
    confidence: Float[Array, "*b H W"]
    """0..1: cosine between each source feature and the target feature that the recurrence matched it to. A search does
    not change it: something alike is found nearly everywhere, and says less about whether the pair is right."""


Image = Shaped[Array | np.ndarray, "..."]
"""`[b, H, W, 3]` or `[H, W, 3]`, uint8 or float; `apply` says what is wrong with anything else."""


def apply(params: Params, src: Image, tgt: Image) -> Output:
    """Finds for every pixel of the source its correspondence in the target.

    Args:
        params: from `init`, `load` or training.
        src, tgt: `[b, H, W, 3]` RGB, uint8 or float in 0..255, each of any size; `[H, W, 3]` is a pair of one.

    Returns:
        An `Output` in the pixels of the images given.

    Raises:
        ValueError: for another rank, dtype or number of channels, unequal batches, empty images and, where the values
            are known (not under `jit`), NaN or infinite ones.

    Source: RTN, sections 3.2-3.3.
    """
    src, tgt = _check_image("src", src), _check_image("tgt", tgt)
    if src.shape[0] != tgt.shape[0]:
        raise ValueError(f"src, tgt: expected batches of one size, got {src.shape[0]} and {tgt.shape[0]}")
    return match(params, *_encode_both(params, src, tgt))


def encode(params: Params, image: Image) -> Features:
    """Computes the features of images once, to be matched in any number of pairs; takes what `apply` takes."""
    return _encode(params, _check_image("image", image))


def match(params: Params, src: Features, tgt: Features) -> Output:
    """Matches images by their features: `match(p, encode(p, a), encode(p, b))` is `apply(p, a, b)`.

    Raises:
        ValueError: if the features are not those of this config's layers, or of different batch or image size.
    """
    for name, features in (("src", src), ("tgt", tgt)):
        missing = {tap for level in params.config.levels for tap in level.taps} - set(features.taps)
        if missing:
            raise ValueError(f"{name}: features lack the layers {', '.join(sorted(missing))} of the config")
    for layer, tap in src.taps.items():
        if tap.output.shape != tgt.taps[layer].output.shape:
            raise ValueError(
                f"src, tgt: expected features of one shape, got {tap.output.shape} and {tgt.taps[layer].output.shape} "
                f"at {layer}"
            )
    if not _is_traced((params, src, tgt)):
        params = without_gradient(params)
    affine, history, volume = _refined(params, src.taps, tgt.taps)
    return _output(params.config, affine, history, volume, src.image_shape, tgt.image_shape)


def without_gradient(params: Params) -> Params:
    """The network as it is best in a program that is not differentiated: rolled, unless its config says otherwise."""
    config = params.config
    return params if config.unroll is not None else Params(params.weights, config.replace(unroll=False))


def pair_confidence(out: Output) -> Float[Array, " b"]:
    """How sure the network is of each pair, `[b]` in 0..1: the mean over the most confident quarter of the source.

    An object covers a part of its picture; what is around it has no correspondence, and says nothing about the pair.
    """
    return _surest(out.confidence)


def _surest(confidence: Float[Array, "b h w"]) -> Float[Array, " b"]:
    batch, height, width = confidence.shape  # an exported program does not know the number of pairs
    places = jnp.sort(confidence.reshape(batch, height * width), axis=-1)
    return places[:, 3 * height * width // 4 :].mean(-1)


def transfer_keypoints(out: Output, src_points: Any) -> Float[Array, "..."]:
    """Carries points of the source over to the target.

    Args:
        out: of `apply` or `match`.
        src_points: `[b, n, 2]` (x, y) in pixels of the source; `[n, 2]` for a pair of one.

    Returns:
        Points in pixels of the target, in the shape of `src_points`. Between pixels the mapping is interpolated; a
        point outside the source moves like the nearest border pixel.

    Raises:
        ValueError: if the shape does not fit.
    """
    points = jnp.asarray(src_points, out.mapping.dtype)
    batch = out.mapping.shape[0]
    given = 1 if points.ndim == 2 else points.shape[0] if points.ndim == 3 else None
    if points.shape[-1:] != (2,) or given != batch:
        raise ValueError(f"src_points: expected [{batch}, n, 2], got shape {points.shape}")
    moved = jax.vmap(transfer_points)(out.mapping, points.reshape(batch, -1, 2))
    return moved.reshape(points.shape)


def grids(config: Config) -> tuple[tuple[int, Shape], ...]:
    """Per level, image pixels per cell and the (height, width) of the grid."""
    height, width = _padded_size(config)
    return tuple((stride, (height // stride, width // stride)) for stride in level_strides(config))


def field_mapping(
    config: Config, affine: Float[Array, "b h w 2 3"], src_shape: Shape, tgt_shape: Shape
) -> Float[Array, "b H W 2"]:
    """A field as positions in the target, for every pixel of the source image as it was given.

    Takes the fields of `Output.history` as well as the final one, whose mapping is `Output.mapping`.

    The release multiplies its flow by half the image size (112 for 224 pixels) whatever its sampler does, hence
    `centers` here.

    Args:
        config: of the network that estimated the field.
        affine: on one of the network's grids.
        src_shape, tgt_shape: (height, width) of the images as they were given.
    """
    translation = _at_pixels(config, affine[..., 2], src_shape)
    flow = denormalize_vectors(translation, _padded_size(config), "centers")
    start = resize_points(pixel_grid(src_shape, np.float64), src_shape, config.image_shape)
    return resize_points(jnp.asarray(start, flow.dtype) + flow, config.image_shape, tgt_shape)


@Kept
def _encode_both(params: Params, src: Array, tgt: Array) -> tuple[Features, Features]:
    """Both images go through the backbone as one batch."""
    n, images = src.shape[0], (src, tgt)
    taps = _taps(params, jnp.concatenate([_to_model_size(params.config, image) for image in images]))
    src_taps, tgt_taps = (jax.tree.map(lambda x, part=part: x[part], taps) for part in (slice(n), slice(n, None)))
    return Features(src_taps, src.shape[1:3]), Features(tgt_taps, tgt.shape[1:3])


@Kept
def _encode(params: Params, image: Array) -> Features:
    return Features(_taps(params, _to_model_size(params.config, image)), image.shape[1:3])


@partial(Kept, static_argnums=(0, 4, 5))
def _output(
    config: Config,
    affine: Float[Array, "b h w 2 3"],
    history: tuple[Float[Array, "_ b _ _ 2 3"], ...],
    volume: Float[Array, "b h w m"],
    src_shape: Shape,
    tgt_shape: Shape,
) -> Output:
    """In pixels of the images given; apart from the recurrence, which is compiled once for images of all sizes."""
    mapping = field_mapping(config, affine, src_shape, tgt_shape)
    centre = volume[..., volume.shape[-1] // 2, None]
    confidence = jnp.clip(_at_pixels(config, centre, src_shape)[..., 0], 0, 1)
    flow = mapping - jnp.asarray(pixel_grid(src_shape), mapping.dtype)
    return Output(mapping, flow, affine, history, volume, confidence)


@Kept
def _refined(
    params: Params, src: dict[str, Tap], tgt: dict[str, Tap]
) -> tuple[Float[Array, "b h w 2 3"], tuple[Float[Array, "_ b _ _ 2 3"], ...], Float[Array, "b h w m"]]:
    """The levels, coarse to fine: the final field, the fields after every iteration, and the last raw volume."""
    config, history = params.config, []
    begun = [_start(config, name, src, tgt) for name in config.starts]
    field = jnp.concatenate(begun)
    taps = src, tgt
    src, tgt = (jax.tree.map(lambda x: jnp.concatenate([x] * len(config.starts)), x) for x in taps)
    for level, (_, shape) in zip(config.levels, grids(config), strict=True):
        while field.shape[1] < shape[0]:  # grids differ by powers of two: images are padded to whole cells
            field = resize_field(field, (2 * field.shape[1], 2 * field.shape[2]), border=config.upsampling)
        correlate = _correlation_under(params, level, src, tgt)
        field, volume, fields = _iterate(params, level.iterations, correlate, field)
        history.append(fields)
    volume = correlate(field) if config.final_correlation else volume
    if len(config.starts) > 1:
        kept = _surer(volume, len(begun), begun[0].shape[0])
        field, history, volume = field[kept], [fields[:, kept] for fields in history], volume[kept]
    if isinstance(config.search, Search):
        field = _searched(config, config.search, *taps, field)
    return field, tuple(history), volume


def _start(config: Config, name: Start, src: dict[str, Tap], tgt: dict[str, Tap]) -> Float[Array, "b h w 2 3"]:
    """A field on the first level's grid."""
    level, (_, shape) = config.levels[config.first_look], grids(config)[0]
    if name == "identity":
        return identity_field(src[level.taps[0]].output.shape[0], shape, _wide(config))
    maps = affine_consensus(unit_features(level, src), unit_features(level, tgt))
    return affine_field(maps.astype(_wide(config)), shape, normalization=config.normalization)


def _surer(volume: Float[Array, "n h w m"], starts: int, pairs: int) -> Int[Array, " b"]:
    """Of results from several starts, one after the other, the indices of those that each pair keeps."""
    sure = _surest(volume[..., volume.shape[-1] // 2]).reshape(starts, pairs)
    return sure.argmax(0) * pairs + jnp.arange(pairs)


def _searched(
    config: Config, search: Search, src: dict[str, Tap], tgt: dict[str, Tap], field: Float[Array, "b h w 2 3"]
) -> Float[Array, "b h w 2 3"]:
    """The field with every cell's translation changed by the search; its 2x2 part stays."""
    found = {tap: None for level in config.levels if level.downscale == 1 for tap in level.taps}
    found = found or {tap: None for tap in config.levels[-1].taps}
    shape = field.shape[1:3]
    a, b = (_joined([resize_bilinear(taps[tap].output, shape) for tap in found]) for taps in (src, tgt))
    moved = local_search(a, b, field_centres(field, normalization=config.normalization), search)
    change = normalize_vectors(moved.astype(field.dtype), shape, config.normalization)
    return field.at[..., 2].add(change)


Correlate = Callable[[Float[Array, "b h w 2 3"]], Float[Array, "b h w m"]]


def unit_features(level: Level, taps: dict[str, Tap]) -> Float[Array, "b h w c"]:
    """What a level compares: the features of its layers, of unit length each and together."""
    return _joined([taps[tap].output for tap in level.taps])


def _joined(features: Sequence[Float[Array, "b h w _"]]) -> Float[Array, "b h w c"]:
    """Inner products of what is returned are the means of the cosines."""
    alike = [l2_normalize(x) for x in features]
    return alike[0] if len(alike) == 1 else jnp.concatenate(alike, -1) / math.sqrt(len(alike))


def _correlation_under(params: Params, level: Level, src: dict[str, Tap], tgt: dict[str, Tap]) -> Correlate:
    """`T -> C(D^s, D^t(T))`: the raw volume as a function of the field. What does not depend on it is done here."""
    config, network = params.config, backbone(params.config)
    src_features = unit_features(level, src)
    redone = [
        network.redo(params.weights["backbone"], layer, tgt[tap].input, config.normalization)
        for layer, tap in zip(level.layers, level.taps, strict=True)
    ]

    def correlate(field: Float[Array, "b h w 2 3"]) -> Float[Array, "b h w m"]:
        return window_correlation(src_features, _joined([under(field) for under in redone]), radius=config.radius)

    return correlate


def _iterate(
    params: Params, iterations: int, correlate: Correlate, field: Float[Array, "b h w 2 3"]
) -> tuple[Float[Array, "b h w 2 3"], Float[Array, "b h w m"], Float[Array, "k b h w 2 3"]]:
    """`T^k = T^(k-1) + F(C(D^s, D^t(T^(k-1))))` with shared weights: the last field and volume, and every field."""
    config, geometry = params.config, geometry_network(params.config)
    window = config.radius if config.residual_units == "window" else None

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        volume = correlate(carry[0])
        residual = geometry.apply({"params": params.weights["geometry"]}, l2_normalize(volume))
        refined = add_residual(carry[0], jnp.asarray(residual), window=window, normalization=config.normalization)
        return (refined, volume), refined

    start = field, jnp.zeros((*field.shape[:3], (2 * config.radius + 1) ** 2), _wide(config))
    unroll = jax.default_backend() == "cpu" if config.unroll is None else config.unroll
    (field, volume), fields = lax.scan(
        jax.checkpoint(step) if config.remat else step,
        start,
        None,
        iterations,
        unroll=iterations + 1 if unroll else 1,  # one more than there are: a single one, too, is to be no loop
    )
    return field, volume, fields


def _at_pixels(config: Config, grid: Float[Array, "b h w c"], shape: Shape) -> Float[Array, "b H W c"]:
    """Values of the finest grid at every pixel of an image of that shape."""
    if config.upsampling == "zero":  # the release doubles the field until it has the size of the image
        while grid.shape[1] < _padded_size(config)[0]:
            grid = resize_bilinear(grid, (2 * grid.shape[1], 2 * grid.shape[2]), border="zero")
    stride = _padded_size(config)[0] // grid.shape[1]
    pixels = resize_points(pixel_grid(shape, np.float64), shape, config.image_shape)
    cells = pixels_to_cells(pixels, stride)
    return resample(grid, cells[:, 0, 1], cells[0, :, 0])


def _taps(params: Params, images: Float[Array, "b H W 3"]) -> dict[str, Tap]:
    """Every level's, from images of the network's size."""
    taps: dict[str, Tap] = {}
    for scale in {level.downscale: None for level in params.config.levels}:
        levels = tuple(level for level in params.config.levels if level.downscale == scale)
        network = backbone(params.config.replace(levels=levels))
        at_scale = network.taps(params.weights["backbone"], average_pool(images, scale))
        named = {tap: layer for level in levels for tap, layer in zip(level.taps, level.layers, strict=True)}
        taps |= {tap: Tap(*at_scale[layer]) for tap, layer in named.items()}
    return taps


def _to_model_size(config: Config, image: Shaped[Array, "b H W 3"]) -> Float[Array, "b H2 W2 3"]:
    """Bicubic with smoothing, as photo tools resize, then padded to whole cells of the coarsest grid.

    The padding has the mean colour, which the backbone subtracts: it continues the image as the convolutions do.
    """
    image = image.astype(_wide(config))
    if image.shape[1:3] != config.image_shape:
        shape = (image.shape[0], *config.image_shape, 3)
        image = jnp.clip(jax.image.resize(image, shape, "cubic", antialias=True), 0, 255)
    padded = _padded_size(config)
    if padded == config.image_shape:
        return image
    fill = jnp.asarray(backbone(config).fill, image.dtype)
    margins = ((0, 0), (0, padded[0] - image.shape[1]), (0, padded[1] - image.shape[2]), (0, 0))
    return jnp.pad(image - fill, margins) + fill


def _padded_size(config: Config) -> Shape:
    stride = max(level_strides(config))
    height, width = (math.ceil(n / stride) * stride for n in config.image_shape)
    return height, width


def _is_traced(tree: Any) -> bool:
    """Whether a larger program is being made, which may be differentiated."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _wide(config: Config) -> Any:
    return jnp.promote_types(jnp.dtype(config.compute_dtype), jnp.float32)


def _check_image(name: str, image: Any) -> Array:
    """The image as a batch, or a ValueError that says what is wrong with it."""
    if not hasattr(image, "dtype"):
        image = np.asarray(image)
    if image.ndim not in (3, 4) or image.shape[-1] != 3:
        raise ValueError(f"{name}: expected an RGB image [H, W, 3] or a batch [b, H, W, 3], got shape {image.shape}")
    if 0 in image.shape:
        raise ValueError(f"{name}: expected an image with pixels, got shape {image.shape}")
    if image.dtype != np.uint8 and not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"{name}: expected uint8 or float values in 0..255, got {image.dtype}")
    if image.dtype != np.uint8 and not isinstance(image, jax.core.Tracer):
        numbers = np if isinstance(image, np.ndarray) else jnp  # which would compile two programs for each shape
        if not bool(numbers.isfinite(image).all()):
            raise ValueError(f"{name}: expected finite values, got NaN or infinity")
        if 0 < float(image.max()) <= 1:
            warnings.warn(f"{name}: values are expected in 0..255, but none exceeds 1", stacklevel=3)
    return jnp.asarray(image.reshape(-1, *image.shape[-3:]))
