"""The exported network: a file that runs where there is no rtn_jax, with the numbers of `apply`."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import jax
import jaxtyping
import numpy as np
import pytest
from jax import export as jax_export

import rtn_jax
from rtn_jax import Config, Level, Output, artefact
from tests.networks import moving_params, photos

HEIGHT, WIDTH = 40, 56  # of the images; the network's own size is another

WITHOUT_THE_LIBRARY = """
import sys
sys.modules["rtn_jax"] = None  # importing it fails
import jax, jax.export, numpy as np
network = jax.export.deserialize(bytearray(open("network.stablehlo", "rb").read()))
given, found = np.load("given.npz"), {}
for n in (1, 2):
    out = network.call(given["src"][:n], given["tgt"][:n])
    assert type(out) is dict and type(out["history"]) is list
    for path, leaf in jax.tree_util.tree_leaves_with_path(out):
        found[f"{n}/{jax.tree_util.keystr(path, simple=True, separator='/')}"] = np.asarray(leaf)
np.savez("found.npz", **found)
"""


@pytest.fixture(autouse=True, scope="module")
def unchecked_signatures():
    """A batch that is not known yet is no `int` to the checker of signatures."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def params():
    levels = Level(layer="conv3_1", iterations=1), Level(layer="conv2_1", iterations=1)
    return moving_params(Config(levels=levels, radius=1, image_size=32, geometry_width=4))


