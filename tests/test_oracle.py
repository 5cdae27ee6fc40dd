"""The oracle against figures worked out by hand, so that it can be trusted as the reference of the other tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests import oracle

RNG = np.random.default_rng


def ramp(height: int, width: int) -> np.ndarray:
    """[h, w, 2] whose value at (x, y) is (x, y)."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)


def constant_field(height: int, width: int, affine: list[list[float]]) -> np.ndarray:
    return np.tile(np.asarray(affine, np.float64), (height, width, 1, 1))


def test_bilinear_reads_points_as_x_then_y() -> None:
    image = ramp(4, 6)
    np.testing.assert_allclose(oracle.bilinear(image, 4.25, 1.5), [4.25, 1.5])
    np.testing.assert_allclose(oracle.bilinear(image, 5, 3), [5, 3])


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-0.5, 1, 0.5),
        (-0.5, -0.5, 0.25),
        (3.75, 1, 0.25),
        (-1, 1, 0),
        (4, 1, 0),
        (3, 2, 1),
        (3.5, 2.5, 0.25),
        (9, 9, 0),
    ],
)
def test_bilinear_counts_each_tap_only_if_inside(x: float, y: float, expected: float) -> None:
    np.testing.assert_allclose(oracle.bilinear(np.ones((3, 4, 1)), x, y), [expected])


def test_l2_normalize_adds_the_constant_under_the_root() -> None:
    np.testing.assert_allclose(oracle.l2_normalize(np.array([3.0, 4.0])), np.array([3.0, 4.0]) / math.sqrt(25.01))
    np.testing.assert_array_equal(oracle.l2_normalize(np.zeros(3)), np.zeros(3))


def test_conv2d_of_an_impulse_is_the_turned_kernel() -> None:
    image = np.zeros((5, 6, 1))
    image[2, 3] = 1
    kernel = np.arange(9.0).reshape(3, 3, 1, 1)
    out = oracle.conv2d(image, kernel, np.array([10.0]))
    np.testing.assert_array_equal(out[1:4, 2:5, 0] - 10, kernel[::-1, ::-1, 0, 0])
    assert (out[:, 0] == 10).all()


def test_conv2d_is_padded_with_zeros() -> None:
    out = oracle.conv2d(np.ones((4, 5, 1)), np.ones((3, 3, 1, 1)), np.zeros(1))[..., 0]
    assert (out[0, 0], out[0, 2], out[1, 0], out[1, 2]) == (4, 6, 6, 9)


def test_conv2d_contracts_input_channels() -> None:
    out = oracle.conv2d(np.array([[[1.0, 10.0]]]), np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]), np.zeros(3))
    np.testing.assert_array_equal(out, [[[41, 52, 63]]])


def test_pools_differ_in_the_last_row_and_column() -> None:
    x = np.arange(15.0).reshape(3, 5, 1)
    np.testing.assert_array_equal(oracle.max_pool(x)[..., 0], [[6, 8]])
    np.testing.assert_array_equal(oracle.max_pool_ceil(x)[..., 0], [[6, 8, 9], [11, 13, 14]])


def test_vgg_taps_have_the_sizes_of_the_paper() -> None:
    weights = oracle.random_weights(RNG(0), divisor=32)["backbone"]
    taps = oracle.vgg_taps(weights, RNG(1).integers(0, 256, (32, 48, 3), np.uint8))
    assert taps["relu1_2"].shape == (32, 48, 2)
    assert taps["pool3"].shape == (*taps["relu4_1"].shape[:2], 8) == (4, 6, 8)
    assert taps["pool4"].shape == taps["relu5_1"].shape == (2, 3, 16)
    assert "relu5_2" not in taps
    assert "relu3_5" not in taps
    assert oracle.layer_input(taps, "conv5_1") is taps["pool4"]
    assert oracle.layer_input(taps, "conv4_4") is taps["relu4_3"]


def test_vgg_subtracts_the_mean() -> None:
    weights = oracle.random_weights(RNG(0), divisor=32, last_layer="conv1_1")["backbone"]
    weights["conv1_1"]["bias"][:] = 1
    grey = np.tile(np.array([123.68, 116.779, 103.939]), (4, 4, 1))
    np.testing.assert_allclose(oracle.vgg_taps(weights, grey)["relu1_1"], np.ones((4, 4, 2)))


@pytest.mark.parametrize("normalization", ["corners", "centers"])
def test_identity_field_is_the_ordinary_convolution(normalization: oracle.Normalization) -> None:
    rng = RNG(2)
    x, kernel, bias = rng.normal(size=(5, 6, 3)), rng.normal(size=(3, 3, 3, 4)), rng.normal(size=4)
    warped = oracle.affine_warped_convolution(x, kernel, bias, oracle.identity_field((5, 6)), normalization)
    np.testing.assert_allclose(warped, oracle.relu(oracle.conv2d(x, kernel, bias)), atol=1e-12)


