"""Batches: a function of the seed and their number, the same in any process and however the hosts share them."""

from __future__ import annotations

import collections
import pickle
import re
import shutil

import numpy as np
import pytest

from rtn_jax.data.draws import PhotoReader
from rtn_jax.data.files import ArrayFiles, FolderFiles
from rtn_jax.data.pairs import Pair
from rtn_jax.data.pipeline import Replaced, pair_batches, photo_batches
from rtn_jax.data.sources import ListedPairs, Photos, pair_source, photo_source
from rtn_jax.images import read_image, resize
from tests.networks import write_two_classes

SHAPE = (16, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven photos of two classes, 30 x 40, smooth but for one pixel that tells them apart."""
    path = tmp_path_factory.mktemp("photos")
    write_two_classes(path, 30, 40)
    return path


def equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def described(batch):
    return {name: (str(array.dtype), array.shape) for name, array in batch.items()}


def tells(batch, name="photos"):
    """A hashable stand-in for every picture of a batch."""
    return [picture.tobytes() for picture in batch[name]]


def test_photo_batches_have_the_documented_arrays(folder):
    batch = photo_batches(photo_source(str(folder)), SHAPE, batch_size=3, seed=0)[5]
    assert described(batch) == {
        "photos": ("uint8", (3, *SHAPE, 3)),
        "seeds": ("uint32", (3,)),
        "attempts": ("int32", (3,)),
    }
    np.testing.assert_array_equal(batch["attempts"], 0)


def test_pair_batches_have_the_documented_arrays(folder):
    batch = pair_batches(pair_source(str(folder)), SHAPE, batch_size=3, seed=0)[5]
    assert described(batch) == {
        "src": ("uint8", (3, *SHAPE, 3)),
        "tgt": ("uint8", (3, *SHAPE, 3)),
        "src_box": ("float32", (3, 4)),
        "tgt_box": ("float32", (3, 4)),
        "seeds": ("uint32", (3,)),
        "attempts": ("int32", (3,)),
    }
    np.testing.assert_array_equal(batch["attempts"], 0)


def test_an_epoch_is_as_long_as_its_source(folder):
    assert photo_batches(photo_source(str(folder)), SHAPE, batch_size=3, seed=0).items == 7
    listed = ListedPairs(ArrayFiles({}), (Pair(id="a", src="x", tgt="y"),) * 5, "five")
    batches = pair_batches(listed, SHAPE, batch_size=4, seed=0, shard=(1, 2))
    assert (batches.items, batches.batch_size) == (5, 4)


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
        equal(batches[i], pickle.loads(pickle.dumps(batches))[i])
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
        assert sorted(together["seeds"]) == sorted(whole[i]["seeds"])
        assert len(set(together["seeds"].tolist())) == 6, "disjoint"


def test_a_batch_that_hosts_cannot_share_is_refused(folder):
    with pytest.raises(ValueError, match="batch_size: 4 pairs cannot be split evenly over 3 hosts"):
        photo_batches(photo_source(str(folder)), SHAPE, batch_size=4, seed=0, shard=(0, 3))
    for shard in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ValueError, match=r"shard: expected .* got \(") as caught:
            photo_batches(photo_source(str(folder)), SHAPE, batch_size=3, seed=0, shard=shard)
        assert str(shard) in str(caught.value)


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


@pytest.fixture(scope="module")
def damaged(folder, tmp_path_factory):
    """The same folder with one of the four photos of the first class cut off and one of the three of the other."""
    path = tmp_path_factory.mktemp("damaged") / "photos"
    shutil.copytree(folder, path)
    for name in BAD:
        whole = (path / name).read_bytes()
        (path / name).write_bytes(whole[: len(whole) // 2])
    return path


BAD = ("class0/4.png", "class1/3.png")


def both(stage, folder, **options):
    source = photo_source(str(folder)) if stage is photo_batches else pair_source(str(folder))
    return stage(source, SHAPE, **{"batch_size": 6, "seed": 3} | options)


def shown(folder, batch, name, row):
    """The pictures that a name stands for, and those of that row."""
    read = PhotoReader(FolderFiles(folder), SHAPE, 0)
    if "photos" in batch:
        return [read(name)], [batch["photos"][row]]
    src, tgt = name.removesuffix(" (mirrored)").split(" -> ")
    step = -1 if name.endswith(" (mirrored)") else 1
    return [read(src)[:, ::step], read(tgt)[:, ::step]], [batch["src"][row], batch["tgt"][row]]


@pytest.mark.parametrize("shard", [(0, 1), (0, 2), (2, 3)])
@pytest.mark.parametrize("stage", [photo_batches, pair_batches])
def test_names_are_of_what_is_in_the_batch(folder, stage, shard):
    batches = both(stage, folder, shard=shard)
    for i in (0, 1, 9):
        batch, names = batches[i], batches.names(i)
        assert len(names) == 6 // shard[1]
        assert batches.names(i, batch) == names
        for row, name in enumerate(names):
            for expected, picture in zip(*shown(folder, batch, name, row), strict=True):
                np.testing.assert_array_equal(picture, expected)
    if stage is pair_batches:
        marks = [name.endswith(" (mirrored)") for i in range(20) for name in batches.names(i)]
        assert 0 < sum(marks) < len(marks)


@pytest.mark.parametrize("stage", [photo_batches, pair_batches])
def test_names_are_known_without_reading(folder, stage, tmp_path):
    shutil.copytree(folder, tmp_path / "gone")
    batches = both(stage, tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    assert [batches.names(i) for i in range(5)] == [both(stage, folder).names(i) for i in range(5)]


@pytest.mark.parametrize("stage", [photo_batches, pair_batches])
def test_only_what_cannot_be_read_is_replaced(folder, damaged, stage):
    good, bad = both(stage, folder), both(stage, damaged)
    count = 0
    for i in range(12):
        batch, wanted = bad[i], good[i]
        unreadable = [any(photo in name for photo in BAD) for name in bad.names(i)]
        np.testing.assert_array_equal(batch["attempts"] > 0, unreadable)
        count += sum(unreadable)
        kept = np.logical_not(unreadable)
        equal(*({name: array[kept] for name, array in taken.items()} for taken in (batch, wanted)))
        for row, name in enumerate(bad.names(i, batch)):
            assert not any(photo in name for photo in BAD)
            for expected, picture in zip(*shown(damaged, batch, name, row), strict=True):
                np.testing.assert_array_equal(picture, expected)
    assert count > 10


@pytest.mark.parametrize("stage", [photo_batches, pair_batches])
def test_what_was_replaced_is_told_with_the_reason(folder, damaged, stage):
    batches, again = both(stage, damaged), pickle.loads(pickle.dumps(both(stage, damaged)))
    seen = set()
    for i in range(12):
        batch = batches[i]
        told = again.replaced(i, batch)
        drawn, taken, rest = batches.names(i), batches.names(i, batch), iter(told)
        for row, attempts in enumerate(batch["attempts"]):
            tried = [next(rest) for _ in range(attempts)]
            assert [entry.name for entry in tried[:1]] == [drawn[row]] * bool(attempts)
            assert all(entry.instead == taken[row] for entry in tried)
        assert list(rest) == []
        for entry in told:
            (named,) = [photo for photo in BAD if f"{damaged / photo}: damaged" in entry.reason]
            assert named in entry.name
            assert "\n" not in entry.reason
        seen |= {entry.name for entry in told}
        assert both(stage, folder).replaced(i, both(stage, folder)[i]) == []
    assert all(any(photo in name for name in seen) for photo in BAD)


def test_a_photo_that_can_be_read_again_is_told_too(folder, damaged, tmp_path):
    source = Photos(FolderFiles(tmp_path), ("class1/3.png", "class0/0.png"), "two")
    shutil.copytree(damaged, tmp_path, dirs_exist_ok=True)
    batches = photo_batches(source, SHAPE, batch_size=2, seed=0)
    batch = batches[0]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    reason = "class1/3.png: could not be read, though it could when it was tried again"
    assert batches.replaced(0, batch) == [Replaced("class1/3.png", "class0/0.png", reason)]


@pytest.mark.parametrize("stage", [photo_batches, pair_batches])
def test_hosts_replace_as_one_host_does(damaged, stage):
    whole = both(stage, damaged)
    shares = [both(stage, damaged, shard=(host, 3)) for host in range(3)]
    for i in range(6):
        batch, parts = whole[i], [share[i] for share in shares]
        assert batch["attempts"].any()
        for host, (share, part) in enumerate(zip(shares, parts, strict=True)):
            equal(part, {name: array[host::3] for name, array in batch.items()})
            assert share.names(i) == whole.names(i)[host::3]
            assert share.names(i, part) == whole.names(i, batch)[host::3]
        told = [entry for share, part in zip(shares, parts, strict=True) for entry in share.replaced(i, part)]
        assert collections.Counter(told) == collections.Counter(whole.replaced(i, batch))


def test_a_folder_that_is_damaged_altogether_ends_it(damaged):
    source = Photos(FolderFiles(damaged), BAD, "both bad")
    batches = photo_batches(source, SHAPE, batch_size=2, seed=0)
    place = re.escape(str(damaged))
    message = rf"^{place}/class\d/\d\.png: damaged picture .*; nor could what was drawn in its place be read, 10 times"
    with pytest.raises(ValueError, match=message) as caught:
        batches[0]
    assert "\n" not in str(caught.value)
