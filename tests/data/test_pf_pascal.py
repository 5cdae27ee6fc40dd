"""The PF-PASCAL reader on a tiny data set in the published layout, and on damaged copies of it."""

from __future__ import annotations

import csv
import logging
import pickle
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from rtn_jax.data.pf_pascal import HEADER, TRAIN_HEADER, pf_pascal

SHAPES = {"2008_01": (30, 40), "2008_02": (50, 20), "2009_03": (24, 36), "2009_04": (33, 21)}
CATEGORIES = {"2008_01": "cat", "2008_02": "cat", "2009_03": "tvmonitor", "2009_04": "tvmonitor"}
NUMBERS = {"cat": "8", "tvmonitor": "20"}
TEST = (("2008_01", "2008_02"), ("2009_03", "2009_04"), ("2009_04", "2009_03"))
TRAIN = (("2008_02", "2008_01", 0), ("2008_02", "2008_01", 1), ("2008_01", "2008_02", 1), ("2008_02", "2008_01", 0))


def matlab_points(name):
    """`[5, 2]` points (x, y), 1-based."""
    height, width = SHAPES[name]
    return np.random.default_rng(height).uniform(1, [width, height], (5, 2))


def matlab_box(name):
    """Left, top, right, bottom, 1-based."""
    height, width = SHAPES[name]
    return np.array([[3, 4, width - 5, height]], np.uint16)


def columns(name):
    return [";".join(f"{number:.12f}" for number in numbers) for numbers in matlab_points(name).T]


def path_in_list(name):
    return f"PF-dataset-PASCAL/JPEGImages/{name}.jpg"


def listed_rows():
    """The list of test pairs."""
    rows = [list(HEADER)]
    for src, tgt in TEST:
        rows.append([path_in_list(src), path_in_list(tgt), NUMBERS[CATEGORIES[src]], *columns(src), *columns(tgt)])
    return rows


def train_rows(listed=TRAIN):
    return [
        list(TRAIN_HEADER),
        *([path_in_list(a), path_in_list(b), NUMBERS[CATEGORIES[a]], str(flip)] for a, b, flip in listed),
    ]


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def folder(tmp_path):
    """Four images of two classes: three test pairs, four training rows of one pair."""
    top = tmp_path / "PF-dataset-PASCAL"
    (top / "JPEGImages").mkdir(parents=True)
    for name, category in CATEGORIES.items():
        pixels = np.random.default_rng(0).integers(0, 256, (*SHAPES[name], 3), np.uint8)
        Image.fromarray(pixels).save(top / "JPEGImages" / f"{name}.jpg")
        (top / "Annotations" / category).mkdir(parents=True, exist_ok=True)
        content = {"kps": np.full((6, 2), np.nan), "bbox": matlab_box(name), "class": category}
        compressed = category == "cat"
        scipy.io.savemat(top / "Annotations" / category / f"{name}.mat", content, do_compression=compressed)
    write_rows(tmp_path / "test_pairs_pf_pascal.csv", listed_rows())
    write_rows(tmp_path / "val_pairs_pf_pascal.csv", listed_rows()[:2])
    write_rows(tmp_path / "train_pairs_pf_pascal.csv", train_rows())
    return tmp_path


def ours(box):
    return box[0].astype(float) - 1


def flipped(box, width):
    """A box on the mirrored image: the column x of a pixel becomes W - 1 - x."""
    left, top, right, bottom = ours(box)
    return [width - 1 - right, top, width - 1 - left, bottom]