@pytest.mark.parametrize(
    ("normalization", "tx", "ty"), [("corners", 2 * 2 / 8, 2 * -1 / 5), ("centers", 2 * 2 / 9, 2 * -1 / 6)]
)
def test_translation_is_normalised_by_the_grid(normalization: oracle.Normalization, tx: float, ty: float) -> None:
    kernel = np.zeros((3, 3, 2, 2))
    kernel[1, 1] = np.eye(2)
    field = constant_field(6, 9, [[1, 0, tx], [0, 1, ty]])
    warped = oracle.affine_warped_convolution(ramp(6, 9) + 1, kernel, np.zeros(2), field, normalization)
    np.testing.assert_allclose(warped[3, 4], [4 + 2 + 1, 3 - 1 + 1])
    np.testing.assert_allclose(warped[0, 4], [0, 0])  # row -1 is outside
    np.testing.assert_allclose(warped[3, 7], [0, 0])  # column 9 is outside


@pytest.mark.parametrize(
    ("affine", "tap", "expected"),
    [
        ([[0, -1, 0], [1, 0, 0]], (1, 2), (4, 4)),  # a quarter turn takes the right neighbour o = (1, 0) to (0, 1)
        ([[1, 0.5, 0], [0, 1, 0]], (2, 1), (4.5, 4)),  # axy: how far o = (0, 1) goes in x
        ([[1, 0, 0], [0.5, 1, 0]], (1, 2), (5, 3.5)),  # ayx: how far o = (1, 0) goes in y
        ([[2, 0, 0], [0, 1.5, 0]], (0, 0), (2, 1.5)),  # o = (-1, -1)
    ],
)
def test_matrix_moves_the_taps(affine: list[list[float]], tap: tuple[int, int], expected: tuple[float, float]) -> None:
    kernel = np.zeros((3, 3, 2, 2))
    kernel[tap] = np.eye(2)
    warped = oracle.affine_warped_convolution(ramp(7, 9), kernel, np.zeros(2), constant_field(7, 9, affine))
    np.testing.assert_allclose(warped[3, 4], expected)


def test_correlation_of_a_shifted_copy_peaks_at_the_shift() -> None:
    src = oracle.l2_normalize(RNG(3).normal(size=(6, 7, 16)), eps=0)
    tgt = np.zeros_like(src)
    tgt[1:, :-2] = src[:-1, 2:]  # content moves by (-2, +1)
    volume = oracle.window_correlation(src, tgt, 2)
    assert volume.shape == (6, 7, 25)
    assert volume[2, 3].argmax() == (1 + 2) * 5 + (-2 + 2)
    np.testing.assert_allclose(volume[2, 3].max(), 1)
    np.testing.assert_array_equal(volume[0, 3, :10], 0)  # dy = -2, -1 are outside in the first row
    np.testing.assert_array_equal(volume[3, 6].reshape(5, 5)[:, 3:], 0)  # dx = 1, 2 in the last column


def test_released_upsampling_shrinks_the_border() -> None:
    out = oracle.upsample_released(np.ones((2, 3, 1)))[..., 0]
    row = np.array([0.75, 1, 1, 1, 1, 0.75])
    np.testing.assert_allclose(out, [0.75 * row, row, row, 0.75 * row])


def test_upsampling_puts_values_on_the_half_pixel_grid() -> None:
    x = np.array([[[0.0], [4.0], [12.0]]])
    np.testing.assert_allclose(oracle.upsample_edge(x)[0, :, 0], [0, 1, 3, 6, 10, 12])
    np.testing.assert_allclose(oracle.upsample_released(x)[0, :, 0] / 0.75, [0, 1, 3, 6, 10, 9])


def test_both_upsamplings_agree_inside() -> None:
    x = RNG(4).normal(size=(4, 5, 2))
    np.testing.assert_allclose(oracle.upsample_edge(x)[1:-1, 1:-1], oracle.upsample_released(x)[1:-1, 1:-1])


@pytest.mark.parametrize("upsample", [oracle.upsample_released, oracle.upsample_edge])
@pytest.mark.parametrize("shape", [(5, 7), (16, 16), (1, 9)])
def test_geometry_keeps_odd_sizes(shape: tuple[int, int], upsample: oracle.Upsample) -> None:
    weights = oracle.random_weights(RNG(5), divisor=32)["geometry"]
    assert oracle.geometry(weights, RNG(6).normal(size=(*shape, 81)), upsample).shape == (*shape, 2, 3)


def test_geometry_has_as_many_weights_as_the_release() -> None:
    assert sum(math.prod(shape) + shape[3] for shape in oracle.geometry_shapes().values()) == 20_030_662


def test_geometry_output_is_linear_in_the_last_layer() -> None:
    weights = oracle.random_weights(RNG(7), divisor=32)["geometry"]
    volume = RNG(8).normal(size=(6, 5, 81))
    once = oracle.geometry(weights, volume, oracle.upsample_edge)
    assert (once < 0).any()
    assert (once > 0).any()
    weights["conv10"] = {name: 2 * value for name, value in weights["conv10"].items()}
    np.testing.assert_allclose(oracle.geometry(weights, volume, oracle.upsample_edge), 2 * once)


