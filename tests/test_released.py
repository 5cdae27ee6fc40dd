"""Networks written as the release writes them: what MATLAB and our reader find there, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

import rtn_jax
from rtn_jax import Params
from rtn_jax.config import default, paper, released
from rtn_jax.params import expected_shapes
from rtn_jax.sampling import resize_bilinear


@pytest.fixture(scope="module")
def params():
    """Random weights everywhere, biases included."""
    rng, shapes = np.random.default_rng(0), expected_shapes(released())

    def draw(shape):
        return rng.random(shape, np.float32) - np.float32(0.5)

    return Params(jax.tree.map(draw, shapes, is_leaf=lambda shape: isinstance(shape, tuple)), released())


@pytest.fixture(scope="module")
def file(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "net-epoch.mat"
    rtn_jax.save_released(params, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["net-epoch.mat"]
    yield path
    path.unlink()  # 171 MB


@pytest.fixture(scope="module")
def written(file):
    """What scipy finds: `{name: element of the struct array net.params}`."""
    net = scipy.io.loadmat(file)["net"]
    assert net.shape == (1, 1) and net["params"][0, 0].shape == (1, 70)
    return {element["name"].item(): element for element in net["params"][0, 0][0]}


def value(written, name):
    return written[name]["value"]


def test_load_gives_back_the_same_weights(params, file):
    loaded = rtn_jax.load(file)
    assert loaded.config == params.config
    assert jax.tree.structure(loaded.weights) == jax.tree.structure(params.weights)
    for a, b in zip(jax.tree.leaves(loaded.weights), jax.tree.leaves(params.weights), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)


def test_names_and_their_order_are_those_of_the_release(written):
    """The second stage of the released training takes the values of the first by their number."""
    convolutions = [
        f"conv{block}_{i}" for block, n in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 1)) for i in range(1, n + 1)
    ]
    geometry = [f"geo_conv{stage}{part}_" for stage in range(1, 10) for part in ("", "b")] + ["geo_conv10_"]
    expected = [f"{layer}{kind}" for layer in convolutions + geometry for kind in "fb"]
    for stage in (5, 6, 7, 8):
        expected.insert(expected.index(f"geo_conv{stage}b_b") + 1, f"geo_deconv{stage - 4}_f")
    assert list(written) == [*expected, "deconv_aff_x2", "deconv_f_x2"]


def test_shapes_and_types_are_those_of_the_release(written):
    assert {element["value"].dtype for element in written.values()} == {np.dtype(np.float32)}
    shapes = {
        "conv1_1f": (3, 3, 3, 64),
        "conv5_1f": (3, 3, 512, 512),
        "geo_conv1_f": (9, 9, 81, 64),
        "geo_conv6_f": (3, 3, 1024, 512),
        "geo_conv7_f": (3, 3, 768, 256),
        "geo_conv10_f": (9, 9, 64, 6),
        "geo_conv10_b": (6, 1),
        "geo_deconv1_f": (4, 4, 512, 512),
        "geo_deconv2_f": (4, 4, 512, 512),
        "geo_deconv3_f": (4, 4, 256, 256),
        "geo_deconv4_f": (4, 4, 128, 128),
        "deconv_aff_x2": (4, 4, 6, 6),
        "deconv_f_x2": (4, 4, 2, 2),
    }
    assert {name: value(written, name).shape for name in shapes} == shapes
    biases = [name for name in written if name.endswith("b")]
    assert len(biases) == 32
    for name in biases:
        assert value(written, name).shape == (value(written, name[:-1] + "f").shape[3], 1)


def test_rates_are_those_of_the_released_training(written):
    def rate(name):
        if "deconv" in name:
            return 0.0
        return 1.0 if name.startswith("geo_") and "conv10" not in name else 0.1

    assert {name: element["learningRate"].item() for name, element in written.items()} == {n: rate(n) for n in written}
    assert {element["weightDecay"].item() for element in written.values()} == {1.0}


def test_the_window_runs_down_its_columns(params, written):
    """Channel (j - 1) * 9 + i of the release, i vertical; ours run along the rows."""
    ours, theirs = params.weights["geometry"]["conv1"]["kernel"], value(written, "geo_conv1_f")
    for i in range(9):
        for j in range(9):
            np.testing.assert_array_equal(theirs[:, :, 9 * j + i], ours[:, :, 9 * i + j])


def test_the_field_is_vertical_first(params, written):
    """The release: a11 a12 t1 a21 a22 t2, 1 vertical; ours: axx axy tx ayx ayy ty."""
    last = params.weights["geometry"]["conv10"]
    for k, name in enumerate(("yy", "yx", "y", "xy", "xx", "x")):
        ours = ("xx", "xy", "x", "yx", "yy", "y").index(name)
        np.testing.assert_array_equal(value(written, "geo_conv10_f")[..., k], last["kernel"][..., ours])
        assert value(written, "geo_conv10_b")[k] == last["bias"][ours]


def test_all_else_is_as_it_is_here(params, written):
    for layer in ("conv1_1", "conv4_3"):
        np.testing.assert_array_equal(value(written, f"{layer}f"), params.weights["backbone"][layer]["kernel"])
        np.testing.assert_array_equal(value(written, f"{layer}b")[:, 0], params.weights["backbone"][layer]["bias"])
    for layer in ("conv1b", "conv6", "conv9b"):
        np.testing.assert_array_equal(value(written, f"geo_{layer}_f"), params.weights["geometry"][layer]["kernel"])
        np.testing.assert_array_equal(value(written, f"geo_{layer}_b")[:, 0], params.weights["geometry"][layer]["bias"])


@pytest.mark.parametrize("name", ["deconv_f_x2", "deconv_aff_x2", "geo_deconv4_f"])
def test_the_fixed_filters_double_as_we_do(rng, written, name):
    kernel = value(written, name)  # [4, 4, out, in]
    image = rng.random((3, 5, kernel.shape[3]), np.float32)
    doubled = np.zeros((8, 12, kernel.shape[2]), np.float32)
    for y, x in np.ndindex(3, 5):
        doubled[2 * y : 2 * y + 4, 2 * x : 2 * x + 4] += kernel @ image[y, x]
    ours = resize_bilinear(jnp.asarray(image)[None], (6, 10), border="zero")[0]
    np.testing.assert_allclose(doubled[1:-1, 1:-1], ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            paper(),
            r"only the released network .*; found layers \('conv4_4',\), expected \('conv5_1', 'conv4_1'\); "
            r"residual_units 'window', expected 'image'$",
        ),
        (
            released().replace(radius=3, geometry_width=32, image_size=128),
            r"only the released network .*; found radius 3, expected 4; geometry_width 32, expected 64$",
        ),
        (
            default().replace(residual_units="image"),
            r"the MATLAB code would compute something else; found normalization 'centers', expected 'corners'; "
            r"upsampling 'edge', expected 'zero'; final_correlation True, expected False\. If that is meant",
        ),
        (released().replace(iterations=(2, 5)), r"something else; found iterations \(2, 5\), expected \(2, 3\)\."),
        (released().replace(image_size=(256, 320)), r"image_size \(256, 320\), expected \(256, 256\)\."),
        (released().replace(compute_dtype="bfloat16"), r"found compute_dtype 'bfloat16', expected 'float32'\."),
    ],
)
def test_other_networks_and_conventions_are_refused(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        rtn_jax.save_released(Params({}, config), tmp_path / "net.mat")
    assert not list(tmp_path.iterdir())


def test_how_it_is_computed_here_does_not_matter(tmp_path):
    with pytest.raises(ValueError, match=r"weights: .*backbone/conv1_1/kernel is missing"):
        rtn_jax.save_released(Params({}, released().replace(remat=True, unroll=True)), tmp_path / "net.mat")


def test_weights_that_the_file_cannot_hold_are_named(params, tmp_path):
    geometry = params.weights["geometry"]
    wrong = geometry | {
        "conv9": geometry["conv9"] | {"bias": np.float32([np.nan] * 64)},
        "conv10": geometry["conv10"] | {"bias": np.zeros(6)},
    }
    message = "weights: geometry/conv10/bias is float64, expected float32; geometry/conv9/bias is not finite$"
    with pytest.raises(ValueError, match=message):
        rtn_jax.save_released(Params(params.weights | {"geometry": wrong}, params.config), tmp_path / "net.mat")
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_written(params, tmp_path, monkeypatch):
    for path, message in (
        (tmp_path / "net", r"net: expected a name that ends in \.mat, got ''"),
        (tmp_path / "net.MAT.npz", r"expected a name that ends in \.mat, got '\.npz'"),
        (tmp_path / "missing" / "net.mat", r"missing/net\.mat: cannot be written"),
    ):
        with pytest.raises(ValueError, match=message):
            rtn_jax.save_released(params, path)
    (tmp_path / "net.mat").write_text("old")

    def full(file, *_, **__):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scipy.io, "savemat", full)
    with pytest.raises(ValueError, match=r"net\.mat: cannot be written, No space left on device"):
        rtn_jax.save_released(params, tmp_path / "net.mat")
    assert (tmp_path / "net.mat").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
