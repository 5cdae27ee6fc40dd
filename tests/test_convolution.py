"""The convolution in all of its forms against the slow loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rtn_jax import convolution as convolution_module
from rtn_jax.convolution import _FORMS, convolve, fastest_form, warped_convolution
from tests import oracle

CASES = [(grid, size) for grid in [(1, 1), (5, 7), (8, 8), (8, 9)] for size in (1, 3, 9)]
OF_THREE = ["gathered", "by_rows", "minimal"]  # forms of a 3x3 kernel beside XLA's


def inputs(rng, grid, size, batch=2, channels=(3, 4)):
    x = rng.standard_normal((batch, *grid, channels[0])).astype(np.float32)
    return x, rng.standard_normal((size, size, *channels)).astype(np.float32)


@pytest.mark.parametrize(("grid", "size"), CASES)
def test_equals_the_slow_loop(rng, grid, size):
    x, kernel = inputs(rng, grid, size)
    expected = np.stack([oracle.conv2d(one, kernel, np.zeros(4, np.float32)) for one in x])
    np.testing.assert_allclose(convolve(jnp.asarray(x), jnp.asarray(kernel)), expected, atol=1e-4)


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 3), (6, 4), (7, 5)])
@pytest.mark.parametrize("form", OF_THREE)
def test_every_form_equals_the_slow_loop(rng, grid, form):
    x, kernel = (array.astype(np.float64) for array in inputs(rng, grid, 3, channels=(5, 3)))
    expected = np.stack([oracle.conv2d(one, kernel, np.zeros(3)) for one in x])
    with jax.enable_x64(True):
        out = _FORMS[form](jnp.asarray(x), jnp.asarray(kernel))
        assert out.dtype == np.float64
    np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("form", _FORMS)
def test_no_form_rounds_more_than_the_plain_one(rng, form):
    """Of positive features, as after ReLU, with as many channels as VGG's last: sums of 4,608 products."""
    x, kernel = inputs(rng, (12, 9), 3, batch=1, channels=(512, 16))
    x = np.maximum(x, 0)
    exact = oracle.conv2d(x[0].astype(np.float64), kernel.astype(np.float64), np.zeros(16))
    out = _FORMS[form](jnp.asarray(x), jnp.asarray(kernel))[0]
    assert np.abs(out - exact).max() < 2e-6 * np.abs(exact).max()


