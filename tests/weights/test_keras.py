"""The reader of Keras files, on files laid out as Keras lays them out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from rtn_jax import weights
from rtn_jax.weights import assets, fetch
from tests.weights.narrow import (
    BACKBONES,
    KERAS_2016,
    RESNETS,
    TF_KERAS,
    assert_same_layers,
    folded,
    keras_resnet,
    keras_vgg,
    resnet,
    shapes,
    use_narrow,
    vgg,
    write_h5,
)


@pytest.fixture
def narrow(monkeypatch):
    """Networks of a few channels: the reader compares files with their shapes."""
    use_narrow(monkeypatch)


@pytest.mark.parametrize("names", [KERAS_2016, TF_KERAS], ids=["published", "tf.keras"])
def test_round_trip(narrow, tmp_path, names):
    tree = vgg()
    path = write_h5(tmp_path / "vgg.h5", keras_vgg(tree, names))
    assert_same_layers(weights.read_backbone(path), tree)
    assert_same_layers(weights.read_backbone(str(path)), tree)
    contents = weights.read(path)
    assert (contents.format, contents.backbone, contents.used, contents.ignored) == ("Keras HDF5", "vgg", 32, ())
    assert contents.geometry is None and list(contents.tree) == ["backbone"]
    assert contents.settings == {"pixel_mean": (123.680, 116.779, 103.939)}


def test_first_kernel_is_turned_to_rgb(narrow, tmp_path):
    placed = keras_vgg(vgg())
    blue, green, red = np.float32([1, 2, 3])
    place = KERAS_2016[0].format("block1_conv1")
    placed[place] = np.broadcast_to(np.array([blue, green, red])[:, None], placed[place].shape).copy()
    read = weights.read_backbone(write_h5(tmp_path / "vgg.h5", placed))
    np.testing.assert_array_equal(read["conv1_1"]["kernel"][1, 2, :, 0], [red, green, blue])
    np.testing.assert_array_equal(read["conv1_2"]["kernel"], placed[KERAS_2016[0].format("block1_conv2")])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_depth(narrow, tmp_path, backbone):
    if backbone in RESNETS:
        raw = resnet(backbone)
        placed, expected = keras_resnet(raw), folded(raw, 1.001e-5)
    else:
        expected = vgg(backbone)
        placed = keras_vgg(expected)
    path = write_h5(tmp_path / "any.h5", placed)
    for asked in (None, backbone):
        contents = weights.read(path, asked)
        assert contents.backbone == backbone and contents.used == len(placed)
        assert_same_layers(contents.layers, expected, rtol=1e-6)
    assert contents.settings.get("stride_in") == ("1x1" if backbone in RESNETS else None)


@pytest.mark.parametrize("found", BACKBONES)
def test_another_network_is_named(narrow, tmp_path, found):
    titles = {"vgg": "VGG-19", "vgg16": "VGG-16", "resnet": "ResNet-101", "resnet50": "ResNet-50"}
    titles |= {"resnet152": "ResNet-152", "fcss": "FCSS", "cat-fcss": "CAT-FCSS"}
    placed = keras_resnet(resnet(found)) if found in RESNETS else keras_vgg(vgg(found))
    path = write_h5(tmp_path / "any.h5", placed)
    for backbone in {"vgg16", "resnet", "resnet50"} - {found} | (set() if found == "vgg" else {"vgg", "fcss"}):
        with pytest.raises(ValueError) as caught:
            weights.read(path, backbone)
        message = str(caught.value)
        text = f"{path}: expected {titles[backbone]}, found what looks like {titles[found]} (Keras HDF5): it "
        assert message.startswith(text) and "\n" not in message and len(message) < 500
        assert (" lacks block3_conv4 kernel, " in message) == (
            found == "vgg16" and backbone in ("vgg", "fcss", "cat-fcss")
        )
    with pytest.raises(ValueError, match=r"backbone: expected one of vgg, .*, got 'alexnet'"):
        weights.read(path, "alexnet")


def test_resnet_of_2016_has_the_originals_names(narrow, tmp_path):
    """`running_std` is a variance; the names are those that Keras 1 wrote."""
    raw, placed = resnet("resnet50"), {}
    for layer, parts in raw.items():
        conv, norm = "conv1", "bn_conv1"
        if layer != "conv1":
            block, _, role = layer.rpartition("_")
            branch = {"project": "1", "reduce": "2a", "3x3": "2b", "expand": "2c"}[role]
            conv, norm = (f"{n}{block[4]}{'abcdef'[int(block[6:]) - 1]}_branch{branch}" for n in ("res", "bn"))
        kernel = parts["kernel"][:, :, ::-1] if layer == "conv1" else parts["kernel"]
        placed |= {f"{conv}/{conv}_W:0": kernel, f"{conv}/{conv}_b:0": parts["conv_bias"]}
        for theirs, ours in (("gamma",) * 2, ("beta",) * 2, ("running_mean", "mean"), ("running_std", "variance")):
            placed[f"{norm}/{norm}_{theirs}:0"] = parts[ours]
    placed["fc1000/fc1000_W:0"] = np.ones((3, 2), np.float32)
    contents = weights.read(write_h5(tmp_path / "old.h5", placed))
    assert (contents.format, contents.backbone) == ("Keras HDF5 of 2016", "resnet50")
    assert contents.ignored == ("fc1000 kernel",)
    assert_same_layers(contents.layers, folded(raw, 1.001e-5), rtol=1e-6)


@pytest.mark.parametrize("value", [-1.0, -1e-6])
def test_a_variance_below_zero(narrow, tmp_path, value):
    raw = resnet("resnet50")
    raw["conv4_6_3x3"]["variance"][2] = value
    with pytest.raises(ValueError, match=r"batch norms whose variance is positive, found others at conv4_6_3x3"):
        weights.read(write_h5(tmp_path / "any.h5", keras_resnet(raw)))


@pytest.fixture
def quick_keras(monkeypatch):
    """Keras with random weights, all of them; its own initialisers get compiled for every shape, 8 s for VGG-19."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras_itself = pytest.importorskip("keras")
    rng = np.random.default_rng(0)
    for name in ("GlorotUniform", "Zeros", "Ones"):
        monkeypatch.setattr(
            getattr(keras_itself.initializers, name),
            "__call__",
            lambda self, shape, dtype=None: rng.uniform(0.1, 1, shape).astype(np.float32),
        )
    return keras_itself


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside Keras
@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras recommends its newer format
def test_same_as_keras(quick_keras, tmp_path):
    """Keras' own VGG-19, full size, saved by Keras itself as a whole model in HDF5 and as the published layout."""
    applications = quick_keras.applications
    model = applications.VGG19(weights=None, include_top=False)
    convolutions = [layer for layer in model.layers if layer.weights]
    tree = {}
    for name, layer in zip(shapes("vgg"), convolutions, strict=True):
        kernel, bias = (np.asarray(array) for array in layer.get_weights())
        tree[name] = {"kernel": kernel[:, :, ::-1] if name == "conv1_1" else kernel, "bias": bias}
        assert layer.name == f"block{name[4]}_conv{name[6]}"
    patch = np.random.default_rng(0).uniform(0, 255, (3, 3, 3)).astype(np.float32)  # RGB
    theirs = np.einsum("hwc,hwcd", applications.vgg19.preprocess_input(patch.copy()), model.layers[1].get_weights()[0])
    ours = np.einsum("hwc,hwcd", patch - np.float32([123.68, 116.779, 103.939]), tree["conv1_1"]["kernel"])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    model.save(tmp_path / "model.h5")
    assert_same_layers(weights.read_backbone(tmp_path / "model.h5"), tree)
    model.save_weights(tmp_path / "model.weights.h5")
    assert_same_layers(weights.read_backbone(tmp_path / "model.weights.h5"), tree)
    assert_same_layers(weights.read_backbone(write_h5(tmp_path / "published.h5", keras_vgg(tree))), tree)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_same_as_keras_resnet(quick_keras, tmp_path):
    """Keras' own ResNet-50 with its optimiser's state: every layer is the one Keras computes, up to rounding."""
    model = quick_keras.applications.ResNet50(weights=None, include_top=False)
    model.compile("sgd")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.h5")
    model.save_weights(tmp_path / "model.weights.h5")
    contents = weights.read(tmp_path / "model.h5", "resnet50")
    assert len(contents.layers) == 53 and set(contents.ignored) == {"state of the optimiser"}
    assert_same_layers(weights.read_backbone(tmp_path / "model.weights.h5"), contents.layers)
    for layer, arrays in contents.layers.items():
        block, _, role = layer.rpartition("_")
        place = (
            f"{block.replace('_', '_block')}_{('project', 'reduce', '3x3', 'expand').index(role)}" if block else layer
        )
        conv, norm = model.get_layer(f"{place}_conv"), model.get_layer(f"{place}_bn")
        kernel, bias = (np.asarray(array) for array in conv.get_weights())
        np.testing.assert_array_equal(arrays["kernel"] if block else arrays["kernel"][:, :, ::-1], kernel)
        x = np.linspace(-3, 3, 5, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 1, len(bias)), np.float32)
        theirs = np.asarray(norm(x + bias))  # what Keras makes of a convolution's output x
        np.testing.assert_allclose(x * arrays["scale"] + arrays["bias"], theirs, rtol=1e-4, atol=1e-4, err_msg=layer)


