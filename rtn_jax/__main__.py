"""`python -m rtn_jax match a.jpg b.jpg`, `demo`, `prepare`: the library's commands besides training and evaluation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from rtn_jax.commands import fail, run

PROG = "rtn_jax"


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """Finds the correspondence between two photos and draws it in one picture."""

    src: Positional[Path]
    """Photo whose points are looked for."""
    tgt: Positional[Path]
    """Photo they are looked for in."""
    ckpt: Path = Path("runs/vgg")
    """Checkpoint or run folder, or a net-epoch.mat of the release."""
    out: Path = Path("match.png")
    """Picture to write (.png, .jpg, .webp)."""
    points: int = 12
    """Matched points to draw."""
    image_size: int | None = None
    """Both photos are resized to this square inside; the checkpoint's unless given."""
    iterations: tuple[int, ...] | None = None
    """Recurrent steps per level, coarse to fine; the checkpoint's unless given."""

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"points: expected at least 1, got {self.points}")


def match(config: MatchConfig) -> None:
    """Writes the picture.

    Raises:
        ValueError: for a photo, checkpoint or output that cannot be used.
    """
    from rtn_jax import checkpoints
    from rtn_jax.images import check_writable, read_image, save_image
    from rtn_jax.pictures import pair_picture

    check_writable(config.out)
    src, tgt = read_image(config.src), read_image(config.tgt)
    asked = {"image_size": config.image_size, "iterations": config.iterations}
    params = checkpoints.load(config.ckpt).configure(**{name: v for name, v in asked.items() if v is not None})
    save_image(config.out, pair_picture(params, src, tgt, points=config.points))
    sys.stdout.write(f"{config.out}\n")


COMMANDS = {
    "match": (__name__, "MatchConfig"),
    "demo": ("rtn_jax.demo.command", "DemoConfig"),
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
    config, action = command(sys.argv[1])
    run(f"{PROG} {sys.argv[1]}", config, action, sys.argv[2:])


if __name__ == "__main__":
    main()