@pytest.mark.parametrize(("decoder", "upsampled", "inner"), [(9, 4, "conv8b"), (8, 8, "conv7b"), (6, 16, "conv5b")])
def test_geometry_concatenates_upsampled_then_skip(decoder: int, upsampled: int, inner: str) -> None:
    weights = oracle.random_weights(RNG(13), divisor=32)["geometry"]
    volume = RNG(14).normal(size=(8, 8, 81))
    weights[f"conv{decoder}"]["kernel"][:, :, :upsampled] = 0  # now only the skip is read
    before = oracle.geometry(weights, volume, oracle.upsample_edge)
    weights[inner]["bias"][:] += 1
    np.testing.assert_array_equal(oracle.geometry(weights, volume, oracle.upsample_edge), before)
    weights[f"conv{decoder}"]["kernel"][:, :, :upsampled] = 0.1
    assert np.abs(oracle.geometry(weights, volume, oracle.upsample_edge) - before).max() > 1e-3


def images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    src, tgt = RNG(9).integers(0, 256, (2, height, width, 3), np.uint8)
    return src, tgt


def test_network_with_a_zero_last_layer_shows_the_shrinking_identity() -> None:
    weights = oracle.random_weights(RNG(10), divisor=32)
    weights["geometry"]["conv10"] = {k: np.zeros_like(v) for k, v in weights["geometry"]["conv10"].items()}
    fields, volumes, flow = oracle.released_network(weights, *images(64, 96))
    assert [field.shape for field in fields] == [(4, 6, 2, 3)] * 2 + [(8, 12, 2, 3)] * 3
    assert [volume.shape for volume in volumes] == [(4, 6, 81)] * 2 + [(8, 12, 81)] * 3
    np.testing.assert_array_equal(fields[1], oracle.identity_field((4, 6)))
    np.testing.assert_allclose(fields[-1][3, 0], [[0.75, 0, 0], [0, 0.75, 0]])
    np.testing.assert_allclose(fields[-1][0, 11], [[0.5625, 0, 0], [0, 0.5625, 0]])
    np.testing.assert_array_equal(flow, np.zeros((64, 96, 2)))
    assert 0 < np.abs(volumes[-1]).max() <= 1


def test_network_turns_translations_into_pixels() -> None:
    weights = oracle.random_weights(RNG(11), divisor=32)
    last = weights["geometry"]["conv10"]
    last["kernel"][:], last["bias"][:] = 0, [0, 0, 0.1, 0, 0, -0.2]
    for upsample, corner in ((oracle.upsample_edge, 1.0), (oracle.upsample_released, 0.5625**3)):
        fields, _, flow = oracle.released_network(
            weights, *images(64, 32), levels=(("conv4_1", 1),), upsample=upsample, normalization="centers"
        )
        expected = np.array([0.1 * 32 / 2, -0.2 * 64 / 2])
        assert fields[0].shape == (8, 4, 2, 3)
        assert flow.shape == (64, 32, 2)
        np.testing.assert_allclose(flow[32, 16], expected)
        np.testing.assert_allclose(flow[0, 0], corner * expected)


def test_network_keeps_float32_and_agrees_with_float64() -> None:
    weights = oracle.random_weights(RNG(12), divisor=16)
    single = {
        part: {
            name: {key: value.astype(np.float32) for key, value in layer.items()}
            for name, layer in weights[part].items()
        }
        for part in weights
    }
    reference, _, flow = oracle.released_network(weights, *images(64, 64))
    fields, volumes, single_flow = oracle.released_network(single, *images(64, 64))
    assert {array.dtype for array in [*fields, *volumes, single_flow]} == {np.dtype(np.float32)}
    assert flow.dtype == np.float64
    np.testing.assert_allclose(fields[-1], reference[-1], atol=1e-4)
    assert np.abs(reference[-1] - oracle.upsample_field(reference[1], (8, 8), oracle.upsample_released)).max() > 1e-3


def test_pck_counts_the_threshold_itself() -> None:
    true = [(0, 0), (0, 0), (0, 0), (1, 1)]
    assert oracle.pck([(3, 4), (3, 4.1), (-5, 0), (1, 1)], true, 5) == 0.75


def test_first_iteration_matches_the_source_with_the_unwarped_target() -> None:
    weights = oracle.random_weights(RNG(15), divisor=32)
    src, tgt = images(32, 48)
    fields, volumes, _ = oracle.released_network(weights, src, tgt, levels=(("conv4_1", 1),))
    maps = [oracle.l2_normalize(oracle.vgg_taps(weights["backbone"], image)["relu4_1"]) for image in (src, tgt)]
    np.testing.assert_allclose(volumes[0], oracle.window_correlation(*maps, 4), atol=1e-12)
    length = np.sqrt(np.sum(volumes[0] ** 2, axis=-1, keepdims=True) + 0.01)
    residual = oracle.geometry(weights["geometry"], volumes[0] / length, oracle.upsample_released)
    np.testing.assert_allclose(fields[0], oracle.identity_field((4, 6)) + residual, atol=1e-12)
