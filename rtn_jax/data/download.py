"""Downloading a published file: resumable, bounded, and the same file ever after.

No source of the benchmarks states a checksum, so the sha256 of what came is kept beside it, as `sha256sum` writes it:
a file that changes later is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests

    from rtn_jax.weights.progress import DownloadBar

TIMEOUTS = (10.0, 60.0)  # seconds to connect, and between two pieces
CHUNK = 1 << 16  # bytes; what came of a piece before the connection was cut is lost
ATTEMPTS = 4
"""Connections tried in a row; each goes on where the one before was cut."""
PAUSE = 1.0  # seconds between them


class _Cut(Exception):
    """The connection failed; another may go on from here."""


def download(url: str, path: Path, *, sha256: str | None = None, size_limit: int, progress: bool = True) -> Path:
    """A published file, from `path` if it lies there already, else from its address.

    What has come so far is kept in `<name>.part`, and what it is a part of in `<name>.part.json`: a later call goes on
    from there if the server still has the same file and sends parts, else it starts over. The file takes its place
    when it is whole, its sha256 in `<name>.sha256` beside it.

    Args:
        url: of the file, http or https.
        path: where it is to lie; the folder is made.
        sha256: what it must have; by default what was recorded when it came.
        size_limit: bytes; a larger file is refused.
        progress: show a bar on stderr.

    Raises:
        ValueError: the address cannot be used, the download fails or is too large, or the file, there or downloaded,
            has another sha256 than expected.
    """
    from rtn_jax.weights.progress import download_bar

    if path.exists():
        check_recorded(path, sha256)
        return path
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"url: expected an address with http:// or https://, got {url!r}")
    part = _Part(path.with_name(f"{path.name}.part"), url, size_limit)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with download_bar(path.name, progress) as bar:
            part.fetch(bar)
        found = _digest(part.path)
        if sha256 is not None and found != sha256:
            part.remove()
            raise ValueError(f"{url}: sent a file with sha256 {found}, expected {sha256}")
        _record(path).write_text(f"{found}  {path.name}\n", encoding="utf-8")
        os.replace(part.path, path)
    except OSError as error:
        raise ValueError(f"{url}: cannot be kept as {path}: {error.strerror or error}") from error
    part.remove()
    return path


def check_recorded(path: Path, sha256: str | None = None) -> None:
    """That a file is the one that was downloaded; one that was put there by hand is taken for the published one.

    Args:
        path: a file that is there.
        sha256: what it must have; by default what was recorded when it came.

    Raises:
        ValueError: it has another one; names both.
    """
    record = _record(path)
    try:
        words = record.read_text(encoding="utf-8").split() if record.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{record}: cannot be read: {error}") from error
    expected = sha256 or (words[0] if words else None)
    if expected is None:
        return
    found = _digest(path)
    if found != expected:
        source = "expected" if sha256 else f"but {record.name} beside it says"
        raise ValueError(
            f"{path}: has sha256 {found}, {source} {expected}; remove the file to have it downloaded again"
        )


@dataclass(frozen=True)
class _Part:
    """What has come of a file."""

    path: Path
    url: str
    limit: int

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def remove(self) -> None:
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)

    def fetch(self, bar: DownloadBar | None) -> None:
        """Goes on until the file is whole; a cut connection is tried again."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return self._connect(bar)
            except _Cut as cut:
                if not left:
                    came = self.path.stat().st_size if self.path.exists() else 0
                    again = f"; {came:,} bytes are kept, run again to go on" if came else ""
                    raise ValueError(f"{self.url}: cannot be downloaded: {cut}{again}") from cut
                time.sleep(PAUSE)

    def _connect(self, bar: DownloadBar | None) -> None:
        import requests

        start, validator = self._resumable()
        headers = {"Accept-Encoding": "identity"}
        if validator:
            headers |= {"Range": f"bytes={start}-", "If-Range": validator}
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
                if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and validator:
                    self.remove()  # the part is not of the file as it is now
                    raise _Cut("the server refuses to go on from the part that came before")
                self._check(response)
                self._save(response, start if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0, bar)
        except requests.RequestException as error:
            retry = isinstance(
                error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError
            )
            if retry:
                raise _Cut(_cause(error)) from error
            raise ValueError(f"{self.url}: cannot be downloaded: {_cause(error)}") from error

    def _resumable(self) -> tuple[int, str]:
        """How many bytes are there, and what to call the version of the file they are of; (0, "") to start over."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            size = self.path.stat().st_size
            if size and note["url"] == self.url and isinstance(note["validator"], str):
                return size, note["validator"]
        except (OSError, ValueError, LookupError, TypeError):
            pass
        return 0, ""

    def _check(self, response: requests.Response) -> None:
        status = response.status_code
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _Cut(f"the server answered {status} {response.reason}")
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise ValueError(f"{self.url}: cannot be downloaded: the server answered {status} {response.reason}")
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise ValueError(f"{self.url}: cannot be downloaded: the server sent a web page, not the file")

    def _save(self, response: requests.Response, start: int, bar: DownloadBar | None) -> None:
        """Writes what comes behind the first `start` bytes."""
        total = _total(response.headers, start)
        if start and total is None:
            self.remove()
            raise _Cut("the server sent another part than the one asked for")
        if (total or 0) > self.limit:
            raise ValueError(f"{self.url}: has {total:,} bytes, expected at most {self.limit:,}")
        self._note.write_text(
            json.dumps({"url": self.url, "validator": _validator(response.headers)}), encoding="utf-8"
        )
        if bar is not None:
            bar.reset()
            bar.total = total or 0
            bar.update(start)
        came = start
        with self.path.open("ab" if start else "wb") as file:
            for piece in response.iter_content(CHUNK):
                came += len(piece)
                if came > self.limit:
                    self.remove()
                    raise ValueError(f"{self.url}: sends more than the {self.limit:,} bytes expected at most")
                file.write(piece)
                if bar is not None:
                    bar.update(len(piece))
        if total is not None and came != total:
            raise _Cut(f"the connection was cut after {came:,} of {total:,} bytes")


def _total(headers: Mapping[str, str], start: int) -> int | None:
    """The size of the whole file as the answer states it; None if it does not, or if it answers another question."""
    if start:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", "").strip())
        return int(match[2]) if match and int(match[1]) == start else None
    length = headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _validator(headers: Mapping[str, str]) -> str:
    """What If-Range takes: a strong ETag, else the date of the last change, else nothing."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cause(error: BaseException) -> str:
    """The innermost reason in one line: network libraries wrap it in layers of addresses."""
    text = " ".join(re.split(r"Caused by ", str(error))[-1].split())
    wrapped = re.fullmatch(r"""\w+\(["'](?:<.*?>|\w+\(.*?\)): (.*?)["']\)+""", text)
    return textwrap.shorten(wrapped[1] if wrapped else text or type(error).__name__, 200)
