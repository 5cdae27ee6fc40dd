"""The PF-WILLOW reader on a tiny data set in the published layout, on damaged copies of it, and on the real one."""

from __future__ import annotations

import csv
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from rtn_jax.coordinates import resize_points
from rtn_jax.data.pf_willow import HEADER, pf_willow
from rtn_jax.metrics import pck, pck_length, summarize

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
def data_dir(tmp_path):
    """Five images of two classes, eight pairs."""
    for category, names in IMAGES.items():
        folder = tmp_path / "PF-dataset" / category
        folder.mkdir(parents=True)
        for name in names:
            pixels = np.random.default_rng(SHAPES[name][0]).integers(0, 256, (*SHAPES[name], 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
            scipy.io.savemat(folder / f"{name}.mat", {"pts_coord": matlab_points(name)}, do_compression=True)
    write_rows(tmp_path / "test_pairs_pf.csv", published_rows())
    return tmp_path


def test_reads_the_published_layout(data_dir):
    benchmark = pf_willow(data_dir)
    assert (benchmark.name, benchmark.threshold, benchmark.alphas) == ("PF-WILLOW", "bbox-kp", (0.05, 0.10, 0.15))
    assert len(benchmark.pairs) == 8
    assert benchmark.images == tuple(f"{category}/{name}.png" for category in IMAGES for name in IMAGES[category])
    pair = benchmark.pairs[1]
    assert (pair.src, pair.tgt, pair.category) == ("car(G)/one.png", "car(G)/three.png", "car(G)")
    # The .mat files are 2 x n and 1-based, ours are n x 2 and 0-based.
    np.testing.assert_allclose(pair.src_points, matlab_points("one").T - 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pair.tgt_points, matlab_points("three").T - 1, rtol=0, atol=1e-12)
    assert benchmark.pairs[-1].category == "duck(S)"


def test_reads_images_when_asked(data_dir):
    benchmark = pf_willow(data_dir)
    path = data_dir / "PF-dataset" / "car(G)" / "three.png"
    with Image.open(path) as image:
        np.testing.assert_array_equal(benchmark.read_image("car(G)/three.png"), np.asarray(image))
    path.write_bytes(b"damaged")
    pf_willow(data_dir)  # decodes nothing
    with pytest.raises(ValueError, match=r"three\.png"):
        benchmark.read_image("car(G)/three.png")


def test_survives_a_pickle(data_dir):
    """Worker processes get their benchmark by pickle."""
    copy = pickle.loads(pickle.dumps(pf_willow(data_dir)))
    assert len(copy.pairs) == 8
    assert copy.read_image("duck(S)/four.png").shape == (12, 12, 3)


def test_takes_the_inner_folder_and_a_list_beside_or_inside_it(data_dir, monkeypatch):
    inner = data_dir / "PF-dataset"
    assert len(pf_willow(inner).pairs) == 8
    assert len(pf_willow(str(data_dir)).pairs) == 8
    monkeypatch.chdir(inner)
    assert len(pf_willow(".").pairs) == 8
    shutil.move(data_dir / "test_pairs_pf.csv", inner / "test_pairs_pf.csv")
    assert len(pf_willow(inner).pairs) == 8
    assert len(pf_willow(data_dir).pairs) == 8


def test_accepts_a_byte_order_mark_and_empty_lines(data_dir):
    path = data_dir / "test_pairs_pf.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    assert len(pf_willow(data_dir).pairs) == 8


def test_names_what_it_looked_for(data_dir, tmp_path):
    for missing in (tmp_path / "nowhere", data_dir / "PF-dataset" / "car(G)"):
        with pytest.raises(ValueError, match=r"^data_dir: .*folder 'PF-dataset', not found: ") as caught:
            pf_willow(missing)
        assert str(missing / "PF-dataset") in str(caught.value)
    (data_dir / "test_pairs_pf.csv").unlink()
    with pytest.raises(ValueError, match=r"^data_dir: .*list 'test_pairs_pf\.csv', not found: ") as caught:
        pf_willow(data_dir)
    assert str(data_dir / "test_pairs_pf.csv") in str(caught.value)
    assert str(data_dir / "PF-dataset" / "test_pairs_pf.csv") in str(caught.value)


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
        (changed_cell(1, 1, "PF-dataset/car(G)/six.png"), 2, r"image not found: .*six\.png"),
        (changed_cell(1, 1, "PF-dataset/../six.png"), 2, r"expected an image as PF-dataset/<class>/<name>\.png"),
        (changed_cell(1, 0, "car(G)/one.png"), 2, r"expected an image as PF-dataset/<class>/<name>\.png"),
        (changed_cell(1, 0, ""), 2, r"expected an image as PF-dataset/<class>/<name>\.png, got ''"),
    ],
)
def test_names_the_line_of_a_bad_row(data_dir, change, line, match):
    rows = published_rows()
    change(rows)
    write_rows(data_dir / "test_pairs_pf.csv", rows)
    with pytest.raises(ValueError, match=match) as caught:
        pf_willow(data_dir)
    assert f"test_pairs_pf.csv line {line}: " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"test_pairs_pf\.csv: expected the header imageA,imageB,XA1,\.\.\.,YB10, got an empty file"),
        (b"source,target\r\na,b\r\n", r"test_pairs_pf\.csv: expected the header .* got source,target"),
        (",".join(HEADER).encode(), r"test_pairs_pf\.csv: expected at least one pair"),
        (b"\xff\xfe\x00broken", r"test_pairs_pf\.csv: cannot be read as a table"),
    ],
)
def test_names_a_list_that_is_none(data_dir, content, match):
    (data_dir / "test_pairs_pf.csv").write_bytes(content)
    with pytest.raises(ValueError, match=match):
        pf_willow(data_dir)


