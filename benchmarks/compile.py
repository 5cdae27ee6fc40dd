"""Times every command line from its start to its first result, with an empty cache of compiled programs and a full one.

    python -m benchmarks.compile --out compile.json                     # about seven minutes on two cores
    python -m benchmarks.compile --commands match --repeats 5           # one of them
    python -m benchmarks.compile --quick                                # a tiny network, to see that it works

Every start is a process of its own, from `python` to its end. `first` is the start with an empty cache, `again` the
median of those that follow; photos of other sizes are matched with what the first two left in the cache. "Compiled" is
the number of programs that XLA compiled, "read" the number of those that were read from the cache instead. The targets
are those of this project for two cores: a second start compiles nothing, and takes less than the seconds in the last
column.

The network has random weights: what a start costs does not depend on them. Nothing else may run meanwhile; the CPU's
seconds, of all cores together, suffer less from it than the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.fresh import ROOT, about, machine, table
from benchmarks.growth import median
from benchmarks.turns import write

Name = Literal["import", "help", "match", "train", "evaluate"]

SMALL = {"image_size": 64, "geometry_width": 16, "iterations": (1, 1)}
"""Of the network that is trained and evaluated: a whole one's gradient would take minutes to compile."""
TINY = {"image_size": 32, "geometry_width": 4, "iterations": (1, 1)}
"""Of every network, with `--quick`."""

START = "{start}"
"""In a command's arguments: the number of the start. A run that is there would be continued, not begun."""

USERS = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
"""Environment variables by which a user would say where and what to keep; here the commands decide."""


@dataclass(frozen=True)
class Command:
    """What is started."""

    name: str
    arguments: Sequence[str]
    """Of `benchmarks.start`, hence of `python`."""
    target: float | None = None
    """Seconds in which it has to be done when it is started again."""
    after: str = ""
    """The name of another command, whose cache it begins with; it begins with an empty one unless given."""


