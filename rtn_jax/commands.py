"""What the command lines share: parsing from dataclasses, errors in one line, the compilation cache."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NoReturn, TypeVar

from rtn_jax.allocator import keep_freed_memory
from rtn_jax.extras import advice

T = TypeVar("T")

USER_ERROR = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def run(prog: str, config: type[T], action: Callable[[T], object], args: Sequence[str] | None = None) -> None:
    """Parses a command line into a config and acts on it.

    A user's mistake (a `ValueError`, an unreadable file, an extra that is not installed) ends the process with one line
    and exit code 2, an interruption with 130; anything else is a defect of ours and keeps its traceback.
    """
    try:
        _run(prog, config, action, sys.argv[1:] if args is None else args)
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted\n")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Who read the output has gone, such as `| head`; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)


def _run(prog: str, config: type[T], action: Callable[[T], object], args: Sequence[str]) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    parsed = _parse(prog, config, args)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("absl", "jax", "orbax", "asyncio"):  # whatever they fail at, they also raise
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    if not getattr(parsed, "saves_memory", False):  # which training can be asked to
        keep_freed_memory()
    _keep_compiled_programs()
    try:
        with missing_extras(prog):
            action(parsed)
    except ValueError as error:
        fail(prog, str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(prog, f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _parse(prog: str, config: type[T], args: Sequence[str]) -> T:
    import tyro

    report = io.StringIO()
    empty = next((arg for arg in args if re.fullmatch(r"--[\w-]+=", arg)), None)
    if empty is not None:  # an unset shell variable; as a path it would be the current folder
        fail(prog, f"{empty}: expected a value, got nothing")
    try:
        with contextlib.redirect_stderr(report):
            return tyro.cli(config, prog=prog, args=args)
    except SystemExit as end:
        if end.code:
            message = re.sub(r"^Error parsing \w+: ", "", " ".join(_message(report.getvalue())))
            fail(prog, message + _meant(message, config))
        raise
    except ValueError as error:
        fail(prog, str(error))


def _message(report: str) -> list[str]:
    """The lines of tyro's report between its title and the rule under which it repeats the help.

    The title is part of a frame; where the terminal has no characters for one, it stands above a rule.
    """
    lines = [line.strip().strip("│").strip() for line in report.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("╭", "╰"))]
    parts = [list(part) for rule, part in groupby(lines, lambda line: not line.strip("─-")) if not rule]
    return parts[0] if "╭" in report else (parts[1:] or parts)[0]


def _meant(message: str, config: type) -> str:
    """Which options look like those that are not recognized."""
    unknown = re.findall(r"--([\w-]+)", message) if message.startswith("Unrecognized options") else []
    fields = dataclasses.fields(config) if dataclasses.is_dataclass(config) else ()
    known = [field.name for field in fields if not str(field.type).startswith("Positional")]
    close = [name for option in unknown for name in difflib.get_close_matches(option.replace("-", "_"), known, 1)]
    return f"; did you mean {', '.join(f'--{name}' for name in close)}?" if close else ""


def as_typed(argv: Sequence[str]) -> str:
    """The command line that a process with this `sys.argv` was started by: a script, `-m rtn_jax`, or `rtn-jax`."""
    name = Path(argv[0]).name
    started = {"__main__.py": ["python", "-m", "rtn_jax"], "rtn-jax": ["rtn-jax"]}.get(name, ["python", argv[0]])
    return shlex.join([*started, *argv[1:]])


@contextlib.contextmanager
def missing_extras(prog: str) -> Iterator[None]:
    """Ends the process with one line and exit code 2 where a package of an extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        line = advice(error, command=prog.split()[-1].removesuffix(".py"))
        if line is None:
            raise
        fail(prog, line)


def fail(prog: str, message: str) -> NoReturn:
    """Ends the process with one line on stderr and exit code 2."""
    sys.stderr.write(f"{prog}: error: {' '.join(message.split())}\n")
    sys.exit(USER_ERROR)


def _keep_compiled_programs() -> None:
    """The gradient takes half a minute to compile; jax can keep the result, unless the user has said where already.

    Small programs are kept too: reading one takes a fifth of the time of compiling it, and there are up to a hundred.
    """
    import jax

    from rtn_jax import programs
    from rtn_jax.weights.fetch import cache_folder

    if jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        programs.keep_in(cache_folder() / "programs")
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
