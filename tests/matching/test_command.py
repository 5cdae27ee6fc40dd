"""`python -m rtn_jax match` as a user types it: every output of it in two processes, mistakes in this one."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import rtn_jax
from rtn_jax.commands import run
from rtn_jax.flow_files import read_flow
from rtn_jax.images import read_image, resize
from rtn_jax.matching.command import MatchConfig, match
from rtn_jax.pictures import pair_picture
from tests.networks import photos

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory, params):
    """A checkpoint, three photos, a mask and an edit of the first."""
    home = tmp_path_factory.mktemp("home")
    rtn_jax.save(home / "net", params)
    rng = np.random.default_rng(0)
    src = photos(rng, 1, 60, 90)[0]
    for name, photo in (("src.png", src), ("a.jpg", photos(rng, 1, 80, 50)[0]), ("b.webp", photos(rng, 1, 40, 40)[0])):
        Image.fromarray(photo).save(home / name)
    mask = np.zeros((60, 90), np.uint8)
    mask[20:40, 30:60] = 255
    Image.fromarray(mask).save(home / "mask.png")
    painted = src.copy()
    painted[20:40, 30:60] = 255, 0, 255
    Image.fromarray(painted).save(home / "painted.png")
    return home


def command(home, *arguments):
    own = {"RTN_JAX_CACHE": str(home / "cache"), "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "rtn_jax", "match", "src.png", *arguments, "--ckpt=net"],
        cwd=home,
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_several_targets_with_everything_that_can_be_written(home, params):
    asked = ["--out=found", "--flow=way.npy", "--gif=steps.gif", "--json=points.json", "--mask=mask.png"]
    done = command(home, "a.jpg", "b.webp", *asked, "--edit=painted.png", "--points=5")
    written = done.stdout.splitlines()
    kinds = ["{}.png", "way", "steps", "{}_mask.png", "{}_overlay.png", "{}_edit"]
    assert len(written) == 2 * len(kinds) + 1
    assert all((home / name).is_file() for name in written)
    assert re.search(r"a\.jpg: \d+ % of src\.png comes back within 4\.5 pixels", done.stderr), done.stderr
    for name, shape in (("a", (80, 50)), ("b", (40, 40))):
        assert min(read_image(home / "found" / f"{name}.png").shape[:2]) > 300
        flow = read_flow(home / f"way_{name}.npy")
        assert flow.shape == (60, 90, 2)
        mask = read_image(home / "found" / f"{name}_mask.png")
        assert mask.shape[:2] == shape
        assert set(np.unique(mask)) == {0, 255}
        with Image.open(home / "found" / f"{name}_mask.png") as picture:
            assert picture.mode == "L"
        edited = read_image(home / "found" / f"{name}_edit{'.jpg' if name == 'a' else '.webp'}").astype(int)
        tgt = read_image(home / ("a.jpg" if name == "a" else "b.webp")).astype(int)
        painted = (np.abs(edited - [255, 0, 255]) < 60).all(axis=-1)
        assert (painted == (mask[..., 0] > 0)).mean() > 0.9, "the same pixels were painted as the mask has"
        assert np.abs(edited - tgt)[mask[..., 0] == 0].mean() < 12  # compression
        with Image.open(home / f"steps_{name}.gif") as animation:
            assert animation.n_frames == 3
            assert animation.info["loop"] == 0
    record = json.loads((home / "points.json").read_text())
    assert record["source"] == {"file": "src.png", "width": 90, "height": 60}
    assert record["network"] == {"checkpoint": "net", "image_size": [32, 32], "iterations": [2]}
    assert [target["file"] for target in record["targets"]] == ["a.jpg", "b.webp"]
    shapes = ((60, 90), (80, 50))
    images = [read_image(home / name) for name in ("src.png", "a.jpg")]
    features = [rtn_jax.encode(params, resize(image, (32, 32))) for image in images]
    out = rtn_jax.match(params, *(f.of_image(shape) for f, shape in zip(features, shapes, strict=True)))
    for target in record["targets"]:
        points = target["points"]
        assert 3 <= len(points) <= 5
        for point in points:
            x, y = point["source"]
            assert 30 <= x < 60 and 20 <= y < 40, "on the mask"
            assert point["reliable"] == (point["confidence"] >= 0.5)
            assert point["inside"] == (-0.5 <= point["target"][0] <= target["width"] - 0.5
                                       and -0.5 <= point["target"][1] <= target["height"] - 0.5)  # fmt: skip
    starts = np.asarray([point["source"] for point in record["targets"][0]["points"]])
    ends = np.asarray([point["target"] for point in record["targets"][0]["points"]])
    np.testing.assert_allclose(ends, np.asarray(rtn_jax.transfer_keypoints(out, starts)), atol=1)
    assert np.abs(read_flow(home / "way_a.npy") - np.asarray(out.flow)[0]).mean() < 0.08, "see test_answer"


def test_one_target_with_given_points(home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    asked = ["--out=match.jpg", "--points=33,22 50.5,31", "--json=two.json", "--flow=way.flo"]
    run("rtn_jax match", MatchConfig, match, ["src.png", "a.jpg", "--ckpt=net", *asked])
    assert capsys.readouterr().out.splitlines() == ["match.jpg", "way.flo", "two.json"]
    record = json.loads((home / "two.json").read_text())
    assert [point["source"] for point in record["targets"][0]["points"]] == [[33, 22], [50.5, 31]]
    x, y = record["targets"][0]["points"][0]["target"]
    np.testing.assert_allclose(read_flow(home / "way.flo")[22, 33] + [33, 22], [x, y], atol=0.01)
    assert read_image(home / "match.jpg").std() > 20


def test_a_search_moves_the_points(home, monkeypatch):
    monkeypatch.chdir(home)
    ends = []
    for asked in ([], ["--search=True"]):
        options = ["--ckpt=net", "--points=33,22 50.5,31", "--json=found.json", "--out=found.png", *asked]
        run("rtn_jax match", MatchConfig, match, ["src.png", "a.jpg", *options])
        record = json.loads((home / "found.json").read_text())
        ends.append([point["target"] for point in record["targets"][0]["points"]])
    assert np.abs(np.subtract(*ends)).max() > 1


def test_a_target_that_faces_the_other_way(home, params, monkeypatch, caplog):
    """Of the source's own mirror image the mirror image is kept, of the source itself is not."""
    monkeypatch.chdir(home)
    still = jax.tree.map(np.zeros_like, params.weights["geometry"])
    rtn_jax.save("still", rtn_jax.Params(params.weights | {"geometry": still}, params.config))
    src = Image.open("src.png")
    src.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("mirrored.png")
    for target, asked, expected in (
        ("mirrored.png", ["--mirror_aware"], True),
        ("mirrored.png", [], False),
        ("src.png", ["--mirror_aware"], False),
    ):
        options = ["--ckpt=still", "--points=33,22 50.5,31", "--json=sides.json", "--out=sides.png", *asked]
        with caplog.at_level("INFO"):
            run("rtn_jax match", MatchConfig, match, ["src.png", target, *options])
        (record,) = json.loads(Path("sides.json").read_text())["targets"]
        assert record["mirrored"] is expected
        assert f"{target}{', mirrored' if expected else ''}: 100 %" in caplog.messages[-1]
        ends = [[89 - 33, 22], [89 - 50.5, 31]] if expected else [[33, 22], [50.5, 31]]
        np.testing.assert_allclose([point["target"] for point in record["points"]], ends, atol=1e-2)


