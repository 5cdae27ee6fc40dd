"""The Caltech-101 reader on a tiny data set in the published layout, and on damaged copies of it."""

from __future__ import annotations

import csv
import pickle
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from rtn_jax.data.caltech101 import RENAMED, caltech101

SHAPES = {
    "accordion/image_0001": (20, 30),
    "accordion/image_0002": (26, 18),
    "accordion/image_0013": (22, 22),
    "airplanes/image_0005": (24, 40),
    "airplanes/image_0800": (30, 30),
    "Faces_easy/image_0003": (25, 25),
    "Faces_easy/image_0004": (25, 20),
}
# source, target of the list
PAIRS = (
    ("accordion/image_0001", "accordion/image_0002"),
    ("accordion/image_0013", "accordion/image_0001"),
    ("airplanes/image_0005", "airplanes/image_0800"),
    ("Faces_easy/image_0003", "Faces_easy/image_0004"),
)
HEADER = ["source_image", "target_image", "class", "XA", "YA", "XB", "YB"]
LEFT, TOP = 3, 5  # the corner of every annotated box, MATLAB's pixels


def outline(image):
    """`[n, 2]`, an arrow that is not its own mirror image; no edge meets a pixel's centre, which could be either."""
    height, width = SHAPES[image]
    share = np.array([[0.1, 0.2], [0.8, 0.3], [0.9, 0.9], [0.5, 0.4], [0.2, 0.7]])
    beside = np.array([[0.31, 0.57], [0.23, 0.41], [0.37, 0.59], [0.11, 0.67], [0.43, 0.29]])
    return np.floor(share * [width, height]) + beside


def published_rows():
    rows = [list(HEADER)]
    for pair in PAIRS:
        columns = [",".join(f"{value:g}" for value in axis) for image in pair for axis in outline(image).T]
        rows.append([*(f"101_ObjectCategories/{image}.jpg" for image in pair), "5", *columns])
    return rows


def write_rows(folder, rows):
    with (folder / "test_pairs_caltech_with_category.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def folder(tmp_path):
    """Seven images of three classes, two of which have another name among the annotations; four pairs."""
    for number, (image, (height, width)) in enumerate(SHAPES.items()):
        category, name = image.split("/")
        place = tmp_path / "101_ObjectCategories" / category
        place.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(place / f"{name}.jpg")
        save_annotation(tmp_path, image, compressed=number % 2 == 0)
    write_rows(tmp_path, published_rows())
    return tmp_path


def annotation_path(folder, image):
    category, name = image.split("/")
    place = folder / "Annotations" / {"airplanes": "Airplanes_Side_2", "Faces_easy": "Faces_3"}.get(category, category)
    return place / f"{name.replace('image', 'annotation')}.mat"


def save_annotation(folder, image, *, compressed=True, **changes):
    """As published: relative to the box, whose corner is in MATLAB's pixels, small whole numbers of 16 bits."""
    relative = outline(image).T + 1 - np.array([[LEFT], [TOP]])
    content = {"obj_contour": relative, "box_coord": np.array([[TOP, 19, LEFT, 17]], np.uint16), **changes}
    path = annotation_path(folder, image)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: value for name, value in content.items() if value is not None}
    scipy.io.savemat(path, content, do_compression=compressed)


def inside(points, shape):
    """Which pixels' centres an outline encloses, one by one: crossings of a ray to the right, even-odd."""
    mask = np.zeros(shape, bool)
    for y in range(shape[0]):
        for x in range(shape[1]):
            crossings = 0
            for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
                if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                    crossings += 1
            mask[y, x] = crossings % 2 == 1
    return mask


def test_reads_the_published_layout(folder):
    benchmark = caltech101(folder)
    assert (benchmark.name, benchmark.protocol, benchmark.left_out) == ("Caltech-101", "masks", ())
    assert [pair.id for pair in benchmark.pairs] == [
        "accordion/image_0002-image_0001",
        "accordion/image_0001-image_0013",
        "airplanes/image_0800-image_0005",
        "Faces_easy/image_0004-image_0003",
    ]
    assert [pair.category for pair in benchmark.pairs] == ["accordion", "accordion", "airplanes", "Faces_easy"]
    assert all(pair.has_masks and not pair.has_flow for pair in benchmark.pairs)


