"""Guards speed and memory by what can be counted: the same on every run, however busy the machine is.

    python -m benchmarks.guard             # compares with benchmarks/guard.json; exit code 1 where something changed
    python -m benchmarks.guard --update    # stores what it finds, for this platform and this version of jax

Counted are operations, bytes and memory of compiled programs, as XLA knows them without running anything; instructions
in them that are slow where they should not be, or whose number says what is done twice; and how many programs a
sequence of calls compiles. That these stay is no proof that nothing got slower, but what made things slower so far
(a gradient that scatters, a volume laid out in memory, a loop where there was none) changes one of them by far.

What is counted is what users get: the caller's flags for XLA and JAX are ignored.
"""

from __future__ import annotations

import os

if __name__ == "__main__":  # before jax reads them
    for _name in list(os.environ):
        if _name.startswith(("XLA_", "JAX_")) and _name != "JAX_PLATFORMS":
            del os.environ[_name]
    # They spare LLVM's work on the machine code, half of the time, and change nothing that is counted: by then XLA has
    # decided on operations and memory.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

import dataclasses
import gc
import importlib.metadata
import inspect
import json
import math
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import ShapeDtypeStruct

from rtn_jax import model
from rtn_jax.config import Config, Level, Search
from rtn_jax.convolution import convolve, warped_convolution
from rtn_jax.correlation import window_correlation
from rtn_jax.geometry import LAST_LAYER, GeometryNetwork
from rtn_jax.params import Params, geometry_network, init
from rtn_jax.search import local_search
from rtn_jax.training.recipes import RECIPES, StageName
from rtn_jax.training.step import STOP, init_state, make_step, parallel

Counts = dict[str, dict[str, int]]
"""Per program, per quantity."""

STORED = Path(__file__).with_suffix(".json")

ALLOWED = 0.02
"""Relative change, either way. Of small numbers, such as those of instructions, none."""

COMMAND = "python -m benchmarks.guard --update"

INSTRUCTIONS = ("convolution", "dot", "gather", "scatter", "sort", "transpose", "while")
"""Those that are counted in the optimised program. Scatters, sorts and loops run on one thread of a CPU; the number of
products and gathers says whether something is computed twice, that of transposes whether arrays are laid out anew."""

PACKAGES = ("jaxlib", "flax", "optax")
"""Whose programs these are, too."""

_COMPILED = "/jax/core/compile/backend_compile_duration"

_MORE_IS_BETTER = ("donated bytes",)

_STEPS = 100


def main(update: bool = False, stored: Path = STORED) -> int:
    """Compares what is counted with what is stored; 1 if anything differs.

    Args:
        update: store what is counted instead.
        stored: the file of stored values.
    """
    known = json.loads(stored.read_text()) if stored.exists() else {}
    here = place()
    if here not in known and not update:
        there = "; ".join(known) or "none at all"
        _say(
            f"Nothing was compared: no values are stored for {here} (there are: {there}).",
            f"To store those of this machine: {COMMAND}",
        )
        return 0
    before, found = known.get(here, {}), count()
    changes = list(differences(before.get("counts", {}), found))
    total = f"{sum(map(len, found.values()))} quantities of {len(found)} programs"
    if update:
        known[here] = {"versions": versions(), "counts": found}
        stored.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
        _say(*map(str, changes if before else ()), f"{total} are stored for {here} in {stored.name}.")
        return 0
    if not changes:
        _say(f"{total} are as stored for {here}, within {ALLOWED:.0%}.")
        return 0
    _say(*map(str, changes), "", *_advice(changes, here, before["versions"]))
    return 1


@dataclasses.dataclass(frozen=True)
class Change:
    """A quantity that is not as stored; None where it is missing."""

    program: str
    quantity: str
    stored: int | None
    found: int | None

    @property
    def worse(self) -> bool:
        """Whether it is more than before (of what is better the more there is: less), or nothing to compare with."""
        if self.stored is None or self.found is None:
            return True
        return (self.found < self.stored) == (self.quantity in _MORE_IS_BETTER)

    def __str__(self) -> str:
        values = ["nothing" if value is None else f"{value:,}" for value in (self.stored, self.found)]
        share = f"{self.found / self.stored - 1:+.1%}, " if self.stored and self.found is not None else ""
        return (
            f"{self.program}: {self.quantity}: stored {values[0]}, found {values[1]} ({share}allowed {ALLOWED:.0%} "
            "either way)"
        )


def differences(stored: Counts, found: Counts) -> Iterator[Change]:
    """What differs by more than is allowed, or is in one of the two alone."""
    for program in stored | found:
        before, now = stored.get(program, {}), found.get(program, {})
        for quantity in before | now:
            change = Change(program, quantity, before.get(quantity), now.get(quantity))
            if change.stored is None or change.found is None or not _near(change.stored, change.found):
                yield change


