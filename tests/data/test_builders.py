"""Benchmarks through TFDS and back: equal in every field and byte; half-written or damaged ones are no benchmarks."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from rtn_jax.data.builders import BUILDERS, PfWillow
from rtn_jax.data.datasets import DATASETS
from rtn_jax.data.pairs import Benchmark, Files, Pair
from rtn_jax.data.prepare import build
from rtn_jax.data.prepared import (
    BOXES,
    FLAGS,
    POINTS,
    TEXTS,
    VERSION,
    decode_flow,
    encode_flow,
    folder_name,
    is_prepared,
    prepared_counts,
    read_prepared,
)
from rtn_jax.images import decode_image, encode_png

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class MemoryFiles(Files):
    """Arrays in memory; an image whose content is `bad` cannot be read."""

    images: dict
    masks: dict
    flows: dict

    def encoded(self, name):
        content = self.images[name]
        if content == b"bad":
            raise ValueError(f"{name}: is bad")
        return content

    def image(self, name):
        return decode_image(self.encoded(name), name)

    def mask(self, name):
        return self.masks[name]

    def flow(self, pair_id):
        return self.flows[pair_id]


def everything(rng):
    """A benchmark whose pairs have every field, or none of what may be absent."""
    names = [f"class é/{k}.png" for k in range(4)]
    images = {name: encode_png(rng.integers(0, 256, (5 + k, 7, 3), np.uint8)) for k, name in enumerate(names)}
    masks = {name: rng.random((5 + k, 7)) < 0.5 for k, name in enumerate(names[:2])}
    flow = rng.normal(size=(5, 7, 2)).astype(np.float32)
    flow[1, 2:4] = np.nan
    flow[0, 0] = [-0.0, 1e-42]
    one = np.array([[1.0, 2.0]])
    full = {
        **dict(category="cat ü", subset="part", has_masks=True, has_flow=True),
        **dict(mirrored=True, leaked=True, src_flipped=True, tgt_flipped=True),
        **dict(src_points=rng.normal(size=(3, 2)) * 1e3, tgt_points=rng.normal(size=(3, 2)) / 3),
        **dict(src_box=np.array([0.1, 0.2, 5 / 3, 4]), tgt_box=np.array([np.nextafter(1, 2), 1e-300, 7, 5.0])),
    }
    pairs = (
        Pair(id="z/full", src=names[1], tgt=names[0], **full),
        Pair(id="a/plain", src=names[2], tgt=names[3]),
        Pair(id="m/points", src=names[2], tgt=names[0], src_points=one, tgt_points=one + 1, leaked=True),
        Pair(id="b/box", src=names[3], tgt=names[2], tgt_box=np.array([0.0, 0, 1, 1]), mirrored=True),
    )
    files = MemoryFiles(images, masks, {"z/full": flow})
    return Benchmark(name="Ever", pairs=pairs, files=files, protocol=None, alphas=(0.1, 1 / 3), left_out=("row 3: no",))


def keypoints(rng, count=5):
    """A benchmark of keypoints only."""
    images = {f"{k}.png": encode_png(rng.integers(0, 256, (4, 4, 3), np.uint8)) for k in range(count + 1)}
    points = rng.normal(size=(count, 2, 10, 2))
    pairs = tuple(
        Pair(id=f"{k}", src=f"{k}.png", tgt=f"{k + 1}.png", src_points=src, tgt_points=tgt)
        for k, (src, tgt) in enumerate(points)
    )
    return Benchmark(name="Points", pairs=pairs, files=MemoryFiles(images, {}, {}), thresholds=("bbox-kp", "img"))


def same_array(a, b):
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same(found, expected):
    """Equal in every field, to the bit, and in every file."""
    for field in dataclasses.fields(Benchmark):
        if field.name not in ("pairs", "files"):
            assert getattr(found, field.name) == getattr(expected, field.name), field.name
    assert len(found.pairs) == len(expected.pairs)
    for ours, theirs in zip(found.pairs, expected.pairs, strict=True):
        for field in dataclasses.fields(Pair):
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            assert same_array(a, b) if field.name in (*POINTS, *BOXES) else a == b and type(a) is type(b), field.name
        if theirs.has_flow:
            assert same_array(found.files.flow(ours.id), expected.files.flow(ours.id))
        if theirs.has_masks:
            for name in (ours.src, ours.tgt):
                assert same_array(found.files.mask(name), expected.files.mask(name))
    for name in expected.images:
        assert found.files.encoded(name) == expected.files.encoded(name)
        assert same_array(found.files.image(name), expected.files.image(name))
        assert found.files.shape(name) == expected.files.shape(name)


def files_below(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_every_field_of_a_pair_has_a_place():
    assert sorted((*TEXTS, *POINTS, *BOXES, *FLAGS)) == sorted(field.name for field in dataclasses.fields(Pair))


def test_there_is_a_builder_for_every_data_set():
    assert list(BUILDERS) == list(DATASETS)
    for dataset, builder in BUILDERS.items():
        assert builder.name == folder_name(dataset)
        assert dataset == builder.DATASET


def test_a_benchmark_comes_back_as_it_was(tmp_path, rng):
    """Two splits, absent and present fields, strange names, an order that sorting would change."""
    splits = {"test": everything(rng), "val": keypoints(rng, 12)}
    place = build("tss", splits, tmp_path)
    assert place == tmp_path / "tss"
    assert prepared_counts(tmp_path, "tss") == {"test": (4, 4), "val": (12, 13)}
    for split, expected in splits.items():
        assert_same(read_prepared(tmp_path, "tss", split), expected)
    assert os.listdir(tmp_path) == ["tss"]
    assert_same(read_prepared(place, "tss", "test"), splits["test"])  # the folder itself will do


def test_nothing_is_left_in_the_folder_of_temporary_files(tmp_path, monkeypatch, rng):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    build("pf_willow", {"test": keypoints(rng)}, tmp_path / "out")
    assert os.listdir(tmp_path / "temporary") == []


def test_what_is_not_known_says_so(tmp_path, rng):
    build("tss", {"test": everything(rng)}, tmp_path)
    files = read_prepared(tmp_path, "tss", "test").files
    for read, words in (
        (lambda: files.image("other.png"), "other.png: no such image"),
        (lambda: files.mask("class é/3.png"), "class é/3.png: no mask is known"),
        (lambda: files.flow("a/plain"), "a/plain: no flow is known"),
        (lambda: files.flow("other"), "other: no flow is known"),
    ):
        with pytest.raises(ValueError, match=words):
            read()


def test_files_can_be_sent_to_other_processes(tmp_path, rng):
    expected = everything(rng)
    build("tss", {"test": expected}, tmp_path)
    found = read_prepared(tmp_path, "tss", "test")
    assert_same(pickle.loads(pickle.dumps(found)), expected)  # opened here already
    (tmp_path / "files").write_bytes(pickle.dumps(found.files))
    code = (
        "import pickle, sys; files = pickle.load(open(sys.argv[1], 'rb'));"
        "sys.stdout.buffer.write(files.encoded('class é/2.png'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "files")], cwd=ROOT, capture_output=True, check=True
    )
    assert run.stdout == expected.files.encoded("class é/2.png")


def test_readers_are_opened_anew_after_a_fork(tmp_path, rng):
    expected = everything(rng)
    build("tss", {"test": expected}, tmp_path)
    records = read_prepared(tmp_path, "tss", "test").files.images
    first = records._source()
    assert pickle.loads(pickle.dumps(records))._opened is None
    assert records._source() is first
    records._opened = (os.getpid() + 1, first)  # as a child finds it
    assert records._source() is not first


def test_the_source_is_told_by_its_hash(tmp_path, rng):
    """Equal content, equal hash; one pixel or coordinate more, another."""

    def hashes(folder, benchmark):
        build("tss", {"test": benchmark}, folder)
        infos = [folder / "tss" / config / VERSION / "metadata.json" for config in ("images", "pairs")]
        return [json.loads(info.read_text())["sha256"]["test"] for info in infos]

    benchmark = keypoints(rng)
    first = hashes(tmp_path / "1", benchmark)
    assert hashes(tmp_path / "2", benchmark) == first
    moved = dataclasses.replace(benchmark.pairs[2], src_points=np.nextafter(benchmark.pairs[2].src_points, 9))
    other = hashes(tmp_path / "3", benchmark.replace(pairs=(*benchmark.pairs[:2], moved, *benchmark.pairs[3:])))
    assert other[0] == first[0]
    assert other[1] != first[1]
    images = {**benchmark.files.images, "3.png": encode_png(np.zeros((4, 4, 3), np.uint8))}
    other = hashes(tmp_path / "4", benchmark.replace(files=MemoryFiles(images, {}, {})))
    assert other[0] != first[0]
    assert other[1] == first[1]


@pytest.mark.parametrize("dataset", BUILDERS)
def test_tfds_itself_reads_what_was_written(dataset, tmp_path, rng):
    import tensorflow_datasets as tfds

    benchmark = keypoints(rng)
    build(dataset, {"test": benchmark}, tmp_path)
    builder = tfds.builder_from_directory(tmp_path / folder_name(dataset) / "pairs" / VERSION)
    assert builder.info.homepage.startswith("http")
    assert builder.info.citation.startswith("@")
    assert DATASETS[dataset].title in builder.info.description
    rows = builder.as_data_source("test")
    assert [row["id"].decode() for row in rows] == [pair.id for pair in benchmark.pairs]
    assert rows[3]["src_points"].tobytes() == benchmark.pairs[3].src_points.tobytes()
    assert rows[3]["src_box"].shape == (0,)
    own = BUILDERS[dataset](data_dir=tmp_path, config="images").as_data_source("test")
    assert [row["name"].decode() for row in own] == list(benchmark.images)
    assert "tensorflow" not in sys.modules


def test_tfds_own_way_of_building_reads_the_published_folder(tmp_path, monkeypatch, rng):
    import tensorflow_datasets as tfds

    expected = keypoints(rng)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "test_pairs_pf.csv").write_text("")
    reader = dataclasses.replace(DATASETS["pf_willow"], read=lambda folder, *, split: expected)
    monkeypatch.setitem(DATASETS, "pf_willow", reader)
    for config in ("images", "pairs"):
        builder = PfWillow(data_dir=tmp_path / "out", config=config, file_format="array_record")
        options = tfds.download.DownloadConfig(manual_dir=tmp_path / "raw")
        builder.download_and_prepare(download_config=options, download_dir=tmp_path / "down")
    assert_same(read_prepared(tmp_path / "out", "pf_willow", "test"), expected)


def bad_at(benchmark, position, content):
    name = benchmark.images[position]
    return benchmark.replace(files=MemoryFiles({**benchmark.files.images, name: content}, {}, {}))


@pytest.mark.parametrize("position", [0, 3, 5])
def test_a_failure_midway_leaves_nothing(tmp_path, rng, position):
    benchmark = keypoints(rng)
    with pytest.raises(ValueError, match=r"\d.png: is bad"):
        build("pf_willow", {"val": benchmark, "test": bad_at(benchmark, position, b"bad")}, tmp_path)
    assert files_below(tmp_path) == []
    build("pf_willow", {"test": benchmark}, tmp_path)
    assert is_prepared(tmp_path, "pf_willow")


def test_a_failure_between_the_configurations_leaves_nothing(tmp_path, rng):
    calls = []

    def advance():
        calls.append(1)
        if len(calls) == 8:  # 6 images and 2 pairs
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("pf_willow", {"test": keypoints(rng)}, tmp_path, advance=advance)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("records", [3, 8])
def test_a_killed_process_leaves_nothing_that_passes_for_a_data_set(tmp_path, rng, records):
    code = (
        "import os, pickle, sys; from pathlib import Path; from rtn_jax.data.files import ArrayFiles;"
        "from rtn_jax.data.pairs import Benchmark, Pair; from rtn_jax.data.prepare import build;"
        "import numpy as np; left = [int(sys.argv[2])]\n"
        "def advance():\n    left[0] -= 1\n    if not left[0]: os.kill(os.getpid(), 9)\n"
        "images = {f'{k}.png': np.zeros((4, 4, 3), np.uint8) for k in range(6)}\n"
        "pairs = [Pair(id=f'{k}', src=f'{k}.png', tgt=f'{k + 1}.png') for k in range(5)]\n"
        "benchmark = Benchmark(name='B', pairs=tuple(pairs), files=ArrayFiles(images), protocol=None)\n"
        "build('pf_willow', {'test': benchmark}, Path(sys.argv[1]), advance=advance)\n"
    )
    out = tmp_path / "out"
    run = subprocess.run([sys.executable, "-c", code, str(out), str(records)], cwd=ROOT, check=False)
    assert run.returncode == -9
    assert files_below(out) != [], "something was half written"
    assert not is_prepared(out, "pf_willow")
    for half in out.glob(".*"):  # not even where it was being written
        assert not is_prepared(half, "pf_willow")
    build("pf_willow", {"test": keypoints(rng)}, out)
    assert is_prepared(out, "pf_willow")


def test_a_data_set_with_a_file_missing_is_not_whole(tmp_path, rng):
    build("pf_willow", {"test": keypoints(rng), "val": keypoints(rng)}, tmp_path / "whole")
    for file in files_below(tmp_path / "whole"):
        shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        (tmp_path / "copy" / file).unlink()
        assert is_prepared(tmp_path / "copy", "pf_willow") == (".config" in file.parts), file
        shutil.rmtree(tmp_path / "copy")


@pytest.mark.parametrize("config", ["images", "pairs"])
def test_a_configuration_of_other_splits_is_not_whole(tmp_path, rng, config):
    build("pf_willow", {"test": keypoints(rng)}, tmp_path / "a")
    build("pf_willow", {"test": keypoints(rng), "val": keypoints(rng)}, tmp_path / "b")
    shutil.rmtree(tmp_path / "a" / "pf_willow" / config)
    shutil.copytree(tmp_path / "b" / "pf_willow" / config, tmp_path / "a" / "pf_willow" / config)
    assert not is_prepared(tmp_path / "a", "pf_willow")


def test_images_of_another_data_set_are_noticed(tmp_path, rng):
    build("pf_willow", {"test": keypoints(rng)}, tmp_path / "a")
    build("pf_willow", {"test": keypoints(rng, 7)}, tmp_path / "b")
    images = tmp_path / "a" / "pf_willow" / "images"
    shutil.rmtree(images)
    shutil.copytree(tmp_path / "b" / "pf_willow" / "images", images)
    with pytest.raises(ValueError, match="its pairs name 6 images, 8 are there"):
        read_prepared(tmp_path / "a", "pf_willow", "test")


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: c[:500] + b"x" + c[501:], lambda c: b""])
@pytest.mark.parametrize("config", ["images", "pairs"])
def test_damaged_files_are_named(tmp_path, rng, config, damage):
    benchmark = keypoints(rng)
    build("pf_willow", {"test": benchmark}, tmp_path)
    path = next((tmp_path / "pf_willow" / config / VERSION).glob("*.array_record*"))
    path.write_bytes(damage(path.read_bytes()))

    def use():
        found = read_prepared(tmp_path, "pf_willow", "test")
        return [found.files.encoded(name) for name in found.images]

    with pytest.raises(ValueError, match="cannot be read, the files are damaged or gone") as error:
        use()
    assert str(path.parent) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_description_is_an_error(tmp_path, rng):
    build("pf_willow", {"test": keypoints(rng)}, tmp_path)
    path = tmp_path / "pf_willow" / "pairs" / VERSION / "metadata.json"
    for content in ("", "[]", "{}", '{"splits": {"test": {"name": "x", "other": 1}}}'):
        path.write_text(content)
        with pytest.raises(ValueError, match="is damaged"):
            read_prepared(tmp_path, "pf_willow", "test")


def test_what_is_not_prepared_is_not_read(tmp_path, rng):
    with pytest.raises(ValueError, match="holds no complete prepared data set"):
        read_prepared(tmp_path, "pf_willow", "test")
    build("pf_willow", {"test": keypoints(rng), "val": keypoints(rng)}, tmp_path)
    with pytest.raises(ValueError, match="was prepared with 'test', 'val', got 'train'"):
        read_prepared(tmp_path, "pf_willow", "train")
    assert not is_prepared(tmp_path, "pf_pascal")


def test_nothing_is_written_over(tmp_path, rng):
    build("pf_willow", {"test": keypoints(rng)}, tmp_path)
    before = {path: (tmp_path / path).read_bytes() for path in files_below(tmp_path)}
    with pytest.raises(ValueError, match="is there already"):
        build("pf_willow", {"test": keypoints(rng, 2)}, tmp_path)
    assert {path: (tmp_path / path).read_bytes() for path in files_below(tmp_path)} == before


def test_flows_keep_every_bit(rng):
    bits = rng.integers(0, 2**32, (13, 8, 2), dtype=np.uint32)  # NaNs of all kinds among them
    flow = bits.view(np.float32)
    assert same_array(decode_flow(encode_flow(flow), "id").view(np.uint32), bits)
    assert same_array(
        decode_flow(encode_flow(flow[::-1, ::2]), "id").view(np.uint32), np.ascontiguousarray(bits[::-1, ::2])
    )


def test_damaged_flows_are_named(rng):
    whole = encode_flow(rng.normal(size=(3, 4, 2)).astype(np.float32))
    output = io.BytesIO()
    np.save(output, np.zeros(3))
    for content in (b"", whole[:-5], whole[:20] + b"xxxx" + whole[24:], zlib.compress(output.getvalue())):
        with pytest.raises(ValueError, match="some/id: the flow of the prepared data set is damaged"):
            decode_flow(content, "some/id")
