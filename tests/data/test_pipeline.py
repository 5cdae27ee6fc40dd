"""Batches: a function of the seed and their number, the same in any process and however the hosts share them."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import pytest

from rtn_jax.data import pipeline
from rtn_jax.data.files import ArrayFiles, FolderFiles
from rtn_jax.data.pairs import Pair
from rtn_jax.data.pipeline import PhotoReader, pair_batches, photo_batches
from rtn_jax.data.sources import ListedPairs, Photos, pair_source, photo_source
from rtn_jax.images import encode_png, read_image, resize, save_image
from tests.networks import photos

SHAPE = (16, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven photos of two classes, 30 x 40, smooth but for one pixel that tells them apart."""
    path = tmp_path_factory.mktemp("photos")
    for i, photo in enumerate(photos(np.random.default_rng(0), 7, 30, 40)):
        (path / f"class{i % 2}").mkdir(exist_ok=True)
        save_image(path / f"class{i % 2}" / f"{i}.png", photo)
    return path


def equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def tells(batch, name="photos"):
    """A hashable stand-in for every picture of a batch."""
    return [picture.tobytes() for picture in batch[name]]


def test_photo_batches_have_the_documented_arrays(folder):
    batch = photo_batches(photo_source(str(folder)), SHAPE, batch_size=3, seed=0)[5]
    assert set(batch) == {"photos", "seeds"}
    assert batch["photos"].shape == (3, *SHAPE, 3)
    assert batch["photos"].dtype == np.uint8
    assert batch["seeds"].shape == (3,)
    assert batch["seeds"].dtype == np.uint32


def test_photos_are_those_of_the_files(folder):
    batch = photo_batches(photo_source(str(folder)), SHAPE, batch_size=7, seed=0)[0]
    expected = [np.rint(resize(read_image(file), SHAPE)).astype(int) for file in sorted(folder.rglob("*.png"))]
    for picture in batch["photos"].astype(int):
        assert min(np.abs(picture - photo).max() for photo in expected) <= 2


