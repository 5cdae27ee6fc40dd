"""The PF-WILLOW reader on a tiny data set in the published layout, on damaged copies of it, and on the real one."""

from __future__ import annotations

import csv
import pickle
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from rtn_jax.coordinates import resize_points
from rtn_jax.data.pf_willow import HEADER, pf_willow
from rtn_jax.metrics import pck, pck_length

IMAGES = {"car(G)": ("one", "two", "three"), "duck(S)": ("four", "five")}
SHAPES = {"one": (20, 30), "two": (24, 16), "three": (9, 31), "four": (12, 12), "five": (40, 8)}


def matlab_points(name):
    """`[2, 10]` as in the .mat files: x and y, 1-based."""
    height, width = SHAPES[name]
    rng = np.random.default_rng(len(name) + height)
    return np.stack([rng.uniform(1, width, 10), rng.uniform(1, height, 10)])


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def published_rows():
    rows = [list(HEADER)]
    for category, names in IMAGES.items():
        for src in names:
            for tgt in names:
                if src != tgt:
                    numbers = [*matlab_points(src).ravel(), *matlab_points(tgt).ravel()]
                    paths = [f"PF-dataset/{category}/{name}.png" for name in (src, tgt)]
                    rows.append([*paths, *(f"{number:.12f}" for number in numbers)])
    return rows