@pytest.fixture(scope="module")
def pairs():
    return photos(np.random.default_rng(3), 4, HEIGHT, WIDTH).reshape(2, 2, HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def exported(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "network.stablehlo"
    rtn_jax.export(params, (HEIGHT, WIDTH), path)
    assert [file.name for file in path.parent.iterdir()] == ["network.stablehlo"]
    return path


@pytest.fixture
def loaded(exported):
    return jax_export.deserialize(bytearray(exported.read_bytes()))


def test_the_file_alone_gives_the_numbers_of_apply_for_every_batch(params, pairs, exported):
    src, tgt = pairs
    np.savez(exported.parent / "given.npz", src=src, tgt=tgt)
    command = [sys.executable, "-c", WITHOUT_THE_LIBRARY]
    run = subprocess.run(command, cwd=exported.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = np.load(exported.parent / "found.npz")
    names = {field.name for field in dataclasses.fields(Output)} - {"history"} | {"history/0", "history/1"}
    assert set(found) == {f"{n}/{name}" for n in (1, 2) for name in names}
    out = artefact._as_dict(rtn_jax.apply(params, src, tgt))
    assert np.abs(out["flow"]).max() > 0.1, "a network that moves nothing shows nothing"
    for name in names:
        expected = out["history"][int(name[-1])] if "/" in name else out[name]
        first = expected[:, :1] if "/" in name else expected[:1]
        scale = WIDTH if name in ("mapping", "flow") else 1  # of values in pixels
        np.testing.assert_allclose(found[f"2/{name}"], expected, rtol=0, atol=1e-6 * scale, err_msg=name)
        np.testing.assert_allclose(found[f"1/{name}"], first, rtol=0, atol=1e-6 * scale, err_msg=name)


def test_a_network_that_begins_at_more_than_the_identity_and_ends_with_a_search(params, pairs, tmp_path):
    params = params.configure(starts=("identity", "consensus"), search=True)
    rtn_jax.export(params, (HEIGHT, WIDTH), tmp_path / "network.stablehlo")
    network = jax_export.deserialize(bytearray((tmp_path / "network.stablehlo").read_bytes()))
    for n in (1, 2):
        src, tgt = pairs[:, :n]
        expected, found = rtn_jax.apply(params, src, tgt), network.call(src, tgt)
        np.testing.assert_allclose(found["mapping"], expected.mapping, atol=1e-3)
        np.testing.assert_allclose(found["confidence"], expected.confidence, atol=1e-4)


def test_the_weights_are_in_the_file(params, exported):
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert size < exported.stat().st_size < size + 200_000


def test_what_the_file_takes_and_where_it_runs(loaded):
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    assert [str(image.dtype) for image in loaded.in_avals] == ["uint8", "uint8"]
    assert all(image.shape[1:] == (HEIGHT, WIDTH, 3) for image in loaded.in_avals)
    assert all(jax_export.is_symbolic_dim(image.shape[0]) for image in loaded.in_avals)


@pytest.mark.parametrize(
    "change",
    [
        lambda src, tgt: (src[:, :32], tgt[:, :32]),
        lambda src, tgt: (src, tgt[:1]),
        lambda src, tgt: (src.astype(np.float32), tgt.astype(np.float32)),
        lambda src, tgt: (src[0], tgt[0]),
    ],
    ids=["another size", "unequal batches", "floats", "without a batch"],
)
def test_the_file_refuses_other_images(loaded, pairs, change):
    with pytest.raises(ValueError):
        loaded.call(*change(*pairs))


@pytest.mark.parametrize("size", [0, 32.0, True, "32", (32,), (32, 32, 3), (32, 0), (32, None), None])
def test_sizes_that_are_none(params, tmp_path, size):
    with pytest.raises(ValueError, match=r"image_size: expected a number or \(height, width\), .*, got "):
        rtn_jax.export(params, size, tmp_path / "network")


@pytest.mark.parametrize(
    ("platforms", "message"),
    [
        (("cpu", "gpu"), r"expected a list of cpu, cuda, rocm, tpu, got \('cpu', 'gpu'\)"),
        ("cpu", "expected a list of cpu, cuda, rocm, tpu, got 'cpu'"),
        (("cuda",), r"expected cpu among them, where the file is checked, got \('cuda',\)"),
    ],
)
def test_platforms_that_cannot_be_written_or_checked(params, tmp_path, platforms, message):
    with pytest.raises(ValueError, match=message):
        rtn_jax.export(params, 32, tmp_path / "network", platforms=platforms)


def test_a_path_that_cannot_be_written_is_named_before_the_work(params, tmp_path, monkeypatch):
    monkeypatch.setattr(artefact, "_checked", lambda *_: pytest.fail("this takes a minute"))
    for path in (tmp_path / "missing" / "network", tmp_path):
        with pytest.raises(ValueError, match=f"{path}: cannot be written"):
            rtn_jax.export(params, 32, path)


@pytest.mark.parametrize("field", ["mapping", "history", None])
def test_a_program_with_other_numbers_is_never_written(params, exported, tmp_path, monkeypatch, field):
    def call(*images):
        out = artefact._as_dict(rtn_jax.apply(params, *images))
        return out if field is None else out | {field: jax.tree.map(lambda x: x + 0.01, out[field])}

    (tmp_path / "network").write_text("old")
    monkeypatch.setattr(artefact, "_serialized", lambda *_: bytearray(b"new"))
    monkeypatch.setattr(jax_export, "deserialize", lambda _: SimpleNamespace(call=call))
    if field is None:
        rtn_jax.export(params, (HEIGHT, WIDTH), tmp_path / "network")
    else:
        with pytest.raises(RuntimeError, match=f"gives other numbers than apply: {field} by up to 0.01$"):
            rtn_jax.export(params, (HEIGHT, WIDTH), tmp_path / "network")
    assert (tmp_path / "network").read_text() == ("new" if field is None else "old")
    assert len(list(tmp_path.iterdir())) == 1


def test_numbers_that_differ():
    expected = {"mapping": [100, 0, np.nan], "flow": [1, 0, np.nan], "history": [[0, np.inf], [0.5, 0]]}
    for changes, wrong in (
        ({"mapping": [100.0009, 0, np.nan], "flow": [1.0009, 0, np.nan], "history": [[9e-6, np.inf], [0.5, 0]]}, []),
        ({"mapping": [100.002, 0, np.nan]}, ["mapping by up to 0.002"]),
        ({"flow": [0.998, 0, np.nan]}, ["flow by up to 0.002"]),
        ({"history": [[0, np.inf], [0.5, 2e-5]]}, ["history by up to 2e-05"]),
        ({"mapping": [100, 0, 0]}, ["mapping by up to inf"]),
        ({"history": [[0, np.inf], [np.nan, 0]]}, ["history by up to inf"]),
    ):
        found, given = (
            {name: jax.tree.map(np.float32, value, is_leaf=is_numbers) for name, value in arrays.items()}
            for arrays in (expected | changes, expected)
        )
        assert artefact._differing(found, given, 1e-5) == wrong


def is_numbers(value):
    return isinstance(value, list) and not isinstance(value[0], list)


def test_where_convolutions_have_fewer_digits_so_has_the_comparison(params, monkeypatch):
    assert artefact._tolerance(params) == 1e-4
    assert artefact._tolerance(params.configure(compute_dtype="bfloat16")) == 5e-2
    monkeypatch.setattr(jax_export, "default_export_platform", lambda: "cuda")
    assert artefact._tolerance(params) == 5e-2
