"""The readers of MATLAB files, on files written as MATLAB writes them (v7 and v7.3)."""

from __future__ import annotations

import struct
import zlib

import h5py
import numpy as np
import pytest
import scipy.io

from rtn_jax import weights
from rtn_jax.backbones import full_weight_shapes
from rtn_jax.weights import layout, released
from rtn_jax.weights.matfile import variable_names
from tests.weights import released_files as files
from tests.weights.narrow import (
    RESNETS,
    VGGS,
    assert_same_layers,
    caffe_layers,
    dagnn_params,
    fcss_params,
    folded,
    resnet,
    shapes,
    use_narrow,
    vgg,
)

WRITERS = {"v7": files.write_v7, "v7.3": files.write_v73}
NARROW_GEOMETRY = {"conv1": (3, 9, 4), "conv1b": (3, 4, 4), "conv2": (3, 4, 5), "conv10": (3, 4, 6)}


@pytest.fixture
def narrow(monkeypatch):
    """Networks of a few channels: the readers compare a file with these tables."""
    use_narrow(monkeypatch)
    monkeypatch.setattr(layout, "GEOMETRY", NARROW_GEOMETRY)


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def random_layers(layers, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: {
            "kernel": rng.standard_normal((side, side, before, after), np.float32),
            "bias": rng.standard_normal(after, np.float32),
        }
        for name, (side, before, after) in layers.items()
    }


def released_tree(layers=None):
    """Of the narrow network, unless layers are given."""
    layers = vgg() if layers is None else layers
    return {
        "backbone": {layer: layers[layer] for layer in list(layers)[: list(layers).index("conv5_1") + 1]},
        "geometry": random_layers(layout.GEOMETRY, 2),
    }


def assert_same_tree(found, expected):
    assert {part: list(layers) for part, layers in found.items()} == {part: list(expected[part]) for part in expected}
    for part, layers in expected.items():
        for name, arrays in layers.items():
            for kind, array in arrays.items():
                assert found[part][name][kind].dtype == np.float32
                np.testing.assert_array_equal(found[part][name][kind], array, err_msg=f"{part} {name} {kind}")


def test_table_has_the_released_size():
    kernels = {name: side * side * before * after + after for name, (side, before, after) in layout.GEOMETRY.items()}
    assert sum(kernels.values()) == 20_030_662


def test_released_round_trip(narrow, write, tmp_path):
    tree = released_tree()
    write(tmp_path / "net.mat", files.dagnn(files.released_params(tree)))
    for backbone in (None, "vgg"):
        contents = weights.read(tmp_path / "net.mat", backbone)
        assert_same_tree(contents.tree, tree)
        assert contents.format == "net-epoch.mat of the release" and sorted(contents.ignored) == sorted(released.FIXED)
    assert list(weights.read_backbone(str(tmp_path / "net.mat"))) == [*list(vgg())[:12], "conv5_1"]
    with pytest.raises(ValueError, match=r"expected VGG-16, found what looks like VGG-19 \(net-epoch\.mat"):
        weights.read(tmp_path / "net.mat", "vgg16")
    first = weights.read(tmp_path / "net.mat", "fcss")
    assert first.geometry is None and list(first.layers)[-1] == "conv3_4"


@pytest.mark.parametrize("version", WRITERS)
def test_released_round_trip_full_size(version, tmp_path):
    sizes = {layer: (3, *parts["kernel"][2:]) for layer, parts in full_weight_shapes("vgg").items()}
    tree = released_tree(random_layers(sizes))
    variables = files.dagnn(files.released_params(tree))
    if version == "v7":
        files.write_v7(tmp_path / "net.mat", variables, compress=False)
    else:
        files.write_v73(tmp_path / "net.mat", variables)
    assert_same_tree(weights.read(tmp_path / "net.mat").tree, tree)


