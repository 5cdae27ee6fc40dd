"""A real browser for tests that look at pages: Debian's chromium, without a window."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000")


def find() -> str:
    """The browser's program. Without one the test is skipped, but where $CI is set it fails."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"no browser among {', '.join(NAMES)}: .ci/run installs it")
    if found is None:
        pytest.skip(f"no browser among {', '.join(NAMES)}")
    return found


def dom(page: Path, *, width: int) -> str:
    """The page's elements as they are once it is loaded in a window of that width."""
    return _run(page, width, 900, "--dump-dom")


def screenshot(page: Path, to: Path, *, width: int, height: int, dark: bool = False) -> None:
    """A picture (PNG) of the top of the page."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _run(page, width, height, scheme, f"--screenshot={to}")
    assert to.is_file()


def _run(page: Path, width: int, height: int, *flags: str) -> str:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [find(), *_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *flags]
        done = subprocess.run([*command, page.absolute().as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
