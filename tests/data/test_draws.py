"""One draw: what it takes, what it takes instead if a photo cannot be read, and the photos themselves."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import pytest

from rtn_jax.data import draws
from rtn_jax.data.class_photos import Photo
from rtn_jax.data.draws import RETRIES, PairDraws, PhotoDraws, PhotoReader
from rtn_jax.data.files import ArrayFiles, FolderFiles
from rtn_jax.data.pairs import Files, Pair
from rtn_jax.data.sources import ClassPairs, ListedPairs, Pairs
from rtn_jax.images import encode_png

SHAPE = (4, 6)
NAMES = tuple("abcdefghijklmnopqrst")


def plain(names):
    """A picture per letter, of one value, which tells it apart."""
    return ArrayFiles({name: np.full((*SHAPE, 3), 10 * NAMES.index(name), np.uint8) for name in names})


def photo_draws(names, *, readable=NAMES, seed=4, batch_size=3):
    return PhotoDraws(PhotoReader(plain(readable), SHAPE, 0), tuple(names), seed, batch_size)


def class_draws(*, readable=NAMES, seed=4):
    """Four classes of five photos."""
    members = tuple(tuple(Photo(name, f"class{c}") for name in NAMES[5 * c : 5 * c + 5]) for c in range(4))
    files = plain(readable)
    return PairDraws(PhotoReader(files, SHAPE, 0), ClassPairs(files, members, "four classes"), seed)


def listed_draws(listed, *, readable=NAMES, seed=4):
    files = plain(readable)
    return PairDraws(PhotoReader(files, SHAPE, 0), ListedPairs(files, tuple(listed), "listed"), seed)


def letter(picture):
    return NAMES[int(picture.mean()) // 10]


def expected_item(seed, index, attempt, items):
    """Slowly, from the description: the epochs' permutations, then others in an order of the draw's own."""
    first = np.random.default_rng((seed, index // items)).permutation(items)[index % items]
    if attempt == 0:
        return first
    others = [(first + 1 + n) % items for n in range(items - 1)]
    chosen = np.random.default_rng((seed, index, 2)).choice(items - 1, size=min(10, items - 1), replace=False)
    order = [others[n] for n in chosen]
    return (order * 10)[attempt - 1]


@pytest.mark.parametrize("items", [2, 7, 20])
def test_a_photo_is_replaced_by_the_first_readable_of_its_own_order(items):
    bad = set(NAMES[1 : items - 1 : 2]) | {"a"}
    drawing = photo_draws(NAMES[:items], readable=[name for name in NAMES if name not in bad])
    found = []
    for index in range(60):
        tried = [NAMES[expected_item(4, index, attempt, items)] for attempt in range(RETRIES + 1)]
        attempts = next(n for n, name in enumerate(tried) if name not in bad)
        drawn = drawing(index)
        assert [drawing.choose(index, n).name for n in range(RETRIES + 1)] == tried
        assert drawn["attempts"].dtype == np.int32
        assert drawn["attempts"] == attempts
        assert letter(drawn["photos"]) == tried[attempts]
        found.append(attempts)
    assert max(found) > (0 if items == 2 else 1)
    assert min(found) == 0


def test_no_photo_is_tried_twice_and_all_are_as_likely():
    drawing = photo_draws(NAMES)
    counts = collections.Counter()
    for index in range(400):
        tried = [drawing.choose(index, attempt).name for attempt in range(RETRIES + 1)]
        assert len(set(tried)) == RETRIES + 1
        place = {name: (NAMES.index(name) - NAMES.index(tried[0])) % 20 for name in tried}
        counts.update(place[name] for name in tried[1:])
    assert set(counts) == set(range(1, 20))
    assert max(abs(count - 400 * 10 / 19) for count in counts.values()) < 60  # 6 standard deviations


def test_few_photos_are_all_tried():
    drawing = photo_draws("abcd")
    for index in range(50):
        assert sorted(drawing.choose(index, attempt).name for attempt in range(4)) == list("abcd")
    assert [photo_draws("a").choose(9, attempt).name for attempt in range(3)] == ["a"] * 3


def test_a_replaced_photo_is_warped_as_the_one_it_replaces():
    some, all_ = photo_draws(NAMES, readable="abcde"), photo_draws(NAMES)
    for index in range(9):
        assert some(index)["seeds"] == all_(index)["seeds"]
    assert sum(int(some(index)["attempts"]) for index in range(9)) > 0


def expected_pair(seed, index, attempt):
    """What `ClassPairs` draws by the description, and the seed that is drawn next."""
    generator = np.random.default_rng((seed, index, 1 if attempt == 0 else 2 + attempt))
    names = NAMES[5 * (c := generator.integers(4)) : 5 * c + 5]
    src = tgt = names[generator.integers(5)]
    while tgt == src:
        tgt = names[generator.integers(5)]
    mirrored = generator.random() < 0.5
    return f"{src} -> {tgt}" + " (mirrored)" * mirrored, generator.integers(2**32, dtype=np.uint32)


def test_a_seed_means_the_pairs_it_meant_before_and_one_more_number():
    drawing = class_draws()
    seeds = []
    for index in range(40):
        name, seed = expected_pair(4, index, 0)
        drawn = drawing(index)
        assert drawing.choose(index, 0).name == name
        assert f"{letter(drawn['src'])} -> {letter(drawn['tgt'])}" == name[:6]
        assert drawn["seeds"].dtype == np.uint32
        assert drawn["seeds"] == seed
        seeds.append(int(seed))
    assert len(set(seeds)) == 40


def test_a_pair_is_replaced_by_the_next_of_which_both_photos_can_be_read():
    bad = set("ahp")
    drawing = class_draws(readable=[name for name in NAMES if name not in bad])
    found = []
    for index in range(80):
        tried = [expected_pair(4, index, attempt) for attempt in range(RETRIES + 1)]
        attempts = next(n for n, (name, _) in enumerate(tried) if not bad & set(name[:6].split(" -> ")))
        drawn = drawing(index)
        assert [drawing.choose(index, n).name for n in range(RETRIES + 1)] == [name for name, _ in tried]
        assert drawn["attempts"] == attempts
        assert f"{letter(drawn['src'])} -> {letter(drawn['tgt'])}" == tried[attempts][0][:6]
        assert drawn["seeds"] == tried[attempts][1]
        found.append(attempts)
    assert max(found) > 1


def test_listed_pairs_are_replaced_by_other_listed_pairs():
    listed = [Pair(id=name, src=name, tgt=name) for name in NAMES]
    drawing = listed_draws(listed, readable=NAMES[5:])
    for index in range(40):
        tried = [NAMES[expected_item(4, index, attempt, 20)] for attempt in range(RETRIES + 1)]
        assert letter(drawing(index)["src"]) == next(name for name in tried if name not in NAMES[:5])


@pytest.mark.parametrize(
    ("flips", "mark"),
    [
        ((False, False), ""),
        ((True, True), " (mirrored)"),
        ((True, False), " (source mirrored)"),
        ((False, True), " (target mirrored)"),
    ],
)
def test_a_pair_is_named_by_its_photos(flips, mark):
    pair = Pair(id="x", src="a", tgt="b", src_flipped=flips[0], tgt_flipped=flips[1])
    assert listed_draws([pair]).choose(0, 0).name == f"a -> b{mark}"


def test_a_draw_is_a_function_of_its_number_in_any_process():
    for drawing in (photo_draws(NAMES, readable="abc"), class_draws(readable=NAMES[3:])):
        first = [drawing(index) for index in (5, 0, 3)]
        for index, again in zip((3, 5, 0), (pickle.loads(pickle.dumps(drawing))(i) for i in (3, 5, 0)), strict=True):
            expected = first[(5, 0, 3).index(index)]
            assert expected.keys() == again.keys()
            for name in expected:
                np.testing.assert_array_equal(again[name], expected[name])


class Failing(ArrayFiles):
    """Raises what it is told to for a photo, or for the shape of one."""

    def __init__(self, errors, shapes=()):
        super().__init__(plain(NAMES).images)
        object.__setattr__(self, "errors", dict(errors))
        object.__setattr__(self, "shapes", dict(shapes))

    def image(self, name):
        if name in self.errors:
            raise self.errors[name]
        return super().image(name)

    def shape(self, name):
        if name in self.shapes:
            raise self.shapes[name]
        return super().shape(name)


def test_all_that_readers_raise_is_replaced_and_nothing_else():
    for error in (ValueError("a: damaged"), OSError(5, "Input/output error"), PermissionError("a")):
        drawing = PhotoDraws(PhotoReader(Failing({"a": error}), SHAPE, 0), ("a", "b"), 0, 1)
        assert sorted(int(drawing(index)["attempts"]) for index in range(2)) == [0, 1]
    for error in (MemoryError(), RuntimeError("of the program"), KeyboardInterrupt()):
        drawing = PhotoDraws(PhotoReader(Failing({"a": error}), SHAPE, 0), ("a", "b"), 0, 1)
        with pytest.raises(type(error)):
            [drawing(index) for index in range(2)]


def test_a_pair_whose_box_cannot_be_scaled_is_replaced():
    files = Failing({}, shapes={"a": ValueError("a: no such file")})
    box = np.array([0.0, 0, 3, 3])
    pairs = tuple(Pair(id=name, src=name, tgt="c", src_box=box) for name in "ab")
    drawing = PairDraws(PhotoReader(files, SHAPE, 0), ListedPairs(files, pairs, "two"), 0)
    assert {letter(drawing(index)["src"]) for index in range(4)} == {"b"}


def test_a_source_that_fails_is_no_bad_photo():
    class Wrong(Pairs):
        files: Files = plain("a")

        def __len__(self):
            return 3

        def pair(self, item, generator):
            raise ValueError("a mistake of the source")

    with pytest.raises(ValueError, match=r"^a mistake of the source$"):
        PairDraws(PhotoReader(Wrong.files, SHAPE, 0), Wrong(), 0)(0)


@pytest.mark.parametrize("names", ["a", "abc", NAMES])
def test_where_nothing_can_be_read_the_first_is_named(names, monkeypatch):
    drawing, tried, read = photo_draws(names, readable=""), [], ArrayFiles.image
    monkeypatch.setattr(ArrayFiles, "image", lambda files, name: tried.append(name) or read(files, name))
    message = (
        f"^{drawing.choose(5, 0).name}: no such image; nor could what was drawn in its place be read, 10 times over$"
    )
    with pytest.raises(ValueError, match=message):
        drawing(5)
    assert len(tried) == 1 + RETRIES


def test_the_last_attempt_counts():
    drawing = photo_draws(NAMES)
    last = drawing.choose(3, RETRIES).name
    assert photo_draws(NAMES, readable=last)(3)["attempts"] == RETRIES
    others = {drawing.choose(3, attempt).name for attempt in range(RETRIES + 1)}
    with pytest.raises(ValueError, match="nor could"):
        photo_draws(NAMES, readable=set(NAMES) - others)(3)


def test_photos_are_kept_within_the_memory_given(tmp_path, monkeypatch):
    for value, name in enumerate("abc"):
        (tmp_path / name).write_bytes(encode_png(np.full((8, 8, 3), value, np.uint8)))
    decoded = []
    read = draws.read_resized
    monkeypatch.setattr(draws, "read_resized", lambda path, shape: decoded.append(path.name) or read(path, shape))
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