def test_what_scipy_writes_and_what_scipy_reads(narrow, tmp_path):
    """The v7 reader and the tests' v7 writer are both ours: each is checked against scipy."""
    tree = released_tree()
    params = files.released_params(tree)
    records = np.zeros((1, len(params)), [("name", object), ("value", object)])
    for i, (name, value) in enumerate(params):
        records[0, i] = (name, value)
    for compressed in (False, True):
        variables = {"big": np.random.default_rng(0).random((100, 100)), "net": {"params": records, "more": {"a": 1}}}
        scipy.io.savemat(tmp_path / "scipy.mat", variables, do_compression=compressed)
        assert_same_tree(weights.read(tmp_path / "scipy.mat").tree, tree)
        files.write_v7(tmp_path / "ours.mat", files.dagnn(params), compressed)
        read = scipy.io.loadmat(tmp_path / "ours.mat", mat_dtype=True)["net"]["params"][0, 0]
        assert [name.item() for name in read["name"].ravel()] == [name for name, _ in params]
        for found, (_, value) in zip(read["value"].ravel(), params, strict=True):
            np.testing.assert_array_equal(found, value.reshape(found.shape))


def test_order_of_params_does_not_matter(narrow, write, tmp_path):
    tree = released_tree()
    write(tmp_path / "net.mat", files.dagnn(files.released_params(tree)[::-1]))
    assert_same_tree(weights.read(tmp_path / "net.mat").tree, tree)


def test_channel_order_at_the_ends_of_the_geometry_network(narrow, write, tmp_path):
    """Released window channel j * 3 + i is (dy, dx) = (i - 1, j - 1); released field: vertical first."""
    params = dict(files.released_params(released_tree()))
    kernel = params["geo_conv1_f"] = np.zeros((3, 3, 9, 4), np.float32)
    for i in range(3):
        for j in range(3):
            kernel[:, :, j * 3 + i] = 10 * (i - 1) + (j - 1)  # ten times dy plus dx
    a11, a12, t1, a21, a22, t2 = codes = (11.0, 12.0, 1.0, 21.0, 22.0, 2.0)  # 1 = vertical, 2 = horizontal
    params["geo_conv10_f"] = np.broadcast_to(np.float32(codes), (3, 3, 4, 6)).copy()
    params["geo_conv10_b"] = np.float32(codes)[None]
    write(tmp_path / "net.mat", files.dagnn(list(params.items())))
    geometry = weights.read(tmp_path / "net.mat").tree["geometry"]
    rows = [[10 * dy + dx for dx in (-1, 0, 1)] for dy in (-1, 0, 1)]  # ours: row-major
    for tap in geometry["conv1"]["kernel"].reshape(9, 9, 4).transpose(0, 2, 1).reshape(-1, 3, 3):
        np.testing.assert_array_equal(tap, rows)
    ours = [[a22, a21, t2], [a12, a11, t1]]  # (axx, axy, tx), (ayx, ayy, ty)
    np.testing.assert_array_equal(geometry["conv10"]["bias"].reshape(2, 3), ours)
    np.testing.assert_array_equal(geometry["conv10"]["kernel"][1, 2, 3].reshape(2, 3), ours)


def test_kernel_axes_are_vertical_then_horizontal(narrow, write, tmp_path):
    params = dict(files.released_params(released_tree()))
    y, x, c, d = np.ogrid[:3, :3, :2, :2]
    params["conv1_2f"] = (1000 * y + 100 * x + 10 * c + d).astype(np.float32)
    write(tmp_path / "net.mat", files.dagnn(list(params.items())))
    kernel = weights.read(tmp_path / "net.mat").tree["backbone"]["conv1_2"]["kernel"]
    assert kernel[2, 1, 0, 1] == 2101


def test_other_storage_of_the_same_numbers(narrow, write, tmp_path):
    """Column biases, float64, whole numbers that MATLAB packs into bytes, and no fixed filters."""
    tree = released_tree()
    tree["backbone"]["conv1_1"]["bias"] = np.float32([3, 200])
    tree["geometry"]["conv10"] = {"kernel": np.zeros((3, 3, 4, 6), np.float32), "bias": np.zeros(6, np.float32)}
    params = [(name, value) for name, value in files.released_params(tree) if "deconv" not in name]
    params = [(name, (value.T if value.ndim == 2 else value).astype(np.float64)) for name, value in params]
    write(tmp_path / "net.mat", files.dagnn(params))
    assert_same_tree(weights.read(tmp_path / "net.mat").tree, tree)


