"""The TSS reader on a tiny data set in the published layout, on damaged copies of it, and on real pairs."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtn_jax.data.tss import tss
from rtn_jax.flow_files import read_flow, write_flow

# subset, pair, shapes of the two images, mirrored
PAIRS = (
    ("FG3DCar", "001_005", (12, 20), (15, 11), "0"),
    ("FG3DCar", "001_021", (9, 9), (10, 8), "0\n"),
    ("JODS", "horse_12_20", (8, 13), (8, 14), "0"),
    ("PASCAL", "motor_bike_01_02", (16, 10), (7, 7), "1"),
)


def object_mask(shape):
    """An L, so that transposed or flipped masks differ."""
    mask = np.zeros(shape, bool)
    mask[1:-1, 2:4] = True
    mask[-3:-1, 2:-2] = True
    return mask


def mask_picture(subset, pair, shape):
    """JODS has palette indices 0 and 1; others have 0 and 255; one has greys."""
    mask = object_mask(shape)
    if subset == "JODS":
        picture = Image.new("P", mask.shape[::-1])
        picture.putdata(mask.astype(int).ravel().tolist())
        picture.putpalette([0, 0, 0, 255, 255, 255])
        return picture
    values = np.where(mask, 255, 0).astype(np.uint8)
    if pair == "001_021":
        values[mask] = np.resize([16, 1, 127, 255], mask.sum())
    return Image.fromarray(values)


def true_flow(shape):
    """Known on the object alone, different for every pixel."""
    height, width = shape
    flow = np.full((height, width, 2), 1e10, np.float32)
    y, x = np.nonzero(object_mask(shape))
    flow[y, x] = np.stack([x / 8 - y, y / 4 + width], axis=-1)
    return flow


@pytest.fixture
def folder(tmp_path):
    """Four pairs, eight fields."""
    for subset, pair, first, second, flip in PAIRS:
        place = tmp_path / "TSS_CVPR2016" / subset / pair
        place.mkdir(parents=True)
        for k, shape in ((1, first), (2, second)):
            pixels = np.random.default_rng(k + shape[0]).integers(0, 256, (*shape, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"image{k}.png")
            mask_picture(subset, pair, shape).save(place / f"mask{k}.png")
            write_flow(place / f"flow{k}.flo", true_flow(shape))
        (place / "flip_gt.txt").write_text(flip)
        (place / "pair.txt").write_text("Image1,Image2\na.jpg,b.jpg\n")
    return tmp_path


def test_reads_the_published_layout(folder):
    benchmark = tss(folder)
    assert (benchmark.name, benchmark.protocol, benchmark.left_out) == ("TSS", "flow", ())
    assert [pair.id for pair in benchmark.pairs] == [
        f"{subset}/{pair}/flow{k}" for subset, pair, *_ in PAIRS for k in (1, 2)
    ]
    forth, back = benchmark.pairs[4:6]
    assert (forth.src, forth.tgt) == ("JODS/horse_12_20/image1.png", "JODS/horse_12_20/image2.png")
    assert (back.src, back.tgt) == (forth.tgt, forth.src)
    assert [pair.subset for pair in benchmark.pairs[::2]] == ["FG3DCar", "FG3DCar", "JODS", "PASCAL"]
    assert [pair.category for pair in benchmark.pairs[::2]] == ["car", "car", "horse", "motor_bike"]
    assert [pair.mirrored for pair in benchmark.pairs] == [False] * 6 + [True] * 2
    assert all(pair.has_flow and pair.has_masks for pair in benchmark.pairs)


def test_sorts_whatever_order_the_folder_has(folder, monkeypatch):
    ids = [pair.id for pair in tss(folder).pairs]
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(listed(self))))
    assert [pair.id for pair in tss(folder).pairs] == ids == sorted(ids)


def test_images_masks_and_flows(folder):
    benchmark = tss(folder)
    shapes = {f"{subset}/{pair}/image{k}.png": shapes[k - 1] for subset, pair, *shapes, _ in PAIRS for k in (1, 2)}
    for pair in benchmark.pairs:
        shape = shapes[pair.src]
        assert benchmark.files.image(pair.src).shape == (*shape, 3)
        mask = benchmark.files.mask(pair.src)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, object_mask(shape))
        flow = benchmark.files.flow(pair.id)
        assert flow.dtype == np.float32
        np.testing.assert_array_equal(flow, np.where(object_mask(shape)[..., None], true_flow(shape), np.nan))


def test_flow_is_unknown_beside_the_object_and_where_it_is_marked(folder):
    path = folder / "TSS_CVPR2016" / "FG3DCar" / "001_005" / "flow1.flo"
    flow = np.zeros((12, 20, 2), np.float32)
    flow[1, 2] = (1e10, 0)
    flow[2, 2] = (0, -2e9)
    write_flow(path, flow)
    expected = object_mask((12, 20))
    expected[1:3, 2] = False
    found = tss(folder).files.flow("FG3DCar/001_005/flow1")
    np.testing.assert_array_equal(np.isfinite(found).all(-1), expected)
    np.testing.assert_array_equal(np.isnan(found).all(-1), ~expected)


def test_survives_a_pickle(folder):
    copy = pickle.loads(pickle.dumps(tss(folder)))
    assert copy.files.flow(copy.pairs[0].id).shape == (12, 20, 2)


def test_takes_the_inner_folder_and_part_of_the_data(folder):
    inner = folder / "TSS_CVPR2016"
    assert len(tss(inner).pairs) == len(tss(str(folder)).pairs) == 8
    shutil.rmtree(inner / "FG3DCar")
    (inner / "Extra" / "one_01_02").mkdir(parents=True)
    (inner / "JODS" / ".DS_Store").write_text("")
    (inner / "JODS" / ".hidden").mkdir()
    (inner / "JODS" / "readme.txt").write_text("")
    assert [pair.subset for pair in tss(folder).pairs] == ["JODS", "JODS", "PASCAL", "PASCAL"]


def test_names_what_it_looked_for(folder, tmp_path):
    inside = folder / "TSS_CVPR2016" / "JODS"
    with pytest.raises(ValueError, match=r"^data_dir: TSS needs the folder 'TSS_CVPR2016', not found: ") as caught:
        tss(inside)
    assert str(inside / "TSS_CVPR2016") in str(caught.value)
    with pytest.raises(ValueError, match=r"nowhere does not exist, expected a folder that holds TSS_CVPR2016"):
        tss(tmp_path / "nowhere")
    (tmp_path / "other" / "TSS_CVPR2016" / "Jods").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"^data_dir: TSS needs at least one of the folders FG3DCar, JODS, PASCAL"):
        tss(tmp_path / "other")
    with pytest.raises(ValueError, match=r"^split: TSS has only 'test', got 'val'"):
        tss(folder, split="val")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_names_a_subset_without_pairs(folder, skip_bad):
    shutil.rmtree(folder / "TSS_CVPR2016" / "PASCAL")
    (folder / "TSS_CVPR2016" / "PASCAL").mkdir()
    with pytest.raises(ValueError, match=r"PASCAL: expected a folder for every pair, got none"):
        tss(folder, skip_bad=skip_bad)


@pytest.mark.parametrize(
    "names",
    [
        *(["image1.png"], ["image2.png"], ["mask1.png"], ["mask2.png"]),
        *(["flow1.flo"], ["flow2.flo"], ["flip_gt.txt"], ["image2.png", "flow1.flo"]),
    ],
)
def test_names_missing_files(folder, names):
    place = folder / "TSS_CVPR2016" / "JODS" / "horse_12_20"
    for name in names:
        (place / name).unlink()
    with pytest.raises(ValueError) as caught:
        tss(folder)
    assert str(caught.value) == f"{place}: files not found: {', '.join(names)}"
    benchmark = tss(folder, skip_bad=True)
    assert [pair.subset for pair in benchmark.pairs] == ["FG3DCar"] * 4 + ["PASCAL"] * 2
    assert benchmark.left_out == (f"{caught.value} (both of its flow fields are left out)",)


def refused(monkeypatch, method, path):
    """As if the user might not enter a folder; the tests may run as one who may enter all."""
    original = getattr(Path, method)

    def attempt(self):
        if path in (self, self.parent):
            raise PermissionError(13, "Permission denied", str(self))
        return original(self)

    monkeypatch.setattr(Path, method, attempt)


def test_a_folder_that_may_not_be_entered_is_named_or_left_out(folder, monkeypatch):
    place = folder / "TSS_CVPR2016" / "JODS" / "horse_12_20"
    refused(monkeypatch, "is_file", place)
    with pytest.raises(ValueError, match=r"horse_12_20: cannot be read, Permission denied$"):
        tss(folder)
    benchmark = tss(folder, skip_bad=True)
    assert len(benchmark.pairs) == 6
    reason = f"{place}: cannot be read, Permission denied (both of its flow fields are left out)"
    assert benchmark.left_out == (reason,)


def test_a_subset_that_may_not_be_listed_is_named(folder, monkeypatch):
    refused(monkeypatch, "iterdir", folder / "TSS_CVPR2016" / "JODS")
    with pytest.raises(ValueError, match=r"JODS: cannot be read, Permission denied$"):
        tss(folder)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"flip_gt\.txt: expected 0 or 1, got ''"),
        (b"2", r"flip_gt\.txt: expected 0 or 1, got '2'"),
        (b"0 1", r"flip_gt\.txt: expected 0 or 1, got '0 1'"),
        (b"no", r"flip_gt\.txt: expected 0 or 1, got 'no'"),
        (b"\xff\xfe", r"flip_gt\.txt: cannot be read"),
    ],
)
def test_names_a_bad_flip(folder, content, match):
    (folder / "TSS_CVPR2016" / "FG3DCar" / "001_021" / "flip_gt.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"001_021: {match}"):
        tss(folder)
    assert len(tss(folder, skip_bad=True).pairs) == 6


def place_of(folder):
    return folder / "TSS_CVPR2016" / "FG3DCar" / "001_005"


def save_mask(place, values):
    Image.fromarray(values).save(place / "mask1.png")


@pytest.mark.parametrize(
    ("damage", "mask_match", "flow_match"),
    [
        (
            lambda place: save_mask(place, np.full((20, 12), 255, np.uint8)),
            r"mask1\.png: expected 20 x 12 pixels as image1\.png has, got 12 x 20",
            r"mask1\.png: expected 20 x 12",
        ),
        (
            lambda place: save_mask(place, np.zeros((12, 20), np.uint8)),
            r"mask1\.png: expected a mask with an object, got one without",
            r"mask1\.png: expected a mask with an object",
        ),
        (
            lambda place: (place / "mask1.png").write_bytes((place / "mask1.png").read_bytes()[:60]),
            r"mask1\.png: damaged picture",
            r"mask1\.png: damaged picture",
        ),
        (
            lambda place: write_flow(place / "flow1.flo", true_flow((20, 12))),
            None,
            r"flow1\.flo: expected 20 x 12 pixels as image1\.png has, got 12 x 20",
        ),
        (
            lambda place: write_flow(place / "flow1.flo", np.full((12, 20, 2), np.nan)),
            None,
            r"flow1\.flo: expected a flow that is known somewhere on the object, got none",
        ),
        (
            lambda place: (place / "flow1.flo").write_bytes((place / "flow1.flo").read_bytes()[:-4]),
            None,
            r"flow1\.flo: expected 1932 bytes for 20 x 12 pixels, got 1928",
        ),
        (
            lambda place: (place / "flow1.flo").write_bytes(b"FLOW" + (place / "flow1.flo").read_bytes()[4:]),
            None,
            r"flow1\.flo: expected a \.flo file",
        ),
    ],
)
def test_names_damage_when_it_decodes(folder, damage, mask_match, flow_match):
    damage(place_of(folder))
    files = tss(folder).files
    with pytest.raises(ValueError, match=flow_match) as caught:
        files.flow("FG3DCar/001_005/flow1")
    assert str(caught.value).startswith(str(place_of(folder)))
    assert files.flow("FG3DCar/001_005/flow2").shape == (15, 11, 2)
    if mask_match:
        with pytest.raises(ValueError, match=mask_match):
            files.mask("FG3DCar/001_005/image1.png")
    else:
        assert files.mask("FG3DCar/001_005/image1.png").shape == (12, 20)


@pytest.mark.parametrize("name", ["image1.png", "FG3DCar/001_005/mask1.png", "FG3DCar/001_005/image3.png", ""])
def test_names_an_unknown_mask(folder, name):
    with pytest.raises(ValueError, match=r": no mask is known, only of <subset>/<pair>/image1\.png"):
        tss(folder).files.mask(name)


@pytest.mark.parametrize("name", ["flow1", "FG3DCar/001_005/flow1.flo", "FG3DCar/001_005/flow0", "a/b/c/flow1", ""])
def test_names_an_unknown_flow(folder, name):
    with pytest.raises(ValueError, match=r": no flow is known, only of <subset>/<pair>/flow1 and flow2"):
        tss(folder).files.flow(name)


@pytest.fixture
def real(data_dir):
    if not (data_dir / "TSS-sample").is_dir():
        pytest.skip(f"no TSS-sample in {data_dir}")
    return tss(data_dir / "TSS-sample")


def test_real_pairs(real):
    assert len(real.pairs) == 12
    assert [pair.id for pair in real.pairs if pair.mirrored] == ["PASCAL/bike_01_03/flow1", "PASCAL/bike_01_03/flow2"]
    assert {(pair.subset, pair.category) for pair in real.pairs} == {
        *(("FG3DCar", "car"), ("JODS", "car"), ("PASCAL", "bike"))
    }


@pytest.mark.parametrize(
    ("pair_id", "pixels"),
    [
        ("FG3DCar/001_005/flow1", 180507),
        ("JODS/car_01_02/flow1", 29935),
        ("JODS/car_01_02/flow2", 27489),
        ("PASCAL/bike_01_03/flow2", 73134),
    ],
)
def test_real_flows_are_known_on_the_object(real, pair_id, pixels):
    pair = next(pair for pair in real.pairs if pair.id == pair_id)
    flow = real.files.flow(pair_id)
    known = np.isfinite(flow).all(-1)
    assert known.sum() == pixels
    np.testing.assert_array_equal(known, real.files.mask(pair.src))
    assert np.abs(flow[known]).max() < 1000
    raw = read_flow(real.files.folder / f"{pair_id}.flo")
    np.testing.assert_array_equal(flow[known], raw[known])


def test_real_flow_of_grey_masks_is_whole(real):
    """Its mask has greys besides 0 and 255: a reader that wants 255 loses pixels."""
    assert np.isfinite(real.files.flow("FG3DCar/001_021/flow2")).all(-1).sum() == 200404


def test_real_flows_point_at_the_other_object(real):
    for pair in real.pairs:
        flow, target = real.files.flow(pair.id), real.files.mask(pair.tgt)
        y, x = np.nonzero(np.isfinite(flow).all(-1))
        to_x, to_y = np.rint(np.stack([x, y]) + flow[y, x].T).astype(int)
        height, width = target.shape
        hits = target[to_y.clip(0, height - 1), to_x.clip(0, width - 1)]
        assert hits.mean() > 0.9, pair.id
