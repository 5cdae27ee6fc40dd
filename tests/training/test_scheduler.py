"""XLA's scheduler, which decides whether saving memory saves any."""

from __future__ import annotations

import os

import pytest

from rtn_jax.training import loop
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.scheduler import save_memory

FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, f"{FLAG}=false"),
        ("--xla_a=1", f"--xla_a=1 {FLAG}=false"),
        (f"{FLAG}=true --xla_a=1", f"{FLAG}=true --xla_a=1"),
    ],
    ids=["alone", "beside others", "chosen by the user"],
)
def test_is_set_unless_the_user_has(monkeypatch, before, after):
    monkeypatch.delenv("XLA_FLAGS") if before is None else monkeypatch.setenv("XLA_FLAGS", before)
    save_memory()
    save_memory()
    assert os.environ["XLA_FLAGS"] == after


class _ReachedError(Exception):
    """Training would begin."""


@pytest.mark.parametrize(("asked", "saves"), [({}, False), ({"remat": True}, True), ({"accumulate": 2}, True)])
def test_training_that_is_to_save_memory_sets_it_first(monkeypatch, asked, saves):
    done = []
    monkeypatch.setattr(loop, "save_memory", lambda: done.append("scheduler"))

    def join(*args, **options):
        done.append("jax")
        raise _ReachedError

    monkeypatch.setattr(loop.hosts, "join", join)
    with pytest.raises(_ReachedError):
        loop.fit(TrainConfig(**asked))
    assert done == (["scheduler", "jax"] if saves else ["jax"])