def test_all_differences_in_one_error(narrow, write, tmp_path):
    params = files.released_params(released_tree())
    params = [(name, value) for name, value in params if name not in ("conv2_1f", "geo_conv1b_b")]
    params = [(name, value[:2] if name == "conv3_1f" else value) for name, value in params]
    params = [(name, value.astype(np.int32) if name == "conv3_2b" else value) for name, value in params]
    params += [("geo_conv11_f", np.ones((1, 1), np.float32)), ("conv1_1f", np.zeros((3, 3, 3, 2), np.float32))]
    write(tmp_path / "net.mat", files.dagnn(params))
    with pytest.raises(ValueError) as caught:
        weights.read(tmp_path / "net.mat")
    assert str(caught.value).split("(net-epoch.mat of the release); ")[1].split("; ") == [
        "missing: conv2_1f, geo_conv1b_b",
        "unexpected: geo_conv11_f",
        "more than once: conv1_1f",
        "of the wrong shape: conv3_1f (found 2x3x3x4, expected 3x3x3x4)",
        "of the wrong type: conv3_2b (found int32, expected floating point)",
    ]
    assert str(tmp_path / "net.mat") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite(narrow, write, tmp_path, value):
    params = dict(files.released_params(released_tree()))
    params["conv1_2b"] = np.array([[0.5, value]])
    write(tmp_path / "net.mat", files.dagnn(list(params.items())))
    with pytest.raises(ValueError, match="not finite: conv1_2b"):
        weights.read(tmp_path / "net.mat")


def test_long_lists_are_cut(narrow, write, tmp_path):
    extra = [(f"other{i}", np.ones((1, 1))) for i in range(150)]
    write(tmp_path / "net.mat", files.dagnn(files.released_params(released_tree()) + extra))
    with pytest.raises(ValueError, match=r"unexpected: other0, .*other19 and 130 more$"):
        weights.read(tmp_path / "net.mat")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"other": np.ones((1, 1))}, "expected a variable 'net', 'params' or 'layers', found none of them"),
        ({"net": np.ones((2, 2))}, "net: expected a struct with the field 'params'"),
        ({"net": "text"}, "net: expected a struct with the field 'params'"),
        ({"net": files.Struct([{"vars": np.ones((1, 1))}])}, "net: expected a struct with the field 'params'"),
        ({"net": files.Struct([{"params": np.ones((2, 2))}])}, "params: expected a struct with the field 'name'"),
        (
            {"net": files.Struct([{"params": files.Struct([{"name": "a"}])}])},
            "expected a struct with the field 'value'",
        ),
        (
            {"net": files.Struct([{"params": files.Struct([{"name": np.ones((2, 2)), "value": "x"}])}])},
            "expected a text",
        ),
        ({"net": files.Struct([{"params": files.Cell(["a"])}])}, "expected a struct with the field 'name'"),
        ({"net": files.Struct([{"params": "a"}, {"params": "b"}])}, "net: expected one struct, found an array of 2"),
    ],
)
def test_absurd_contents(write, tmp_path, variables, message):
    write(tmp_path / "net.mat", variables)
    with pytest.raises(ValueError, match=message) as caught:
        weights.read(tmp_path / "net.mat")
    assert str(tmp_path / "net.mat") in str(caught.value)


def test_a_value_that_is_no_array_is_listed(narrow, write, tmp_path):
    params = dict(files.released_params(released_tree()))
    params["conv1_1f"], params["conv1_1b"] = files.Struct([{"x": "y"}]), "text"
    write(tmp_path / "net.mat", files.dagnn(list(params.items())))
    with pytest.raises(ValueError, match=r"wrong shape: conv1_1f .*conv1_1b .*wrong type: conv1_1f .*conv1_1b"):
        weights.read(tmp_path / "net.mat")


def test_a_damaged_name_is_no_obstacle(tmp_path):
    """Which h5py gives as bytes, where all others are texts."""
    files.write_v73(tmp_path / "net.mat", {"nothing": np.zeros((2, 2))})
    with h5py.File(tmp_path / "net.mat", "r+") as file:
        file.create_dataset(b"\xe3\xff", data=1.0)
    assert variable_names(tmp_path / "net.mat") == {"#refs#", "nothing", "\ufffd\ufffd"}
    with pytest.raises(ValueError, match=r"net\.mat: expected "):
        weights.read(tmp_path / "net.mat")