def test_the_field_lives_on_the_lists_target(folder):
    """Published: the list's source mask is pulled onto its target. Ours lives on `src`."""
    for pair, (listed_src, listed_tgt) in zip(caltech101(folder).pairs, PAIRS, strict=True):
        assert pair.src == f"{listed_tgt}.jpg"
        assert pair.tgt == f"{listed_src}.jpg"


@pytest.mark.parametrize("outlines", ["list", "annotations"])
def test_masks_are_the_filled_outlines(folder, outlines):
    files = caltech101(folder, outlines=outlines).files
    for image, shape in SHAPES.items():
        mask = files.mask(f"{image}.jpg")
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, inside(outline(image), shape), err_msg=image)
        assert 10 < mask.sum() < mask.size / 2
        assert files.image(f"{image}.jpg").shape == (*shape, 3)


def test_the_list_is_followed_and_not_the_annotations(folder):
    """Unless asked: outlines of the list count, and the `.mat` files need not be there."""
    shifted = np.add(outline("accordion/image_0001"), [2, 0]).T + 1 - np.array([[LEFT], [TOP]])
    save_annotation(folder, "accordion/image_0001", obj_contour=shifted)
    listed, annotated = (
        caltech101(folder, outlines=outlines).files.mask("accordion/image_0001.jpg")
        for outlines in ("list", "annotations")
    )
    np.testing.assert_array_equal(listed[:, :-2], annotated[:, 2:])
    shutil.rmtree(folder / "Annotations")
    np.testing.assert_array_equal(caltech101(folder).files.mask("accordion/image_0001.jpg"), listed)
    with pytest.raises(ValueError, match=r"^data_dir: Caltech-101 needs the folder 'Annotations', not found: "):
        caltech101(folder, outlines="annotations")


def test_annotations_may_have_been_renamed_back(folder):
    for name, published in RENAMED.items():
        if (folder / "Annotations" / published).is_dir():
            (folder / "Annotations" / published).rename(folder / "Annotations" / name)
    assert len(caltech101(folder, outlines="annotations").pairs) == 4


def test_faces_easy_is_not_faces(folder):
    """`Faces` -> `Faces_2`, `Faces_easy` -> `Faces_3`: each from its own folder."""
    assert RENAMED["Faces"] == "Faces_2"
    assert RENAMED["Motorbikes"] == "Motorbikes_16"
    shutil.copytree(folder / "Annotations" / "Faces_3", folder / "Annotations" / "Faces_2")
    shutil.rmtree(folder / "Annotations" / "Faces_3")
    with pytest.raises(ValueError, match=r"outline not found: .*Faces_3/annotation_0003\.mat"):
        caltech101(folder, outlines="annotations")


def test_a_part_of_an_outline_beyond_the_border_is_cut_off(folder):
    rows = published_rows()
    rows[4][5] = ",".join(["-1.6", "20.6", "20.6", "-1.6"])
    rows[4][6] = ",".join(["-1.7", "-1.7", "7.5", "7.5"])
    write_rows(folder, rows)
    expected = np.zeros((25, 20), bool)
    expected[:8] = True
    np.testing.assert_array_equal(caltech101(folder).files.mask("Faces_easy/image_0004.jpg"), expected)


def test_pairs_that_are_listed_twice_count_twice(folder):
    rows = published_rows()
    write_rows(folder, [*rows, rows[1], rows[3], rows[1]])
    ids = [pair.id for pair in caltech101(folder).pairs]
    assert len(set(ids)) == 7
    assert ids[4:] == [f"{ids[0]}-2", f"{ids[2]}-2", f"{ids[0]}-3"]


def test_survives_a_pickle(folder):
    copy = pickle.loads(pickle.dumps(caltech101(folder)))
    assert copy.files.mask(copy.pairs[0].src).shape == (26, 18)