def test_keras_3_weights_without_the_layers_names(narrow, tmp_path):
    """An earlier Keras 3 left them out; the places alone do not tell which layer is which."""
    path = write_h5(tmp_path / "old.weights.h5", {"layers/conv2d/vars/0": np.zeros((3, 3, 3, 2), np.float32)})
    with pytest.raises(ValueError, match=r"found arrays named layers/conv2d/vars/0$"):
        weights.read(path)


def test_fully_connected_layers_are_left_out(narrow, tmp_path):
    tree, more = vgg(), {}
    for layer in ("fc1", "fc2", "predictions"):
        more |= {
            KERAS_2016[0].format(layer): np.ones((3, 4), np.float32),
            KERAS_2016[1].format(layer): np.ones(4, np.float32),
        }
    assert_same_layers(weights.read_backbone(write_h5(tmp_path / "vgg.h5", keras_vgg(tree) | more)), tree)


def test_all_differences_in_one_error(narrow, tmp_path):
    placed = keras_vgg(vgg())
    del placed["block2_conv1/block2_conv1_W_1:0"], placed["block5_conv4/block5_conv4_b_1:0"]
    placed["block3_conv1/block3_conv1_W_1:0"] = np.zeros((3, 3, 3, 3), np.float32)
    placed["block3_conv2/block3_conv2_b_1:0"] = np.zeros(4, np.int64)
    placed["block1_conv1/block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 2), np.float32)
    placed["block6_conv1/block6_conv1_W_1:0"] = placed["dense/kernel"] = np.zeros(3, np.float32)
    path = write_h5(tmp_path / "vgg.h5", placed)
    with pytest.raises(ValueError) as caught:
        weights.read_backbone(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert message.split("not those of VGG-19 (Keras HDF5); ")[1].split("; ") == [
        "missing: block2_conv1 kernel, block5_conv4 bias",
        "unexpected: block6_conv1 kernel, dense/kernel",
        "more than once: block1_conv1 kernel",
        "of the wrong shape: block3_conv1 kernel (found 3x3x3x3, expected 3x3x3x4)",
        "of the wrong type: block3_conv2 bias (found int64, expected floating point)",
    ]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_values_that_are_not_finite(narrow, tmp_path, value):
    placed = keras_vgg(vgg())
    placed["block4_conv2/block4_conv2_b_1:0"][3] = value
    with pytest.raises(ValueError, match="not finite: block4_conv2 bias"):
        weights.read_backbone(write_h5(tmp_path / "vgg.h5", placed))


def test_nothing_of_the_wrong_shape_is_read(narrow, tmp_path):
    """A file that announces an array of 4 TB (and stores nothing) is refused without allocating it."""
    path = write_h5(tmp_path / "vgg.h5", {})
    with h5py.File(path, "r+") as file:
        file.create_dataset("block1_conv1/block1_conv1_b_1:0", (1 << 40,), "f4", chunks=(1024,))
    with pytest.raises(ValueError, match=r"block1_conv1 bias \(found 1099511627776, expected 2\)"):
        weights.read_backbone(path)


def test_values_of_other_files_are_refused(narrow, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(100))
    placed = keras_vgg(vgg())
    bias = placed.pop("block1_conv1/block1_conv1_b_1:0")
    path = write_h5(tmp_path / "vgg.h5", placed)
    with h5py.File(path, "r+") as file:
        place = "block1_conv1/block1_conv1_b_1:0"
        file.create_dataset(place, bias.shape, bias.dtype, external=[(str(tmp_path / "secret"), 0, 100)])
    with pytest.raises(ValueError, match="has its values in another file, which is refused"):
        weights.read_backbone(path)


def test_truncated_and_damaged_files(narrow, tmp_path):
    content = write_h5(tmp_path / "vgg.h5", keras_vgg(vgg())).read_bytes()
    for length in [0, 4, 8, 100, *np.linspace(600, len(content) - 1, 20).astype(int)]:
        (tmp_path / "cut.h5").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.h5: "):
            weights.read_backbone(tmp_path / "cut.h5")
    rng = np.random.default_rng(0)
    for _ in range(100):  # damaged inside: read or refused, never another exception
        damaged = bytearray(content)
        for position in rng.integers(8, len(content), 20):
            damaged[position] ^= int(rng.integers(1, 256))
        (tmp_path / "damaged.h5").write_bytes(damaged)
        try:
            weights.read_backbone(tmp_path / "damaged.h5")
        except ValueError as error:
            assert "damaged.h5: " in str(error)


@pytest.mark.parametrize("name", ["vgg19.pth", "vgg19.PT", "vgg.pkl", "vgg.h5"])
def test_pickles_are_refused_in_words(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match=r"looks like a pickle \(PyTorch\), which can run any program .* refused"):
        weights.read_backbone(tmp_path / name)


def test_other_files(tmp_path):
    with pytest.raises(ValueError, match=r"none\.h5: no such file"):
        weights.read_backbone(tmp_path / "none.h5")
    with pytest.raises(ValueError, match="no such file"):
        weights.read_backbone(tmp_path)
    (tmp_path / "page.h5").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"expected a Keras HDF5 file .* begins with b'<html>no'"):
        weights.read_backbone(tmp_path / "page.h5")
    (tmp_path / "net.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(200))
    with pytest.raises(ValueError, match="the MATLAB file is truncated, damaged"):
        weights.read_backbone(tmp_path / "net.mat")


def test_keras_archives_are_refused_in_words(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", b"\x89HDF")
    with pytest.raises(ValueError, match=r"found a Keras archive; save its model with save_weights\("):
        weights.read(tmp_path / "model.keras")
    (tmp_path / "cut.keras").write_bytes((tmp_path / "model.keras").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"found a file that begins with b'PK"):
        weights.read(tmp_path / "cut.keras")


def test_hdf5_named_like_a_pickle_is_read(narrow, tmp_path):
    tree = vgg()
    assert_same_layers(weights.read_backbone(write_h5(tmp_path / "vgg.bin", keras_vgg(tree))), tree)


@pytest.mark.parametrize("asset", assets.ASSETS, ids=lambda asset: asset.backbone)
def test_published_file(asset):
    """The real file, where it has been fetched before."""
    path = Path(fetch.cache_folder()) / asset.name
    if not path.is_file():
        pytest.skip(f"the published file has not been fetched to {path}")
    assert fetch.fetch_asset(asset, progress=False) == path
    tree = weights.read_backbone(path, asset.backbone)
    if asset.backbone != "vgg":
        return
    assert sum(array.size for layer in tree.values() for array in layer.values()) == 20_024_384
    golden = [[0.0998637, -0.0624091], [0.1038539, 0.0885164], [0.0897821, 0.1850596]]  # [RGB, first two filters]
    np.testing.assert_allclose(tree["conv1_1"]["kernel"][1, 1, :, :2], golden, atol=1e-6)
