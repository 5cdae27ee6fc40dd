"""Downloads from a server on this machine: resumed, cut, changed, altered, refused."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading

import numpy as np
import pytest

from rtn_jax.data import download as module
from rtn_jax.data.download import download

CONTENT = np.random.default_rng(0).bytes(700_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LIMIT = 1_000_000
PIECE = module.CHUNK
CUT = 2 * PIECE + 1000  # what is kept of it are whole pieces


class Site:
    """A server's content and behaviour, and the requests it saw."""

    def __init__(self):
        self.content, self.tag = CONTENT, '"one"'
        self.status, self.kind, self.location = 200, "application/zip", None
        self.ranges = True  # whether it sends parts
        self.shift = 0  # by how many bytes the parts it sends are displaced
        self.cuts = []  # after how many bytes each next answer is cut
        self.longest = len(CONTENT)  # bytes that it sends in one part
        self.length = True  # whether it says how much it sends
        self.requests = []
        self.url = ""

    def answer(self, handler):
        self.requests.append(dict(handler.headers))
        if self.location or self.status != 200:
            handler.send_response(302 if self.location else self.status)
            handler.send_header("Location", self.location or "")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = 0
        asked = handler.headers.get("Range")
        if asked and self.ranges and handler.headers.get("If-Range") == self.tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.content):
            handler.send_response(416)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        size = len(self.content)
        stop = min(start + self.longest, size) if start else size
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start + self.shift}-{stop - 1}/{size}")
        handler.send_header("Content-Type", self.kind)
        if self.tag:
            handler.send_header("ETag", self.tag)
        if self.length:
            handler.send_header("Content-Length", str(stop - start))
        handler.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else stop
        handler.wfile.write(self.content[start:end])
        handler.close_connection = True


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0)
    monkeypatch.setenv("NO_PROXY", "*")
    place = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(ConnectionError):
                place.answer(self)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place.url = f"http://127.0.0.1:{server.server_port}/set.zip"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield place
    server.shutdown()
    server.server_close()
    thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def interrupted(site, path, size):
    """A download that was cut for good after `size` bytes."""
    site.cuts = [size, *[0] * (module.ATTEMPTS - 1)]
    with pytest.raises(ValueError, match="cannot be downloaded"):
        download(site.url, path, size_limit=LIMIT)
    site.requests.clear()
    assert (path.parent / "set.zip.part").stat().st_size == size // PIECE * PIECE
    assert not path.exists()


def test_a_file_comes_whole_and_its_hash_beside_it(site, tmp_path):
    path = tmp_path / "new" / "set.zip"
    assert download(site.url, path, size_limit=LIMIT, sha256=SHA256) == path
    assert path.read_bytes() == CONTENT
    assert (tmp_path / "new" / "set.zip.sha256").read_text() == f"{SHA256}  set.zip\n"
    assert names(tmp_path / "new") == ["set.zip", "set.zip.sha256"]


def test_a_file_that_is_there_is_not_asked_for_again(site, tmp_path):
    path = tmp_path / "set.zip"
    for _ in range(2):
        download(site.url, path, size_limit=LIMIT)
    assert len(site.requests) == 1


def test_a_file_put_there_by_hand_is_taken(site, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"mine")
    download(site.url, tmp_path / "set.zip", size_limit=LIMIT)
    assert not site.requests


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_changed_on_disk_is_an_error_with_both_hashes(site, tmp_path, known):
    path = tmp_path / "set.zip"
    download(site.url, path, size_limit=LIMIT)
    path.write_bytes(b"other")
    with pytest.raises(ValueError) as error:
        download(site.url, path, size_limit=LIMIT, sha256=SHA256 if known else None)
    assert SHA256 in str(error.value)
    assert hashlib.sha256(b"other").hexdigest() in str(error.value)
    assert path.read_bytes() == b"other"


def test_another_file_than_the_published_one_is_refused_with_both_hashes(site, tmp_path):
    with pytest.raises(ValueError, match=f"{SHA256}, expected {'0' * 64}"):
        download(site.url, tmp_path / "set.zip", size_limit=LIMIT, sha256="0" * 64)
    assert names(tmp_path) == []


def test_a_cut_connection_is_taken_up_in_the_same_call(site, tmp_path):
    site.cuts = [CUT, 3 * PIECE]
    path = download(site.url, tmp_path / "set.zip", size_limit=LIMIT)
    assert path.read_bytes() == CONTENT
    assert [request.get("Range") for request in site.requests] == [
        None,
        f"bytes={2 * PIECE}-",
        f"bytes={5 * PIECE}-",
    ]


def test_a_later_call_goes_on(site, tmp_path):
    interrupted(site, tmp_path / "set.zip", CUT)
    path = download(site.url, tmp_path / "set.zip", size_limit=LIMIT)
    assert path.read_bytes() == CONTENT
    assert [request["Range"] for request in site.requests] == [f"bytes={2 * PIECE}-"]
    assert names(tmp_path) == ["set.zip", "set.zip.sha256"]