def test_takes_the_inner_folder_and_a_list_beside_or_inside_it(folder, monkeypatch):
    inner = folder / "101_ObjectCategories"
    assert len(caltech101(inner).pairs) == len(caltech101(str(folder)).pairs) == 4
    monkeypatch.chdir(inner)
    assert len(caltech101(".", outlines="annotations").pairs) == 4
    shutil.move(folder / "test_pairs_caltech_with_category.csv", inner)
    assert len(caltech101(folder).pairs) == 4


def test_takes_any_words_for_a_header_and_a_byte_order_mark(folder):
    """No published evaluation looks at the header's words."""
    write_rows(folder, [["a", "b", "c", "d", "e", "f", "g"], *published_rows()[1:]])
    path = folder / "test_pairs_caltech_with_category.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n")
    assert len(caltech101(folder).pairs) == 4


def test_names_what_it_looked_for(folder, tmp_path, unchecked):
    with pytest.raises(ValueError, match=r"^data_dir: Caltech-101 needs the folder '101_ObjectCategories', not found"):
        caltech101(folder / "101_ObjectCategories" / "accordion")
    with pytest.raises(ValueError, match=r"nowhere does not exist, expected a folder that holds 101_ObjectCategories"):
        caltech101(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"^split: Caltech-101 has only 'test', got 'train'"):
        caltech101(folder, split="train")
    with pytest.raises(ValueError, match=r"^outlines: expected one of list, annotations, got 'boxes'"):
        caltech101(folder, outlines="boxes")
    (folder / "test_pairs_caltech_with_category.csv").unlink()
    with pytest.raises(ValueError, match=r"^data_dir: .*list 'test_pairs_caltech_with_category\.csv', not found: "):
        caltech101(folder)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"expected a header of 7 columns, got an empty file"),
        (b"a,b,c\r\nd,e,f\r\n", r"expected a header of 7 columns, got a,b,c"),
        (b"101_ObjectCategories/a/image_0001.jpg,b,c,d,e,f,g\r\n", r"expected a header of 7 columns, got 101_Obj"),
        (b"a,b,c,d,e,f,g\r\n\r\n", r"expected at least one pair below the header, got none"),
        (b"\xff\xfe\x00broken", r"cannot be read as a table of comma-separated values"),
    ],
)
def test_names_a_list_that_is_none(folder, content, match):
    (folder / "test_pairs_caltech_with_category.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"test_pairs_caltech_with_category\.csv: {match}"):
        caltech101(folder)


def changed(column, value):
    def change(row):
        row[column] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda row: row.pop(), r"expected 7 columns, got 6"),
        (lambda row: row.append("1"), r"expected 7 columns, got 8"),
        (changed(0, "101_ObjectCategories/airplanes/image_0009.jpg"), r"airplanes/image_0009\.jpg: no such file"),
        (changed(1, "101_ObjectCategories/unicorn/image_0001.jpg"), r"expected two images of one class"),
        (changed(1, "101_ObjectCategories/accordion/image_0001.jpg"), r"expected two images of one class"),
        (changed(0, "101_ObjectCategories/../image_0001.jpg"), r"expected an image as 101_ObjectCategories/<class>"),
        (changed(0, "/airplanes/image_0005.jpg"), r"expected an image as 101_ObjectCategories/<class>"),
        (changed(0, "image_0005.jpg"), r"expected an image as 101_ObjectCategories/<class>"),
        (changed(0, "101_ObjectCategories/airplanes/image_0005.png"), r"expected an image as"),
        (changed(3, ""), r"outline of airplanes/image_0005\.jpg: expected a finite number, got ''"),
        (changed(4, "1,2,x,4,5"), r"outline of airplanes/image_0005\.jpg: expected a finite number, got 'x'"),
        (changed(5, "1,2,nan,4,5"), r"outline of airplanes/image_0800\.jpg: expected a finite number, got 'nan'"),
        (changed(6, "1,2,3,4,inf"), r"outline of airplanes/image_0800\.jpg: expected a finite number, got 'inf'"),
        (changed(6, "1,2,3,4"), r"outline of airplanes/image_0800\.jpg: expected as many y as x, 5, got 4"),
        (lambda row: row.__setitem__(slice(5, 7), ["1,9", "2,8"]), r"expected at least 3 points, got 2"),
        (changed(5, "30.7,30.9,30.8,30.6,30.6"), r"image_0800\.jpg: it holds no pixel of the image of 30 x 30 pixels"),
        (changed(5, "1,2,40,4,5"), r"outline of .*0800\.jpg: point 3 at \(40, .*\) lies outside the image of 30 x 30"),
        (changed(4, "1,2,3,-1e300,5"), r"outline of .*0005\.jpg: point 4 at .* lies outside the image of 40 x 24"),
        (changed(3, "1.7e308,-1.7e308,3,4,5"), r"outline of .*0005\.jpg: point 1 at .* lies outside the image of 40 x"),
        (changed(2, ""), r"class: expected 'airplanes' or a number up to 102, got ''"),
        (changed(2, "zebra"), r"class: expected 'airplanes' or a number up to 102, got 'zebra'"),
        (changed(2, "accordion"), r"class: expected 'airplanes' or a number up to 102, got 'accordion'"),
        (changed(2, "103"), r"class: .*, got '103'"),
        (changed(2, "-1"), r"class: .*, got '-1'"),
        (changed(2, "\u00b2"), r"class: .*, got '\u00b2'"),
        (changed(2, "9" * 5000), r"class: .*, got '9{40}'$"),
        (changed(6, "2.5,2.5,2.5,2.5,2.5"), r"image_0800\.jpg: it holds no pixel of the image of 30 x 30 pixels"),
    ],
)
def test_names_the_line_of_a_bad_row(folder, change, match):
    rows = published_rows()
    change(rows[3])
    write_rows(folder, rows)
    with pytest.raises(ValueError, match=match) as caught:
        caltech101(folder)
    assert "test_pairs_caltech_with_category.csv line 4: " in str(caught.value)
    benchmark = caltech101(folder, skip_bad=True)
    assert [pair.category for pair in benchmark.pairs] == ["accordion", "accordion", "Faces_easy"]
    assert benchmark.left_out == (str(caught.value),)


