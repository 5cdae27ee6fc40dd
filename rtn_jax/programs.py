"""Compiled programs kept whole, so that a later process neither traces nor lowers them again.

JAX keeps what it compiled, too, but finds it by the lowered program: every process traces and lowers first, which for
the recurrence takes as long as reading it. Here a program is found by what it is made from: the code of this package,
the versions below it, the machine, and the shapes and static values of the arguments; where that is new, by the lowered
program. On the CPU, one device; elsewhere, and for anything but arrays (inside another `jit`, under `grad`, `vmap` or
`pmap`), a kept function is a jitted one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import platform
import sys
import threading
import time
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache.compilation_cache import reset_cache

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

MOST = 128
"""Files in the folder, two per program: beyond, those that were not used for longest are removed."""

READ = "/rtn_jax/programs/read"
"""`jax.monitoring` event of every program that was read from the folder, with its seconds."""

_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_debug_nans", "jax_debug_infs")
_DISTRIBUTIONS = ("jax", "jaxlib", "flax", "numpy")


class Kept(Generic[P, R]):
    """A jitted function whose compiled programs are kept, once `keep_in` has said where; of positional arguments."""

    def __init__(self, function: Callable[P, R], *, static_argnums: tuple[int, ...] = ()) -> None:
        functools.update_wrapper(self, function)
        self._static = static_argnums
        self._jitted = jax.jit(function, static_argnums=static_argnums)

        @functools.wraps(function)  # as another function: JAX would share what it has compiled, or read, with the first
        def whole(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(*args, **kwargs)

        self._whole = jax.jit(whole, static_argnums=static_argnums)
        self._name = f"{function.__module__}.{function.__qualname__}"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if _shelf is not None and not kwargs:
            dynamic = [arg for number, arg in enumerate(args) if number not in self._static]
            leaves, tree = jax.tree.flatten(dynamic)
            if _shelf.takes(leaves):
                static = tuple(args[number] for number in self._static)
                shapes = tuple((leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves)
                key = (static, tree, shapes, tuple(getattr(jax.config, name) for name in _SETTINGS))
                program = _shelf.program(self._name, key, lambda: self._whole.lower(*args), dynamic)
                result: R = program(*dynamic)
                return result
        return self._jitted(*args, **kwargs)


def keep_in(folder: Path | None) -> None:
    """Has kept functions keep their programs in a folder from now on, which is made when it is needed; None ends it.

    Whoever can write to the folder can have this process do anything, as with JAX's own cache.
    """
    global _shelf
    _shelf = None if folder is None else _Shelf(folder)


def forget() -> None:
    """Frees the memory of all programs, as `jax.clear_caches` does of jitted ones; they come back from the folder."""
    if _shelf is not None:
        _shelf.forget()


def read_ahead(purpose: str) -> contextlib.AbstractContextManager[None]:
    """Reads, beside what the block does, the programs that were used for the same purpose when it last ended well.

    Args:
        purpose: anything; if the programs are others by now, these were read for nothing.
    """
    return contextlib.nullcontext() if _shelf is None else _shelf.read_ahead(purpose)


class _Shelf:
    """The programs of a folder, and those of them that are in memory.

    A program's file is named after the lowered program. What is made from the same things is a short file with that
    name in it, and so is what is read ahead.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._writable = folder, True
        self._one_at_a_time = threading.Lock()
        self._programs: dict[Hashable, jax.stages.Compiled] = {}
        self._ahead: dict[str, Future[jax.stages.Compiled | None]] = {}
        self._used: list[str] = []

    @functools.cached_property
    def _device(self) -> jax.Device:
        return jax.devices()[0]  # not before it is needed: who says where programs are kept may have yet to set up JAX

    def takes(self, leaves: list[Any]) -> bool:
        """Whether these arguments are those of a program that can be kept."""
        here = {self._device}
        return (
            self._device.platform == "cpu"
            and not jax.config.jax_disable_jit  # type: ignore[attr-defined]
            and all(isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) for x in leaves)
            and all(x.devices() == here for x in leaves)
        )

    def program(
        self, function: str, key: Hashable, lower: Callable[[], jax.stages.Lowered], args: Sequence[Any]
    ) -> jax.stages.Compiled:
        """A function's program for a key: from memory, from the folder, or compiled and, if it stands the trial with
        these arguments, kept.
        """
        found = self._programs.get((function, key))
        if found is None:
            with self._one_at_a_time:
                found = self._programs.get((function, key)) or self._found(function, str(key), lower, args)
                self._programs[function, key] = found
        return found

    def forget(self) -> None:
        self._programs.clear()

    @contextlib.contextmanager
    def read_ahead(self, purpose: str) -> Iterator[None]:
        listed = _digest(_code(), _machine(), purpose)
        names = (self._content(listed) or b"").decode().split()
        self._ahead, self._used, over = {name: Future() for name in names}, [], threading.Event()
        ahead = [*self._ahead.items()]

        def read() -> None:
            for name, future in ahead:
                try:
                    future.set_result(None if over.is_set() else self._read(name))
                except BaseException as error:  # of which whoever waits for it has to know
                    future.set_exception(error)

        reader = threading.Thread(target=read, name="read ahead")
        reader.start()
        try:
            yield
            if self._used != names:
                self._write(listed, " ".join(self._used).encode())
        finally:
            over.set()
            self._ahead = {}
            reader.join()  # a thread that is still at it when Python ends would bring the process down

    def _found(
        self, function: str, key: str, lower: Callable[[], jax.stages.Lowered], args: Sequence[Any]
    ) -> jax.stages.Compiled:
        made_from = _digest(_code(), _machine(), function, key)
        content, lowered = self._content(made_from), None
        if content is None:
            lowered = lower()
            # With its trees, which have static values in them that need not show in the program.
            content = _digest(_machine(), lowered.as_text(), f"{lowered.in_tree} {lowered.out_tree}").encode()
            self._write(made_from, content)
        name = content.decode()
        self._used.append(name)
        ahead = self._ahead.pop(name, None)
        program = self._read(name) if ahead is None else ahead.result()
        if program is None:
            program = _compiled(lowered or lower())
            try:
                content = pickle.dumps((function, *serialize_executable.serialize(program)))
                jax.block_until_ready(self._loaded(content)[1](*args))  # what lacks its machine code fails only here
            except RuntimeError as error:  # XLA cannot write every program; JAX's own cache does not have these either
                log.debug("%s is not kept: %s", function, error)
            else:
                self._write(name, content)
        return program

    def _read(self, name: str) -> jax.stages.Compiled | None:
        content = self._content(name)
        if content is None:
            return None
        begun = time.monotonic()
        try:
            function, program = self._loaded(content)
        except Exception as error:  # XLA's, or a class's that an earlier version of this package had
            log.warning("%s: %s; it is compiled again", self._folder / name, error)
            return None
        jax.monitoring.record_event_duration_secs(READ, time.monotonic() - begun, fun_name=function)
        return program

    def _loaded(self, content: bytes) -> tuple[str, jax.stages.Compiled]:
        """The name of a function, and its program."""
        function, serialized, in_tree, out_tree = pickle.loads(content)  # noqa: S301 (see `keep_in`)
        return function, serialize_executable.deserialize_and_load(
            serialized, in_tree, out_tree, execution_devices=[self._device]
        )

    def _content(self, name: str) -> bytes | None:
        """What was written under a name, if it is there and whole."""
        path = self._folder / name
        try:
            digest, packed = path.read_bytes().split(b"\n", 1)
            os.utime(path)
        except (OSError, ValueError):
            return None
        return zlib.decompress(packed) if digest == _digest(packed).encode() else None

    def _write(self, name: str, content: bytes) -> None:
        from rtn_jax.images import write_atomically

        if not self._writable:
            return
        packed = zlib.compress(content, 1)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / name, lambda file: file.write(_digest(packed).encode() + b"\n" + packed))
        except (OSError, ValueError) as error:  # no reason to fail, but one for the next start to be slow
            log.warning("compiled programs are not kept: %s", error)
            self._writable = False
            return
        with contextlib.suppress(OSError):  # another process may be removing the same
            for path in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-MOST]:
                path.unlink()


_shelf: _Shelf | None = None


def _compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """By XLA, not from JAX's cache: XLA writes what it has read without the machine code."""
    used = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # which otherwise stays what it was at first
    try:
        return lowered.compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", used)
        reset_cache()


def _digest(*parts: str | bytes) -> str:
    joined = b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(joined).hexdigest()


@functools.cache
def _code() -> str:
    """Of this package."""
    root = Path(__file__).parent
    files = [(str(path.relative_to(root)), path.read_bytes()) for path in sorted(root.rglob("*.py"))]
    return _digest(*(part for file in files for part in file))


@functools.cache
def _machine() -> str:
    """What a compiled program depends on beside the program."""
    versions = [sys.version, *(f"{name} {version(name)}" for name in _DISTRIBUTIONS)]
    flags = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(("XLA_", "JAX_")))
    return _digest(*versions, *flags, platform.system(), platform.machine(), _processor(), str(jax.device_count()))


def _processor() -> str:
    """What the processor can do: code that was compiled for another one may not run."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