def test_truncated_and_damaged_files(narrow, write, tmp_path):
    write(tmp_path / "net.mat", {"net": files.dagnn(files.released_params(released_tree()))["net"]})
    content = (tmp_path / "net.mat").read_bytes()
    for length in [0, 1, 127, 128, 130, 136, 300, 511, 512, 520, *np.linspace(600, len(content) - 9, 25).astype(int)]:
        (tmp_path / "cut.mat").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.mat: "):
            weights.read(tmp_path / "cut.mat")
    rng = np.random.default_rng(0)
    for _ in range(100):  # damaged inside: read or refused, never another exception
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 20):
            damaged[position] ^= int(rng.integers(1, 256))
        (tmp_path / "damaged.mat").write_bytes(damaged)
        try:
            weights.read(tmp_path / "damaged.mat")
        except ValueError as error:
            assert "damaged.mat: " in str(error)


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (files.headed(7, (3, 3, 3, 2), "", files.element(7, bytes(8))), r"value\{1\}: expected an array of 54 numbers"),
        (
            files.headed(7, (3, 3, 3, 2), "", files.element(14, bytes(216))),
            r"value\{1\}: expected an array of 54 numbers",
        ),
        (files.headed(7, (3, 3, 3, 2), "", b"\x07\0\x09\0" + bytes(4)), r"value\{1\}: .*a short element of 9 bytes"),
        (
            files.headed(7, (3, 3, 3, 2), "", b"\x07\0\0\0\xff\0\0\0" + bytes(8)),
            r"value\{1\}: an element reaches 247 bytes",
        ),
        (files.headed(7, (3, -3), "", files.element(7, b"")), r"value\{1\}: expected dimensions, found \(3, -3\)"),
        (files.headed(7, (3,), "", files.element(7, b"")), r"value\{1\}: expected dimensions, found \(3,\)"),
        (b"\x0e\0\0\0\x08\0\0\0" + bytes(8), r"value\{1\}: expected a matrix with flags"),
        (files.element(6, bytes(8)), "params: expected [0-9]+ elements"),
    ],
    ids=["short", "matrix", "short form", "beyond", "negative", "one dimension", "no flags", "no matrix"],
)
def test_damaged_elements(narrow, tmp_path, element, message):
    params = dict(files.released_params(released_tree()))
    params["conv1_1f"] = element
    files.write_v7(tmp_path / "net.mat", files.dagnn(list(params.items())))
    with pytest.raises(ValueError, match=message):
        weights.read(tmp_path / "net.mat")


def test_compressed_variable_that_is_cut_off(narrow, tmp_path):
    """The element is as long as it says, but what was compressed is not all there."""
    element = files._matrix(files.dagnn(files.released_params(released_tree()))["net"], "net")
    for packed in (zlib.compress(element)[:-1000], zlib.compress(element[:-1000])):
        files.write_v7(tmp_path / "net.mat", {})
        with (tmp_path / "net.mat").open("ab") as file:
            file.write(struct.pack("<II", 15, len(packed)) + packed)
        with pytest.raises(ValueError, match="an incomplete variable"):
            weights.read(tmp_path / "net.mat")


def test_empty_values_and_long_names(narrow, write, tmp_path):
    params = dict(files.released_params(released_tree()))
    params["conv1_1f"] = np.zeros((0, 0))
    write(tmp_path / "net.mat", files.dagnn(list(params.items())))
    with pytest.raises(ValueError, match=r"wrong shape: conv1_1f \(found 0x0x1x1, expected 3x3x3x2\)"):
        weights.read(tmp_path / "net.mat")
    write(tmp_path / "net.mat", files.dagnn([("a" * 1001, np.ones((1, 1)))]))
    with pytest.raises(ValueError, match="name: expected a text"):
        weights.read(tmp_path / "net.mat")


def test_more_names_than_values(narrow, tmp_path):
    files.write_v73(tmp_path / "net.mat", files.dagnn(files.released_params(released_tree())))
    with h5py.File(tmp_path / "net.mat", "r+") as file:
        references = file["net/params/value"][:-1]
        del file["net/params/value"]
        file["net/params"].create_dataset("value", data=references, dtype=h5py.ref_dtype)
    with pytest.raises(ValueError, match=r"net\.params: expected one value per name, found 39 for 40"):
        weights.read(tmp_path / "net.mat")