def test_the_bytes_that_are_kept_are_not_fetched_again(site, tmp_path):
    interrupted(site, tmp_path / "set.zip", PIECE)
    (tmp_path / "set.zip.part").write_bytes(bytes(1000))  # to see that these stay
    assert download(site.url, tmp_path / "set.zip", size_limit=LIMIT).read_bytes() == bytes(1000) + CONTENT[1000:]


def test_a_file_that_changed_meanwhile_starts_over(site, tmp_path):
    interrupted(site, tmp_path / "set.zip", CUT)
    site.content, site.tag = CONTENT[::-1], '"two"'
    assert download(site.url, tmp_path / "set.zip", size_limit=LIMIT).read_bytes() == CONTENT[::-1]
    assert "Range" in site.requests[0]


def test_a_file_that_shrank_meanwhile_starts_over(site, tmp_path):
    interrupted(site, tmp_path / "set.zip", CUT)
    site.content = b"short"
    assert download(site.url, tmp_path / "set.zip", size_limit=LIMIT).read_bytes() == b"short"


def test_a_server_that_sends_no_parts_starts_over(site, tmp_path):
    interrupted(site, tmp_path / "set.zip", CUT)
    site.ranges = False
    assert download(site.url, tmp_path / "set.zip", size_limit=LIMIT).read_bytes() == CONTENT


def test_a_server_that_sends_another_part_starts_over(site, tmp_path):
    interrupted(site, tmp_path / "set.zip", CUT)
    site.shift = 5
    assert download(site.url, tmp_path / "set.zip", size_limit=LIMIT).read_bytes() == CONTENT
    assert [("Range" in request) for request in site.requests] == [True, False]


def test_a_server_that_sends_less_than_asked_is_asked_again(site, tmp_path):
    interrupted(site, tmp_path / "set.zip", CUT)
    site.longest = 300_000
    assert download(site.url, tmp_path / "set.zip", size_limit=LIMIT).read_bytes() == CONTENT
    ranges = [request["Range"] for request in site.requests]
    assert ranges == [f"bytes={2 * PIECE}-", f"bytes={2 * PIECE + 300_000}-"]


def test_without_a_version_to_name_nothing_is_resumed(site, tmp_path):
    site.tag = None
    site.cuts = [CUT]
    assert download(site.url, tmp_path / "set.zip", size_limit=LIMIT).read_bytes() == CONTENT
    assert ["Range" in request for request in site.requests] == [False, False]


@pytest.mark.parametrize("headers", [{"ETag": '"a"', "Last-Modified": "day"}, {"Last-Modified": "day"}])
def test_a_strong_tag_goes_before_the_date(headers):
    assert module._validator(headers) == next(iter(headers.values()))


def test_a_weak_tag_is_none():
    assert module._validator({"ETag": 'W/"a"', "Last-Modified": "day"}) == "day"


@pytest.mark.parametrize("note", ["", "[]", "{}", r'{"url": "http://other/set.zip", "validator": "\"one\""}'])
def test_a_part_of_unknown_origin_is_not_used(site, tmp_path, note):
    (tmp_path / "set.zip.part").write_bytes(b"something")
    (tmp_path / "set.zip.part.json").write_text(note)
    assert download(site.url, tmp_path / "set.zip", size_limit=LIMIT).read_bytes() == CONTENT


def test_a_part_says_what_it_is_of(site, tmp_path):
    interrupted(site, tmp_path / "set.zip", PIECE)
    assert json.loads((tmp_path / "set.zip.part.json").read_text()) == {"url": site.url, "validator": '"one"'}


@pytest.mark.parametrize(
    ("length", "words"),
    [(True, "has 700,001 bytes, expected at most 700,000"), (False, "sends more than the 700,000 bytes")],
)
def test_a_file_over_the_limit_is_refused(site, tmp_path, length, words):
    site.length = length
    with pytest.raises(ValueError, match=words):
        download(site.url, tmp_path / "set.zip", size_limit=700_000)
    assert names(tmp_path) == []


def test_a_file_of_just_the_limit_is_taken(site, tmp_path):
    download(site.url, tmp_path / "set.zip", size_limit=len(CONTENT))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": 404}, "answered 404"),
        ({"status": 503}, "answered 503"),
        ({"kind": "text/html; charset=utf-8"}, "a web page"),
        ({"location": "file:///etc/hostname"}, "No connection adapters"),
        (
            {"location": "http://127.0.0.1:1/set.zip"},
            r"downloaded: Failed to [\w ]*: \[Errno \d+\] Connection refused$",
        ),
    ],
)
def test_an_error_is_one_line_with_address_and_reason(site, tmp_path, change, words):
    vars(site).update(change)
    with pytest.raises(ValueError, match=words) as error:
        download(site.url, tmp_path / "set.zip", size_limit=LIMIT)
    assert str(error.value).startswith(f"{site.url}: ")
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["ftp://host/set.zip", "file:///etc/hostname", "/etc/hostname", "http:///set.zip", ""])
def test_only_web_addresses_are_used(tmp_path, url):
    with pytest.raises(ValueError, match=r"url: expected an address with http:// or https://"):
        download(url, tmp_path / "set.zip", size_limit=LIMIT)


def test_a_place_that_cannot_be_written_is_named(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be kept as"):
        download(site.url, tmp_path / "file" / "set.zip", size_limit=LIMIT)
