"""What `test_hosts.py` looks at, done in one of two processes; arguments: port, which of them, file to write."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtn_jax.training import hosts


def caught(action: Callable[[], Any]) -> list[Any]:
    """What comes back, or the kind and words of what is raised."""
    try:
        return ["returned", action()]
    except Exception as error:
        return [type(error).__name__, str(error)]


def failing(process: int, error: Exception) -> Callable[[], str]:
    """Fails in one process, and only after the other one had time to go on without it."""

    def action() -> str:
        if jax.process_index() == process:
            time.sleep(0.2)
            raise error
        return "fine"

    return action


def broadcast() -> list[Any]:
    """A tree as a state is one, different in either process."""
    mine = jax.process_index()
    tree = {
        "float": jnp.full((2, 3), [1.5, -np.inf, np.nan][mine * 2], jnp.float32),
        "half": jnp.full(2, 1.5 - mine, jnp.bfloat16),
        "count": np.asarray(2**31 - 1 - mine, np.int32),
        "finite": np.asarray(mine == 0),
        "empty": {},
    }
    found = hosts.same(tree)
    same_kind = all(found[name].dtype == tree[name].dtype for name in ("float", "half", "count", "finite"))
    return [same_kind, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).tolist(), found)]


def main() -> None:
    port, process, out = sys.argv[1:]
    hosts.join(f"127.0.0.1:{port}", 2, int(process))
    missing = FileNotFoundError(2, "No such file or directory", "list.csv")
    found = {
        "shard": hosts.shard(),
        "first": hosts.is_first(),
        "fine": caught(lambda: hosts.together(lambda: int(process))),
        "bad": caught(lambda: hosts.together(failing(1, ValueError("data: expected a folder,\ngot é")))),
        "bad first": caught(lambda: hosts.together(failing(0, ValueError("x" * 3000)))),
        "missing": caught(lambda: hosts.together(failing(0, missing))),
        "silent": caught(lambda: hosts.together(failing(1, ValueError()))),
        "defect": caught(lambda: hosts.together(failing(1, TypeError("ours")))),
        "alone": caught(lambda: hosts.first(lambda: f"made by {process}")),
        "alone and bad": caught(lambda: hosts.first(failing(0, ValueError("locked")))),
        "told": [hosts.told(7 - 9 * int(process)), hosts.told(-1)],
        "any": [hosts.any_of(flag) for flag in (False, process == "0", process == "1", True)],
        "same": broadcast(),
    }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
