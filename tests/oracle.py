"""The released network and the training losses in slow, plain NumPy: what other implementations are checked against.

Nothing here is shared with rtn_jax, not even the conventions' code: each formula is written out where it is used. All
arrays are of one image (no batch axis) and keep the dtype they come in, so the same function gives the float64
reference and shows what float32 rounding does to it.

Points are (x, y) with the origin at the centre of the top-left pixel. An affine field is [h, w, 2, 3] with rows
(axx, axy, tx) and (ayx, ayy, ty): at position p it takes the offset o to p + A o + t, A in grid pixels, t normalised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

Map = Float[np.ndarray, "h w c"]
Field = Float[np.ndarray, "h w 2 3"]
Layer = Mapping[str, np.ndarray]
Normalization = Literal["corners", "centers"]

MEAN = (123.68, 116.779, 103.939)  # RGB
VGG19 = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # per block: convolutions, channels
RELEASED_LEVELS = (("conv5_1", 2), ("conv4_1", 3))


def bilinear(image: Map, x: float, y: float) -> Float[np.ndarray, " c"]:
    """Value of `image` at the point (x, y), zero outside: each of the four taps counts only if it lies inside."""
    height, width, channels = image.shape
    x, y = float(x), float(y)
    left, top = math.floor(x), math.floor(y)
    value = np.zeros(channels, image.dtype)
    for column, weight_x in ((left, 1.0 - (x - left)), (left + 1, x - left)):
        for row, weight_y in ((top, 1.0 - (y - top)), (top + 1, y - top)):
            if 0 <= row < height and 0 <= column < width:
                value += weight_x * weight_y * image[row, column]
    return value


def l2_normalize(x: Float[np.ndarray, "*shape c"], eps: float = 0.01) -> Float[np.ndarray, "*shape c"]:
    """x / sqrt(sum x^2 + eps) over the last axis."""
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + eps)


def relu(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """max(x, 0)."""
    return np.where(x > 0, x, np.zeros_like(x))


def conv2d(x: Map, kernel: Float[np.ndarray, "kh kw c d"], bias: Float[np.ndarray, " d"]) -> Float[np.ndarray, "h w d"]:
    """Cross-correlation of odd size, stride 1, zero padding that keeps the size."""
    height, width, _ = x.shape
    rows, columns, _, out_channels = kernel.shape
    padded = np.pad(x, ((rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    out = np.zeros((height * width, out_channels), x.dtype)
    for i in range(rows):
        for j in range(columns):
            out += padded[i : i + height, j : j + width].reshape(height * width, -1) @ kernel[i, j]
    return out.reshape(height, width, -1) + bias


def max_pool(x: Map) -> Float[np.ndarray, "h//2 w//2 c"]:
    """Maximum of 2x2 blocks; an odd last row or column is dropped (VGG)."""
    height, width, channels = x.shape
    out = np.zeros((height // 2, width // 2, channels), x.dtype)
    for i in range(height // 2):
        for j in range(width // 2):
            out[i, j] = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max(axis=(0, 1))
    return out


def max_pool_ceil(x: Map) -> Float[np.ndarray, "(h+1)//2 (w+1)//2 c"]:
    """Maximum of 2x2 blocks; an odd last row or column makes blocks of its own (geometry network)."""
    height, width, channels = x.shape
    out = np.zeros(((height + 1) // 2, (width + 1) // 2, channels), x.dtype)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max(axis=(0, 1))
    return out


def vgg_taps(weights: Mapping[str, Layer], image: Shaped[np.ndarray, "H W 3"]) -> dict[str, Map]:
    """All activations `relu{l}_{i}` and `pool{l}` of VGG-19 on an RGB image in 0..255.

    Runs as far as `weights` (the tree's "backbone") has layers, in the dtype of the weights.
    """
    dtype = weights["conv1_1"]["kernel"].dtype
    x = image.astype(dtype) - np.asarray(MEAN, dtype)
    taps: dict[str, Map] = {}
    for block, (convolutions, _) in enumerate(VGG19, start=1):
        for index in range(1, convolutions + 1):
            layer = weights.get(f"conv{block}_{index}")
            if layer is None:
                return taps
            x = taps[f"relu{block}_{index}"] = relu(conv2d(x, layer["kernel"], layer["bias"]))
        x = taps[f"pool{block}"] = max_pool(x)
    return taps


def layer_input(taps: Mapping[str, Map], layer: str) -> Map:
    """What the convolution `conv{l}_{i}` reads: pool{l-1}, or relu{l}_{i-1}."""
    block, index = int(layer[4]), int(layer[6])
    return taps[f"pool{block - 1}"] if index == 1 else taps[f"relu{block}_{index - 1}"]


def pixels_per_unit(size: int, normalization: Normalization) -> float:
    """Pixels that a translation of 1 is worth: -1 and +1 are the outer pixels' centres, or their outer edges."""
    return {"corners": (size - 1) / 2, "centers": size / 2}[normalization]


def affine_warped_convolution(
    x: Map,
    kernel: Float[np.ndarray, "kh kw c d"],
    bias: Float[np.ndarray, " d"],
    affine: Field,
    normalization: Normalization = "corners",
) -> Float[np.ndarray, "h w d"]:
    """ReLU of the convolution whose tap at offset o reads `x` at p + A o + t."""
    height, width, channels = x.shape
    rows, columns, _, _ = kernel.shape
    patches = np.zeros((height, width, rows, columns, channels), x.dtype)
    for row in range(height):
        for column in range(width):
            (axx, axy, tx), (ayx, ayy, ty) = affine[row, column].tolist()
            centre_x = column + tx * pixels_per_unit(width, normalization)
            centre_y = row + ty * pixels_per_unit(height, normalization)
            for i in range(rows):
                for j in range(columns):
                    ox, oy = j - columns // 2, i - rows // 2
                    patches[row, column, i, j] = bilinear(
                        x, centre_x + axx * ox + axy * oy, centre_y + ayx * ox + ayy * oy
                    )
    return relu(np.tensordot(patches, kernel, axes=3) + bias)


def window_correlation(src: Map, tgt: Map, radius: int) -> Float[np.ndarray, "h w m"]:
    """<src(p), tgt(p + d)> for every d of the window, zero where p + d is outside.

    Channels are row-major in d: (dy + radius) * (2 radius + 1) + (dx + radius). Cosines if both maps are normalised.
    """
    height, width, _ = src.shape
    out = np.zeros((height, width, (2 * radius + 1) ** 2), src.dtype)
    for y in range(height):
        for x in range(width):
            channel = 0
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        out[y, x, channel] = np.dot(src[y, x], tgt[y + dy, x + dx])
                    channel += 1
    return out


def upsample_released(x: Map) -> Float[np.ndarray, "2*h 2*w c"]:
    """Twice the size by the released fixed filter: 4x4 bilinear transposed convolution, stride 2, crop 1.

    Zeros come in from outside, so a constant 1 gives 0.75 on the border and 0.5625 in the corners.
    """
    height, width, channels = x.shape
    taps = (0.25, 0.75, 0.75, 0.25)
    full = np.zeros((2 * height + 2, 2 * width + 2, channels), x.dtype)
    for i in range(height):
        for j in range(width):
            for u in range(4):
                for v in range(4):
                    full[2 * i + u, 2 * j + v] += taps[u] * taps[v] * x[i, j]
    return full[1:-1, 1:-1]


def upsample_edge(x: Map) -> Float[np.ndarray, "2*h 2*w c"]:
    """Twice the size, bilinear between pixel centres (half-pixel grid), the edge pixels repeated outside."""
    height, width, channels = x.shape
    out = np.zeros((2 * height, 2 * width, channels), x.dtype)
    for i in range(2 * height):
        for j in range(2 * width):
            position_x = min(max((j + 0.5) / 2 - 0.5, 0.0), width - 1.0)
            position_y = min(max((i + 0.5) / 2 - 0.5, 0.0), height - 1.0)
            out[i, j] = bilinear(x, position_x, position_y)
    return out


Upsample = Callable[[Map], Map]


def upsample_and_crop(x: Map, shape: tuple[int, int], upsample: Upsample) -> Map:
    """`upsample(x)` cut at the bottom and right to `shape`, the (height, width) of an odd skip connection."""
    return upsample(x)[: shape[0], : shape[1]]


def upsample_field(affine: Field, shape: tuple[int, int], upsample: Upsample) -> Field:
    """The field on a grid of `shape`, doubled as often as needed; values are kept (t is normalised, A in pixels)."""
    channels = affine.reshape(*affine.shape[:2], 6)
    while channels.shape[0] < shape[0]:
        channels = upsample(channels)
    if channels.shape[:2] != tuple(shape):
        raise ValueError(f"affine of {affine.shape[:2]} does not double to {shape}")
    return channels.reshape(*shape, 2, 3)


def geometry(weights: Mapping[str, Layer], volume: Float[np.ndarray, "h w m"], upsample: Upsample) -> Field:
    """Residual of the affine field from the *normalised* volume: an encoder-decoder with skip connections.

    Decoder inputs are [upsampled, skip]; ReLU after every convolution but conv10.
    """

    def block(x: Map, *names: str) -> Map:
        for name in names:
            x = relu(conv2d(x, weights[name]["kernel"], weights[name]["bias"]))
        return x

    skips = [block(volume, "conv1", "conv1b")]
    for depth in (2, 3, 4):
        skips.append(block(max_pool_ceil(skips[-1]), f"conv{depth}", f"conv{depth}b"))
    x = block(max_pool_ceil(skips[-1]), "conv5", "conv5b")
    for depth, skip in zip((6, 7, 8, 9), reversed(skips), strict=True):
        upsampled = upsample_and_crop(x, skip.shape[:2], upsample)
        x = block(np.concatenate([upsampled, skip], axis=-1), f"conv{depth}", f"conv{depth}b")
    residual = conv2d(x, weights["conv10"]["kernel"], weights["conv10"]["bias"])
    return residual.reshape(*residual.shape[:2], 2, 3)


def identity_field(shape: tuple[int, int], dtype: type | np.dtype = np.float64) -> Field:
    """The field that moves nothing."""
    return np.tile(np.asarray([[1, 0, 0], [0, 1, 0]], dtype), (*shape, 1, 1))


def released_network(
    weights: Mapping[str, Mapping[str, Layer]],
    src: Shaped[np.ndarray, "H W 3"],
    tgt: Shaped[np.ndarray, "H W 3"],
    *,
    levels: Sequence[tuple[str, int]] = RELEASED_LEVELS,
    radius: int = 4,
    normalization: Normalization = "corners",
    upsample: Upsample = upsample_released,
    in_windows: bool = False,
) -> tuple[list[Field], list[Float[np.ndarray, "h w m"]], Float[np.ndarray, "H W 2"]]:
    """The recurrence on one pair of images of one size, RGB 0..255.

    Returns the field after every iteration, the raw (cosine) volume of every iteration, and the flow (x, y) in pixels
    at the images' size: the last translations, doubled in size until they are as large, times W/2 and H/2. With
    `in_windows` the geometry network's translations are in units of the window's radius.
    """
    backbone = weights["backbone"]
    src_taps, tgt_taps = vgg_taps(backbone, src), vgg_taps(backbone, tgt)
    dtype = backbone["conv1_1"]["kernel"].dtype
    fields: list[Field] = []
    volumes: list[np.ndarray] = []
    for layer, iterations in levels:
        features = l2_normalize(src_taps[layer.replace("conv", "relu")])
        shape = features.shape[:2]
        field = upsample_field(fields[-1], shape, upsample) if fields else identity_field(shape, dtype)
        for _ in range(iterations):
            warped = affine_warped_convolution(
                layer_input(tgt_taps, layer), backbone[layer]["kernel"], backbone[layer]["bias"], field, normalization
            )
            volumes.append(window_correlation(features, l2_normalize(warped), radius))
            residual = geometry(weights["geometry"], l2_normalize(volumes[-1]), upsample)
            if in_windows:
                for i, cells in ((0, shape[1]), (1, shape[0])):
                    residual[..., i, 2] *= radius / pixels_per_unit(cells, normalization)
            field = field + residual
            fields.append(field)
    height, width = src.shape[:2]
    flow = field[..., 2]
    while flow.shape[0] < height:
        flow = upsample(flow)
    if flow.shape[:2] != (height, width):
        raise ValueError(f"src of {(height, width)} is not the last grid doubled a few times")
    return fields, volumes, flow * np.asarray([width / 2, height / 2], dtype)


def geometry_shapes(window: int = 81, widths: Sequence[int] = (64, 128, 256, 512, 512)) -> dict[str, tuple[int, ...]]:
    """Kernel shapes of the geometry network for a correlation window of `window` candidates."""
    w1, w2, w3, w4, w5 = widths
    shapes: dict[str, tuple[int, ...]] = {"conv1": (9, 9, window, w1), "conv1b": (3, 3, w1, w1)}
    encoder = [(2, w1, w2), (3, w2, w3), (4, w3, w4), (5, w4, w5)]
    decoder = [(6, w5 + w4, w4), (7, w4 + w3, w3), (8, w3 + w2, w2), (9, w2 + w1, w1)]
    for depth, c_in, c_out in encoder + decoder:
        shapes[f"conv{depth}"] = (3, 3, c_in, c_out)
        shapes[f"conv{depth}b"] = (3, 3, c_out, c_out)
    return shapes | {"conv10": (9, 9, w1, 6)}


def random_weights(
    rng: np.random.Generator,
    *,
    last_layer: str = "conv5_1",
    divisor: int = 1,
    window: int = 81,
    dtype: type | np.dtype = np.float64,
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """He-normal weights, small random biases and a *non-zero* last layer; `divisor` makes every layer thinner."""
    backbone_shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, (convolutions, width) in enumerate(VGG19, start=1):
        for index in range(1, convolutions + 1):
            if last_layer not in backbone_shapes:
                backbone_shapes[f"conv{block}_{index}"] = (3, 3, channels, width // divisor)
                channels = width // divisor

    def tree(shapes: dict[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
        return {
            name: {
                "kernel": (rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[:3]))).astype(dtype),
                "bias": (0.01 * rng.standard_normal(shape[3])).astype(dtype),
            }
            for name, shape in shapes.items()
        }

    widths = [width // divisor for width in (64, 128, 256, 512, 512)]
    return {"backbone": tree(backbone_shapes), "geometry": tree(geometry_shapes(window, widths))}


def pck(pred: Iterable[Sequence[float]], true: Iterable[Sequence[float]], threshold: float) -> float:
    """Share of points whose Euclidean distance to the truth is at most `threshold`."""
    correct = [math.hypot(p[0] - t[0], p[1] - t[1]) <= threshold for p, t in zip(pred, true, strict=True)]
    return sum(correct) / len(correct)


def field_jacobian(field: Field, normalization: Normalization = "corners") -> Float[np.ndarray, "h w 2 2"]:
    """The derivative of p -> p + t(p) in cells: from both neighbours of a cell, or from itself and the one it has."""
    height, width = field.shape[:2]
    units = pixels_per_unit(width, normalization), pixels_per_unit(height, normalization)
    out = np.zeros((height, width, 2, 2), field.dtype)
    for y in range(height):
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            above, below = max(y - 1, 0), min(y + 1, height - 1)
            for i in (0, 1):
                ends = (field[y, left, i, 2], field[y, right, i, 2]), (field[above, x, i, 2], field[below, x, i, 2])
                for j, ((first, last), cells) in enumerate(zip(ends, (right - left, below - above), strict=True)):
                    moved = (last - first) * units[i] / cells if cells else 0
                    out[y, x, i, j] = (1 if i == j else 0) + moved
    return out


def compose_fields(first: Field, second: Field, normalization: Normalization) -> Field:
    """`second` after `first`, cell by cell; beyond its border `second` is what it is at the border."""
    height, width = first.shape[:2]
    units = pixels_per_unit(width, normalization), pixels_per_unit(height, normalization)
    out = np.zeros_like(first)
    for y in range(height):
        for x in range(width):
            reached_x = min(max(x + first[y, x, 0, 2] * units[0], 0), width - 1)
            reached_y = min(max(y + first[y, x, 1, 2] * units[1], 0), height - 1)
            there = bilinear(second.reshape(height, width, 6), reached_x, reached_y).reshape(2, 3)
            for i in (0, 1):
                out[y, x, i, 2] = first[y, x, i, 2] + there[i, 2]
                for j in (0, 1):
                    out[y, x, i, j] = there[i, 0] * first[y, x, 0, j] + there[i, 1] * first[y, x, 1, j]
    return out


def over_iterations(errors: Sequence[float], decay: float) -> float:
    """The mean of the errors of all iterations, each weighing `decay` times as much as the next."""
    importance = [decay ** (len(errors) - 1 - k) for k in range(len(errors))]
    return sum(i * e for i, e in zip(importance, errors, strict=True)) / sum(importance)


def synthetic_loss(
    history: Sequence[Float[np.ndarray, "k h w 2 3"]],
    truth: Sequence[Field],
    valid: Sequence[Shaped[np.ndarray, "h w"]],
    *,
    decay: float,
    matrix_weight: float,
    reduction: Literal["mean", "sum"],
    scale: float = 0.0,
) -> float:
    """L1 between every field of one pair and the truth over the valid cells, the iterations of all levels weighted."""
    errors = []
    for fields, true, inside in zip(history, truth, valid, strict=True):
        for field in fields:
            cells = []
            for y in range(true.shape[0]):
                for x in range(true.shape[1]):
                    if inside[y, x]:
                        translations = [abs(field[y, x, i, 2] - true[y, x, i, 2]) for i in (0, 1)]
                        matrices = [abs(field[y, x, i, j] - true[y, x, i, j]) for i in (0, 1) for j in (0, 1)]
                        if reduction == "sum":
                            error = sum(translations) + matrix_weight * sum(matrices)
                        else:
                            error = sum(translations) / 2 + matrix_weight * sum(matrices) / 4
                        cells.append(scale * (1 - math.exp(-error / scale)) if scale else error)
            errors.append(sum(cells) if reduction == "sum" or not cells else sum(cells) / len(cells))
    return over_iterations(errors, decay)


def tie_loss(
    fields: Sequence[Float[np.ndarray, "k h w 2 3"]],
    masks: Sequence[Float[np.ndarray, "h w"]],
    *,
    normalization: Normalization,
    decay: float,
) -> float:
    """L1 between the 2x2 part of every field of one pair and the Jacobian of its translations, cells weighted."""
    errors = []
    for level, mask in zip(fields, masks, strict=True):
        for field in level:
            jacobian, error = field_jacobian(field, normalization), 0.0
            for y in range(mask.shape[0]):
                for x in range(mask.shape[1]):
                    entries = [abs(field[y, x, i, j] - jacobian[y, x, i, j]) for i in (0, 1) for j in (0, 1)]
                    error += mask[y, x] * sum(entries) / 4
            errors.append(error / mask.sum() if mask.any() else 0.0)
    return over_iterations(errors, decay)


def recolour(
    photo: Float[np.ndarray, "H W 3"], brightness: float, contrast: float, saturation: float, hue: float
) -> Float[np.ndarray, "H W 3"]:
    """Brightness, contrast and saturation multiplied and the hue turned by so many degrees, pixel by pixel."""

    def grey(colour: np.ndarray) -> float:
        return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]

    height, width, _ = photo.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    mean = sum(brightness * grey(photo[at]) for at in pixels) / len(pixels)
    axis, angle = np.ones(3) / math.sqrt(3), math.radians(hue)
    out = np.zeros_like(photo)
    for at in pixels:
        colour = mean + contrast * (brightness * photo[at] - mean)
        colour = grey(colour) + saturation * (colour - grey(colour))
        along = axis * np.dot(axis, colour)
        turned = along + math.cos(angle) * (colour - along) + math.sin(angle) * np.cross(axis, colour)
        out[at] = np.minimum(np.maximum(turned, 0), 255)
    return out


def forward_backward_error(
    src_to_tgt: Float[np.ndarray, "H W 2"], tgt_to_src: Float[np.ndarray, "h w 2"]
) -> Float[np.ndarray, "H W"]:
    """Distance between every source pixel and where it comes back to; infinite where it leaves the target's area."""
    height, width, _ = src_to_tgt.shape
    rows, columns, _ = tgt_to_src.shape
    out = np.full((height, width), np.inf)
    for row in range(height):
        for column in range(width):
            x, y = src_to_tgt[row, column].tolist()
            if math.isnan(x + y) or not (-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5):
                continue
            back_x, back_y = bilinear(tgt_to_src, min(max(x, 0), columns - 1), min(max(y, 0), rows - 1)).tolist()
            if not math.isnan(back_x + back_y):
                out[row, column] = math.sqrt((back_x - column) ** 2 + (back_y - row) ** 2)
    return out