def nan_points():
    points = matlab_points("two")
    points[1, 3] = np.nan
    return points


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"other": np.zeros(3)}, r"two\.mat: expected a variable 'pts_coord', got other"),
        ({"pts_coord": matlab_points("two").T}, r"two\.mat: expected 'pts_coord' of \[2, 10\] numbers, got \[10, 2\]"),
        ({"pts_coord": matlab_points("two")[:, :9]}, r"two\.mat: expected .* got \[2, 9\]"),
        ({"pts_coord": "text"}, r"two\.mat: expected 'pts_coord' of \[2, 10\] numbers"),
        ({"pts_coord": nan_points()}, r"two\.mat: expected finite coordinates in 'pts_coord', got nan"),
    ],
)
def test_names_a_bad_annotation(data_dir, content, match):
    scipy.io.savemat(data_dir / "PF-dataset" / "car(G)" / "two.mat", content)
    with pytest.raises(ValueError, match=match) as caught:
        pf_willow(data_dir)
    assert "test_pairs_pf.csv line 2: " in str(caught.value)


@pytest.mark.parametrize("keep", [0, 60, 130, 200])
def test_names_a_cut_off_annotation(data_dir, keep):
    path = data_dir / "PF-dataset" / "duck(S)" / "five.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"line 8: .*five\.mat: "):
        pf_willow(data_dir)


def test_names_a_missing_annotation(data_dir):
    (data_dir / "PF-dataset" / "duck(S)" / "four.mat").unlink()
    with pytest.raises(ValueError, match=r"line 8: keypoints not found: .*four\.mat"):
        pf_willow(data_dir)


@pytest.fixture(scope="module")
def real():
    folder = Path(os.environ.get("RTN_JAX_DATA", "")) / "PF-WILLOW"
    if not os.environ.get("RTN_JAX_DATA") or not folder.is_dir():
        pytest.skip("set RTN_JAX_DATA to a folder that holds PF-WILLOW")
    return pf_willow(folder)


def test_real_data_is_complete(real):
    assert len(real.pairs) == 900
    assert len(real.images) == 100
    assert len({(pair.src, pair.tgt) for pair in real.pairs}) == 900
    assert {pair.category for pair in real.pairs} == {pair.tgt.split("/")[0] for pair in real.pairs}
    for image in real.images:
        height, width = real.read_image(image).shape[:2]
        points = next(pair.src_points for pair in real.pairs if pair.src == image)
        assert (points >= 0).all()
        assert (points <= [width - 1, height - 1]).all()


def test_real_data_identity_floor(real):
    """Coordinates scaled by the ratio of the sizes: the floor that every matcher has to clear."""
    shapes = {image: real.read_image(image).shape[:2] for image in real.images}
    shares = []
    for pair in real.pairs:
        predicted = resize_points(pair.src_points, shapes[pair.src], shapes[pair.tgt])
        length = pck_length(real.threshold, tgt_points=pair.tgt_points)
        shares.append(pck(predicted, pair.tgt_points, threshold_length=length, alpha=real.alphas))
    np.testing.assert_allclose(100 * summarize(shares), [12.1889, 27.0333, 41.7], atol=1e-4)