@pytest.fixture
def folder(tmp_path):
    """Five images of two classes, eight pairs."""
    for category, names in IMAGES.items():
        folder = tmp_path / "PF-dataset" / category
        folder.mkdir(parents=True)
        for name in names:
            pixels = np.random.default_rng(SHAPES[name][0]).integers(0, 256, (*SHAPES[name], 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
            compressed = name != "two"
            scipy.io.savemat(folder / f"{name}.mat", {"pts_coord": matlab_points(name)}, do_compression=compressed)
    write_rows(tmp_path / "test_pairs_pf.csv", published_rows())
    return tmp_path


def test_reads_the_published_layout(folder):
    benchmark = pf_willow(folder)
    assert (benchmark.name, benchmark.protocol, benchmark.left_out) == ("PF-WILLOW", "keypoints", ())
    assert (benchmark.thresholds, benchmark.alphas) == (("bbox-kp",), (0.05, 0.10, 0.15))
    assert len(benchmark.pairs) == 8
    assert benchmark.images == tuple(f"{category}/{name}.png" for category in IMAGES for name in IMAGES[category])
    pair = benchmark.pairs[1]
    assert (pair.src, pair.tgt, pair.category) == ("car(G)/one.png", "car(G)/three.png", "car(G)")
    assert pair.id == "car(G)/one-three"
    # The .mat files are 2 x n and 1-based, ours are n x 2 and 0-based.
    np.testing.assert_allclose(pair.src_points, matlab_points("one").T - 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pair.tgt_points, matlab_points("three").T - 1, rtol=0, atol=1e-12)
    assert benchmark.pairs[-1].category == "duck(S)"


def test_decodes_images_when_asked(folder):
    benchmark = pf_willow(folder)
    path = folder / "PF-dataset" / "car(G)" / "three.png"
    with Image.open(path) as image:
        np.testing.assert_array_equal(benchmark.files.image("car(G)/three.png"), np.asarray(image))
    path.write_bytes(path.read_bytes()[:200])
    damaged = pf_willow(folder)  # decodes nothing
    with pytest.raises(ValueError, match=r"three\.png: damaged picture"):
        damaged.files.image("car(G)/three.png")


def test_has_one_split(folder):
    assert len(pf_willow(folder, split="test").pairs) == 8
    with pytest.raises(ValueError, match=r"^split: PF-WILLOW has only 'test', got 'train'"):
        pf_willow(folder, split="train")


def test_survives_a_pickle(folder):
    """Worker processes get their benchmark by pickle."""
    copy = pickle.loads(pickle.dumps(pf_willow(folder)))
    assert len(copy.pairs) == 8
    assert copy.files.image("duck(S)/four.png").shape == (12, 12, 3)


def test_takes_the_inner_folder_and_a_list_beside_or_inside_it(folder, monkeypatch):
    inner = folder / "PF-dataset"
    assert len(pf_willow(inner).pairs) == 8
    assert len(pf_willow(str(folder)).pairs) == 8
    monkeypatch.chdir(inner)
    assert len(pf_willow(".").pairs) == 8
    shutil.move(folder / "test_pairs_pf.csv", inner / "test_pairs_pf.csv")
    assert len(pf_willow(inner).pairs) == 8
    assert len(pf_willow(folder).pairs) == 8


def test_names_what_it_looked_for(folder):
    inside = folder / "PF-dataset" / "car(G)"
    with pytest.raises(ValueError, match=r"^data_dir: .*folder 'PF-dataset', not found: ") as caught:
        pf_willow(inside)
    assert str(inside / "PF-dataset") in str(caught.value)
    with pytest.raises(ValueError, match=r"nowhere does not exist, expected a folder that holds PF-dataset"):
        pf_willow(folder / "nowhere")
    (folder / "test_pairs_pf.csv").unlink()
    with pytest.raises(ValueError, match=r"^data_dir: .*list 'test_pairs_pf\.csv', not found: ") as caught:
        pf_willow(folder)
    assert str(folder / "test_pairs_pf.csv") in str(caught.value)
    assert str(folder / "PF-dataset" / "test_pairs_pf.csv") in str(caught.value)


def changed_cell(row, column, value):
    def change(rows):
        rows[row][column] = value

    return change


@pytest.mark.parametrize(
    ("change", "line", "match"),
    [
        (lambda rows: rows[3].pop(), 4, "expected 42 columns, got 41"),
        (lambda rows: rows[3].append("1"), 4, "expected 42 columns, got 43"),
        (changed_cell(2, 5, "nan"), 3, "XA4: expected a finite number, got 'nan'"),
        (changed_cell(2, 41, ""), 3, "YB10: expected a finite number, got ''"),
        (changed_cell(8, 22, "abc"), 9, "XB1: expected a finite number, got 'abc'"),
        (changed_cell(1, 2, "500"), 2, r"keypoints of .* are up to \d+ pixels from those in its \.mat"),
        (changed_cell(1, 1, "PF-dataset/car(G)/six.png"), 2, r"six\.png: no such file"),
        (changed_cell(1, 1, "PF-dataset/../six.png"), 2, r"expected an image as PF-dataset/<class>/<name>\.png"),
        (changed_cell(1, 0, "car(G)/one.png"), 2, r"expected an image as PF-dataset/<class>/<name>\.png"),
        (changed_cell(1, 0, ""), 2, r"expected an image as PF-dataset/<class>/<name>\.png, got ''"),
    ],
)
def test_names_the_line_of_a_bad_row(folder, change, line, match):
    rows = published_rows()
    change(rows)
    write_rows(folder / "test_pairs_pf.csv", rows)
    with pytest.raises(ValueError, match=match) as caught:
        pf_willow(folder)
    assert f"test_pairs_pf.csv line {line}: " in str(caught.value)


def test_names_a_list_that_is_none(folder):
    (folder / "test_pairs_pf.csv").write_bytes(b"source,target\r\na,b\r\n")
    expected = r"test_pairs_pf\.csv: expected the header imageA,imageB,XA1,\.\.\.,YB10, got source,target"
    with pytest.raises(ValueError, match=expected):
        pf_willow(folder)


def with_y4(y):
    points = matlab_points("two")
    points[1, 3] = y
    return points


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"other": np.zeros(3)}, r"two\.mat: expected a variable 'pts_coord'"),
        ({"pts_coord": matlab_points("two").T}, r"two\.mat: expected 'pts_coord' of \[2, 10\] numbers, got \[10, 2\]"),
        ({"pts_coord": matlab_points("two")[:, :9]}, r"two\.mat: expected .* got \[2, 9\]"),
        ({"pts_coord": "text"}, r"two\.mat: expected 'pts_coord' of \[2, 10\] numbers"),
        ({"pts_coord": with_y4(np.nan)}, r"two\.mat: expected finite numbers in 'pts_coord', got nan"),
        ({"pts_coord": with_y4(30)}, r"two\.mat: keypoint 4 at .*, 29\) lies outside the image of 16 x 24 pixels"),
    ],
)
def test_names_a_bad_annotation(folder, content, match):
    scipy.io.savemat(folder / "PF-dataset" / "car(G)" / "two.mat", content)
    with pytest.raises(ValueError, match=match) as caught:
        pf_willow(folder)
    assert "test_pairs_pf.csv line 2: " in str(caught.value)


