"""What `--data` may point at, and what is drawn from it."""

from __future__ import annotations

import collections
import json
import logging
import pickle
import re

import numpy as np
import pytest

from rtn_jax.data import sources
from rtn_jax.data.class_photos import class_folder, class_table
from rtn_jax.data.files import FolderFiles
from rtn_jax.data.pairs import Benchmark, Pair
from rtn_jax.data.photos import BUILTIN_HELD_OUT, BUILTIN_TRAIN
from rtn_jax.data.sources import pair_source, photo_source
from rtn_jax.images import save_image
from tests.networks import photos

HEADER = "image,class,xmin,ymin,xmax,ymax"


@pytest.fixture
def folder(tmp_path):
    """Six photos of 40 x 30 pixels: three cats, two dogs, and one at the top."""
    names = ["cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/2.png", "top.png"]
    for name, photo in zip(names, photos(np.random.default_rng(0), 6, 30, 40), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_image(tmp_path / name, photo)
    return tmp_path


def table(folder, *rows, header=HEADER):
    path = folder / "photos.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def draws(source, count=200):
    return [source.pair(0, np.random.default_rng(i)) for i in range(count)]


def test_builtin_photos_leave_out_those_for_validation():
    source = photo_source("builtin")
    assert source.names == BUILTIN_TRAIN
    assert not set(source.names) & set(BUILTIN_HELD_OUT)
    restored = pickle.loads(pickle.dumps(source))
    assert restored.files.image("coffee").shape == (400, 600, 3)
    with pytest.raises(ValueError, match="no classes"):
        pair_source("builtin")


def test_a_folder_gives_all_photos_and_pairs_within_its_folders(folder):
    assert photo_source(str(folder)).names == (
        *("cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/2.png", "top.png"),
    )
    source = pair_source(str(folder))
    assert len(source) == 5
    assert "2 classes" in source.about
    drawn = draws(source, 600)
    assert all(pair.src.split("/")[0] == pair.tgt.split("/")[0] == pair.category for pair in drawn)
    assert all(pair.src != pair.tgt for pair in drawn)
    counts = collections.Counter((pair.src, pair.tgt) for pair in drawn)
    assert len(counts) == 3 * 2 + 2 * 1
    by_class = collections.Counter(pair.category for pair in drawn)
    assert 240 < by_class["cat"] < 360, "classes are drawn evenly, however many photos they have"
    assert all(pair.src_flipped == pair.tgt_flipped for pair in drawn)
    assert 240 < sum(pair.src_flipped for pair in drawn) < 360
    assert all(pair.src_box is None for pair in drawn)


def test_a_draw_depends_on_its_generator_alone(folder):
    source = pickle.loads(pickle.dumps(pair_source(str(folder))))
    for first, second in zip(draws(source), draws(pair_source(str(folder))), strict=True):
        assert (first.id, first.src_flipped) == (second.id, second.src_flipped)


def test_the_clutter_of_caltech_is_no_class(folder):
    (folder / "dog").rename(folder / "BACKGROUND_Google")
    assert {pair.category for pair in draws(pair_source(str(folder)))} == {"cat"}
    assert len(photo_source(str(folder)).names) == 6


def test_a_table_gives_boxes_in_our_pixels(folder):
    path = table(folder, "cat/1.png,cat,0,0,40,30", "cat/2.png,cat,10,5,30,25.5", "dog/1.png,cat,,,,")
    boxes = {photo.name: photo.box for photo in class_table(folder / "photos.csv")[1]}
    np.testing.assert_array_equal(boxes["cat/1.png"], [-0.5, -0.5, 39.5, 29.5])
    np.testing.assert_array_equal(boxes["cat/2.png"], [9.5, 4.5, 29.5, 25])
    assert boxes["dog/1.png"] is None
    drawn = draws(pair_source(path))
    assert {pair.src for pair in drawn} == {"cat/1.png", "cat/2.png", "dog/1.png"}
    for pair in drawn:
        if pair.src == "cat/2.png":  # mirrored: 40 pixels wide, so that x becomes 39 - x
            np.testing.assert_array_equal(pair.src_box, [9.5, 4.5, 29.5, 25])
    off_centre = table(folder, "cat/1.png,cat,0,0,10,30", "cat/2.png,cat,0,0,10,30")
    for pair in draws(pair_source(off_centre), 50):
        expected = [29.5, -0.5, 39.5, 29.5] if pair.src_flipped else [-0.5, -0.5, 9.5, 29.5]
        np.testing.assert_array_equal(pair.src_box, expected)
        np.testing.assert_array_equal(pair.tgt_box, expected)


def test_more_columns_in_any_order_and_none_for_boxes(folder):
    path = table(
        folder, "cat,cat/1.png,x,40,30", "cat,cat/2.png,,40,30", header="class,image,photographer,width,height"
    )
    assert {pair.src for pair in draws(pair_source(path))} == {"cat/1.png", "cat/2.png"}
    assert photo_source(path).names == ("cat/1.png", "cat/2.png")


def test_two_objects_of_one_photo_are_no_pair(folder):
    rows = ["cat/1.png,cat,0,0,10,10", "cat/1.png,cat,20,0,40,10", "cat/2.png,cat,0,0,10,10"]
    source = pair_source(table(folder, *rows))
    assert all(pair.src != pair.tgt for pair in draws(source))
    assert photo_source(table(folder, *rows)).names == ("cat/1.png", "cat/2.png")
    with pytest.raises(ValueError, match="class with at least two photos"):
        pair_source(table(folder, *rows[:2]))


def test_a_class_with_a_single_photo_is_left_out_and_logged(folder, caplog):
    rows = ["cat/1.png,cat,,,,", "cat/2.png,cat,,,,", "dog/1.png,dog,,,,"]
    with caplog.at_level(logging.INFO):
        source = pair_source(table(folder, *rows))
    assert {pair.category for pair in draws(source)} == {"cat"}
    assert "left out" in caplog.text and "dog" in caplog.text
    assert len(photo_source(table(folder, *rows))) == 3, "to warp it needs no partner"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("cat/2.png,cat,1,2,3", "expected 6 columns, got 5"),
        ("cat/9.png,cat,1,2,3,4", "cat/9.png: no such file"),
        ("../cat/1.png,cat,1,2,3,4", "image: expected a path that stays inside"),
        ("cat/1.png,,1,2,3,4", "class: expected a name"),
        ("cat/1.png,cat,1,2,3,", "ymax: expected a finite number, got ''"),
        ("cat/1.png,cat,1,two,3,4", "ymin: expected a finite number, got 'two'"),
        ("cat/1.png,cat,3,2,1,4", "expected a box with an area, got 3, 2, 1, 4"),
        ("cat/1.png,cat,1,4,3,4", "expected a box with an area"),
        ("cat/1.png,cat,1,2,3,90", "lies outside the image of 40 x 30 pixels"),
        ("cat/1.png,cat,-20,2,3,9", "lies outside the image of 40 x 30 pixels"),
        ("words.jpg,cat,1,2,3,9", "words.jpg: not a picture"),
    ],
)
def test_a_bad_row_is_named_with_its_line(folder, row, message):
    (folder / "words.jpg").write_text("not a picture")
    path = table(folder, "cat/1.png,cat,0,0,40,30", "", row)
    for read in (photo_source, pair_source):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} line 4: ")
        assert "\n" not in str(caught.value)


