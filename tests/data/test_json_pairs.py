"""Pairs of one's own: what is read is what was written, and every mistake names its line."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from rtn_jax.data.json_pairs import KEYS, convert_animals, json_pairs, write_json_pairs
from rtn_jax.data.pairs import Pair

SHAPES = {"a.png": (20, 30), "deep/b.jpg": (40, 25), "c.png": (10, 10)}
FULL = {
    "id": "my/pair",
    "src": "a.png",
    "tgt": "deep/b.jpg",
    "category": "cat",
    "subset": "easy",
    "src_points": [[0, 0], [10.25, 19], [29.5, 3]],
    "tgt_points": [[1, 2], [24, 39], [5e-1, 6]],
    "src_box": [0, 1, 29, 18.5],
    "tgt_box": [2, 3, 20, 30],
}
BARE = {"src": "deep/b.jpg", "tgt": "c.png", "src_points": [[3, 4]], "tgt_points": [[5, 6]]}


def without(row, *keys, **changes):
    return {key: value for key, value in {**row, **changes}.items() if key not in keys}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, shape in SHAPES.items():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def write(folder, *rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_home_folder_may_be_written_short(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    write(folder, FULL)
    assert json_pairs("~/pairs.jsonl").files.image("a.png").shape == (20, 30, 3)


def test_reads_all_that_a_line_may_hold(folder):
    benchmark = json_pairs(write(folder, FULL, BARE))
    assert (benchmark.name, benchmark.protocol, benchmark.left_out) == ("pairs", "keypoints", ())
    full, bare = benchmark.pairs
    for key in ("id", "src", "tgt", "category", "subset"):
        assert getattr(full, key) == FULL[key]
    for key in ("src_points", "tgt_points", "src_box", "tgt_box"):
        np.testing.assert_array_equal(getattr(full, key), FULL[key])
    assert (bare.id, bare.category, bare.subset, bare.src_box, bare.tgt_box) == ("b-c", "", "", None, None)
    assert benchmark.files.image(full.tgt).shape == (40, 25, 3)
    assert json_pairs(str(folder / "pairs.jsonl"), name="mine").name == "mine"
    assert pickle.loads(pickle.dumps(benchmark)).files.shape("c.png") == (10, 10)


def test_images_may_lie_elsewhere(folder, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("lists"), BARE)
    assert json_pairs(path, images=folder).files.shape("c.png") == (10, 10)
    with pytest.raises(ValueError, match=r"pairs\.jsonl line 1: .*deep/b\.jpg: no such file"):
        json_pairs(path)


def test_the_threshold_is_the_box_if_every_target_has_one(folder):
    assert json_pairs(write(folder, FULL)).thresholds == ("bbox",)
    assert json_pairs(write(folder, FULL, {**BARE, "tgt_box": [0, 0, 5, 5]})).thresholds == ("bbox",)
    assert json_pairs(write(folder, FULL, {**BARE, "src_box": [0, 0, 5, 5]})).thresholds == ("img",)


def test_pairs_to_train_on_need_no_points(folder):
    weak = without(FULL, "src_points", "tgt_points")
    path = write(folder, weak, BARE)
    with pytest.raises(ValueError, match=r"line 1: expected src_points and tgt_points, got neither"):
        json_pairs(path)
    benchmark = json_pairs(path, need_points=False)
    assert (benchmark.protocol, benchmark.thresholds) == (None, ())
    assert [pair.src_points is None for pair in benchmark.pairs] == [True, False]
    assert json_pairs(write(folder, FULL), need_points=False).protocol == "keypoints"


def test_the_same_two_images_may_be_paired_again(folder):
    rows = [BARE, BARE, without(BARE, id="b-c-3"), BARE]
    assert [pair.id for pair in json_pairs(write(folder, *rows)).pairs] == ["b-c", "b-c-2", "b-c-3", "b-c-4"]


def test_an_image_has_one_name(folder):
    benchmark = json_pairs(write(folder, BARE, without(BARE, src="./deep//b.jpg", id="x")))
    assert benchmark.images == ("deep/b.jpg", "c.png")


def test_a_damaged_image_is_named_when_it_is_decoded(folder):
    path = folder / "deep" / "b.jpg"
    path.write_bytes(path.read_bytes()[:650])
    benchmark = json_pairs(write(folder, BARE))
    with pytest.raises(ValueError, match=r"b\.jpg: damaged picture"):
        benchmark.files.image("deep/b.jpg")


BAD = {
    "unknown key": (without(BARE, colour="red"), "expected only the keys id, src, .*, got 'colour'"),
    "no object": ("[1, 2]", r"expected a JSON object, got '\[1, 2\]'"),
    "no json": ('{"src": ', "expected a JSON object, got"),
    "key twice": ('{"src": "a.png", "src": "c.png"}', "'src' is there twice"),
    "no source": (without(BARE, "src"), "src: expected a relative path, got None"),
    "number as image": (without(BARE, tgt=3), "tgt: expected a relative path, got 3"),
    "absolute": (without(BARE, tgt="/etc/c.png"), "tgt: expected a path that stays inside its folder"),
    "parent": (without(BARE, src="../a.png"), r"src: expected a path that stays inside its folder, got '\.\./a\.png'"),
    "missing image": (without(BARE, tgt="none.png"), r"none\.png: no such file"),
    "id outside": (without(BARE, id="../x"), "id: expected a path that stays inside its folder"),
    "empty id": (without(BARE, id=""), "id: expected a relative path, got ''"),
    "category outside": (without(BARE, category="/etc"), "id: expected a path that stays inside its folder"),
    "category no text": (without(BARE, category=3), "category: expected a text, got 3"),
    "subset no text": (without(BARE, subset=None), "subset: expected a text, got None"),
    "same id": (without(BARE, id="my/pair"), "id: expected every id once, got 'my/pair' again"),
    "one side": (without(BARE, "tgt_points"), "src_points, tgt_points .*: expected both or neither"),
    "counts": (without(BARE, tgt_points=[[1, 2], [3, 4]]), "tgt_points .*: expected as many as src_points, 1, got 2"),
    "no points": (without(BARE, src_points=[], tgt_points=[]), r"src_points .*: expected \[n, 2\] with n >= 1"),
    "flat": (without(BARE, src_points=[1, 2]), r"src_points: expected \[\[x, y\], \.\.\.\], got \[1, 2\]"),
    "three": (without(BARE, src_points=[[1, 2, 3]]), r"src_points: expected \[\[x, y\], \.\.\.\], got \[\[1, 2, 3\]\]"),
    "too deep": (without(BARE, src_points=[[[1], [2]]]), r"src_points: expected \[\[x, y\], \.\.\.\]"),
    "text": (without(BARE, src_points=[["1", "2"]]), r"src_points: expected \[\[x, y\], \.\.\.\]"),
    "truth": (without(BARE, src_points=[[True, False]]), r"src_points: expected \[\[x, y\], \.\.\.\]"),
    "null": (without(BARE, src_points=None), r"src_points: expected \[\[x, y\], \.\.\.\], got None"),
    "NaN": (without(BARE, src_points=[[float("nan"), 2]]), "src_points .*: expected finite numbers"),
    "infinite": (without(BARE, src_points=[[1e999, 2]]), "src_points .*: expected finite numbers"),
    "huge": (without(BARE, src_points=[[10**400, 2]]), "src_points: expected numbers"),
    "outside": (
        without(BARE, tgt_points=[[5, 12]]),
        r"tgt_points: keypoint 1 at \(5, 12\) lies outside the image of 10",
    ),
    "box of three": (
        without(BARE, src_box=[1, 2, 3]),
        r"src_box: expected \[left, top, right, bottom\], got \[1, 2, 3",
    ),
    "box reversed": (without(BARE, src_box=[5, 2, 3, 4]), r"src_box of 'b-c': expected \(left, top, right, bottom\)"),
    "box outside": (
        without(BARE, src_box=[0, 0, 60, 4]),
        r"src_box: corner 2 at \(60, 4\) lies outside the image of 25",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_named_or_left_out(folder, unchecked, case):
    row, match = BAD[case]
    path = write(folder, FULL, "", row, BARE)
    with pytest.raises(ValueError, match=rf"pairs\.jsonl line 3: .*{match}") as caught:
        json_pairs(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(folder), "")) < 250
    benchmark = json_pairs(path, skip_bad=True)
    assert [pair.id for pair in benchmark.pairs] == ["my/pair", "b-c"]  # a line left out takes no id
    (reason,) = benchmark.left_out
    assert reason == str(caught.value)


@pytest.mark.parametrize(("content", "match"), [(b"", "at least one line"), (b"\x89PNG\xff", "cannot be read")])
def test_a_file_that_is_none_is_named(folder, content, match):
    path = folder / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"pairs\.jsonl: .*{match}"):
        json_pairs(path)
    for wrong in (folder, folder / "none.jsonl"):
        with pytest.raises(ValueError, match=rf"{wrong.name}: cannot be read"):
            json_pairs(wrong)


# --- writing


def same(first, second):
    for key in KEYS:
        np.testing.assert_array_equal(getattr(first, key), getattr(second, key), err_msg=key)


def test_what_is_written_is_read_back_exactly(folder, rng):
    points = rng.uniform(0, 9, (2, 7, 2))
    pairs = [
        Pair(id="x/1", src="a.png", tgt="c.png", src_points=points[0], tgt_points=points[1], category="cät"),
        Pair(id="2", src="c.png", tgt="c.png", src_box=np.array([0.1, 1 / 3, 5, 6]), subset="part", leaked=True),
    ]
    write_json_pairs(folder / "out.jsonl", pairs)
    read = json_pairs(folder / "out.jsonl", need_points=False).pairs
    for first, second in zip(pairs, read, strict=True):
        same(first, second)
    lines = (folder / "out.jsonl").read_text().splitlines()
    assert list(json.loads(lines[1])) == ["id", "src", "tgt", "subset", "src_box"]  # nothing that says nothing


def test_pairs_that_cannot_be_written_leave_the_old_file(folder):
    path = write(folder, BARE)
    before = path.read_bytes()
    for flag in ("src_flipped", "tgt_flipped"):
        with pytest.raises(ValueError, match="expected images as they are stored, 'x' is of mirrored ones"):
            write_json_pairs(path, [Pair(id="x", src="a.png", tgt="c.png", **{flag: True})])
    with pytest.raises(ValueError, match="pairs: expected at least one, got none"):
        write_json_pairs(path, [])
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"none/out\.jsonl: cannot be written"):
        write_json_pairs(folder / "none" / "out.jsonl", json_pairs(path).pairs)
    assert sorted(file.name for file in folder.iterdir()) == ["a.png", "c.png", "deep", "pairs.jsonl"]


# --- the animal pairs' form

ENTRY = {
    "category": "cow",
    "src_image": "a.png",
    "src_bbox": [1.0, 2.0, 20.0, 18.0],
    "src_kps": [[3.0, 4.0], [5.5, 6.0]],
    "trg_image": "deep/b.jpg",
    "trg_bbox": [2.0, 3.0, 20.0, 30.0],
    "trg_kps": [[7.0, 8.0], [9.0, 10.25]],
}


def write_list(folder, *entries, indent=None):
    path = folder / "val_pairs.json"
    path.write_text(json.dumps(list(entries), indent=indent))
    return path


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_of_animal_pairs_is_read_and_converted(folder, indent):
    path = write_list(folder, ENTRY, {**ENTRY, "src_image": "c.png", "src_bbox": [0, 0, 9, 9]}, indent=indent)
    benchmark = json_pairs(path)
    assert (benchmark.name, benchmark.thresholds) == ("val_pairs", ("bbox",))
    assert [pair.id for pair in benchmark.pairs] == ["cow/a-b", "cow/c-b"]
    pair = benchmark.pairs[0]
    assert (pair.src, pair.tgt, pair.category) == ("a.png", "deep/b.jpg", "cow")
    np.testing.assert_array_equal(pair.src_points, ENTRY["src_kps"])
    np.testing.assert_array_equal(pair.tgt_points, ENTRY["trg_kps"])
    np.testing.assert_array_equal(pair.src_box, ENTRY["src_bbox"])
    np.testing.assert_array_equal(pair.tgt_box, ENTRY["trg_bbox"])
    (folder / "converted.jsonl").write_text(convert_animals(path))
    for first, second in zip(benchmark.pairs, json_pairs(folder / "converted.jsonl").pairs, strict=True):
        same(first, second)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (without(ENTRY, "trg_kps"), "expected an object with category, src_image, .*, got category"),
        (without(ENTRY, more=1), "expected an object with .*more"),
        ("text", "expected an object with .*, got 'text'"),
        (without(ENTRY, src_kps=[[3.0, 400.0], [5.5, 6.0]]), "keypoint 1 .* lies outside the image of 30 x 20 pixels"),
    ],
)
def test_bad_entries_of_a_list_are_named_or_left_out(folder, entry, match):
    path = write_list(folder, ENTRY, entry)
    with pytest.raises(ValueError, match=rf"val_pairs\.json pair 2: .*{match}"):
        json_pairs(path)
    benchmark = json_pairs(path, skip_bad=True)
    assert (len(benchmark.pairs), len(benchmark.left_out)) == (1, 1)


def test_converting_names_a_bad_entry(folder):
    with pytest.raises(ValueError, match=r"val_pairs\.json pair 2: expected an object with"):
        convert_animals(write_list(folder, ENTRY, {}))


@pytest.mark.parametrize("content", ["[", "[1,", "[]", '[{"a": 1, "a": 2}]'])
def test_a_list_that_is_none_is_named(folder, content):
    path = folder / "val_pairs.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"val_pairs\.json: expected a JSON list of pairs, got"):
        json_pairs(path)
    with pytest.raises(ValueError, match=r"val_pairs\.json: expected a JSON list of pairs, got"):
        convert_animals(path)


def test_the_real_animal_pairs(data_dir, tmp_path):
    path = data_dir / "animals" / "val_pairs.json"
    if not path.is_file():
        pytest.skip(f"no animal pairs in {data_dir}")
    benchmark = json_pairs(path)
    assert (len(benchmark.pairs), len(benchmark.images), benchmark.thresholds) == (469, 249, ("bbox",))
    assert {pair.category for pair in benchmark.pairs} == {"cat", "cow", "dog", "horse", "sheep"}
    write_json_pairs(tmp_path / "animals.jsonl", benchmark.pairs)
    again = json_pairs(tmp_path / "animals.jsonl", images=path.parent)
    for first, second in zip(benchmark.pairs, again.pairs, strict=True):
        same(first, second)
