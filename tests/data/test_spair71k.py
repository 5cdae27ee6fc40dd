"""The SPair-71k reader on a tiny data set in the published layout, and on damaged copies of it."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from rtn_jax.data.spair71k import spair71k

SHAPES = {"cat/2008_000001": (20, 30), "cat/2008_000002": (24, 16), "bus/2009_000003": (40, 50), "bus/2010_4": (18, 36)}
PAIRS = (
    ("trn", "000001-2008_000002-2008_000001:cat"),
    ("test", "000001-2008_000001-2008_000002:cat"),
    ("test", "7-2008_000002-2008_000001:cat"),
    ("test", "000013-2009_000003-2010_4:bus"),
)


def keypoints(image):
    """Whole pixels, from the first one to the last."""
    height, width = SHAPES[image]
    return [[0, 0], [width - 1, height - 1], [width // 2, 3]]


def box(image):
    height, width = SHAPES[image]
    return [1, 2, width - 3, height - 1]


def annotation(name):
    names, category = name.split(":")
    _, src, trg = names.split("-")
    content = {"pair_id": 3, "filename": name, "category": category, "mirror": 0, "kps_ids": ["0", "4", "9"]}
    for side, image in (("src", src), ("trg", trg)):
        height, width = SHAPES[f"{category}/{image}"]
        content[f"{side}_imname"] = f"{image}.jpg"
        content[f"{side}_imsize"] = [width, height, 3]
        content[f"{side}_kps"] = keypoints(f"{category}/{image}")
        content[f"{side}_bndbox"] = box(f"{category}/{image}")
        content[f"{side}_pose"] = "Unspecified"
    return content


@pytest.fixture
def folder(tmp_path):
    """Four images of two classes, three test pairs and one to train on."""
    top = tmp_path / "SPair-71k"
    for image, (height, width) in SHAPES.items():
        path = top / "JPEGImages" / f"{image}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(path)
    (top / "Layout" / "large").mkdir(parents=True)
    for split in ("trn", "test"):
        names = [name for where, name in PAIRS if where == split]
        (top / "Layout" / "large" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        (top / "PairAnnotation" / split).mkdir(parents=True)
        for name in names:
            (top / "PairAnnotation" / split / f"{name}.json").write_text(json.dumps(annotation(name)))
    return tmp_path


def test_reads_the_published_layout(folder):
    benchmark = spair71k(folder)
    assert (benchmark.name, benchmark.protocol, benchmark.left_out) == ("SPair-71k", "keypoints", ())
    assert (benchmark.thresholds, benchmark.alphas) == (("bbox",), (0.05, 0.10, 0.15))
    assert [pair.id for pair in benchmark.pairs] == [
        *("cat/2008_000001-2008_000002", "cat/2008_000002-2008_000001", "bus/2009_000003-2010_4")
    ]
    pair = benchmark.pairs[2]
    assert (pair.src, pair.tgt, pair.category) == ("bus/2009_000003.jpg", "bus/2010_4.jpg", "bus")
    # 0-based as distributed: nothing is subtracted.
    np.testing.assert_array_equal(pair.src_points, [[0, 0], [49, 39], [25, 3]])
    np.testing.assert_array_equal(pair.tgt_points, [[0, 0], [35, 17], [18, 3]])
    np.testing.assert_array_equal(pair.src_box, [1, 2, 47, 39])
    np.testing.assert_array_equal(pair.tgt_box, [1, 2, 33, 17])


def test_reads_images_when_asked(folder):
    benchmark = spair71k(folder)
    assert benchmark.files.image("bus/2010_4.jpg").shape == (18, 36, 3)
    assert benchmark.files.shape("cat/2008_000001.jpg") == (20, 30)
    path = folder / "SPair-71k" / "JPEGImages" / "bus" / "2010_4.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    assert len(spair71k(folder).pairs) == 3
    with pytest.raises(ValueError, match=r"2010_4\.jpg: damaged picture"):
        benchmark.files.image("bus/2010_4.jpg")


def test_every_split_has_its_list(folder):
    assert [pair.id for pair in spair71k(folder, split="trn").pairs] == ["cat/2008_000002-2008_000001"]
    with pytest.raises(ValueError, match=r"large/val\.txt: cannot be read"):
        spair71k(folder, split="val")
    with pytest.raises(ValueError, match=r"^split: SPair-71k has trn, val, test, got 'train'"):
        spair71k(folder, split="train")


def test_survives_a_pickle(folder):
    copy = pickle.loads(pickle.dumps(spair71k(folder)))
    assert copy.files.image(copy.pairs[0].src).shape == (20, 30, 3)


def test_takes_the_inner_folder_and_other_ends_of_lines(folder):
    path = folder / "SPair-71k" / "Layout" / "large" / "test.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b" \r\n\r\n"))
    assert len(spair71k(folder / "SPair-71k").pairs) == len(spair71k(str(folder)).pairs) == 3


def test_names_what_it_looked_for(folder, tmp_path):
    inside = folder / "SPair-71k" / "JPEGImages"
    with pytest.raises(ValueError, match=r"^data_dir: SPair-71k needs the folder 'SPair-71k', not found: ") as caught:
        spair71k(inside)
    assert str(inside / "SPair-71k") in str(caught.value)
    with pytest.raises(ValueError, match=r"nowhere does not exist, expected a folder that holds SPair-71k"):
        spair71k(tmp_path / "nowhere")


def change_list(folder, content):
    (folder / "SPair-71k" / "Layout" / "large" / "test.txt").write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_names_an_empty_list(folder, content):
    change_list(folder, content)
    with pytest.raises(ValueError, match=r"test\.txt: expected at least one line"):
        spair71k(folder)


@pytest.mark.parametrize(
    "line",
    [
        *("2008_000001-2008_000002:cat", "1-2008_000001:cat", "1-2008_000001-2008_000002", "1-a-b:../cat"),
        *("1-a-b:cat.json-", "x-2008_000001-2008_000002:cat", "1-..\\a-b:cat", "1-a-b:cat:dog"),
    ],
)
def test_names_a_line_that_is_no_pair(folder, line):
    change_list(folder, f"{PAIRS[1][1]}\n{line}\n".encode())
    with pytest.raises(ValueError, match=r"test\.txt line 2: expected a pair as <number>-<source>-<target>:<class>"):
        spair71k(folder)
    assert len(spair71k(folder, skip_bad=True).pairs) == 1


def test_names_a_pair_without_annotation(folder):
    """Of a class, or of a pair, that is not there."""
    for name in ("1-2008_000001-2008_000002:unicorn", "99-2008_000001-2008_000002:cat"):
        change_list(folder, f"{PAIRS[1][1]}\n{name}\n".encode())
        with pytest.raises(ValueError, match=rf"line 2: .*test/{name}\.json: cannot be read, No such file"):
            spair71k(folder)


def test_a_pair_that_is_listed_twice_counts_twice(folder):
    change_list(folder, f"{PAIRS[1][1]}\n{PAIRS[1][1]}\n".encode())
    ids = [pair.id for pair in spair71k(folder).pairs]
    assert ids == ["cat/2008_000001-2008_000002", "cat/2008_000001-2008_000002-2"]


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda path: path.unlink(), r"2008_000002\.jpg: no such file"),
        (lambda path: path.write_bytes(b""), r"2008_000002\.jpg: the file is empty"),
        (lambda path: path.write_bytes(b"no picture"), r"2008_000002\.jpg: not a picture"),
    ],
)
def test_names_a_listed_image_that_is_missing(folder, damage, match):
    damage(folder / "SPair-71k" / "JPEGImages" / "cat" / "2008_000002.jpg")
    with pytest.raises(ValueError, match=match) as caught:
        spair71k(folder)
    assert "test.txt line 1: " in str(caught.value)
    benchmark = spair71k(folder, skip_bad=True)
    assert [pair.category for pair in benchmark.pairs] == ["bus"]
    assert [line.split(": ")[0].split()[-1] for line in benchmark.left_out] == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"expected a JSON object, got ''"),
        (b'{"category": "cat", ', r"expected a JSON object, got"),
        (b"[1, 2]", r"expected a JSON object, got '\[1, 2\]'"),
        (b"\xff\xfe{}", r"cannot be read as text"),
        (b"{}", r"expected the keys .*, src_imname, trg_imname, category, .*trg_bndbox not found"),
    ],
)
def test_names_broken_json(folder, content, match):
    path = folder / "SPair-71k" / "PairAnnotation" / "test" / f"{PAIRS[2][1]}.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        spair71k(folder)
    assert f"test.txt line 2: {path}: " in str(caught.value)
    benchmark = spair71k(folder, skip_bad=True)
    assert len(benchmark.pairs) == 2
    assert benchmark.left_out == (str(caught.value),)


KEYS = ("src_imname", "trg_imname", "category", "src_kps", "trg_kps", "src_bndbox", "trg_bndbox")


@pytest.mark.parametrize("key", KEYS)
def test_names_a_missing_key(folder, key):
    edit(folder, lambda content: content.pop(key))
    with pytest.raises(ValueError, match=rf"line 3: .*:bus\.json: expected the keys .*, {key} not found$"):
        spair71k(folder)


@pytest.mark.parametrize("key", ["src_imsize", "trg_imsize", "pair_id", "filename", "mirror", "kps_ids"])
def test_needs_no_other_key(folder, key):
    edit(folder, lambda content: content.pop(key))
    assert len(spair71k(folder).pairs) == 3


def edit(folder, change):
    """Changes the annotation of the third pair, images of 50 x 40 and 36 x 18 pixels."""
    path = folder / "SPair-71k" / "PairAnnotation" / "test" / f"{PAIRS[3][1]}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("category", "cat", r"category: expected 'bus' as in the list, got 'cat'"),
        ("src_imname", "2010_4.jpg", r"src_imname: expected '2009_000003\.jpg' as in the list, got '2010_4\.jpg'"),
        ("trg_imname", 4, r"trg_imname: expected '2010_4\.jpg' as in the list, got 4"),
        ("src_kps", [], r"src_kps: expected finite numbers \[n, 2\], got \[\]"),
        ("src_kps", [[1, 2, 3]], r"src_kps: expected finite numbers \[n, 2\]"),
        ("src_kps", [[1, 2], [3]], r"src_kps: expected finite numbers \[n, 2\]"),
        ("src_kps", [[1, None]], r"src_kps: expected finite numbers \[n, 2\]"),
        ("trg_kps", [["1", "2"]], r"trg_kps: expected finite numbers \[n, 2\]"),
        ("trg_kps", [[1, 2], [float("nan"), 3]], r"trg_kps: expected finite numbers \[n, 2\], got .*nan"),
        ("trg_kps", [[1, 2], [float("inf"), 3]], r"trg_kps: expected finite numbers"),
        ("trg_kps", None, r"trg_kps: expected finite numbers \[n, 2\], got None"),
        ("trg_kps", {"0": [1, 2]}, r"trg_kps: expected finite numbers"),
        ("trg_kps", [[1, 2], [3, 4]], r"tgt_points .*: expected as many as src_points, 3, got 2"),
        ("src_kps", [[1, 2], [3, 4], [53, 4]], r"src_kps: keypoint 3 at \(53, 4\) lies outside the image of 50 x 40"),
        ("trg_kps", [[1, 2], [3, 22], [3, 4]], r"trg_kps: keypoint 2 at \(3, 22\) lies outside the image of 36 x 18"),
        ("src_bndbox", [1, 2, 3], r"src_bndbox: expected finite numbers \[4\]"),
        ("trg_bndbox", [1, 2, 3, float("nan")], r"trg_bndbox: expected finite numbers \[4\]"),
        ("trg_bndbox", [9, 2, 9, 12], r"tgt_box .*: expected \(left, top, right, bottom\)"),
        (
            "trg_bndbox",
            [0, 0, 1e6, 1e6],
            r"trg_bndbox: corner 2 at \(1e\+06, 1e\+06\) lies outside the image of 36 x 18",
        ),
        ("src_bndbox", [-5, 2, 9, 12], r"src_bndbox: corner 1 at \(-5, 2\) lies outside the image of 50 x 40"),
        ("trg_bndbox", "all", r"trg_bndbox: expected finite numbers \[4\], got all"),
        ("src_imsize", [40, 50, 3], r"src_imsize: expected 50 x 40 as bus/2009_000003\.jpg has, got \[40, 50, 3\]"),
        ("trg_imsize", [36, 19, 3], r"trg_imsize: expected 36 x 18 as bus/2010_4\.jpg has"),
        ("trg_imsize", 36, r"trg_imsize: expected 36 x 18"),
    ],
)
def test_names_a_bad_annotation(folder, unchecked, key, value, match):
    edit(folder, lambda content: content.update({key: value}))
    with pytest.raises(ValueError, match=match) as caught:
        spair71k(folder)
    place = f"test.txt line 3: {folder / 'SPair-71k' / 'PairAnnotation' / 'test' / PAIRS[3][1]}.json: "
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)
    benchmark = spair71k(folder, skip_bad=True)
    assert [pair.category for pair in benchmark.pairs] == ["cat", "cat"]
    assert benchmark.left_out == (str(caught.value),)


def test_keypoints_may_lie_a_little_beyond_the_border(folder):
    edit(folder, lambda content: content["src_kps"].__setitem__(0, [51.9, -2.9]))
    np.testing.assert_array_equal(spair71k(folder).pairs[2].src_points[0], [51.9, -2.9])