def test_an_image_of_another_size_than_listed_is_refused(folder):
    path = table(folder, "cat/1.png,cat,1,2,3,4,80,60", header=HEADER + ",width,height")
    with pytest.raises(ValueError, match=r"line 2: .*expected cat/1.png to be of 80 x 60 pixels, got 40 x 30"):
        photo_source(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the header image,class, got an empty file"),
        ("name,class\na,b\n", "expected the header image,class, got name,class"),
        (HEADER + "\n", "expected at least one row"),
    ],
)
def test_a_table_that_is_none_is_named(folder, content, message):
    (folder / "photos.csv").write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        photo_source(str(folder / "photos.csv"))
    assert str(caught.value).startswith(str(folder / "photos.csv"))


def test_listed_pairs_are_taken_as_they_are(folder):
    rows = [{"src": "cat/1.png", "tgt": "cat/2.png", "src_box": [1, 2, 20, 21]}, {"src": "dog/2.png", "tgt": "top.png"}]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = pair_source(str(path))
    assert len(source) == 2
    generator = np.random.default_rng(0)
    assert [source.pair(i, generator).src for i in range(2)] == ["cat/1.png", "dog/2.png"]
    np.testing.assert_array_equal(source.pair(0, generator).src_box, [1, 2, 20, 21])
    assert photo_source(str(path)).names == ("cat/1.png", "cat/2.png", "dog/2.png", "top.png")
    path.write_text('{"src": "cat/1.png", "tgt": "gone.png"}\n')
    with pytest.raises(ValueError, match=r"pairs\.jsonl line 1: .*gone\.png"):
        pair_source(str(path))


@pytest.mark.parametrize("inside", [True, False])
def test_pf_pascal_gives_its_training_pairs_four_times(folder, monkeypatch, inside):
    import rtn_jax.data.pf_pascal as module

    asked = []

    def read(path, **options):
        asked.append((str(path), options))
        pair = Pair(id="a", src="cat/1.png", tgt="cat/2.png", src_flipped=True, tgt_flipped=True)
        return Benchmark(name="PF-PASCAL", pairs=(pair,), files=FolderFiles(folder), protocol=None)

    monkeypatch.setattr(module, "pf_pascal", read)
    (folder / sources.PF_PASCAL).mkdir()
    data = str(folder / sources.PF_PASCAL) if inside else str(folder)
    assert pair_source(data).pair(0, np.random.default_rng(0)).src_flipped
    assert photo_source(data).names == ("cat/1.png", "cat/2.png")
    assert asked == [(data, {"split": "train", "copies": 4})] * 2


def test_what_is_not_there_or_of_another_kind_is_named(tmp_path):
    (tmp_path / "photos.txt").touch()
    for name, words in [("none", "which is not there"), ("none.csv", "none.csv"), ("photos.txt", "expected 'builtin'")]:
        for read in (photo_source, pair_source):
            with pytest.raises(ValueError, match=re.escape(words)):
                read(str(tmp_path / name))
    with pytest.raises(ValueError, match="found none"):
        photo_source(str(tmp_path))


def test_the_animals_are_read_whole(data_dir):
    files, listed = class_table(data_dir / "animals" / "train.csv")
    assert len(listed) == 1641
    assert {photo.category for photo in listed} == {"cat", "cow", "dog", "horse", "sheep"}
    first = listed[0]
    assert first.name == "train/2007_000332.jpg"
    np.testing.assert_allclose(first.box, [34.06, 31.48, 181.9, 167.09])
    assert files.shape(first.name) == (213, first.width) == (213, 320)


def test_a_folder_of_classes_as_published(data_dir):
    _, listed = class_folder(data_dir / "caltech101-subset")
    assert {photo.category for photo in listed} >= {path.name for path in (data_dir / "caltech101-subset").glob("*/*")}