def test_who_waits_for_long_is_told_why(home, monkeypatch, caplog):
    monkeypatch.chdir(home)
    asked = ["src.png", "a.jpg", "--ckpt=net", "--out=told.png"]
    with caplog.at_level("INFO"):
        monkeypatch.setattr("rtn_jax.matching.command._SLOW", 600.0)
        run("rtn_jax match", MatchConfig, match, asked)
        assert "still at work" not in caplog.text
        monkeypatch.setattr("rtn_jax.matching.command._SLOW", 0.0)
        run("rtn_jax match", MatchConfig, match, asked)
    assert caplog.text.count("still at work: the first start") == 1


def test_garbage_is_looked_for_before_and_after_only(monkeypatch):
    asked = []

    def load(path):
        asked.append(gc.isenabled())
        raise ValueError

    monkeypatch.setattr("rtn_jax.checkpoints.load", load)
    with pytest.raises(ValueError):
        match(MatchConfig(src=Path("a.png"), tgt=(Path("b.png"),)))
    assert asked == [False]
    assert gc.isenabled()


def test_mistakes_are_one_line_and_nothing_is_written(unchecked, capsys, home, monkeypatch):
    monkeypatch.chdir(home)
    Image.new("L", (10, 10), 255).save(home / "small.png")
    (home / "words.jpg").write_text("no picture")
    before = sorted(home.rglob("*"))
    ckpt = "--ckpt=net"
    for arguments, message in [
        ([], "missing|Missing"),
        (["src.png"], "tgt: missing, expected at least one photo"),
        (["src.png", "a.jpg", "none.jpg", ckpt], "none.jpg: no such file"),
        (["src.png", "a.jpg", "words.jpg", ckpt], "words.jpg: not a picture"),
        (["src.png", "a.jpg", ckpt, "--points=0"], "points: expected at least 1, got 0"),
        (["src.png", "a.jpg", ckpt, "--points=1,2,3"], "points: expected a number, or x,y of each point"),
        (["src.png", "a.jpg", ckpt, "--points=90,5"], "points: 90,5 is outside src.png, which has 90 x 60 pixels"),
        (["src.png", "a.jpg", ckpt, "--mask=small.png"], "small.png: expected the source's size, 90 x 60, got 10 x 10"),
        (["src.png", "a.jpg", ckpt, "--mask=none.png"], "none.png: no such file"),
        (["src.png", "a.jpg", ckpt, "--edit=small.png"], "small.png: expected the source's size"),
        (["src.png", "a.jpg", ckpt, "--edit=src.png"], "src.png: does not differ from src.png"),
        (["src.png", "a.jpg", ckpt, "--out=src.png"], "src.png: would overwrite what is read"),
        (["src.png", "a.jpg", ckpt, "--out=m.bmp"], "m.bmp: expected a name that ends in one of"),
        (["src.png", "a.jpg", ckpt, "--out=no/m.png"], "no/m.png: cannot be written"),
        (["src.png", "a.jpg", ckpt, "--flow=x.exr"], "x.exr: expected a name that ends in one of .flo, .npy"),
        (["src.png", "a.jpg", ckpt, "--gif=x.mp4"], "x.mp4: expected a name that ends in .gif"),
        (["src.png", "a.jpg", ckpt, "--json=x"], "x: expected a name that ends in .json"),
        (["src.png", "a.jpg", ckpt, "--tolerance=0"], "tolerance: expected a share above 0, got 0"),
        (["src.png", "a.jpg", ckpt, "--image_size=7"], "image_size"),
        (["src.png", "a.jpg", "--ckpt=none"], "none: no such checkpoint"),
    ]:
        with pytest.raises(SystemExit) as end:
            run("rtn_jax match", MatchConfig, match, arguments)
        lines = capsys.readouterr().err.strip().splitlines()
        assert (end.value.code, len(lines)) == (2, 1), (arguments, lines)
        assert lines[0].startswith("rtn_jax match: error: ")
        assert re.search(message, lines[0]), lines[0]
        assert sorted(home.rglob("*")) == before, arguments


def test_the_python_of_the_documentation_runs(tmp_path, params, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "matching.md").read_text(), re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    rtn_jax.save(tmp_path / "runs" / "vgg", params)
    for name, photo in zip(("cat.jpg", "lion.jpg"), photos(np.random.default_rng(0), 2), strict=True):
        Image.fromarray(photo).save(tmp_path / name)
    for block in blocks:
        exec(compile(block, "docs/matching.md", "exec"), {})
    src, tgt = (read_image(tmp_path / name) for name in ("cat.jpg", "lion.jpg"))
    np.testing.assert_array_equal(pair_picture(params, src, tgt), read_image(tmp_path / "match.png"))
    assert min(read_image(tmp_path / "frames.png").shape[:2]) > 300
