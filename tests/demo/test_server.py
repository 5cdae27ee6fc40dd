"""What can be reached, and by whom; and the command line around it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
from pathlib import Path

import pytest

import rtn_jax
from rtn_jax.commands import run
from rtn_jax.demo.command import DemoConfig, demo
from rtn_jax.demo.photos import MAX_BYTES
from rtn_jax.demo.server import Guard, bound_socket
from tests.networks import moving_params


def answer(path, *, method="GET", host="127.0.0.1:7860", body=b"", **headers):
    """Status, headers and body that a request gets; the application behind answers 200 and what it is sent."""

    async def app(scope, receive, send):
        got = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"page" + got})

    sent, parts = [], [{"body": body[3:]}, {"body": body[:3], "more_body": True}]

    async def receive():
        return parts.pop()

    async def send(message):
        sent.append(message)

    raw = [(b"host", host.encode())]
    raw += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": raw}
    asyncio.run(Guard(app, Path("/tmp/uploads"))(scope, receive, send))
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]


def test_what_the_page_needs_is_let_through_with_the_policy():
    for path in ("/", "/config", "/theme.css", "/assets/index.js", "/gradio_api/queue/data", "/gradio_api/heartbeat/x"):
        status, headers, body = answer(path)
        assert (status, body, headers[b"x-own"]) == (200, b"page", b"1"), path
        assert headers[b"content-security-policy"].startswith(b"default-src 'self'")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=https://example.org/",
        "/gradio_api/run/predict",
        "/gradio_api/call/click",
        "/gradio_api/component_server",
        "/gradio_api/process_recording",
        "/gradio_api/stream/x",
        "/monitoring",
        "/login",
        "/static/../../../etc/passwd",
        "/assets/../index.html",
        "/docs",
        "//etc/passwd",
    ],
)
def test_the_rest_does_not_exist(path):
    assert answer(path)[0] == 404
    assert answer(path, method="POST", content_length="2")[0] == 404


@pytest.mark.parametrize("host", ["example.org", "example.org:7860", "127.0.0.1.example.org", "", "10.0.0.1:7860"])
def test_other_names_for_this_machine_are_refused(host):
    assert answer("/", host=host)[0] == 403
    assert answer("/", host="localhost:7860")[0] == 200


def test_bodies_are_bounded_before_they_are_read():
    join, upload = "/gradio_api/queue/join", "/gradio_api/upload"
    assert answer(join, method="POST", body=b"[]", content_length="65536")[0] == 200
    assert answer(join, method="POST", content_length="65537")[0] == 413
    assert answer(upload, method="POST", content_length=str(MAX_BYTES + 1000))[0] == 200
    status, _, words = answer(upload, method="POST", content_length=str(50 * 2**20))
    assert (status, words) == (413, b"too large: at most 20 MB are taken")
    assert answer(join, method="POST")[0] == 411
    assert answer(join, method="POST", content_length="-1")[0] == 411


def test_no_file_but_an_upload_can_be_named():
    def joined(body):
        return answer("/gradio_api/queue/join", method="POST", body=body, content_length=str(len(body)))

    def naming(path):
        return json.dumps({"data": [None, {"deep": [{"path": path, "url": "http://127.0.0.1/file=a"}]}]}).encode()

    for good in (naming("/tmp/uploads/a/photo.png"), naming(None), b"[]"):
        assert joined(good)[::2] == (200, b"page" + good)
    for path in (
        *("/etc/passwd", "/tmp/uploads/../secret.png", "/tmp/uploads2/a.png", "secret.png", "", "a" * 9000, "\0"),
        *("https://example.org/a.png", "http://127.0.0.1/a.png", "file:///etc/passwd", ["/etc/passwd"]),
    ):
        assert joined(naming(path))[0] == 400, path
    assert joined(naming("/etc/passwd").replace(b"/", b"\\u002f"))[0] == 400
    assert joined(b"not JSON")[0] == 400


def test_a_port_is_taken_once():
    with bound_socket(0) as first:
        host, port = first.getsockname()
        assert host == "127.0.0.1"
        first.listen()
        with pytest.raises(ValueError, match=rf"port: {port} on 127.0.0.1 cannot be used \(Address already in use\)"):
            bound_socket(port)
    with bound_socket(port) as again:
        assert again.getsockname()[1] == port


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    rtn_jax.save(folder, moving_params())
    return folder


def test_mistakes_are_one_line(unchecked, capsys, tmp_path, checkpoint):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for arguments, message in [
            (["--ckpt=/none"], "/none: no such checkpoint"),
            ([f"--ckpt={tmp_path}"], f"{tmp_path}: not a checkpoint"),
            (["--ckpt", str(checkpoint), str(checkpoint)], "ckpt: expected different ones"),
            (["--port=70000", f"--ckpt={checkpoint}"], "port: expected 0 to 65535, got 70000"),
            ([f"--port={taken.getsockname()[1]}", f"--ckpt={checkpoint}"], "cannot be used"),
            (["--prot=1"], "--prot"),
        ]:
            with pytest.raises(SystemExit) as end:
                run("rtn_jax demo", DemoConfig, demo, arguments)
            lines = capsys.readouterr().err.strip().splitlines()
            assert end.value.code == 2
            assert len(lines) == 1, lines
            assert message in lines[0]


def test_without_gradio_the_command_says_how_to_get_it(capsys, monkeypatch, checkpoint):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name))
    with pytest.raises(SystemExit) as end:
        run("rtn_jax demo", DemoConfig, demo, [f"--ckpt={checkpoint}", "--port=0"])
    assert end.value.code == 2
    assert "pip install 'rtn_jax[demo]'" in capsys.readouterr().err
