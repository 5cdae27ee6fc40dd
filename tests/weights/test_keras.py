"""The reader of Keras files, on files laid out as Keras lays them out."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from rtn_jax import weights
from rtn_jax.weights import fetch, keras, layout

OLD = ("{0}/{0}_W_1:0", "{0}/{0}_b_1:0")  # the published file
NEW = ("{0}/{0}/kernel:0", "{0}/{0}/bias:0")  # tf.keras, save_weights


@pytest.fixture
def narrow(monkeypatch):
    """VGG-19 of a few channels: the reader compares a file with this table."""
    monkeypatch.setattr(layout, "VGG19_BLOCKS", ((2, 2), (3, 2), (4, 4), (5, 4), (5, 4)))


def random_vgg():
    rng = np.random.default_rng(0)
    return {
        layer: {
            "kernel": rng.standard_normal((side, side, before, after), np.float32),
            "bias": rng.standard_normal(after, np.float32),
        }
        for layer, (side, before, after) in layout.vgg19_layers().items()
    }


def datasets(tree, names=OLD):
    """{place in the file: array}, conv1_1 turned to BGR input as in Keras' files."""
    placed = {}
    for layer, arrays in tree.items():
        group = f"block{layer[4]}_conv{layer[6]}"
        kernel = arrays["kernel"][:, :, ::-1] if layer == "conv1_1" else arrays["kernel"]
        placed[names[0].format(group)], placed[names[1].format(group)] = kernel, arrays["bias"]
    return placed


def write(path, placed):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"input_1", b"block1_conv1", b"block1_pool"]
        file.create_group("block1_pool")
        for place, array in placed.items():
            file[place] = array
    return path


def assert_same_layers(found, expected):
    assert list(found) == list(expected)
    for layer, arrays in expected.items():
        for kind, array in arrays.items():
            assert found[layer][kind].dtype == np.float32 and found[layer][kind].flags.c_contiguous
            np.testing.assert_array_equal(found[layer][kind], array, err_msg=f"{layer} {kind}")


@pytest.mark.parametrize("names", [OLD, NEW], ids=["published", "tf.keras"])
def test_round_trip(narrow, tmp_path, names):
    tree = random_vgg()
    path = write(tmp_path / "vgg.h5", datasets(tree, names))
    assert_same_layers(keras.read_vgg(path), tree)
    assert_same_layers(weights.read_backbone(str(path)), tree)
    assert list(weights.read(path)) == ["backbone"]


def test_first_kernel_is_turned_to_rgb(narrow, tmp_path):
    placed = datasets(random_vgg())
    blue, green, red = np.float32([1, 2, 3])
    place = OLD[0].format("block1_conv1")
    placed[place] = np.broadcast_to(np.array([blue, green, red])[:, None], placed[place].shape).copy()
    read = keras.read_vgg(write(tmp_path / "vgg.h5", placed))
    np.testing.assert_array_equal(read["conv1_1"]["kernel"][1, 2, :, 0], [red, green, blue])
    np.testing.assert_array_equal(read["conv1_2"]["kernel"], placed[OLD[0].format("block1_conv2")])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside Keras
