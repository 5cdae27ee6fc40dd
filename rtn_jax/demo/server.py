"""Serving the page on this machine alone, and nothing but the page."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from rtn_jax.demo.matcher import Matcher
from rtn_jax.demo.photos import MAX_BYTES, Photo

HOST = "127.0.0.1"
MESSAGE_BYTES = 2**16
"""Of any request but an upload."""

REACHABLE = (
    "/",
    "/config",
    "/theme.css",
    "/favicon.ico",
    "/manifest.json",
    "/gradio_api/info",
    "/gradio_api/queue/join",
    "/gradio_api/queue/data",
    "/gradio_api/startup-events",
    "/gradio_api/upload",
    "/gradio_api/upload_progress",
)
BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
"""What the page itself asks for. The rest of gradio, which can read files and fetch addresses, is out of reach."""

_SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    # Gradio's figures of its own, which nobody sees here: else a table of 10,000 events, anew after every event.
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
}

_JOIN = "/gradio_api/queue/join"

POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'; object-src 'none'"
)
"""Told to the browser: it asks no other server for anything."""

Scope = MutableMapping[str, Any]
Send = Callable[[Scope], Awaitable[None]]
Receive = Callable[[], Awaitable[Scope]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """An ASGI application around another: answers what the page needs and refuses the rest, unread."""

    def __init__(self, app: App, uploads: Path) -> None:
        self._app, self._uploads = app, uploads.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            refusal = _refusal(scope)
            if refusal is None and scope["path"] == _JOIN and scope["method"] == "POST":
                body = await _whole(receive)
                if _names_another_file(body, self._uploads):
                    refusal = 400, "expected uploaded files"
                receive = _replayed(body, receive)
            if refusal is None:
                await self._app(scope, receive, _with_policy(send))
            else:
                await _answer(send, *refusal)


def _refusal(scope: Scope) -> tuple[int, str] | None:
    """Status and words for what is not let through."""
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    if headers.get(b"host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):  # another site's name for this machine
        return 403, "this page answers to 127.0.0.1 alone"
    path = scope["path"]
    if ".." in path or not (path in REACHABLE or path.startswith(BELOW)):
        return 404, "no such page"
    length = headers.get(b"content-length", "0" if scope["method"] in ("GET", "HEAD") else "")
    if not length.isdecimal():
        return 411, "expected a Content-Length"
    # A form has a few hundred bytes around its file.
    if int(length) > (MAX_BYTES + 2**14 if path == "/gradio_api/upload" else MESSAGE_BYTES):
        return 413, f"too large: at most {MAX_BYTES >> 20} MB are taken"
    return None


async def _whole(receive: Receive) -> bytes:
    """The body of a request, whose length has been judged."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """For the application behind: the body that has been read, then whatever comes."""
    waiting: list[Scope] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Scope:
        return waiting.pop() if waiting else await receive()

    return replay


def _names_another_file(body: bytes, uploads: Path) -> bool:
    """Whether a file is named that is no upload. Gradio would copy it to where uploads are, or fetch an address."""
    named: list[str] = []

    def look(fields: dict[str, Any]) -> None:
        if fields.get("path") is not None:
            named.append(str(fields["path"]))

    try:
        json.loads(body, object_hook=look)
        return not all(Path(path).resolve().is_relative_to(uploads) for path in named)
    except (ValueError, OSError, RecursionError):  # OSError: no file can have that name
        return True


def _with_policy(send: Send) -> Send:
    async def add(message: Scope) -> None:
        if message["type"] == "http.response.start":
            extra = [
                (b"content-security-policy", POLICY.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
            ]
            message["headers"] = [*message.get("headers", []), *extra]
        await send(message)

    return add


async def _answer(send: Send, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})


def bound_socket(port: int) -> socket.socket:
    """A socket on 127.0.0.1 at that port, or at a free one for 0.

    Raises:
        ValueError: if the port is taken, or not this user's to take.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the same port again right after Ctrl-C
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise ValueError(f"port: {port} on {HOST} cannot be used ({error.strerror}); choose another, or 0") from error
    return listener


def serve(
    matcher: Matcher,
    examples: Mapping[str, tuple[Photo, Photo]],
    listener: socket.socket,
    started: Callable[[], object] = lambda: None,
) -> None:
    """Serves the page until it is interrupted; `started` is called once it can be opened."""
    import uvicorn

    with _gradio_settings() as uploads:
        app = application(matcher, examples, uploads)
        # Pages that are open hold a connection for ever: they are cut off.
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="none", lifespan="on")

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                started()

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # or uploads would stay on the disk
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
            Server(config).run(sockets=[listener])


def application(matcher: Matcher, examples: Mapping[str, tuple[Photo, Photo]], uploads: Path) -> Guard:
    """The guarded page as an ASGI application."""
    import gradio as gr
    from fastapi import FastAPI

    from rtn_jax.demo.page import build, look

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = build(matcher, examples, uploads)
    page.has_launched = True  # mounted pages do not say so, and gradio would not check which files it is given
    mounted = gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        max_file_size=MAX_BYTES,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        **look(examples),
    )
    return Guard(mounted, uploads)


@contextlib.contextmanager
def _gradio_settings() -> Iterator[Path]:
    """A folder for uploads that is gone afterwards, and no messages to gradio's makers."""
    with tempfile.TemporaryDirectory(prefix="rtn_jax_demo_", ignore_cleanup_errors=True) as folder:
        os.environ |= _SETTINGS | {"GRADIO_TEMP_DIR": folder}
        yield Path(folder)
