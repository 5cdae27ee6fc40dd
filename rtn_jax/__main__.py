"""`python -m rtn_jax match a.jpg b.jpg`, or `rtn-jax match a.jpg b.jpg`: the library's commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from rtn_jax.commands import fail, missing_extras, run

PROG = "rtn_jax"


COMMANDS = {
    "train": ("rtn_jax.training.command", "TrainConfig"),
    "evaluate": ("rtn_jax.reporting.command", "EvaluateConfig"),
    "match": ("rtn_jax.matching.command", "MatchConfig"),
    "demo": ("rtn_jax.demo.command", "DemoConfig"),
    "pack": ("rtn_jax.trained.command", "PackConfig"),
    "prepare": ("rtn_jax.data.prepare", "PrepareConfig"),
    "weights": ("rtn_jax.weights.command", "WeightsConfig"),
}
"""Module and config; the function has the command's name. A command does not wait for the imports of the others."""


def command(name: str) -> tuple[type[Any], Callable[[Any], object]]:
    """Config and function of a command."""
    module, config = COMMANDS[name]
    found = import_module(module)
    return getattr(found, config), getattr(found, name)


def main() -> None:
    """Hands over to the command named first."""
    names = ", ".join(COMMANDS)
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        lines = [f"usage: python -m {PROG} COMMAND [OPTIONS]", "", "commands (each has --help):"]
        lines += [f"  {name:8} {(command(name)[0].__doc__ or '').splitlines()[0]}" for name in COMMANDS]
        sys.stdout.write("\n".join(lines) + "\n")
        return
    if sys.argv[1] not in COMMANDS:
        fail(PROG, f"unknown command {sys.argv[1]!r}; expected one of: {names}")
    prog = f"{PROG} {sys.argv[1]}"
    with missing_extras(prog):
        config, action = command(sys.argv[1])
    run(prog, config, action, sys.argv[2:])


if __name__ == "__main__":
    main()