def test_absurd_references(narrow, tmp_path):
    files.write_v73(tmp_path / "net.mat", files.dagnn(files.released_params(released_tree())))
    with h5py.File(tmp_path / "net.mat", "r+") as file:
        file["net/params/value"][3, 0] = h5py.Reference()
    with pytest.raises(ValueError, match="value: an element refers to nothing"):
        weights.read(tmp_path / "net.mat")
    with h5py.File(tmp_path / "net.mat", "r+") as file:
        del file["net/params/value"]
        file["net/params"].create_dataset("value", (1 << 40, 1), h5py.ref_dtype, chunks=(1024, 1))
    with pytest.raises(ValueError, match="value: expected at most 100000 elements, found 1099511627776"):
        weights.read(tmp_path / "net.mat")


@pytest.mark.parametrize("read", [weights.read, weights.read_backbone])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.mat", b"just some text\n", "expected a Keras HDF5 file .* or a MATLAB .* found a file that begins with"),
        ("net.mat", b"", "found an empty file"),
        ("net.pth", b"PK\x03\x04..archive/data.pkl..", "looks like a pickle .* so it is refused"),
        ("net.mat", b"\x80\x02}q\x00.", "looks like a pickle .* so it is refused"),
    ],
)
def test_other_files(tmp_path, read, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        weights.read(tmp_path / "none.mat")


def test_values_of_other_files_are_refused(narrow, tmp_path):
    """HDF5 can keep an array in another file; weights have no business to read one."""
    (tmp_path / "secret").write_bytes(bytes(10_000))
    files.write_v73(tmp_path / "net.mat", files.dagnn(files.released_params(released_tree())))
    with h5py.File(tmp_path / "net.mat", "r+") as file:
        file.copy("net", "copy")
        del file["net"]
        file["net"] = h5py.SoftLink("/copy")
    with pytest.raises(ValueError, match="net is a link to another place, which is refused"):
        weights.read(tmp_path / "net.mat")
    with h5py.File(tmp_path / "net.mat", "r+") as file:
        del file["net"]
        file.move("copy", "net")
        first = file["net/params/value"]
        stolen = file.create_dataset("stolen", (2, 3, 3, 3), "f4", external=[(str(tmp_path / "secret"), 0, 10_000)])
        first[0, 0] = stolen.ref
    with pytest.raises(ValueError, match="/stolen has its values in another file, which is refused"):
        weights.read(tmp_path / "net.mat")


# ---- MatConvNet's VGGs and ResNets ----------------------------------------------------------------------------------


def simplenn_weights(tree):
    listed = [(name, arrays["kernel"], arrays["bias"][:, None]) for name, arrays in tree.items()]
    return [*listed, ("fc6", np.ones((7, 7, 2, 2), np.float32), np.ones((2, 1), np.float32))]


@pytest.mark.parametrize("backbone", VGGS)
def test_matconvnet_vgg(narrow, write, tmp_path, backbone):
    tree = vgg(backbone)
    write(tmp_path / "vgg.mat", files.simplenn(simplenn_weights(tree)))
    contents = weights.read(tmp_path / "vgg.mat")
    assert_same_layers(contents.layers, tree)
    assert (contents.format, contents.backbone) == ("MatConvNet SimpleNN", backbone)
    assert contents.ignored == ("fc6 kernel", "fc6 bias") and contents.geometry is None
    assert contents.settings == {"pixel_mean": (123.680, 116.779, 103.939)}
    with pytest.raises(ValueError, match=r"expected ResNet-50, found what looks like VGG-1. \(MatConvNet SimpleNN\)$"):
        weights.read(tmp_path / "vgg.mat", "resnet50")


def test_matconvnet_vgg_differences(narrow, write, tmp_path):
    listed = simplenn_weights(vgg())
    listed[1] = ("conv1_2", listed[1][1][..., :1], listed[1][2])
    write(tmp_path / "vgg.mat", files.simplenn([*listed[:3], *listed[4:], listed[0], ("conv6_1", *listed[0][1:])]))
    with pytest.raises(ValueError) as caught:
        weights.read(tmp_path / "vgg.mat")
    assert str(caught.value).split("not those of VGG-19 (MatConvNet SimpleNN); ")[1].split("; ") == [
        "missing: conv2_2 kernel, conv2_2 bias",
        "unexpected: conv6_1 kernel, conv6_1 bias",
        "more than once: conv1_1 kernel, conv1_1 bias",
        "of the wrong shape: conv1_2 kernel (found 3x3x2x1, expected 3x3x2x2)",
    ]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"layers": np.ones((1, 1))}, "layers: expected a cell array"),
        ({"layers": files.Struct([{"weights": "a"}])}, "layers: expected a cell array"),
        ({"layers": files.Cell([files.Struct([{"weights": files.Cell(["a"])}])])}, "with the field 'name'"),
        ({"layers": files.Cell([files.Struct([{"name": "a", "weights": "a"}])])}, "weights: expected a cell array"),
        (
            {"layers": files.Cell([files.Struct([{"name": "a", "weights": files.Cell(["a"])}])])},
            "expected a kernel and a bias in 'a', found 1 arrays",
        ),
        ({"params": np.ones((1, 1)), "layers": np.ones((1, 1))}, "params: expected a struct with the field 'name'"),
    ],
)
def test_absurd_matconvnet_contents(write, tmp_path, variables, message):
    write(tmp_path / "vgg.mat", variables)
    with pytest.raises(ValueError, match=message):
        weights.read(tmp_path / "vgg.mat")


