"""Starts of commands are timed, and the programs that they compile counted."""

from __future__ import annotations

import json

import benchmarks.compile
from benchmarks.compile import Command, Start, main, start, starts_table

PROGRAM = """
import jax, os
jax.config.update("jax_compilation_cache_dir", os.environ["RTN_JAX_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
double = jax.jit(lambda x: 2 * x)
double(1.0), double(2.0), double(3)
"""


def test_programs_are_counted_by_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")  # a user's, which is not heeded here
    command = Command("double", ["-c", PROGRAM])
    first, again = (start(command, tmp_path / "cache", number) for number in (0, 1))
    assert [len(first.compiled), len(first.read)] == [2, 0], "one for each type"
    assert [len(again.compiled), len(again.read)] == [0, 2]
    assert sorted(name for name, _ in again.read) == sorted(name for name, _ in first.compiled)
    assert min(seconds for _, seconds in first.compiled + again.read) > 0
    assert 0 < first.cpu_seconds < 60 and 0 < first.seconds < 60


def test_a_start_that_fails_is_said_to_have(tmp_path):
    failed = start(Command("none", ["-c", "import sys; sys.exit('no {start}')"]), tmp_path, 3)
    assert failed == Start(error="exit code 1: no 3")


def test_tables_say_what_was_measured():
    many = [("jit(add)", 0.1), ("jit(add)", 0.1), ("jit(mul)", 0.3)]
    full = [Start(4.0, 5.0, many, []), Start(2.0, 3.0, many, [("jit(f)", 0.1)]), Start(9.0, 1.0)]
    quick = [Start(1.5, 1.0, [], []), Start(1.25, 0.5, [], []), Start(1.75, 1.5, [], [])]
    words = starts_table(
        [
            (Command("late", [], target=5.5), full),
            (Command("quick", [], target=2), quick),
            (Command("other", []), [full[0], full[1]]),
            (Command("broken", []), [quick[0], Start(error="exit code 1: a | b")]),
        ]
    ).splitlines()
    assert words[2:] == [
        "| `late` | 4.00 | 5.00 | 3 | 5.50 | 2.00 | 3 | 1 | 5.5, missed |",
        "| `quick` | 1.50 | 1.00 | 0 | 1.50 | 1.00 | 0 | 0 | 2 |",
        "| `other` | 4.00 | 5.00 | 3 | 2.00 | 3.00 | 3 | 1 | - |",
        "| `broken` | exit code 1: a / b | - | - | - | - | - | - | - |",
        "",
        "* `late` compiles again, 0.50 s: `jit(add)` x 2, `jit(mul)`",
        "* `other` compiles again, 0.50 s: `jit(add)` x 2, `jit(mul)`",
    ]


def test_the_whole_script_runs(monkeypatch, capsys, tmp_path):
    started, written = [], []

    def pretend(command, cache, number):
        started.append((command, cache.name, number))
        return Start(1.0, 1.0)

    monkeypatch.setattr(benchmarks.compile, "start", pretend)
    monkeypatch.setattr(benchmarks.compile, "_write_checkpoint", lambda path, changes: written.append((path, changes)))
    main(quick=True, repeats=1, out=tmp_path / "found.json")
    words = capsys.readouterr().out
    for name in ("import rtn_jax", "train.py --help", "evaluate.py --help", "match --help", "rtn_jax match", "32 x 32"):
        assert name in words
    caches = {command.name: cache for command, cache, _ in started}
    shared = caches.pop("the same, photos of other sizes")
    assert shared == caches["rtn_jax match"] and len({*caches.values()}) == len(caches)
    assert [number for *_, number in started] == [0, 1] * (len(caches) + 1)
    arguments = {command.name: command.arguments for command, *_ in started}
    assert all(
        f"--ckpt={path}" in [*arguments["rtn_jax match"], *arguments["evaluate.py, 32 x 32"]] for path, _ in written
    )
    assert all(changes["image_size"] == 32 for _, changes in written), "quick"
    assert "--image_size=32" in arguments["train.py --steps=1, 32 x 32"]
    assert arguments["train.py --steps=1, 32 x 32"][-1].endswith("runs/{start}"), "or the run would be continued"
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["results"]["rtn_jax match"]["command"]["target"] == 8
    assert len(found["results"]["rtn_jax match"]["starts"]) == 2