def test_every_photo_comes_once_per_epoch_in_another_order(folder):
    batches = photo_batches(photo_source(str(folder)), SHAPE, batch_size=3, seed=0)
    drawn = [picture for i in range(14) for picture in tells(batches[i])]  # six epochs of seven
    epochs = [drawn[7 * e : 7 * e + 7] for e in range(6)]
    assert all(len(set(epoch)) == 7 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    seeds = np.concatenate([batches[i]["seeds"] for i in range(14)])
    assert len(set(seeds.tolist())) == len(seeds)


def test_a_batch_depends_on_seed_and_number_alone(folder):
    source = photo_source(str(folder))
    batches, again = (photo_batches(source, SHAPE, batch_size=3, seed=4) for _ in range(2))
    for i in (9, 0, 4):
        equal(batches[i], pickle.loads(pickle.dumps(again))[i])
    other = photo_batches(source, SHAPE, batch_size=3, seed=5)
    assert (other[0]["seeds"] != batches[0]["seeds"]).all()
    later = [tells(other[i]) for i in range(7)]
    assert later != [tells(batches[i]) for i in range(7)]


@pytest.mark.parametrize("step", [0, 7])
def test_a_seed_means_what_it_meant_in_the_first_release(folder, step):
    """Published runs can be made again: photos by epochs' permutations, the warps' seeds of a step drawn together."""
    source = photo_source(str(folder))
    batch = photo_batches(source, SHAPE, batch_size=3, seed=4)[step]
    orders = [np.random.default_rng((4, epoch)).permutation(7) for epoch in range(4)]
    items = [orders[(3 * step + n) // 7][(3 * step + n) % 7] for n in range(3)]
    read = PhotoReader(source.files, SHAPE, 0)
    assert tells(batch) == [read(source.names[item]).tobytes() for item in items]
    np.testing.assert_array_equal(
        batch["seeds"], np.random.default_rng((4, step, 1)).integers(2**32, size=3, dtype=np.uint32)
    )


@pytest.mark.parametrize("hosts", [2, 3, 6])
@pytest.mark.parametrize("stage", [photo_batches, pair_batches])
def test_hosts_share_what_one_host_has(folder, stage, hosts):
    source = photo_source(str(folder)) if stage is photo_batches else pair_source(str(folder))
    name = "photos" if stage is photo_batches else "src"
    whole = stage(source, SHAPE, batch_size=6, seed=1)
    shares = [stage(source, SHAPE, batch_size=6, seed=1, shard=(host, hosts)) for host in range(hosts)]
    for i in (0, 3, 50):
        parts = [share[i] for share in shares]
        assert all(len(part[name]) == 6 // hosts for part in parts)
        together = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert collections.Counter(tells(together, name)) == collections.Counter(tells(whole[i], name))
        if "seeds" in together:
            assert sorted(together["seeds"]) == sorted(whole[i]["seeds"])
            assert len(set(together["seeds"].tolist())) == 6, "disjoint"


def test_a_batch_that_hosts_cannot_share_is_refused(folder):
    with pytest.raises(ValueError, match="batch_size: 4 pairs cannot be split evenly over 3 hosts"):
        photo_batches(photo_source(str(folder)), SHAPE, batch_size=4, seed=0, shard=(0, 3))


def test_pairs_are_of_one_class_and_mirrored_together(folder):
    files = sorted(folder.rglob("*.png"))
    batches = pair_batches(pair_source(str(folder)), (30, 40), batch_size=8, seed=0)
    known = {}
    for file in files:
        picture = read_image(file)
        known[picture.tobytes()] = (file.parent.name, file.name, False)
        known[np.ascontiguousarray(picture[:, ::-1]).tobytes()] = (file.parent.name, file.name, True)
    flips = []
    for i in range(6):
        batch = batches[i]
        assert set(batch) == {"src", "tgt", "src_box"}
        for src, tgt, box in zip(tells(batch, "src"), tells(batch, "tgt"), batch["src_box"], strict=True):
            (src_class, src_name, src_flip), (tgt_class, tgt_name, tgt_flip) = known[src], known[tgt]
            assert src_class == tgt_class
            assert src_name != tgt_name
            assert src_flip == tgt_flip
            flips.append(src_flip)
            np.testing.assert_array_equal(box, [-0.5, -0.5, 39.5, 29.5])
    assert 8 < sum(flips) < 40


def test_a_mirrored_pair_has_its_box_on_the_same_object():
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[4:12, 2:10] = 255  # the object, eight pixels wide, off the middle
    left, right = np.array([1.5, 3.5, 9.5, 11.5]), np.array([29.5, 3.5, 37.5, 11.5])
    pairs = (
        Pair(id="a", src="x", tgt="x", src_box=left),
        Pair(id="b", src="x", tgt="x", src_box=right, src_flipped=True),
    )
    source = ListedPairs(ArrayFiles({"x": picture}), pairs, "two")
    batch = pair_batches(source, (40, 60), batch_size=2, seed=0)[0]  # twice as high, one and a half times as wide
    assert batch["src_box"].dtype == np.float32
    y, x = np.mgrid[:40, :60]
    for image, (x0, y0, x1, y1) in zip(batch["src"], batch["src_box"], strict=True):
        inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
        assert inside.sum() == 16 * 12
        assert image[inside].mean() > 230
        assert image[~inside].mean() < 10
    assert (batch["src"][0] != batch["src"][1]).any()
    np.testing.assert_array_equal(batch["tgt"][0], batch["tgt"][1])


def test_photos_are_kept_within_the_memory_given(tmp_path, monkeypatch):
    for value, name in enumerate("abc"):
        (tmp_path / name).write_bytes(encode_png(np.full((8, 8, 3), value, np.uint8)))
    decoded = []
    read = pipeline.read_resized
    monkeypatch.setattr(pipeline, "read_resized", lambda path, shape: decoded.append(path.name) or read(path, shape))
    reader = PhotoReader(FolderFiles(tmp_path), (4, 4), kept_bytes=2 * 4 * 4 * 3 + 1)
    for name in "aabbaaca":
        np.testing.assert_array_equal(reader(name), np.full((4, 4, 3), "abc".index(name)))
    assert decoded == ["a", "b", "c"]
    with pytest.raises(ValueError, match="read-only"):
        reader("c")[0] = 0
    decoded.clear()
    nothing = PhotoReader(FolderFiles(tmp_path), (4, 4), kept_bytes=0)
    for _ in range(2):
        nothing("a")
    assert decoded == ["a", "a"]


def test_a_photo_that_is_cut_off_is_named(folder, tmp_path):
    good = next(folder.rglob("*.png"))
    save_image(tmp_path / "cut.jpg", np.random.default_rng(0).integers(0, 255, (60, 60, 3)).astype(np.uint8))
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "good.png").write_bytes(good.read_bytes())
    source = Photos(FolderFiles(tmp_path), ("good.png", "cut.jpg"), "")
    with pytest.raises(ValueError, match=r"cut\.jpg: damaged picture"):
        photo_batches(source, SHAPE, batch_size=2, seed=0)[0]