@pytest.mark.parametrize(("version", "backbone"), [*(("v7", backbone) for backbone in RESNETS), ("v7.3", "resnet50")])
def test_matconvnet_resnet(narrow, version, tmp_path, backbone):
    write = WRITERS[version]
    raw = resnet(backbone)
    raw_of_file = {
        k: v if (backbone, k) == ("resnet50", "conv1") else v | {"conv_bias": 0 * v["beta"]} for k, v in raw.items()
    }
    write(tmp_path / "resnet.mat", files.dagnn_struct(dagnn_params(backbone, raw)))
    for asked in (None, backbone):
        contents = weights.read(tmp_path / "resnet.mat", asked)
        assert_same_layers(contents.layers, folded(raw_of_file, 1e-5), rtol=1e-5)
    assert (contents.format, contents.backbone) == ("MatConvNet DagNN", backbone)
    assert contents.ignored == ("fc1000_filter", "fc1000_bias")
    assert contents.settings == {"pixel_mean": (123.680, 116.779, 103.939), "stride_in": "1x1"}
    # The same network, as a training program keeps it in a variable of its own:
    write(tmp_path / "net.mat", files.dagnn(dagnn_params(backbone, raw)))
    assert_same_layers(weights.read(tmp_path / "net.mat").layers, contents.layers)


def test_names_of_the_original():
    """Counted in the published networks: the last block of conv4 is res4f in the 50 layer net, res4b22 in the 101."""
    ours = {backbone: dict(zip(shapes(backbone), caffe_layers(backbone), strict=True)) for backbone in RESNETS}
    assert ours["resnet50"]["conv4_6_expand"] == ("res4f_branch2c", "bn4f_branch2c")
    assert ours["resnet"]["conv4_23_3x3"] == ("res4b22_branch2b", "bn4b22_branch2b")
    assert ours["resnet152"]["conv3_8_reduce"] == ("res3b7_branch2a", "bn3b7_branch2a")
    assert ours["resnet"]["conv3_1_project"] == ("res3a_branch1", "bn3a_branch1")
    assert ours["resnet"]["conv5_3_expand"] == ("res5c_branch2c", "bn5c_branch2c")


@pytest.mark.parametrize("deviation", [0.0, -1.0])
def test_a_deviation_that_is_not_positive(narrow, write, tmp_path, deviation):
    params = dict(dagnn_params("resnet50", resnet("resnet50")))
    params["bn3d_branch2b_moments"][1, 1] = deviation
    write(tmp_path / "resnet.mat", files.dagnn_struct(list(params.items())))
    with pytest.raises(ValueError, match=r"batch norms whose variance is positive, found others at conv3_4_3x3"):
        weights.read(tmp_path / "resnet.mat")


def test_moments_of_another_shape(narrow, write, tmp_path):
    params = dict(dagnn_params("resnet50", resnet("resnet50")))
    params["bn3d_branch2b_moments"] = params["bn3d_branch2b_moments"].T
    del params["bn2a_branch1_mult"]
    write(tmp_path / "resnet.mat", files.dagnn_struct(list(params.items())))
    text = r"missing: bn2a_branch1_mult; of the wrong shape: bn3d_branch2b_moments \(found 2x3, expected 3x2\)"
    with pytest.raises(ValueError, match=text):
        weights.read(tmp_path / "resnet.mat")
    with pytest.raises(ValueError, match=r"expected ResNet-101, found what looks like ResNet-50 \(MatConvNet DagNN\)"):
        weights.read(tmp_path / "resnet.mat", "resnet")