@pytest.mark.parametrize("grid", [(5, 7), (9, 8)])
@pytest.mark.parametrize("form", _FORMS)
def test_a_kernel_with_one_tap_shifts(rng, grid, form):
    x, _ = inputs(rng, grid, 3)
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[1, 2] = np.eye(3)  # reads the neighbour to the right
    expected = np.pad(x[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    np.testing.assert_allclose(_FORMS[form](jnp.asarray(x), jnp.asarray(kernel)), expected, atol=1e-6)


@pytest.mark.parametrize("grid", [(3, 4), (5, 6)])
@pytest.mark.parametrize("form", _FORMS)
def test_jit_batch_and_gradients(x64, rng, grid, form):
    convolution = _FORMS[form]
    x, kernel = (jnp.asarray(array, jnp.float64) for array in inputs(rng, grid, 3))
    out = convolution(x, kernel)
    np.testing.assert_allclose(jax.jit(convolution)(x, kernel), out, atol=1e-12)
    np.testing.assert_allclose(convolution(x[1:], kernel), out[1:], atol=1e-12)
    check_grads(jax.jit(convolution), (x, kernel), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("form", OF_THREE)
def test_all_forms_have_the_same_gradient(rng, form):
    x, kernel = map(jnp.asarray, inputs(rng, (8, 7), 3))

    def loss(x, kernel, form):
        return (_FORMS[form](x, kernel) ** 2).sum()

    expected, got = (jax.grad(loss, (0, 1))(x, kernel, name) for name in ("direct", form))
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-3)


def test_the_form_fits_what_is_convolved():
    """3x3 kernels of few cells are gathered, of many channels minimal, large ones go by rows; the rest is plain."""

    def form(grid, size, channels, dtype=jnp.float32):
        return fastest_form((1, *grid, channels), (size, size, channels, channels), dtype)

    assert form((8, 8), 3, 512) == form((1, 1), 3, 256) == "gathered"
    assert form((40, 40), 3, 64) == form((9, 8), 3, 512) == form((9, 8), 3, 512, jnp.float64) == "minimal"
    assert form((256, 256), 3, 256) == "minimal"
    assert form((16, 16), 9, 64) == form((8, 8), 9, 64) == "by_rows"
    assert form((1, 1), 1, 4) == form((8, 8), 3, 8) == form((16, 16), 9, 4) == "direct", "not worth compiling"
    assert form((40, 40), 3, 63) == form((256, 256), 3, 255) == form((40, 40), 1, 256) == "direct"
    assert form((16, 16), 3, 64) == form((40, 40), 3, 64, jnp.bfloat16) == "direct"


@pytest.mark.parametrize("channels", [4, 512])
def test_whichever_form_is_chosen_is_computed(rng, channels):
    """Grids on both sides of the bound, of few channels and of many."""
    for grid in [(8, 8), (8, 9)]:
        x, kernel = inputs(rng, grid, 3, channels=(channels, channels))
        expected = oracle.conv2d(x[0], kernel, np.zeros(channels, np.float32))
        np.testing.assert_allclose(convolve(jnp.asarray(x), jnp.asarray(kernel))[0], expected, atol=2e-3)


@pytest.fixture
def always_worthwhile(monkeypatch):
    """No form is passed over because there is little to compute."""
    monkeypatch.setattr(convolution_module, "_WORTHWHILE", dict.fromkeys(convolution_module._WORTHWHILE, 0))


@pytest.fixture(params=["cpu", "gpu"])
def either_form(request, monkeypatch, always_worthwhile):
    """The warped convolution in the form of one platform, and of the other."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@pytest.mark.usefixtures("either_form")
def test_warped_convolution_equals_the_slow_loop(x64, rng):
    """In both of its forms, at any positions, outside of the image too, and again at others."""
    x, kernel = rng.standard_normal((2, 4, 5, 3)), rng.standard_normal((3, 3, 3, 2))
    warped = warped_convolution(jnp.asarray(x), jnp.asarray(kernel))
    for _ in range(2):
        positions = rng.uniform(-2, 6, (2, 3, 4, 9, 2))
        expected = np.zeros((2, 3, 4, 2))
        for b, i, j, tap in np.ndindex(2, 3, 4, 9):
            expected[b, i, j] += oracle.bilinear(x[b], *positions[b, i, j, tap]) @ kernel.reshape(9, 3, 2)[tap]
        np.testing.assert_allclose(warped(jnp.asarray(positions)), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("platform", "dtype", "side"),
    [("cpu", "float32", 8), ("cpu", "bfloat16", 8), ("cpu", "float32", 5), ("gpu", "float32", 8)],
)
def test_products_come_first_where_that_is_faster(monkeypatch, platform, dtype, side):
    """On the CPU, in single precision and where it is worth it, no product is left that depends on the positions."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    warped = warped_convolution(jnp.zeros((1, side, side, 512), dtype), jnp.zeros((3, 3, 512, 512), dtype))
    program = str(jax.make_jaxpr(warped)(jnp.zeros((1, 2, 2, 9, 2))))
    assert ("[4608,512]" in program) == ((platform, dtype, side) != ("cpu", "float32", 8))


def convolve_under(x, kernel, positions):
    return warped_convolution(jnp.asarray(x), jnp.asarray(kernel))(jnp.asarray(positions))


@pytest.fixture
def under_a_field(either_form, x64, rng):
    """Features, a kernel and positions between cells, where sampling is smooth."""
    whole = np.floor(rng.uniform(-1, 4, (2, 2, 2, 9, 2)))
    arrays = (
        rng.standard_normal((2, 3, 4, 2)),
        rng.standard_normal((3, 3, 2, 2)),
        whole + rng.uniform(0.2, 0.8, whole.shape),
    )
    return tuple(map(jnp.asarray, arrays))


@pytest.mark.parametrize("by", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_warped_convolution_has_gradients(under_a_field, by):
    """By features, kernel and positions, alone, where nothing is known of the others' change, and together."""

    def of(*some):
        return convolve_under(*(some[by.index(i)] if i in by else array for i, array in enumerate(under_a_field)))

    check_grads(of, [under_a_field[i] for i in by], order=1, modes=("fwd", "rev"))


def test_gradients_are_the_same_compiled_and_mapped(under_a_field):
    def gradients(*arrays):
        return jax.grad(lambda *a: jnp.sin(convolve_under(*a)).sum(), (0, 1, 2))(*arrays)

    expected = gradients(*under_a_field)
    for found, right in zip(jax.jit(gradients)(*under_a_field), expected, strict=True):
        np.testing.assert_allclose(found, right, atol=1e-12)
    twice = [jnp.stack([array, 2 * array]) for array in under_a_field]
    for found, right in zip(jax.vmap(gradients)(*twice), expected, strict=True):
        np.testing.assert_allclose(found[0], right, atol=1e-12)


def test_the_sum_of_samples_may_change_with_some_of_its_images_only(x64, rng):
    first, other = map(jnp.asarray, rng.standard_normal((2, 1, 3, 4, 2)))
    positions = jnp.asarray(rng.uniform(0, 2, (1, 2, 2, 2, 2)))
    sample = convolution_module._sum_of_samples
    change = jax.jvp(lambda image: sample([image, other], positions), [first], [first])[1]
    np.testing.assert_allclose(change, sample([first, jnp.zeros_like(first)], positions), atol=1e-12)


@pytest.mark.usefixtures("always_worthwhile")
def test_a_gradient_by_the_features_computes_the_forward_pass_once():
    """Of what follows the convolution, its gradient needs the result: XLA would compute it anew for every addition."""
    shapes = (1, 16, 16, 64), (3, 3, 64, 64), (1, 16, 16, 9, 2), (1, 16, 16, 64)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def forward(x, kernel, positions, cotangent):
        return jax.nn.relu(convolve_under(x, kernel, positions))

    def with_gradient(x, *others):
        result, pull_back = jax.vjp(lambda x: forward(x, *others), x)
        return result, pull_back(others[-1])

    once, both = (jax.jit(f).lower(*arrays).compile().cost_analysis()["flops"] for f in (forward, with_gradient))
    assert both < 2.5 * once