@pytest.mark.parametrize("keep", [0, 60, 130, 200])
def test_names_a_cut_off_annotation(folder, keep):
    path = folder / "PF-dataset" / "duck(S)" / "five.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"line 8: .*five\.mat: "):
        pf_willow(folder)


@pytest.mark.parametrize("suffix", ["mat", "png"])
def test_names_a_missing_file(folder, suffix):
    (folder / "PF-dataset" / "duck(S)" / f"four.{suffix}").unlink()
    with pytest.raises(ValueError, match=rf"line 8: .*four\.{suffix}: no such file"):
        pf_willow(folder)


def test_goes_on_without_bad_rows_on_request(folder):
    rows = published_rows()
    rows[1].pop()
    write_rows(folder / "test_pairs_pf.csv", rows)
    (folder / "PF-dataset" / "duck(S)" / "four.mat").unlink()
    benchmark = pf_willow(folder, skip_bad=True)
    whole = [f"car(G)/{a}-{b}" for a, b in (("one", "three"), ("two", "one"), ("two", "three"))]
    assert [pair.id for pair in benchmark.pairs] == [*whole, "car(G)/three-one", "car(G)/three-two"]
    places = [f"{folder / 'test_pairs_pf.csv'} line {line}: " for line in (2, 8, 9)]
    for place, reason in zip(places, benchmark.left_out, strict=True):
        assert reason.startswith(place)
    assert "expected 42 columns, got 41" in benchmark.left_out[0]
    assert "four.mat: no such file" in benchmark.left_out[1]


def test_a_row_that_is_listed_twice_counts_twice(folder):
    write_rows(folder / "test_pairs_pf.csv", [*published_rows(), published_rows()[1]])
    ids = [pair.id for pair in pf_willow(folder).pairs]
    assert (ids[0], ids[8]) == ("car(G)/one-two", "car(G)/one-two-2")


def test_a_quote_that_is_not_closed_costs_one_row(folder):
    rows = published_rows()
    (folder / "test_pairs_pf.csv").write_text(
        "\n".join(('"' if k == 2 else "") + ",".join(r) for k, r in enumerate(rows))
    )
    with pytest.raises(ValueError, match=r"test_pairs_pf\.csv line 3: .*a quote that is not closed"):
        pf_willow(folder)
    benchmark = pf_willow(folder, skip_bad=True)
    assert (len(benchmark.pairs), len(benchmark.left_out)) == (7, 1)


def test_fails_if_every_row_is_bad(folder):
    for path in (folder / "PF-dataset").rglob("*.mat"):
        path.unlink()
    with pytest.raises(ValueError, match=r"every row is bad; the first: .*line 2: .*one\.mat"):
        pf_willow(folder, skip_bad=True)


@pytest.fixture
def real(data_dir):
    if not (data_dir / "PF-WILLOW").is_dir():
        pytest.skip(f"no PF-WILLOW in {data_dir}")
    return pf_willow(data_dir / "PF-WILLOW")


def test_real_data_is_complete_and_has_its_identity_floor(real):
    """Coordinates scaled by the ratio of the sizes: the floor that every matcher has to clear."""
    assert len({pair.id for pair in real.pairs}) == 900
    assert (len(real.images), real.left_out) == (100, ())
    assert {pair.category for pair in real.pairs} == {pair.tgt.split("/")[0] for pair in real.pairs}
    shapes = {image: real.files.shape(image) for image in real.images}
    shares = []
    for pair in real.pairs:
        predicted = resize_points(pair.src_points, shapes[pair.src], shapes[pair.tgt])
        length = pck_length(real.thresholds[0], tgt_points=pair.tgt_points)
        shares.append(pck(predicted, pair.tgt_points, threshold_length=length, alpha=real.alphas))
    np.testing.assert_allclose(100 * np.mean(shares, axis=0), [12.1889, 27.0333, 41.7], atol=1e-4)