# ---- FCSS -----------------------------------------------------------------------------------------------------------


def patterns(pairs):
    rng = np.random.default_rng(3)
    return [
        {
            "u": rng.standard_normal((pairs, 2), np.float32),
            "v": rng.standard_normal((pairs, 2), np.float32),
            "bandwidth": rng.uniform(0.1, 1, 1).astype(np.float32),
        }
        for _ in range(3)
    ]


@pytest.mark.parametrize(("version", "pairs"), [("v7", 64), ("v7.3", 2)])
def test_fcss(narrow, monkeypatch, version, tmp_path, pairs):
    write = WRITERS[version]
    few = shapes("fcss")
    few |= {layer: few[layer] | {"u": (pairs, 2), "v": (pairs, 2)} for layer in few if layer.startswith("pattern")}
    monkeypatch.setattr(
        "rtn_jax.weights.architectures.full_weight_shapes", lambda name: few if name == "fcss" else shapes(name)
    )
    tree, drawn = vgg("fcss"), patterns(pairs)
    write(tmp_path / "fcss.mat", files.dagnn(fcss_params(tree, drawn)[::-1]))
    expected = tree | {f"pattern{level}": pattern for level, pattern in enumerate(drawn, start=1)}
    assert list(expected) == list(few)
    for backbone in (None, "fcss"):
        contents = weights.read(tmp_path / "fcss.mat", backbone)
        assert_same_layers(contents.layers, expected)
    assert (contents.format, contents.backbone, contents.ignored) == ("FCSS of its authors", "fcss", ())
    assert contents.settings == {"pixel_mean": (123.680, 116.779, 103.939)}
    with pytest.raises(ValueError, match="expected VGG-19, found what looks like FCSS"):
        weights.read(tmp_path / "fcss.mat", "vgg")


def test_dx_of_fcss_is_the_vertical_shift(narrow, write, tmp_path):
    """From the authors' program: dx is added to the row, dy to the column."""
    params = dict(fcss_params(vgg("fcss"), patterns(2)))
    for name, value in {"sf_s_dx01": 1, "sf_s_dy01": 2, "sf_t_dx02": 3, "sf_t_dy02": 4}.items():
        params[f"{name}_level2"] = np.full((1, 1), value, np.float64)
    write(tmp_path / "fcss.mat", files.dagnn(list(params.items())))
    pattern = weights.read(tmp_path / "fcss.mat").layers["pattern2"]
    np.testing.assert_array_equal(pattern["u"][0], [2, 1])  # (x, y)
    np.testing.assert_array_equal(pattern["v"][1], [4, 3])


def test_fcss_with_a_pair_too_few(narrow, write, tmp_path):
    params = dict(fcss_params(vgg("fcss"), patterns(2)))
    del params["sf_t_dy02_level3"]
    params["lambda1"] = np.ones((1, 2))
    write(tmp_path / "fcss.mat", files.dagnn(list(params.items())))
    text = r"not those of FCSS .*; missing: sf_t_dy02_level3; of the wrong shape: lambda1 \(found 2, expected 1\)"
    with pytest.raises(ValueError, match=text):
        weights.read(tmp_path / "fcss.mat")


@pytest.mark.parametrize("backbone", ["fcss", "cat-fcss"])
def test_descriptors_take_the_first_convolutions_of_vgg_19(narrow, write, tmp_path, backbone):
    tree = vgg()
    write(tmp_path / "vgg.mat", files.simplenn(simplenn_weights(tree)))
    contents = weights.read(tmp_path / "vgg.mat", backbone)
    assert contents.backbone == backbone
    assert_same_layers(contents.layers, {layer: tree[layer] for layer in list(tree)[:8]})
    assert list(contents.layers)[-1] == "conv3_4"
    assert contents.used == 16 and contents.ignored[:2] == ("conv4_1 kernel", "conv4_1 bias")


def test_cat_fcss_takes_the_patterns_of_fcss(narrow, write, tmp_path):
    write(tmp_path / "fcss.mat", files.dagnn(fcss_params(vgg("fcss"), patterns(2))))
    contents = weights.read(tmp_path / "fcss.mat", "cat-fcss")
    assert list(contents.layers) == list(shapes("fcss"))