@pytest.mark.parametrize("words", ["airplanes", "1", "102", "6.0"])
def test_classes_may_be_names_or_numbers(folder, words):
    rows = published_rows()
    rows[3][2] = words
    write_rows(folder, rows)
    assert [pair.category for pair in caltech101(folder).pairs][2] == "airplanes"


def test_a_quote_that_is_not_closed_costs_one_row(folder):
    path = folder / "test_pairs_caltech_with_category.csv"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].removesuffix('"')
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"category\.csv line 3: .*a quote that is not closed"):
        caltech101(folder)
    benchmark = caltech101(folder, skip_bad=True)
    assert (len(benchmark.pairs), len(benchmark.left_out)) == (3, 1)


def test_names_a_class_that_does_not_exist(folder):
    rows = published_rows()
    rows[2][:2] = [f"101_ObjectCategories/unicorn/image_000{k}.jpg" for k in (1, 2)]
    write_rows(folder, rows)
    with pytest.raises(ValueError, match=r"line 3: .*unicorn/image_0001\.jpg: no such file"):
        caltech101(folder)


@pytest.mark.parametrize("change", [lambda text: text.replace("3.31", "3.33"), lambda text: text + ",4.3"])
def test_names_an_image_with_two_outlines(folder, change):
    rows = published_rows()
    rows[2][5] = change(rows[2][5])
    rows[2][6] += ",4" * (rows[2][5].count(",") - rows[2][6].count(","))
    write_rows(folder, rows)
    with pytest.raises(ValueError, match=r"line 3: accordion/image_0001\.jpg: its outline differs from that of an ear"):
        caltech101(folder)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"obj_contour": None}, r"annotation_0005\.mat: expected a variable 'obj_contour'"),
        ({"box_coord": None}, r"annotation_0005\.mat: expected a variable 'box_coord'"),
        ({"obj_contour": np.zeros((3, 8))}, r"annotation_0005\.mat: expected 'obj_contour' of \[2, 8\] numbers"),
        ({"obj_contour": "text"}, r"annotation_0005\.mat: expected 'obj_contour' of \[2, 4\] numbers"),
        ({"obj_contour": np.full((2, 5), np.nan)}, r"annotation_0005\.mat: expected finite numbers in 'obj_contour'"),
        ({"box_coord": np.zeros((1, 3))}, r"annotation_0005\.mat: expected 'box_coord' of \[1, 4\] numbers"),
        ({"obj_contour": np.ones((2, 2))}, r"outline of airplanes/image_0005\.jpg: expected at least 3 points, got 2"),
        ({"obj_contour": np.zeros((2, 0))}, r"outline of airplanes/image_0005\.jpg: expected at least 3 points, got 0"),
        ({"box_coord": np.full((1, 4), 500.0)}, r"outline of airplanes/image_0005\.jpg: point . at .* lies outside"),
        (
            {"obj_contour": np.full((2, 3), 1.7e308), "box_coord": np.full((1, 4), 1.7e308)},
            r"\(inf, inf\) lies outside",
        ),
    ],
)
def test_names_a_bad_annotation(folder, changes, match):
    save_annotation(folder, "airplanes/image_0005", **changes)
    with pytest.raises(ValueError, match=match) as caught:
        caltech101(folder, outlines="annotations")
    assert "test_pairs_caltech_with_category.csv line 4: " in str(caught.value)
    benchmark = caltech101(folder, outlines="annotations", skip_bad=True)
    assert (len(benchmark.pairs), benchmark.left_out) == (3, (str(caught.value),))


