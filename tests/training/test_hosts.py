"""Processes that train together: what one of them finds out, all of them know."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rtn_jax.training import hosts

ROOT = Path(__file__).resolve().parents[2]


class TestJoin:
    def test_a_run_of_one_process_joins_nobody(self, monkeypatch):
        monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("joined"))
        hosts.join(None, None, None)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (("host:1", 2, None), r"^coordinator, processes, process: expected all three, or --distributed alone$"),
            ((None, 2, 1), r"^coordinator, processes, process: expected all three"),
            (("host:1", None, 0), r"^coordinator, processes, process: expected all three"),
            (("localhost:1", 2, 2), r"^process: expected 0 to 1, got 2$"),
            (("localhost:1", 2, -1), r"^process: expected 0 to 1, got -1$"),
            (("localhost", 2, 0), r"^coordinator: expected host:port, got 'localhost'$"),
            ((":80", 2, 0), r"^coordinator: expected host:port, got ':80'$"),
            (("localhost:99999", 2, 0), r"^coordinator: expected host:port, got 'localhost:99999'$"),
            (("nowhere:80", 2, 0), r"^coordinator: 'nowhere:80' is no host that can be found: .*not known$"),
        ],
    )
    def test_mistakes_are_named_before_anybody_waits(self, monkeypatch, given, message):
        def found(host, port):
            if host != "localhost":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(hosts.socket, "getaddrinfo", found)
        monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("joined"))
        with pytest.raises(ValueError, match=message):
            hosts.join(*given)

    def test_all_three_and_a_search_do_not_go_together(self):
        with pytest.raises(ValueError, match=r"or --distributed alone$"):
            hosts.join("localhost:1", 2, None, find=True)

    @pytest.mark.parametrize("error", [RuntimeError("UNAVAILABLE: nobody\nthere"), ValueError("cannot be detected")])
    def test_what_jax_says_is_one_line(self, monkeypatch, error):
        def fails(*_, **__):
            raise error

        monkeypatch.setattr(jax.distributed, "initialize", fails)
        line = str(error).splitlines()[0]
        with pytest.raises(ValueError, match=rf"^distributed: the other processes cannot be found or reached: {line}$"):
            hosts.join(None, None, None, find=True)


class TestAlone:
    def test_everything_is_what_it_was(self):
        tree = {"a": np.ones(2)}
        assert (hosts.is_first(), hosts.shard()) == (True, (0, 1))
        assert hosts.together(lambda: 3) == hosts.first(lambda: 3) == hosts.told(3) == 3
        assert hosts.same(tree) is tree
        assert [hosts.any_of(flag) for flag in (False, True)] == [False, True]

    @pytest.mark.parametrize("action", [hosts.together, hosts.first])
    @pytest.mark.parametrize("error", [ValueError("bad"), FileNotFoundError(2, "none", "x"), TypeError("ours")])
    def test_errors_are_what_they_were(self, action, error):
        def fails():
            raise error

        with pytest.raises(type(error)) as caught:
            action(fails)
        assert caught.value is error


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """What two processes found, by name."""
    folder = tmp_path_factory.mktemp("talk")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.training.talking", str(port)]
    files = [folder / "0.json", folder / "1.json"]
    running = [
        subprocess.Popen([*command, str(i), str(file)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for i, file in enumerate(files)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    found = [json.loads(file.read_text()) for file in files]
    return {name: [one[name] for one in found] for name in found[0]}


class TestTwo:
    def test_know_who_they_are(self, talk):
        assert talk["shard"] == [[0, 2], [1, 2]]
        assert talk["first"] == [True, False]
        assert talk["fine"] == [["returned", 0], ["returned", 1]]

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("bad", "data: expected a folder, got é (process 1 of 2)"),
            ("bad first", "x" * 1000 + " (process 0 of 2)"),
            ("missing", "list.csv: No such file or directory (process 0 of 2)"),
            ("silent", "ValueError (process 1 of 2)"),
            ("alone and bad", "locked (process 0 of 2)"),
        ],
    )
    def test_raise_what_one_of_them_met(self, talk, name, line):
        assert talk[name] == [["ValueError", line]] * 2

    def test_a_defect_keeps_its_kind_where_it_happened(self, talk):
        assert talk["defect"] == [["ValueError", "TypeError: ours (process 1 of 2)"], ["TypeError", "ours"]]

    def test_what_the_first_does_alone(self, talk):
        assert talk["alone"] == [["returned", "made by 0"], ["returned", None]]

    def test_a_number_of_the_first_and_a_wish_of_any(self, talk):
        assert talk["told"] == [[7, -1]] * 2
        assert talk["any"] == [[False, True, True, True]] * 2

    def test_a_state_of_the_first(self, talk):
        expected = {"float": [[1.5] * 3] * 2, "half": [1.5] * 2, "count": 2**31 - 1, "finite": 1.0, "empty": {}}
        assert talk["same"] == [[True, expected]] * 2