def place() -> str:
    """What stored values hold for: they differ between platforms, and from one minor version of jax to the next."""
    kind = platform.machine() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind
    return f"{jax.default_backend()} {kind}, jax {'.'.join(jax.__version__.split('.')[:2])}"


def versions() -> dict[str, str]:
    """Of the packages that write parts of the programs."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def count() -> Counts:
    """Everything that is compared."""
    found = {name: _counted(lower()) for name, lower in OPERATIONS.items()}
    with patch("rtn_jax.model.geometry_network", _last_layer), patch("rtn_jax.params.geometry_network", _last_layer):
        found |= {name: _counted(lower()) for name, lower in WHOLE.items()}
        found |= {f"calls: {name}": {"compilations": number} for name, number in _compilations().items()}
    return found


def _window(src: Any, tgt: Any) -> Any:
    return window_correlation(src, tgt, radius=4)


def _warped(x: Any, kernel: Any, *positions: Any) -> Any:
    convolution = warped_convolution(x, kernel)
    return [nn.relu(convolution(of_one)) for of_one in positions]


def _search(src: Any, tgt: Any, positions: Any) -> Any:
    return local_search(src, tgt, positions, Search())


def _forward(function: Callable[..., Any], *shapes: Any) -> Any:
    return jax.jit(function).lower(*shapes)


def _gradient(function: Callable[..., Any], *shapes: Any) -> Any:
    """By all arguments, beside the result."""

    def both(cotangent: Any, *args: Any) -> Any:
        result, pull_back = jax.vjp(function, *args)
        return result, pull_back(cotangent)

    return jax.jit(both).lower(jax.eval_shape(function, *shapes), *shapes)


def _floats(*shape: int) -> ShapeDtypeStruct:
    return ShapeDtypeStruct(shape, jnp.float32)


def _photos(*shape: int) -> ShapeDtypeStruct:
    return ShapeDtypeStruct(shape, jnp.uint8)


def _abstract(config: Config) -> Params:
    """A network of which shapes are known, and no weights made."""
    abstract: Params = jax.eval_shape(lambda: init(jax.random.key(0), config))
    return abstract


_CELLS = (1, 16, 16, 64)
_KERNEL = (3, 3, 64, 64)
# On a grid of the coarser level's size, and as many channels as that level has: with fewer, other forms are faster.
_MANY = (_floats(1, 16, 16, 512), _floats(3, 3, 512, 512))
_FOUR_TAPS = (_floats(1, 16, 16, 512), _floats(2, 2, 512, 512), _floats(1, 16, 16, 4, 2))

# Operations and bytes cost nothing, but every instruction takes a hundredth of a second to compile. Hence the geometry
# network is narrow, and its grid so large that all of its convolutions have the plain form (the others are counted by
# themselves). So are VGG's first layers with a photo this small; they are as wide as they are.
_NARROW = Config(geometry_width=4)
_TWO_LEVELS = Config(
    image_size=32,
    geometry_width=1,
    levels=(Level(layer="conv3_1", iterations=1), Level(layer="conv2_1", iterations=1)),
)
_ONE_LEVEL = _TWO_LEVELS.replace(levels=_TWO_LEVELS.levels[:1])


def _geometry() -> Any:
    network, weights = geometry_network(_NARROW), _abstract(_NARROW).weights["geometry"]
    return _gradient(
        lambda weights, volume: network.apply({"params": weights}, volume), weights, _floats(1, 160, 160, 81)
    )


class _LastLayer(GeometryNetwork):
    """In place of the geometry network where it would take most of the time to compile; it is counted by itself."""

    @nn.compact
    def __call__(self, volume: Any) -> Any:
        return self._conv(volume.astype(self.dtype), 6, LAST_LAYER, size=9, last=True)


def _last_layer(config: Config) -> GeometryNetwork:
    return _LastLayer(config.geometry_width, config.upsampling, jnp.dtype(config.compute_dtype))


def _apply() -> Any:
    photo = _photos(1, *_TWO_LEVELS.image_shape, 3)
    return jax.jit(model.apply).lower(_abstract(_TWO_LEVELS), photo, photo)


def _step(stage: StageName) -> Any:
    """The step of a pair as `parallel` compiles it, so that it is seen whether the old state's memory is used again."""
    config, recipe = _ONE_LEVEL, RECIPES["default"][stage]
    if stage == "features":
        recipe = dataclasses.replace(recipe, train_backbone=config.levels[0].layer)
    run = parallel(make_step(config, stage, recipe, _STEPS), devices=1)
    mapped = inspect.getclosurevars(run).nonlocals["mapped"]
    names = ("photos",) if stage == "synthetic" else ("src", "tgt")
    batch = {name: _photos(1, 1, *config.image_shape, 3) for name in names}  # of a device, of a pair
    batch |= {} if stage == "synthetic" else {f"{name}_box": _floats(1, 1, 4) for name in names}
    batch |= {"seeds": ShapeDtypeStruct((1, 1), jnp.uint32), STOP: _floats(1, 1)}
    return mapped.lower(jax.eval_shape(lambda params: init_state(params, recipe, _STEPS), _abstract(config)), batch)


