"""Driving a real browser: chromium without a window, by its DevTools protocol over a pipe: nothing to install.

Messages are JSON objects, each ended by a zero byte; chromium reads them from its file 3 and writes to its file 4.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests import chromium

T = TypeVar("T")

SECONDS = 60.0
"""To wait for anything: a busy machine is slow."""

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio"),
)
# Not subprocess's preexec_fn, which would fork this process and all its threads.
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """A running chromium with an empty profile."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, fro: int) -> None:
        self._process, self._to, self._from = process, to, fro
        self._buffer, self._count = b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        """All that the browser told, in order."""

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """A command and its result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        number = self._count
        answer = self.wait(lambda: self._answers.pop(number, None), method)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, ready: Callable[[], T | None], what: str, seconds: float = SECONDS) -> T:
        """The first true answer of `ready`, asked after everything that the browser says and ten times a second."""
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            left = deadline - time.monotonic()
            if left < 0:
                raise TimeoutError(f"the browser: {what}")
            self._read(min(left, 0.1))
        return found

    def page(self) -> Page:
        """A new tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        return Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    def _read(self, seconds: float) -> None:
        if not select.select([self._from], [], [], max(0.0, seconds))[0]:
            return
        part = os.read(self._from, 1 << 20)
        if not part:
            raise RuntimeError(f"chromium has ended with {self._process.wait()}")
        *messages, self._buffer = (self._buffer + part).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self.events.append(message)


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command to this tab."""
        return self.browser.call(method, self._session, **params)

    def events(self, method: str) -> list[dict[str, Any]]:
        """What this tab told of one kind so far."""
        mine = [event for event in self.browser.events if event.get("sessionId") == self._session]
        return [event["params"] for event in mine if event["method"] == method]

    @property
    def requests(self) -> list[str]:
        """The addresses that the page asked for, data inside the page itself left out."""
        urls = [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    @property
    def complaints(self) -> list[str]:
        """What went wrong, as the browser's console has it: refused and failed requests, uncaught errors."""
        logged = [event["entry"] for event in self.events("Log.entryAdded")]
        words = [f"{entry['text']} {entry.get('url', '')}" for entry in logged if entry["level"] == "error"]
        thrown = [event["exceptionDetails"] for event in self.events("Runtime.exceptionThrown")]
        return words + [details.get("exception", {}).get("description", details["text"]) for details in thrown]

    def open(self, url: str) -> None:
        """Goes to an address and waits until the document is there."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def js(self, code: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{code}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, code: str, seconds: float = SECONDS) -> Any:
        """The first true value of an expression."""
        deadline = time.monotonic() + seconds
        while not (value := self.js(code)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never true: {code}; the page says:\n{self.js('document.body.innerText')}")
            time.sleep(0.02)
        return value

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Presses and releases the mouse at a place of an element, given as shares of its width and height."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.until(f"!!{element}")
        self.js(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.js(f"(b => [b.left, b.top, b.width, b.height])({element}.getBoundingClientRect())")
        where = {"x": box[0] + across * box[2], "y": box[1] + down * box[3]}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **where)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def choose_file(self, selector: str, path: Path) -> None:
        """Gives a file to an `<input type=file>`."""
        self.until(f"!!document.querySelector({json.dumps(selector)})")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop_file(self, selector: str, path: Path) -> None:
        """Drags a file from outside onto the middle of an element."""
        box = self.js(
            f"(b => [b.left + b.width / 2, b.top + b.height / 2])(document.querySelector("
            f"{json.dumps(selector)}).getBoundingClientRect())"
        )
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=box[0], y=box[1], data=data)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Another window; a narrow one is a phone's."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, to: Path) -> None:
        """The whole page, not only what the window shows."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        to.write_bytes(base64.b64decode(shot["data"]))

    def downloads_to(self, folder: Path) -> None:
        """Where files go that the page lets one save."""
        self.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))


@contextlib.contextmanager
def running() -> Iterator[Browser]:
    """A browser for as long as the block lasts; skips the test where there is none."""
    program = chromium.find()
    theirs_to, ours_to = _pipe()
    ours_from, theirs_from = _pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [sys.executable, "-c", _LAUNCH, str(theirs_to), str(theirs_from), program, *_FLAGS]
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "--window-size=1280,900"],
            pass_fds=(theirs_to, theirs_from),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (theirs_to, theirs_from):
            os.close(end)
        try:
            yield Browser(process, ours_to, ours_from)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its helpers as well
            process.wait()
            for end in (ours_to, ours_from):
                os.close(end)


def _pipe() -> tuple[int, int]:
    """Ends with numbers that cannot be in the way of 3 and 4."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