@dataclass
class Start:
    """What a start took."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    compiled: list[tuple[str, float]] = field(default_factory=list)
    """Programs by their names, each with its seconds."""
    read: list[tuple[str, float]] = field(default_factory=list)
    error: str = ""


def main(
    commands: tuple[Name, ...] = ("import", "help", "match", "train", "evaluate"),
    repeats: int = 3,
    out: Path | None = None,
    quick: bool = False,
) -> None:
    """Start commands and print a table.

    Args:
        commands: that are started; help: three of them.
        repeats: starts with a full cache.
        out: JSON file of every start, with machine and versions.
        quick: a tiny network everywhere.
    """
    here, found = machine(), {}
    sys.stdout.write(f"{about(here)}; medians of {repeats}\n\n")
    with tempfile.TemporaryDirectory() as folder:
        for command in prepared(Path(folder), commands, quick=quick):
            cache = Path(folder) / f"cache of {command.after or command.name}"
            starts = [start(command, cache, number) for number in range(1 + repeats)]
            found[command.name] = {"command": command, "starts": starts}
            sys.stderr.write(f"{command.name}: {starts[-1].error or f'{starts[-1].seconds:.2f} s'}\n")
            write(out, here, None, found)
    sys.stdout.write(starts_table([(entry["command"], entry["starts"]) for entry in found.values()]))


def prepared(folder: Path, names: Sequence[Name], *, quick: bool) -> list[Command]:
    """The commands, and in the folder what they work on."""
    photos = [str(folder / f"{name}.png") for name in ("src", "tgt", "other_src", "other_tgt")]
    if "match" in names:
        _write_photos(photos)
        _write_checkpoint(folder / "whole", TINY if quick else {})
    if "evaluate" in names:
        _write_checkpoint(folder / "small", TINY if quick else SMALL)
    small = TINY if quick else SMALL
    network = [f"--image_size={small['image_size']}", f"--geometry_width={small['geometry_width']}"]
    network += ["--iterations", *map(str, small["iterations"])]
    helped = (["train.py"], ["evaluate.py"], ["-m", "rtn_jax", "match"])
    files = [f"--ckpt={folder / 'whole'}", f"--out={folder / 'match.png'}"]
    pair, other = (["-m", "rtn_jax", "match", *two, *files] for two in (photos[:2], photos[2:]))
    training = ["train.py", "--weights=random", "--steps=1", *network, f"--run_dir={folder / 'runs' / START}"]
    known: dict[Name, list[Command]] = {
        "import": [Command("import rtn_jax", ["-c", "import rtn_jax"], 2.0)],
        "help": [Command(f"{' '.join(args[-2:])} --help", [*args, "--help"], 3.0) for args in helped],
        "match": [
            Command("rtn_jax match", pair, 8.0),
            Command("the same, photos of other sizes", other, 8.0, after="rtn_jax match"),
        ],
        "train": [Command(f"train.py --steps=1, {_size(small)}", training)],
        "evaluate": [Command(f"evaluate.py, {_size(small)}", ["evaluate.py", f"--ckpt={folder / 'small'}"])],
    }
    return [command for name in names for command in known[name]]


def start(command: Command, cache: Path, number: int) -> Start:
    """Starts a command and waits for its end."""
    environment = {name: value for name, value in os.environ.items() if name not in USERS}
    environment["RTN_JAX_CACHE"] = str(cache)
    arguments = [argument.replace(START, str(number)) for argument in command.arguments]
    with tempfile.TemporaryDirectory() as folder:
        report, complaints = Path(folder) / "report.json", Path(folder) / "stderr"
        with complaints.open("wb") as stderr:
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.start", str(report), *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
            try:
                _, status, used = os.wait4(process.pid, 0)  # the time on the CPU of this process alone
                process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                process.kill()  # Ctrl-C leaves nobody behind; one that has ended is left alone
            seconds = time.perf_counter() - began
        if process.returncode:
            last = (complaints.read_text(errors="replace").strip().splitlines() or ["nothing was said"])[-1]
            return Start(error=f"exit code {process.returncode}: {last}")
        return Start(seconds, used.ru_utime + used.ru_stime, **json_of(report))


def starts_table(found: Sequence[tuple[Command, Sequence[Start]]]) -> str:
    """A row per command, and below it what was compiled although the cache was full."""
    rows, again = [], []
    for command, (first, *later) in found:
        if problem := next((one.error for one in (first, *later) if one.error), ""):
            rows.append([f"`{command.name}`", problem.replace("|", "/"), *["-"] * 7])
            continue
        seconds = median([one.seconds for one in later])
        worst = max(later, key=lambda one: len(one.compiled))
        reached = command.target is None or seconds < command.target
        cells = [f"{first.seconds:.2f}", f"{first.cpu_seconds:.2f}", str(len(first.compiled))]
        cells += [f"{seconds:.2f}", f"{median([one.cpu_seconds for one in later]):.2f}"]
        cells += [str(len(worst.compiled)), str(len(worst.read))]
        cells += ["-" if command.target is None else f"{command.target:g}{'' if reached else ', missed'}"]
        rows.append([f"`{command.name}`", *cells])
        if worst.compiled:
            names = Counter(name for name, _ in worst.compiled).most_common()
            spent = sum(seconds for _, seconds in worst.compiled)
            listed = ", ".join(f"`{name}`" + (f" x {count}" if count > 1 else "") for name, count in names)
            again.append(f"* `{command.name}` compiles again, {spent:.2f} s: {listed}")
    headings = ("", "first s", "CPU s", "compiled", "again s", "CPU s", "compiled", "read", "target s")
    return table(headings, rows) + ("\n" + "\n".join(again) + "\n" if again else "")


def json_of(report: Path) -> dict[str, list[tuple[str, float]]]:
    """What `benchmarks.start` wrote."""
    import json

    return {kind: [(name, seconds) for name, seconds in told] for kind, told in json.loads(report.read_text()).items()}


def _size(network: dict[str, Any]) -> str:
    return f"{network['image_size']} x {network['image_size']}"


def _write_photos(paths: Sequence[str]) -> None:
    """Four, of four sizes."""
    from skimage import data

    from rtn_jax.images import save_image

    chosen = (data.astronaut(), data.chelsea(), data.coffee(), data.astronaut()[:, 100:400])
    for path, photo in zip(paths, chosen, strict=True):
        save_image(path, photo)


def _write_checkpoint(path: Path, changes: dict[str, Any]) -> None:
    """Of the default network, with random weights."""
    import rtn_jax
    from benchmarks.setup import random_weights

    config = rtn_jax.Config().replace(**changes)
    rtn_jax.save(path, rtn_jax.Params(random_weights(config), config))


if __name__ == "__main__":
    tyro.cli(main)