@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras recommends its newer format
def test_same_as_keras(tmp_path, monkeypatch):
    """Keras' own VGG-19, full size, saved by Keras itself as a whole model in HDF5 and as the published layout."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras_itself = pytest.importorskip("keras")
    applications = keras_itself.applications
    rng = np.random.default_rng(0)  # Keras' own initialiser gets compiled for every shape, 8 s in all
    monkeypatch.setattr(
        keras_itself.initializers.GlorotUniform,
        "__call__",
        lambda self, shape, dtype=None: rng.standard_normal(shape, np.float32),
    )
    model = applications.VGG19(weights=None, include_top=False)
    convolutions = [layer for layer in model.layers if layer.weights]
    tree = {}
    for name, layer in zip(layout.vgg19_layers(), convolutions, strict=True):
        kernel, bias = (np.asarray(array) for array in layer.get_weights())
        tree[name] = {"kernel": kernel[:, :, ::-1] if name == "conv1_1" else kernel, "bias": bias}
        assert layer.name == f"block{name[4]}_conv{name[6]}"
    patch = np.random.default_rng(0).uniform(0, 255, (3, 3, 3)).astype(np.float32)  # RGB
    theirs = np.einsum("hwc,hwcd", applications.vgg19.preprocess_input(patch.copy()), model.layers[1].get_weights()[0])
    ours = np.einsum("hwc,hwcd", patch - np.float32([123.68, 116.779, 103.939]), tree["conv1_1"]["kernel"])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    model.save(tmp_path / "model.h5")
    assert_same_layers(keras.read_vgg(tmp_path / "model.h5"), tree)
    assert_same_layers(keras.read_vgg(write(tmp_path / "published.h5", datasets(tree))), tree)


def test_fully_connected_layers_are_left_out(narrow, tmp_path):
    tree, more = random_vgg(), {}
    for layer in ("fc1", "fc2", "predictions"):
        more |= {OLD[0].format(layer): np.ones((3, 4), np.float32), OLD[1].format(layer): np.ones(4, np.float32)}
    assert_same_layers(keras.read_vgg(write(tmp_path / "vgg.h5", datasets(tree) | more)), tree)


def test_all_differences_in_one_error(narrow, tmp_path):
    placed = datasets(random_vgg())
    del placed["block2_conv1/block2_conv1_W_1:0"], placed["block5_conv4/block5_conv4_b_1:0"]
    placed["block3_conv1/block3_conv1_W_1:0"] = np.zeros((3, 3, 3, 3), np.float32)
    placed["block3_conv2/block3_conv2_b_1:0"] = np.zeros(4, np.int64)
    placed["block1_conv1/block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 2), np.float32)
    placed["block6_conv1/block6_conv1_W_1:0"] = placed["dense/kernel"] = np.zeros(3, np.float32)
    path = write(tmp_path / "vgg.h5", placed)
    with pytest.raises(ValueError) as caught:
        keras.read_vgg(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert message.split("expected; ")[1].split("; ") == [
        "missing: conv2_1 kernel, conv5_4 bias",
        "unexpected: conv6_1 kernel, dense/kernel",
        "more than once: conv1_1 kernel",
        "of the wrong shape: conv3_1 kernel (found 3x3x3x3, expected 3x3x3x4)",
        "of the wrong type: conv3_2 bias (found int64, expected floating point)",
    ]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_values_that_are_not_finite(narrow, tmp_path, value):
    placed = datasets(random_vgg())
    placed["block4_conv2/block4_conv2_b_1:0"][3] = value
    with pytest.raises(ValueError, match="not finite: conv4_2 bias"):
        keras.read_vgg(write(tmp_path / "vgg.h5", placed))


def test_nothing_of_the_wrong_shape_is_read(narrow, tmp_path):
    """A file that announces an array of 4 TB (and stores nothing) is refused without allocating it."""
    path = write(tmp_path / "vgg.h5", {})
    with h5py.File(path, "r+") as file:
        file.create_dataset("block1_conv1/block1_conv1_b_1:0", (1 << 40,), "f4", chunks=(1024,))
    with pytest.raises(ValueError, match=r"conv1_1 bias \(found 1099511627776, expected 2\)"):
        keras.read_vgg(path)


def test_values_of_other_files_are_refused(narrow, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(100))
    placed = datasets(random_vgg())
    bias = placed.pop("block1_conv1/block1_conv1_b_1:0")
    path = write(tmp_path / "vgg.h5", placed)
    with h5py.File(path, "r+") as file:
        place = "block1_conv1/block1_conv1_b_1:0"
        file.create_dataset(place, bias.shape, bias.dtype, external=[(str(tmp_path / "secret"), 0, 100)])
    with pytest.raises(ValueError, match="has its values in another file, which is refused"):
        keras.read_vgg(path)


def test_truncated_and_damaged_files(narrow, tmp_path):
    content = write(tmp_path / "vgg.h5", datasets(random_vgg())).read_bytes()
    for length in [0, 4, 8, 100, *np.linspace(600, len(content) - 1, 20).astype(int)]:
        (tmp_path / "cut.h5").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.h5: "):
            keras.read_vgg(tmp_path / "cut.h5")
    rng = np.random.default_rng(0)
    for _ in range(100):  # damaged inside: read or refused, never another exception
        damaged = bytearray(content)
        for position in rng.integers(8, len(content), 20):
            damaged[position] ^= int(rng.integers(1, 256))
        (tmp_path / "damaged.h5").write_bytes(damaged)
        try:
            keras.read_vgg(tmp_path / "damaged.h5")
        except ValueError as error:
            assert "damaged.h5: " in str(error)


@pytest.mark.parametrize("name", ["vgg19.pth", "vgg19.PT", "vgg.pkl", "vgg.h5"])
def test_pickles_are_refused_in_words(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match=r"looks like a pickle \(PyTorch\), which can run any program .* refused"):
        keras.read_vgg(tmp_path / name)


def test_other_files(tmp_path):
    with pytest.raises(ValueError, match=r"none\.h5: no such file"):
        keras.read_vgg(tmp_path / "none.h5")
    with pytest.raises(ValueError, match="no such file"):
        keras.read_vgg(tmp_path)
    (tmp_path / "page.h5").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"expected a Keras HDF5 file .* begins with b'<html>no'"):
        keras.read_vgg(tmp_path / "page.h5")
    (tmp_path / "net.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(200))
    with pytest.raises(ValueError, match="expected a Keras HDF5 file, found matlab-v7"):
        keras.read_vgg(tmp_path / "net.mat")


def test_hdf5_named_like_a_pickle_is_read(narrow, tmp_path):
    tree = random_vgg()
    assert_same_layers(keras.read_vgg(write(tmp_path / "vgg.bin", datasets(tree))), tree)


def test_published_file():
    """The real file, where it has been fetched before."""
    path = Path(fetch.cache_folder()) / fetch.VGG19.name
    if not path.is_file():
        pytest.skip(f"the published VGG-19 file has not been fetched to {path}")
    assert fetch.fetch_vgg19(progress=False) == path
    tree = keras.read_vgg(path)
    assert list(tree) == list(layout.vgg19_layers())
    assert sum(array.size for layer in tree.values() for array in layer.values()) == 20_024_384
    golden = [[0.0998637, -0.0624091], [0.1038539, 0.0885164], [0.0897821, 0.1850596]]  # [RGB, first two filters]
    np.testing.assert_allclose(tree["conv1_1"]["kernel"][1, 1, :, :2], golden, atol=1e-6)
