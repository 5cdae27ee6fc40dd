"""Convolutions: the ordinary one, in whichever form the platform computes fastest, and the one under a field."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from rtn_jax.sampling import bilinear_sample

_SMALL_GRID = 64  # cells
_SMALL_KERNEL = 9  # taps
_LARGE_GRID = 4096  # cells
_MANY_CHANNELS = {False: 64, True: 256}  # of input and output, of a grid that is not large and of one that is
# Operations per image; with fewer, what another form than XLA's saves in a thousand calls is lost in compiling it.
_WORTHWHILE = {"gathered": 5e5, "by_rows": 1e7, "minimal": 1e8, "products": 2e8}

Form = Literal["direct", "gathered", "by_rows", "minimal"]


def convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], *_: Any, **__: Any
) -> Float[Array, "b h w o"]:
    """Cross-correlation with stride 1 and zero padding that keeps the size (odd kernels).

    Fits `flax.linen.Conv(conv_general_dilated=convolve)`, whose further arguments describe just this case. The form is
    `fastest_form`'s; all give the same result to rounding, and so do their gradients.
    """
    form = fastest_form(x.shape, kernel.shape, x.dtype)
    return _FORMS[form](x, kernel)


def fastest_form(shape: tuple[int, ...], kernel: tuple[int, ...], dtype: Any) -> Form:
    """The form for an input `[b, h, w, i]` and a kernel `[kh, kw, i, o]`, chosen by measurement (docs/performance.md).

    On the CPU, XLA's convolution (`direct`) of a grid of a few cells is up to twenty times slower than one matrix
    product over gathered neighbourhoods (`gathered`), and of a large kernel twice as slow as one that gathers along the
    rows alone (`by_rows`). 3x3 convolutions of many channels are fastest with fewer multiplications (`minimal`).
    Elsewhere XLA hands convolutions to a library that does all that itself.
    """
    if jax.default_backend() != "cpu":
        return "direct"
    _, h, w, inputs = shape
    if kernel[0] * kernel[1] > _SMALL_KERNEL:
        form: Form = "by_rows"
    elif h * w <= _SMALL_GRID:
        form = "gathered"
    elif kernel[:2] == (3, 3) and min(inputs, kernel[3]) >= _MANY_CHANNELS[h * w > _LARGE_GRID]:
        # In half precision the sums of neighbours would be rounded once more than in the plain form.
        form = "minimal" if jnp.finfo(dtype).bits >= 32 else "direct"
    else:
        return "direct"
    return form if 2 * h * w * math.prod(kernel) >= _WORTHWHILE.get(form, 0) else "direct"


def _direct(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"]) -> Float[Array, "b h w o"]:
    """XLA's convolution."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _gathered(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"]) -> Float[Array, "b h w o"]:
    """One matrix product over the neighbourhoods, laid side by side."""
    height, width, channels = kernel.shape[:3]
    padded = jnp.pad(x, ((0, 0), (height // 2, height // 2), (width // 2, width // 2), (0, 0)))
    h, w = x.shape[1:3]
    shifts = [padded[:, i : i + h, j : j + w] for i in range(height) for j in range(width)]
    neighbourhoods = jnp.concatenate(shifts, axis=-1)  # [b, h, w, kh * kw * i]
    return neighbourhoods @ kernel.reshape(height * width * channels, -1)


def _by_rows(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"]) -> Float[Array, "b h w o"]:
    """Neighbours along the rows laid side by side, times all rows of the kernel at once; its products are then summed.

    `kw` times the input and `kh` times the output are held, where `_gathered` holds `kh * kw` times the input.
    """
    height, width, channels, features = kernel.shape
    b, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (0, 0), (width // 2, width // 2), (0, 0)))
    neighbours = jnp.concatenate([padded[:, :, j : j + w] for j in range(width)], axis=-1)  # [b, h, w, kw * i]
    by_row = jnp.moveaxis(kernel, 0, 2).reshape(width * channels, height * features)
    products = (neighbours @ by_row).reshape(b, h, w, height, features)
    padded = jnp.pad(products, ((0, 0), (height // 2, height // 2), (0, 0), (0, 0), (0, 0)))
    return sum((padded[:, i : i + h, :, i] for i in range(height)), jnp.zeros((), x.dtype))


def _minimal(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """Minimal filtering: every 2x2 outputs take 16 multiplications per pair of channels instead of 36.

    A 4x4 tile of the input (tiles overlap by two) becomes 16 sums and differences of its cells, the kernel 16 of its
    taps; products of the two, one matrix product over the channels for each of the 16, are summed to four outputs. What
    is added are at most four numbers of the same size, so the rounding is that of the plain form.

    The 16 are never laid side by side: each goes from its sums into its matrix product, and tiles are slices with
    stride one of a reshaped input, so that gradients need neither scatter nor stride.

    Source: Winograd's F(2x2, 3x3), as in Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016), 4.1.
    """
    b, h, w, channels = x.shape
    rows, columns = -(-h // 2), -(-w // 2)  # of tiles
    margins = ((0, 0), (1, 2 * rows - h + 1), (1, 2 * columns - w + 1), (0, 0))
    cells = jnp.pad(x, margins).reshape(b, rows + 1, 2, columns + 1, 2, channels)
    # By the parity of the column, the four sums along the rows; of each, the four along the columns.
    down = [_tile_sums(cells[:, :, 0, :, parity], cells[:, :, 1, :, parity], axis=1) for parity in (0, 1)]
    tiles = [_tile_sums(even, odd, axis=2) for even, odd in zip(*down, strict=True)]
    taps = [_tap_sums(row) for row in _tap_sums(kernel)]
    products = [
        [tile.reshape(-1, channels) @ tap for tile, tap in zip(*of_row, strict=True)]
        for of_row in zip(tiles, taps, strict=True)
    ]
    columns_of = [_outputs(column) for column in zip(*products, strict=True)]  # four of the two rows of outputs
    outputs = [_outputs([column[i] for column in columns_of]) for i in (0, 1)]
    across = [jnp.stack([out.reshape(b, rows, columns, -1) for out in row], axis=3) for row in outputs]
    y = jnp.stack(across, axis=2).reshape(b, 2 * rows, 2 * columns, -1)
    return y[:, :h, :w]


def _tile_sums(even: Array, odd: Array, axis: int) -> list[Array]:
    """The rows d0 to d3 of all tiles, as d0 - d2, d1 + d2, d2 - d1, d1 - d3; tiles begin at every second row."""
    count = even.shape[axis] - 1
    d0, d2 = (lax.slice_in_dim(even, i, i + count, axis=axis) for i in (0, 1))
    d1, d3 = (lax.slice_in_dim(odd, i, i + count, axis=axis) for i in (0, 1))
    return [d0 - d2, d1 + d2, d2 - d1, d1 - d3]


def _tap_sums(taps: Any) -> list[Array]:
    """The taps g0 to g2 of an axis, as g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2."""
    g0, g1, g2 = taps
    return [g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2]


def _outputs(products: Any) -> list[Array]:
    """Both outputs of an axis from its four products."""
    m0, m1, m2, m3 = products
    return [m0 + m1 + m2, m1 - m2 - m3]


_FORMS = {"direct": _direct, "gathered": _gathered, "by_rows": _by_rows, "minimal": _minimal}


def warped_convolution(
    x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"]
) -> Callable[[Float[Array, "b H W m 2"]], Float[Array, "b H W o"]]:
    """A convolution whose `m = k * k` neighbours of every cell lie at given positions of its input, zero outside.

    Args:
        x: `[b, h, w, i]`.
        kernel: `[k, k, i, o]`.

    Returns:
        The convolution as a function of the positions, `[b, H, W, k * k, 2]` in cells of `x`, row by row
        (`affine.sampling_positions`). What does not depend on them is computed once, however often it is called.

    Source: the affine-warped convolution of the release, which samples nine positions per cell and convolves them with
    stride 3.
    """
    taps = kernel.reshape(-1, *kernel.shape[2:])  # [m, i, o]
    little = 2 * x.shape[1] * x.shape[2] * kernel.size < _WORTHWHILE["products"]
    if jax.default_backend() != "cpu" or little or jnp.finfo(x.dtype).bits < 32:

        def multiply_samples(positions: Float[Array, "b H W m 2"]) -> Float[Array, "b H W o"]:
            samples = bilinear_sample(x, positions)
            flat = samples.reshape(*samples.shape[:3], -1)
            return flat @ taps.reshape(flat.shape[-1], -1)

        return multiply_samples

    # Sampling is linear, so the products with the taps can come first. They are the same in every iteration, and what
    # is left is a weighted sum of four cells per tap: a sixth of the time of sampling and multiplying on two cores. In
    # half precision they would be rounded before they are summed. One matrix product of all cells: its gradient by the
    # tap is not transposed image by image.
    cells = x.reshape(-1, x.shape[-1])
    products = [(cells @ tap).reshape(*x.shape[:3], -1) for tap in taps]
    return lambda positions: _sum_of_samples(products, positions)


@jax.custom_jvp
def _sum_of_samples(
    images: Sequence[Float[Array, "b h w o"]], positions: Float[Array, "b H W m 2"]
) -> Float[Array, "b H W o"]:
    """Each of `m` images sampled at its own positions, and summed."""
    sampled = [bilinear_sample(image, positions[..., i, :]) for i, image in enumerate(images)]
    return sum(sampled[1:], sampled[0])


@partial(_sum_of_samples.defjvp, symbolic_zeros=True)
def _sum_of_samples_jvp(primals: Any, tangents: Any) -> Any:
    """The derivative as JAX has it, but that by the images one image after the other.

    Its transpose adds the same gradient to the cells of every image. Side by side, XLA would compute that gradient, and
    with it all samples of the forward pass, anew for each of 4 m additions; a loop has it once, and half the memory.
    """
    (images, positions), (of_images, of_positions) = primals, tangents
    if isinstance(of_positions, SymbolicZero):
        value = _sum_of_samples(images, positions)
        change = jnp.zeros_like(value)
    else:
        value, change = jax.jvp(partial(_sum_of_samples.fun, images), (positions,), (of_positions,))
    if not all(isinstance(image, SymbolicZero) for image in of_images):
        dense = [jnp.zeros(of.shape, of.dtype) if isinstance(of, SymbolicZero) else of for of in of_images]
        taps = jnp.stack(dense), jnp.moveaxis(positions, -2, 0)
        change = lax.scan(lambda total, tap: (total + bilinear_sample(*tap), None), change, taps)[0]
    return value, change
