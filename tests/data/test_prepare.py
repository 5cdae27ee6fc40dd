"""From published files, archives and addresses to a prepared data set, and what users are told on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.server
import importlib.util
import io
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from scipy.io import savemat

from rtn_jax import commands
from rtn_jax.data import download as download_module
from rtn_jax.data import prepare as module
from rtn_jax.data.datasets import DATASETS, available_splits, find_folder, read_benchmark
from rtn_jax.data.pairs import Benchmark, Files, Pair
from rtn_jax.data.pf_willow import HEADER, pf_willow
from rtn_jax.data.prepare import PrepareConfig, obtain, prepare, sound
from rtn_jax.data.prepared import is_prepared, read_prepared
from rtn_jax.images import encode_png

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("car(G)/b_1", "car(G)/a_2", "duck(S)/c_1")


def published(folder, seed=0):
    """A tiny PF-WILLOW in `folder`, as published: three images, four pairs."""
    rng = np.random.default_rng(seed)
    points = {}
    for k, name in enumerate(NAMES):
        points[name] = rng.uniform(1, 20, (2, 10))
        path = folder / "PF-dataset" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(rng.integers(0, 256, (24 + k, 30, 3), np.uint8)))
        savemat(path.with_suffix(".mat"), {"pts_coord": points[name]})
    rows = [",".join(HEADER)]
    for src, tgt in ((NAMES[0], NAMES[1]), (NAMES[1], NAMES[0]), (NAMES[2], NAMES[2]), (NAMES[0], NAMES[0])):
        numbers = np.concatenate([points[src].ravel(), points[tgt].ravel()])
        rows.append(",".join([f"PF-dataset/{src}.png", f"PF-dataset/{tgt}.png", *map(repr, numbers.tolist())]))
    (folder / "test_pairs_pf.csv").write_text("\n".join(rows) + "\n")
    return folder


def packed(folder):
    """The same as the zip and the list that are published."""
    published(folder)
    with zipfile.ZipFile(folder / "PF-dataset.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "PF-dataset").rglob("*")):
            archive.write(path, path.relative_to(folder))
            if path.is_file():
                path.unlink()
    for path in sorted((folder / "PF-dataset").rglob("*"), reverse=True):
        path.rmdir()
    (folder / "PF-dataset").rmdir()
    return folder


def config(data_dir, **options):
    return PrepareConfig(dataset="pf_willow", data_dir=data_dir, **options)


def assert_same(found, expected):
    """Equal benchmarks of keypoints, to the bit, with equal files."""
    for field in ("name", "protocol", "thresholds", "alphas", "left_out"):
        assert getattr(found, field) == getattr(expected, field)
    for ours, theirs in zip(found.pairs, expected.pairs, strict=True):
        for field in dataclasses.fields(Pair):
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            assert a.tobytes() == b.tobytes() if isinstance(b, np.ndarray) else a == b, field.name
    for name in expected.images:
        assert found.files.encoded(name) == expected.files.encoded(name)


@pytest.fixture
def website(tmp_path, monkeypatch):
    """A server with the published files, whose addresses stand in for the published ones."""
    folder = packed(tmp_path / "website")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download_module, "PAUSE", 0)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    address = f"http://127.0.0.1:{server.server_port}"
    dataset = DATASETS["pf_willow"]
    archive = dataclasses.replace(dataset.archive, url=f"{address}/PF-dataset.zip")
    urls = {"test": f"{address}/test_pairs_pf.csv"}
    monkeypatch.setitem(DATASETS, "pf_willow", dataclasses.replace(dataset, archive=archive, list_urls=urls))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_folder_is_prepared_and_the_outcome_told(tmp_path, capfd):
    data_dir = published(tmp_path / "data")
    prepare(config(data_dir, out=tmp_path / "out"))
    out, err = capfd.readouterr()
    assert out.splitlines() == [f"PF-WILLOW: {tmp_path / 'out' / 'pf_willow'}", "  test: 4 pairs of 3 images"]
    assert err == ""
    assert_same(read_prepared(tmp_path / "out", "pf_willow", "test"), pf_willow(data_dir))
    assert os.listdir(tmp_path / "out") == ["pf_willow"]


def test_the_folder_itself_stays_as_it_was_with_another_out(tmp_path):
    data_dir = published(tmp_path / "data")
    before = sorted(data_dir.rglob("*"))
    prepare(config(data_dir, out=tmp_path / "out", download=False))
    assert sorted(data_dir.rglob("*")) == before


def test_a_prepared_data_set_is_left_alone(tmp_path, capsys):
    data_dir = published(tmp_path)
    prepare(config(data_dir))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pf_willow").rglob("*")}
    (tmp_path / "test_pairs_pf.csv").write_text("damaged meanwhile")
    capsys.readouterr()
    prepare(config(data_dir))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"PF-WILLOW is prepared already: {tmp_path / 'pf_willow'}")
    assert lines[1:] == ["  test: 4 pairs of 3 images"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "pf_willow").rglob("*")} == before


def test_something_else_in_its_place_is_left_alone(tmp_path):
    data_dir = published(tmp_path)
    (tmp_path / "pf_willow").mkdir()
    with pytest.raises(ValueError, match="is there but holds no complete prepared data set; remove it"):
        prepare(config(data_dir))
    assert os.listdir(tmp_path / "pf_willow") == []


def test_an_archive_is_unpacked(tmp_path):
    data_dir = packed(tmp_path / "data")
    prepare(config(data_dir, download=False))
    assert is_prepared(data_dir, "pf_willow")
    assert_same(read_prepared(data_dir, "pf_willow", "test"), pf_willow(published(tmp_path / "again")))


def test_what_is_not_there_is_downloaded(website, tmp_path):
    data_dir = tmp_path / "data"
    prepare(config(data_dir))
    assert_same(read_prepared(data_dir, "pf_willow", "test"), pf_willow(published(tmp_path / "again")))
    assert (data_dir / "PF-dataset.zip.sha256").is_file()
    assert sorted(path.name for path in data_dir.iterdir() if not path.name.endswith(".sha256")) == sorted(
        ["PF-dataset", "PF-dataset.zip", "pf_willow", "test_pairs_pf.csv"]
    )


def test_an_archive_that_changed_since_it_came_is_not_used(website, tmp_path):
    obtain(DATASETS["pf_willow"], tmp_path)
    (tmp_path / "PF-dataset").rename(tmp_path / "elsewhere")
    (tmp_path / "PF-dataset.zip").write_bytes(b"other")
    with pytest.raises(
        ValueError, match=r"PF-dataset.zip: has sha256 \w{64}, but PF-dataset.zip.sha256 beside it says"
    ):
        prepare(config(tmp_path))


def test_a_damaged_archive_says_what_to_do(tmp_path):
    (tmp_path / "PF-dataset.zip").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match=r"damaged.*; remove it and run again to have it downloaded anew, or put"):
        prepare(config(tmp_path))


def test_only_the_list_is_downloaded_if_the_folder_is_there(website, tmp_path):
    data_dir = published(tmp_path / "data")
    (data_dir / "test_pairs_pf.csv").unlink()
    prepare(config(data_dir / "PF-dataset", out=tmp_path / "out"))
    assert (data_dir / "test_pairs_pf.csv").is_file()
    assert not (data_dir / "PF-dataset.zip").exists()


def test_half_a_download_is_gone_on_with_or_replaced(website, tmp_path):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "PF-dataset.zip.part").write_bytes(b"half")
    prepare(config(data_dir))
    assert is_prepared(data_dir, "pf_willow")


def test_a_download_that_fails_says_what_to_put_where(website, tmp_path):
    (website / "PF-dataset.zip").unlink()
    with pytest.raises(ValueError, match="answered 404") as error:
        prepare(config(tmp_path / "data"))
    message = str(error.value)
    assert "put the folder 'PF-dataset' (<class>/<name>.png, .mat) or the archive PF-dataset.zip into" in message
    assert str(tmp_path / "data") in message
    assert "\n" not in message


def test_without_a_download_the_message_says_what_to_put_where(tmp_path):
    with pytest.raises(ValueError, match=r"PF-dataset.zip: not found, not downloaded, as asked: put the folder"):
        prepare(config(tmp_path, download=False))
    published(tmp_path)
    (tmp_path / "test_pairs_pf.csv").unlink()
    with pytest.raises(ValueError, match=r"test_pairs_pf.csv: not found.* put the list test_pairs_pf.csv into"):
        prepare(config(tmp_path, download=False))


def test_tss_has_only_a_page(tmp_path):
    with pytest.raises(ValueError, match="has no address to download from") as error:
        prepare(PrepareConfig(dataset="tss", data_dir=tmp_path))
    for word in (
        "TSS_CVPR2016",
        "flow1.flo",
        "flip_gt.txt",
        "https://taniai.space/projects/cvpr16_dccs",
        str(tmp_path),
    ):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_data_set_says_what_it_needs(dataset, tmp_path):
    with pytest.raises(ValueError, match="not found") as error:
        prepare(PrepareConfig(dataset=dataset, data_dir=tmp_path, download=False))
    assert DATASETS[dataset].folder in str(error.value)


def test_a_folder_without_any_list_says_which(tmp_path):
    (tmp_path / "SPair-71k").mkdir()
    with pytest.raises(ValueError, match=r"SPair-71k: expected at least one of the lists Layout/large/test.txt"):
        obtain(DATASETS["spair71k"], tmp_path, fetch=False)


def test_the_table_is_consistent():
    assert get_args(get_type_hints(PrepareConfig)["dataset"]) == tuple(DATASETS)
    for dataset in DATASETS.values():
        assert set(dataset.lists) <= set(dataset.splits)
        assert set(dataset.list_urls) <= set(dataset.lists)
        for url in (dataset.page, dataset.archive.url, *dataset.list_urls.values()):
            assert url is None or re.match(r"https?://[\w.]+/", url)
        if dataset.archive.url:
            assert dataset.archive.url.endswith(f"/{dataset.archive.name}")
        for split, url in dataset.list_urls.items():
            assert url.endswith(f"/{dataset.lists[split][0]}")


def test_splits_are_those_whose_lists_are_there(tmp_path):
    dataset = DATASETS["pf_pascal"]
    assert available_splits(dataset, tmp_path) == ()
    (tmp_path / dataset.folder).mkdir()
    (tmp_path / "val_pairs_pf_pascal.csv").write_text("")
    (tmp_path / dataset.folder / "trn_pairs_pf_pascal.csv").write_text("")
    assert (
        available_splits(dataset, tmp_path) == available_splits(dataset, tmp_path / dataset.folder) == ("val", "train")
    )
    assert available_splits(DATASETS["tss"], tmp_path) == ("test",)
    assert (
        find_folder(dataset, tmp_path) == find_folder(dataset, tmp_path / dataset.folder) == tmp_path / dataset.folder
    )
    assert find_folder(dataset, tmp_path.parent) is None


def test_bad_rows_stop_it_or_are_left_out_and_counted(tmp_path, capsys):
    data_dir = published(tmp_path)
    rows = (tmp_path / "test_pairs_pf.csv").read_text().splitlines()
    (tmp_path / "test_pairs_pf.csv").write_text("\n".join([*rows[:2], "a,b", *rows[2:]]))
    with pytest.raises(ValueError, match=r"test_pairs_pf.csv line 3: expected 42 columns, got 2"):
        prepare(config(data_dir))
    assert not (tmp_path / "pf_willow").exists()
    prepare(config(data_dir, skip_bad=True))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  test: 4 pairs of 3 images"
    assert re.match(r"  test: left out 1 bad pairs, the first: .*line 3: expected 42 columns", lines[2])
    with pytest.raises(ValueError, match=r"was prepared with skip_bad and lacks 1 of the published pairs.*line 3"):
        read_benchmark("pf_willow", data_dir)
    assert len(read_benchmark("pf_willow", data_dir, skip_bad=True).pairs) == 4


def test_a_set_that_lacks_pairs_is_no_prepared_one_unless_asked(tmp_path, capsys):
    data_dir = published(tmp_path)
    with (tmp_path / "test_pairs_pf.csv").open("a") as file:
        file.write("a,b\n")
    prepare(config(data_dir, skip_bad=True))
    with pytest.raises(
        ValueError, match=r"pf_willow: was prepared with skip_bad and lacks 1 of the .*line 6: expected"
    ):
        prepare(config(data_dir))
    capsys.readouterr()
    prepare(config(data_dir, skip_bad=True))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  test: 4 pairs of 3 images"
    assert lines[2].startswith("  left out 1 bad pairs, the first: ")


def test_a_damaged_set_without_the_published_folder_says_what_to_do(tmp_path):
    prepare(config(published(tmp_path / "data"), out=tmp_path / "out"))
    next((tmp_path / "out" / "pf_willow" / "images").rglob("*array_record*")).unlink()
    for data_dir in (tmp_path / "out", tmp_path / "out" / "pf_willow"):
        with pytest.raises(ValueError, match=r"out/pf_willow: is there but not complete: remove it and prepare PF-WIL"):
            read_benchmark("pf_willow", data_dir)
    (tmp_path / "other" / "pf_willow").mkdir(parents=True)  # a folder of that name which is nothing of ours
    with pytest.raises(ValueError, match=r"^data_dir: PF-WILLOW needs the folder 'PF-dataset', not found: "):
        read_benchmark("pf_willow", tmp_path / "other")


def test_a_split_that_was_not_prepared_is_named(tmp_path):
    prepare(config(published(tmp_path / "data"), out=tmp_path / "out"))
    with pytest.raises(ValueError, match=r"^split: .*pf_willow was prepared with 'test', got 'val'"):
        read_benchmark("pf_willow", tmp_path / "out", split="val")


def aged(folder, seconds):
    """A temporary folder with a file in it, both last changed that long ago."""
    folder.mkdir(parents=True)
    for path in (folder / "file", folder):
        path.touch()
        os.utime(path, (time.time() - seconds,) * 2)
    return folder


def test_what_a_kill_left_behind_is_removed(tmp_path):
    data_dir, out = published(tmp_path / "data"), tmp_path / "out"
    stale = [aged(out / ".preparing-pf_willow-a", 4000)]
    unpacking = data_dir / ".unpacking-b"
    aged(unpacking / "PF-dataset", 4000)
    os.utime(unpacking, (time.time() - 4000,) * 2)
    kept = [aged(out / ".preparing-pf_willow-c", 3000), aged(out / ".preparing-pf_pascal-d", 4000)]
    kept.append(aged(out / ".preparing-pf_willow-e", 4000))
    (kept[-1] / "file").touch()  # what lies in it still changes
    aged(data_dir / ".unpacking-f" / "SPair-71k", 4000)
    os.utime(data_dir / ".unpacking-f", (time.time() - 4000,) * 2)
    prepare(config(data_dir, out=out))
    assert not any(folder.exists() for folder in (*stale, unpacking))
    assert all(folder.exists() for folder in (*kept, data_dir / ".unpacking-f"))


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is there")
def test_a_split_too_large_to_sort_without_tensorflow_says_so(tmp_path, monkeypatch):
    from tensorflow_datasets.core import shuffle

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100)  # bytes
    data_dir = published(tmp_path)
    with pytest.raises(ValueError, match=r"pf_willow: .* too large to be prepared without TensorFlow.* as it is$"):
        prepare(config(data_dir))
    assert sorted(os.listdir(tmp_path)) == ["PF-dataset", "test_pairs_pf.csv"]


def test_a_tilde_is_the_users_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    published(tmp_path / "data")
    assert len(read_benchmark("pf_willow", "~/data").pairs) == 4
    prepare(config(Path("~/data"), out=Path("~/out")))
    assert is_prepared(tmp_path / "out", "pf_willow")
    prepare(config(Path("~/data")))
    assert is_prepared(tmp_path / "data", "pf_willow")


def test_a_file_instead_of_a_folder_is_named(tmp_path):
    path = tmp_path / "afile"
    path.touch()
    with pytest.raises(ValueError, match=r"^data_dir: .*afile is a file, expected a folder$"):
        prepare(config(path))
    with pytest.raises(ValueError, match=r"^out: .*afile is a file, expected a folder$"):
        prepare(config(published(tmp_path / "data"), out=path))
    with pytest.raises(ValueError, match=r"^data_dir: .*afile is a file, expected a folder that holds PF-dataset \("):
        read_benchmark("pf_willow", path)


def test_an_image_that_cannot_be_decoded_stops_it_or_is_left_out(tmp_path, capsys):
    data_dir = published(tmp_path)
    path = tmp_path / "PF-dataset" / f"{NAMES[1]}.png"
    path.write_bytes(path.read_bytes()[:-100])  # the header is there, which is all that the reader looks at
    with pytest.raises(ValueError, match=re.escape(str(path))):
        prepare(config(data_dir))
    assert not (tmp_path / "pf_willow").exists()
    prepare(config(data_dir, skip_bad=True))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  test: 2 pairs of 2 images"
    assert lines[2].startswith("  test: left out 2 bad pairs, the first: car(G)/b_1-a_2: ")
    kept = read_benchmark("pf_willow", data_dir, skip_bad=True)
    assert [pair.id for pair in kept.pairs] == ["duck(S)/c_1-c_1", "car(G)/b_1-b_1"]


class BadFiles(Files):
    """Images that are good, a mask and a flow that are not."""

    def image(self, name):
        return np.zeros((2, 2, 3), np.uint8)

    def mask(self, name):
        if name == "bad":
            raise ValueError("mask of bad: is bad")
        return np.ones((2, 2), bool)

    def flow(self, pair_id):
        if pair_id == "flow":
            raise ValueError("flow: is bad")
        return np.zeros((2, 2, 2), np.float32)


def test_masks_and_flows_are_tried_as_well():
    good = Pair(id="good", src="a", tgt="bad", has_flow=True)
    pairs = (
        good,
        Pair(id="mask", src="a", tgt="b", has_masks=True),
        Pair(id="bad mask", src="bad", tgt="a", has_masks=True),
        Pair(id="flow", src="a", tgt="b", has_flow=True),
    )
    benchmark = Benchmark(name="B", pairs=pairs, files=BadFiles(), protocol=None, left_out=("before",))
    with pytest.raises(ValueError, match="mask of bad: is bad"):
        sound(benchmark)
    calls = []
    kept = sound(benchmark, skip_bad=True, advance=lambda: calls.append(1))
    assert len(calls) == 3 + 4
    assert [pair.id for pair in kept.pairs] == ["mask"]
    assert kept.left_out == (
        "before",
        "good: mask of bad: is bad",
        "bad mask: mask of bad: is bad",
        "flow: flow: is bad",
    )
    with pytest.raises(ValueError, match=r"every pair is bad; the first: bad mask: mask of bad: is bad"):
        sound(benchmark.replace(pairs=pairs[2:]), skip_bad=True)
    whole = benchmark.replace(pairs=(good,))
    assert sound(whole) is whole


def test_reading_takes_the_prepared_data_set_if_it_is_whole(tmp_path):
    data_dir = published(tmp_path)
    folder = read_benchmark("pf_willow", data_dir)
    assert type(folder.files).__name__ == "FolderFiles"
    prepare(config(data_dir))
    prepared = read_benchmark("pf_willow", data_dir, split="test")
    assert type(prepared.files).__name__ == "PreparedFiles"
    assert_same(prepared, folder)
    next((tmp_path / "pf_willow" / "images").rglob("*array_record*")).unlink()
    assert type(read_benchmark("pf_willow", data_dir).files).__name__ == "FolderFiles"


def test_other_names_and_splits_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="dataset: expected one of pf_willow, pf_pascal, tss, caltech101, spair71k, got 'x'"
    ):
        read_benchmark("x", tmp_path)
    prepare(config(published(tmp_path)))
    with pytest.raises(ValueError, match="split: PF-WILLOW has only 'test', got 'val'"):
        read_benchmark("pf_willow", tmp_path, split="val")


def test_the_command_line_is_quiet_but_for_the_outcome(tmp_path):
    data_dir = published(tmp_path / "data")
    code = (
        "import sys; from rtn_jax.commands import run; from rtn_jax.data.prepare import PrepareConfig, prepare;"
        "run('rtn_jax prepare', PrepareConfig, prepare, sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "pf_willow", f"--data_dir={data_dir}", f"--out={tmp_path / 'out'}"]
    environment = {**os.environ, "RTN_JAX_CACHE": str(tmp_path / "cache"), "PYTHONWARNINGS": "error"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[1] == "  test: 4 pairs of 3 images"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["pf_willow", "--data_dir=nowhere", "--no-download"], "not found, not downloaded, as asked"),
        (["pf_other", "--data_dir=nowhere"], "pf_willow"),
        (["pf_willow"], "data"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(args, words, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "_keep_compiled_programs", lambda: None)
    monkeypatch.setattr(commands.logging, "basicConfig", lambda **options: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        commands.run("rtn_jax prepare", PrepareConfig, prepare, args)
    assert end.value.code == commands.USER_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


def test_the_bar_counts_to_its_end(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a stream for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(module._counting("PF-WILLOW", 2))
        advance()
        advance()
    assert "2/2" in output.getvalue()


def test_pf_willow_comes_back_to_the_bit(data_dir, tmp_path):
    folder = data_dir / "PF-WILLOW"
    prepare(config(folder, out=tmp_path))
    expected = pf_willow(folder)
    found = read_prepared(tmp_path, "pf_willow", "test")
    assert len(found.pairs) == 900
    assert_same(found, expected)
    name = found.images[57]
    assert (found.files.image(name) == expected.files.image(name)).all()


def test_tss_comes_back_to_the_bit(data_dir, tmp_path):
    prepare(PrepareConfig(dataset="tss", data_dir=data_dir / "TSS-sample", out=tmp_path))
    found, expected = (read_benchmark("tss", folder) for folder in (tmp_path, data_dir / "TSS-sample"))
    assert_same(found, expected)
    for pair in expected.pairs:
        assert found.files.flow(pair.id).tobytes() == expected.files.flow(pair.id).tobytes()
        assert (found.files.mask(pair.src) == expected.files.mask(pair.src)).all()