Lower = Callable[[], Any]

OPERATIONS: dict[str, Lower] = {
    "window_correlation": lambda: _forward(_window, _floats(*_CELLS), _floats(*_CELLS)),
    "gradient of window_correlation": lambda: _gradient(_window, _floats(*_CELLS), _floats(*_CELLS)),
    "warped_convolution, two fields": lambda: _forward(_warped, *_FOUR_TAPS, _FOUR_TAPS[-1]),
    "gradient of warped_convolution": lambda: _gradient(_warped, *_FOUR_TAPS),
    "local_search": lambda: _forward(_search, _floats(*_CELLS), _floats(*_CELLS), _floats(1, 16, 16, 2)),
    "gradient of convolve, few cells": lambda: _gradient(convolve, _floats(1, 8, 8, 64), _floats(*_KERNEL)),
    "gradient of convolve, few channels": lambda: _gradient(convolve, _floats(*_CELLS), _floats(*_KERNEL)),
    "gradient of convolve, many channels": lambda: _gradient(convolve, *_MANY),
    "gradient of the geometry network": _geometry,
}
"""Lowered, not compiled, when they are called."""

WHOLE: dict[str, Lower] = {
    "apply": _apply,
    "training step, synthetic": lambda: _step("synthetic"),
    "training step, weak": lambda: _step("weak"),
    "training step, features": lambda: _step("features"),
}
"""With the geometry network's last layer alone."""


def _compilations() -> dict[str, int]:
    """How many programs sequences of calls compile, one after another."""
    events: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: events.append(event))
    config = _ONE_LEVEL.replace(radius=1, final_correlation=False)
    params, other = (
        Params(jax.tree.map(lambda x, fill=fill: np.full(x.shape, fill, x.dtype), _abstract(config).weights), config)
        for fill in (0, 1)
    )
    src, tgt, third = np.zeros((3, 1, 32, 32, 3), np.uint8)

    def encode_and_match() -> None:
        first, *others = (model.encode(params, image) for image in (src, tgt, third))
        for features in others:
            model.match(params, first, features)

    calls: dict[str, Callable[[], Any]] = {
        "apply": lambda: model.apply(params, src, tgt),
        "apply again, to other images": lambda: model.apply(params, tgt, third),
        "apply with other weights": lambda: model.apply(other, src, tgt),
        "encode three images, match two pairs": encode_and_match,
    }
    numbers = {}
    for name, call in calls.items():
        events.clear()
        call()
        numbers[name] = events.count(_COMPILED)
    return numbers


def _counted(lowered: Any) -> dict[str, int]:
    """What XLA knows of a program once it has compiled it."""
    compiled = lowered.compile()
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    sizes = {name: getattr(memory, f"{name}_size_in_bytes") for name in ("argument", "output", "temp", "alias")}
    found = Counter(_INSTRUCTION.findall(compiled.as_text()))
    return {
        "operations": int(costs.get("flops", 0)),
        "bytes accessed": int(costs.get("bytes accessed", 0)),
        "argument bytes": sizes["argument"],
        "output bytes": sizes["output"],
        "temporary bytes": sizes["temp"],
        "donated bytes": sizes["alias"],
        "peak live bytes": sizes["argument"] + sizes["output"] + sizes["temp"] - sizes["alias"],
    } | {f"{name} instructions": found[name] for name in INSTRUCTIONS}


# `%name = f32[1,16]{1,0} dot(...)`, the type being a tuple where there are several results.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = .*?[\])}] ([a-z][a-z-]*)\(", re.MULTILINE)


def _near(stored: int, found: int) -> bool:
    return math.isclose(stored, found, rel_tol=0, abs_tol=ALLOWED * stored)


def _advice(changes: list[Change], here: str, stored_versions: dict[str, str]) -> list[str]:
    """What to do about changes."""
    lines = [f"Stored are the values for {here}."]
    now = versions()
    others = [f"{name} {was} (now {now.get(name)})" for name, was in stored_versions.items() if now.get(name) != was]
    if others:
        lines.append(f"They were counted with {', '.join(others)}, which may be all there is to it.")
    if any(change.worse for change in changes):
        lines.append("Something takes more than before: find out what. If it is meant to, store the new values with")
    else:
        lines.append("All of it is less than before. Store that, so that it cannot be lost again without notice:")
    return [*lines, f"    {COMMAND}", f"and commit {STORED.parent.name}/{STORED.name} together with what changed them."]


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    gc.disable()  # hardly anything that was traced is garbage, and looking for it takes a second or two
    sys.exit(tyro.cli(main))