@pytest.mark.parametrize("keep", [0, 60, 140, 300])
def test_names_a_cut_off_annotation(folder, keep):
    path = annotation_path(folder, "airplanes/image_0005")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"line 4: .*annotation_0005\.mat: "):
        caltech101(folder, outlines="annotations")


def test_names_images_and_masks_that_cannot_be_had(folder):
    files = caltech101(folder).files
    with pytest.raises(ValueError, match=r"accordion/image_0099\.jpg: no outline is known"):
        files.mask("accordion/image_0099.jpg")
    path = folder / "101_ObjectCategories" / "airplanes" / "image_0005.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    assert len(caltech101(folder).pairs) == 4  # decodes nothing
    with pytest.raises(ValueError, match=r"image_0005\.jpg: damaged picture"):
        files.image("airplanes/image_0005.jpg")
    Image.new("RGB", (2, 2)).save(path)  # a file that was changed after the list was read
    with pytest.raises(ValueError, match=r"image_0005\.jpg: its outline holds no pixel of the image"):
        files.mask("airplanes/image_0005.jpg")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no picture")])
def test_names_a_listed_image_that_is_missing(folder, damage):
    damage(folder / "101_ObjectCategories" / "accordion" / "image_0001.jpg")
    with pytest.raises(ValueError, match=r"line 2: .*accordion/image_0001\.jpg: "):
        caltech101(folder)
    benchmark = caltech101(folder, skip_bad=True)
    assert [pair.category for pair in benchmark.pairs] == ["airplanes", "Faces_easy"]
    assert len(benchmark.left_out) == 2


def test_real_photos_in_the_published_layout(data_dir, tmp_path):
    """The photos at hand have no outlines: a list with made-up ones reads them, whatever their class is called."""
    photos = data_dir / "caltech101-subset" / "101_ObjectCategories"
    if not photos.is_dir():
        pytest.skip(f"no caltech101-subset in {data_dir}")
    rows = [HEADER]
    for category in ("airplanes", "Faces", "Faces_easy", "Motorbikes", "yin_yang"):
        first, second = (path.name for path in sorted((photos / category).iterdir())[:2])
        paths = [f"101_ObjectCategories/{category}/{name}" for name in (first, second)]
        rows.append([*paths, "1", *(["20,90,90,20", "10.5,10.5,60.5,60.5"] * 2)])
    write_rows(tmp_path, rows)
    (tmp_path / "101_ObjectCategories").symlink_to(photos)
    benchmark = caltech101(tmp_path)
    for pair in benchmark.pairs:
        assert benchmark.files.image(pair.src).shape[:2] == benchmark.files.mask(pair.src).shape
        assert benchmark.files.mask(pair.tgt)[11:61, 21:90].all()