def test_reads_the_published_layout(folder):
    benchmark = pf_pascal(folder)
    assert (benchmark.name, benchmark.protocol, benchmark.left_out) == ("PF-PASCAL", "keypoints", ())
    assert (benchmark.thresholds, benchmark.alphas) == (("img",), (0.05, 0.10, 0.15))
    ids = ["cat/2008_01-2008_02", "tvmonitor/2009_03-2009_04", "tvmonitor/2009_04-2009_03"]
    assert [pair.id for pair in benchmark.pairs] == ids
    pair = benchmark.pairs[0]
    names = ("JPEGImages/2008_01.jpg", "JPEGImages/2008_02.jpg", "cat")
    assert (pair.src, pair.tgt, pair.category) == names
    np.testing.assert_allclose(pair.src_points, matlab_points("2008_01") - 1, rtol=0, atol=1e-11)
    np.testing.assert_allclose(pair.tgt_points, matlab_points("2008_02") - 1, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(pair.src_box, ours(matlab_box("2008_01")))
    np.testing.assert_array_equal(pair.tgt_box, [2, 3, 14, 49])
    assert benchmark.files.image(pair.src).shape == (30, 40, 3)
    assert benchmark.replace(thresholds=("img", "bbox", "bbox-kp")).pairs == benchmark.pairs


def test_test_pairs_that_are_trained_on_are_marked_in_either_order(folder):
    assert [pair.leaked for pair in pf_pascal(folder).pairs] == [True, False, False]
    write_rows(folder / "train_pairs_pf_pascal.csv", train_rows([("2009_03", "2009_04", 0)]))
    assert [pair.leaked for pair in pf_pascal(folder).pairs] == [False, True, True]


def test_the_training_list_has_two_names_and_may_be_missing(folder, caplog):
    (folder / "train_pairs_pf_pascal.csv").rename(folder / "PF-dataset-PASCAL" / "trn_pairs_pf_pascal.csv")
    with caplog.at_level(logging.WARNING):
        assert [pair.leaked for pair in pf_pascal(folder).pairs] == [True, False, False]
    assert not caplog.records
    assert len(pf_pascal(folder, split="train").pairs) == 4
    (folder / "PF-dataset-PASCAL" / "trn_pairs_pf_pascal.csv").unlink()
    with caplog.at_level(logging.WARNING):
        assert [pair.leaked for pair in pf_pascal(folder).pairs] == [False, False, False]
    (record,) = caplog.records
    assert str(folder / "train_pairs_pf_pascal.csv") in record.getMessage()
    with pytest.raises(ValueError, match=r"list 'train_pairs_pf_pascal\.csv' or 'trn_pairs_pf_pascal\.csv', not found"):
        pf_pascal(folder, split="train")


def test_a_damaged_training_list_is_an_error(folder):
    write_rows(folder / "train_pairs_pf_pascal.csv", [*train_rows(), ["a.jpg"]])
    with pytest.raises(ValueError, match=r"train_pairs_pf_pascal\.csv line 6: expected 4 columns, got 1"):
        pf_pascal(folder)


def test_bad_rows_of_the_training_list_are_skipped_on_request_and_noted(folder):
    path = folder / "train_pairs_pf_pascal.csv"
    write_rows(path, [*train_rows(), ["a.jpg"]])
    benchmark = pf_pascal(folder, skip_bad=True)
    assert ([pair.leaked for pair in benchmark.pairs], benchmark.left_out) == ([True, False, False], ())
    reason = f"{path} line 6: expected 4 columns, got 1"
    assert benchmark.notes == (f"1 row of {path} is bad, leaks of that pair are unknown: {reason}",)
    write_rows(path, [*train_rows(), ["a.jpg"], ["b.jpg"]])
    unknown = f"2 rows of {path} are bad, leaks of those pairs are unknown, the first: {reason}"
    assert pf_pascal(folder, skip_bad=True).notes == (unknown,)


def test_splits(folder):
    assert [pair.id for pair in pf_pascal(folder, split="val").pairs] == ["cat/2008_01-2008_02"]
    with pytest.raises(ValueError, match=r"^split: PF-PASCAL has 'test', 'val', 'train', got 'dev'"):
        pf_pascal(folder, split="dev")


def test_classes_by_name_are_read_too(folder):
    rows = listed_rows()
    rows[1][2] = "cat"
    rows[2][0] = "JPEGImages/2009_03.jpg"
    write_rows(folder / "test_pairs_pf_pascal.csv", rows)
    assert [pair.category for pair in pf_pascal(folder).pairs] == ["cat", "tvmonitor", "tvmonitor"]


def test_training_rows_as_listed(folder):
    benchmark = pf_pascal(folder, split="train")
    assert (benchmark.protocol, benchmark.thresholds) == (None, ())
    ids = [f"cat/2008_0{pair}" for pair in ("2-2008_01", "2-2008_01-mirrored", "1-2008_02-mirrored", "2-2008_01-2")]
    assert [pair.id for pair in benchmark.pairs] == ids
    assert [pair.src_flipped for pair in benchmark.pairs] == [False, True, True, False]
    assert [pair.tgt_flipped for pair in benchmark.pairs] == [False, True, True, False]
    assert all(pair.src_points is None and not pair.leaked for pair in benchmark.pairs)
    first, second = matlab_box("2008_01"), matlab_box("2008_02")
    np.testing.assert_array_equal([pair.src_box for pair in benchmark.pairs[:2]], [ours(second), flipped(second, 20)])
    np.testing.assert_array_equal([pair.tgt_box for pair in benchmark.pairs[:2]], [ours(first), flipped(first, 40)])


@pytest.mark.parametrize(
    "listed",
    [
        TRAIN,
        [("2008_02", "2008_01", 0)],
        [("2008_02", "2008_01", 1), ("2008_01", "2008_02", 0)],
    ],
)
def test_four_copies_of_each_pair_however_it_is_listed(folder, listed):
    """Each training image pair as it is, mirrored, swapped, and both; repeated rows do not repeat copies."""
    write_rows(folder / "train_pairs_pf_pascal.csv", train_rows([*listed, ("2009_03", "2009_04", 0)]))
    pairs = pf_pascal(folder, split="train", copies=4).pairs
    assert [pair.id for pair in pairs[:4]] == [
        "cat/2008_02-2008_01",
        "cat/2008_02-2008_01-mirrored",
        "cat/2008_01-2008_02",
        "cat/2008_01-2008_02-mirrored",
    ]
    assert [pair.category for pair in pairs] == ["cat"] * 4 + ["tvmonitor"] * 4
    for pair in pairs:
        stems = [name.removeprefix("JPEGImages/").removesuffix(".jpg") for name in (pair.src, pair.tgt)]
        assert pair.id.removesuffix("-mirrored") == f"{pair.category}/{stems[0]}-{stems[1]}"
        assert pair.src_flipped == pair.tgt_flipped == pair.id.endswith("-mirrored")
        for stem, box in zip(stems, (pair.src_box, pair.tgt_box), strict=True):
            listed_box, width = matlab_box(stem), SHAPES[stem][1]
            np.testing.assert_array_equal(box, flipped(listed_box, width) if pair.src_flipped else ours(listed_box))


def test_copies_are_one_or_four_and_of_training_pairs(folder):
    for options in ({"copies": 2, "split": "train"}, {"copies": 4}, {"copies": 0}):
        with pytest.raises(
            ValueError, match=f"^copies: expected 1, or 4 for the split 'train', got {options['copies']}"
        ):
            pf_pascal(folder, **options)


def test_takes_the_inner_folder_and_lists_beside_or_inside_it(folder):
    inner = folder / "PF-dataset-PASCAL"
    assert len(pf_pascal(inner).pairs) == 3
    for split in ("test", "train"):
        name = f"{split}_pairs_pf_pascal.csv"
        shutil.move(folder / name, inner / name)
    for data_dir in (folder, inner, str(inner)):
        assert [pair.leaked for pair in pf_pascal(data_dir).pairs] == [True, False, False]


def test_names_what_it_looked_for(folder):
    inside = folder / "PF-dataset-PASCAL" / "JPEGImages"
    with pytest.raises(ValueError, match=r"^data_dir: .*folder 'PF-dataset-PASCAL', not found: ") as caught:
        pf_pascal(inside)
    assert str(inside / "PF-dataset-PASCAL") in str(caught.value)
    with pytest.raises(ValueError, match=r"none does not exist, expected a folder that holds PF-dataset-PASCAL"):
        pf_pascal(folder / "none")
    (folder / "val_pairs_pf_pascal.csv").unlink()
    with pytest.raises(ValueError, match=r"^data_dir: .*list 'val_pairs_pf_pascal\.csv', not found: "):
        pf_pascal(folder, split="val")


def test_survives_a_pickle(folder):
    copy = pickle.loads(pickle.dumps(pf_pascal(folder)))
    assert copy.files.image(copy.pairs[0].tgt).shape == (50, 20, 3)


def test_a_truncated_image_is_named_when_it_is_decoded(folder):
    path = folder / "PF-dataset-PASCAL" / "JPEGImages" / "2009_03.jpg"
    path.write_bytes(path.read_bytes()[:700])
    benchmark = pf_pascal(folder)
    with pytest.raises(ValueError, match=r"2009_03\.jpg: damaged picture"):
        benchmark.files.image("JPEGImages/2009_03.jpg")


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        (None, None, "expected 7 columns, got 6"),
        (2, "0", "class: expected 1 to 20 or the name of a PASCAL class, got '0'"),
        (2, "21", "class: expected 1 to 20 or the name of a PASCAL class, got '21'"),
        (2, "unicorn", "class: .* got 'unicorn'"),
        (2, "²", "class: .* got '²'"),
        (2, "7", r"Annotations/car/2009_03\.mat: no such file"),
        (3, "1;2;nan;4;5", "XA: expected a finite number, got 'nan'"),
        (4, "1;2;;4;5", "YA: expected a finite number, got ''"),
        (5, "1;2;3;4", "XA, YA, XB, YB: expected equally many numbers, got 5, 5, 4, 5"),
        (6, "1;2;3;4;36", r"2009_04\.jpg: keypoint 5 at \(.*, 35\) lies outside the image of 21 x 33 pixels"),
        (3, "1;2;-2;4;5", r"2009_03\.jpg: keypoint 3 at \(-3, .*\) lies outside the image of 36 x 24 pixels"),
        (0, "PF-dataset-PASCAL/JPEGImages/none.jpg", r"none\.jpg: no such file"),
        (0, "PF-dataset-PASCAL/JPEGImages/2009_03.png", r"expected an image as PF-dataset-PASCAL/JPEGImages/<id>\.jpg"),
        (0, "PF-dataset-PASCAL/../2009_03.jpg", r"expected an image as PF-dataset-PASCAL/JPEGImages/<id>\.jpg"),
        (1, "/PF-dataset-PASCAL/JPEGImages/2009_03.jpg", "expected an image as "),
        (1, "", "expected an image as .*, got ''"),
    ],
)
def test_bad_rows_are_named_or_left_out(folder, column, value, match):
    rows = listed_rows()
    if column is None:
        rows[2].pop()
    else:
        rows[2][column] = value
    write_rows(folder / "test_pairs_pf_pascal.csv", rows)
    with pytest.raises(ValueError, match=rf"test_pairs_pf_pascal\.csv line 3: .*{match}"):
        pf_pascal(folder)
    benchmark = pf_pascal(folder, skip_bad=True)
    assert [pair.src for pair in benchmark.pairs] == [f"JPEGImages/{rows[k][0][-11:]}" for k in (1, 3)]
    (reason,) = benchmark.left_out
    assert reason.startswith(f"{folder / 'test_pairs_pf_pascal.csv'} line 3: ")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"kps": np.zeros((3, 2))}, "expected a variable 'bbox', which is not there"),
        ({"bbox": np.zeros((4, 1))}, r"expected 'bbox' of \[n, 4\] numbers, got \[4, 1\]"),
        ({"bbox": np.array([[1.0, 2.0, np.nan, 4.0]])}, "expected finite numbers in 'bbox', got nan"),
        (
            {"bbox": np.array([[9, 2, 9, 4]])},
            r"expected 'bbox' as left, top, right, bottom, got \[9.0, 2.0, 9.0, 4.0\]",
        ),
        ({"bbox": np.array([[1, 2, 50, 4]])}, r"bbox: corner 2 at \(49, 3\) lies outside the image of 36 x 24 pixels"),
    ],
)
@pytest.mark.parametrize("split", ["test", "train"])
def test_a_bad_annotation_is_named(folder, content, match, split):
    write_rows(folder / "train_pairs_pf_pascal.csv", train_rows([*TRAIN[:1], ("2009_03", "2009_04", 0)]))
    path = folder / "PF-dataset-PASCAL" / "Annotations" / "tvmonitor" / "2009_03.mat"
    scipy.io.savemat(path, content)
    with pytest.raises(ValueError, match=rf"{split}_pairs_pf_pascal\.csv line 3: .*2009_03\.mat: .*{match}"):
        pf_pascal(folder, split=split)
    benchmark = pf_pascal(folder, split=split, skip_bad=True)
    assert (len(benchmark.pairs), len(benchmark.left_out)) == (1, 2 if split == "test" else 1)


def test_a_row_that_is_listed_twice_counts_twice(folder):
    write_rows(folder / "test_pairs_pf_pascal.csv", [*listed_rows(), listed_rows()[1]])
    ids = [pair.id for pair in pf_pascal(folder).pairs]
    assert (ids[0], ids[3]) == ("cat/2008_01-2008_02", "cat/2008_01-2008_02-2")


@pytest.mark.parametrize("flip", ["", "2", "yes"])
def test_a_bad_flip_is_named(folder, flip):
    write_rows(folder / "train_pairs_pf_pascal.csv", train_rows([("2008_01", "2008_02", flip)]))
    with pytest.raises(ValueError, match=rf"line 2: flip: expected 0 or 1, got '{flip}'"):
        pf_pascal(folder, split="train")
