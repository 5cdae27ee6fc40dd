"""`python -m rtn_jax weights`: what it says, and mistakes in one line."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

import rtn_jax.__main__ as main_module
from rtn_jax import weights
from rtn_jax.commands import run
from rtn_jax.weights import assets, command, fetch
from rtn_jax.weights.architectures import TITLES
from tests.weights.narrow import assert_same_layers, keras_vgg, torch_file, use_narrow, vgg, write_h5


@pytest.fixture(autouse=True)
def _narrow(monkeypatch, tmp_path):
    """Networks of a few channels, a cache of its own, and no source that answers."""
    use_narrow(monkeypatch)
    monkeypatch.setenv("RTN_JAX_CACHE", str(tmp_path / "cache"))

    def nobody(asset, output, temporary, bar):
        raise ValueError("nobody answers")

    monkeypatch.setattr(fetch, "_from_address", nobody)
    monkeypatch.setattr(fetch, "_from_package_index", nobody)


@pytest.fixture
def keras_file(tmp_path):
    return write_h5(tmp_path / "vgg.h5", keras_vgg(vgg()))


def said(capsys, *arguments):
    """The lines of a command that succeeds, as `python -m rtn_jax` runs it."""
    config, action = main_module.command("weights")
    run("rtn_jax weights", config, action, [str(argument) for argument in arguments])
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments):
    """The one line a mistake is answered with."""
    with pytest.raises(SystemExit) as end:
        said(capsys, *arguments)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ""
    (line,) = err.strip().splitlines()
    assert line.startswith("rtn_jax weights: error: ")
    return line


def rows(lines):
    return {line[:12].strip(): line[12:].strip() for line in lines if line.startswith("  ")}


def test_list_names_every_file_and_whether_it_is_there(capsys, tmp_path):
    lines = said(capsys, "list")
    assert [line for line in lines if line and not line.startswith(" ")] == [
        f"{asset.backbone}: {TITLES[asset.backbone]}" for asset in assets.ASSETS
    ]
    words = "\n".join(lines)
    for asset in assets.ASSETS:
        for fact in (asset.url, asset.licence, f"{asset.size:,} bytes", " ".join(asset.digest)):
            assert " ".join(fact.split()) in " ".join(words.split())
    assert words.count("not there") == len(assets.ASSETS)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / assets.VGG19.name).write_bytes(b"half")
    with (tmp_path / "cache" / assets.VGG16.name).open("wb") as file:
        file.truncate(assets.VGG16.size)
    states = [line for line in said(capsys, "list") if line.startswith("  cache")]
    assert states[0].endswith(f"{assets.VGG19.name}: 4 bytes, not the published file")
    assert states[1].endswith(str(tmp_path / "cache" / assets.VGG16.name))


def test_fetch_says_where_the_file_is(capsys, monkeypatch, tmp_path):
    content = b"weights"
    small = dataclasses.replace(
        assets.VGG16, size=len(content), md5=hashlib.md5(content).hexdigest(), name="small.h5", index=None
    )
    monkeypatch.setitem(assets.PUBLISHED, "vgg16", small)
    monkeypatch.setattr(fetch, "_from_address", lambda asset, output, temporary, bar: output.write(content))
    digest = hashlib.sha256(content).hexdigest()
    assert said(capsys, "fetch", "vgg16") == [str(tmp_path / "cache" / "small.h5"), f"sha256 {digest}"]


def test_verify(capsys, keras_file, monkeypatch):
    found = rows(said(capsys, "verify", keras_file, "--backbone=vgg"))
    assert found["format"] == "Keras HDF5" and found["backbone"] == "vgg (VGG-19)"
    assert found["arrays"] == "32 used, 0 ignored" and found["layers"] == "16, conv1_1 to conv5_4"
    assert found["numbers"] == f"{sum(array.size for layer in vgg().values() for array in layer.values()):,}"
    assert found["sha256"] == hashlib.sha256(keras_file.read_bytes()).hexdigest()
    assert found["settings"] == "pixel_mean (123.68, 116.779, 103.939)"
    assert found["published"] == "no file that rtn_jax knows"
    content = keras_file.read_bytes()
    known = dataclasses.replace(assets.VGG16, size=len(content), md5=hashlib.md5(content).hexdigest())
    monkeypatch.setattr(command, "ASSETS", (known,))
    assert rows(said(capsys, "verify", keras_file))["published"] == f"{known.name} ({known.url})"


def test_convert(capsys, tmp_path):
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    torch_file(theirs, "resnet50")
    assert said(capsys, "convert", theirs, ours) == [str(ours)]
    assert_same_layers(weights.read(ours).layers, weights.read(theirs).layers)
    found = rows(said(capsys, "verify", ours))
    assert found["format"] == "rtn_jax safetensors" and found["arrays"] == "159 used, 0 ignored"


def test_mistakes_are_one_line(capsys, keras_file, tmp_path):
    (tmp_path / "words.h5").write_text("not weights")
    (tmp_path / "cut.h5").write_bytes(keras_file.read_bytes()[:1000])
    (tmp_path / "net.pth").write_bytes(b"\x80\x02}q\x00.")
    for arguments, message in [
        ([], "Expected one of {list, fetch, verify, convert}"),
        (["lst"], "lst"),
        (["fetch"], "Missing"),
        (["fetch", "alexnet"], "'alexnet'"),
        (["fetch", "resnet"], "no source of resnet101_weights"),
        (["verify", tmp_path / "none.h5"], "none.h5: no such file"),
        (["verify", tmp_path / "words.h5"], "expected a Keras HDF5 file (.h5), a safetensors file"),
        (["verify", tmp_path / "cut.h5"], "truncated or damaged"),
        (["verify", tmp_path / "net.pth"], "looks like a pickle"),
        (["verify", keras_file, "--backbone=resnet"], "expected ResNet-101, found what looks like VGG-19"),
        (["convert", keras_file], "Missing"),
        (["convert", keras_file, tmp_path / "out.h5"], "expected a name that ends in .safetensors"),
        (["convert", keras_file, "/no/folder/out.safetensors"], "/no/folder"),
        (["convert", tmp_path / "cut.h5", tmp_path / "out.safetensors"], "truncated or damaged"),
    ]:
        assert message in refused(capsys, *arguments)
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command_is_listed(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["rtn_jax"])
    main_module.main()
    assert "weights  Lists, fetches, verifies and converts files" in capsys.readouterr().out
