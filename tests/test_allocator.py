"""Memory that is kept: counted in pages that the system hands out, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass

import pytest

from rtn_jax import allocator, commands
from rtn_jax.training.config import TrainConfig

COUNTED = """
import resource, sys, time
from rtn_jax.allocator import keep_freed_memory
done = sys.argv[1] == "kept" and keep_freed_memory()
import jax, jax.numpy as jnp
x = jnp.ones((6144, 16))
program = jax.jit(lambda x: x @ x.T @ x)  # 151 MB in between
for turn in range(15):
    if turn == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    time.sleep(0.02)  # it gives back a little later than it answers
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(how: str) -> int:
    """How many pages ten calls of a compiled program were handed out, after five that warm up."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run([sys.executable, "-c", COUNTED, how], env=plain, capture_output=True, text=True, check=True)
    done, count = run.stdout.split()
    assert done == str(how == "kept")
    return int(count)


@pytest.fixture
def unset(monkeypatch):
    """Nothing was chosen."""
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library: its memory is left alone")
def test_programs_reuse_what_the_last_one_gave_back():
    assert pages("kept") < pages("as it is") / 10


@pytest.mark.parametrize(("name", "value"), [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")])
def test_the_users_own_choice_stays(monkeypatch, unset, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("the C library was asked"))
    assert not allocator.keep_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch, unset):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("the C library was asked"))
    assert not allocator.keep_freed_memory()


@dataclass(frozen=True)
class Plain:
    """A command without options."""


@pytest.mark.parametrize(
    ("config", "options", "kept"),
    [
        (Plain, [], True),
        (TrainConfig, [], True),
        (TrainConfig, ["--remat"], False),
        (TrainConfig, ["--accumulate=2"], False),
    ],
)
def test_commands_keep_it_unless_they_are_to_save_memory(monkeypatch, config, options, kept):
    done = []
    monkeypatch.setattr(commands, "keep_freed_memory", lambda: done.append("kept"))
    commands.run("command", config, lambda parsed: done.append("run"), options)
    assert done == (["kept", "run"] if kept else ["run"])
