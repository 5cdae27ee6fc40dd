"""Time and memory of one pair for every backbone, in turns beside VGG-19's.

    python -m benchmarks.backbones                                     # all of them, random weights
    python -m benchmarks.backbones --names vgg cat-fcss --repeats 9

All are timed in one process, A B C A B C ..., so that whatever else the machine does hits all; ratios are of medians.
Memory is the peak of a process of its own that matches one pair. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tyro

import rtn_jax
from benchmarks.fresh import ROOT, about, machine, table
from benchmarks.jobs import random_images
from benchmarks.setup import random_weights
from benchmarks.turns import interleave
from rtn_jax.config import BackboneName, default

ALL: tuple[BackboneName, ...] = ("vgg", "vgg16", "resnet50", "resnet", "resnet152", "fcss", "cat-fcss")
KIBIBYTES_PER_GB = 1e9 / 1024


def main(names: tuple[BackboneName, ...] = ALL, repeats: int = 7) -> None:
    """Times features and matches of one pair, and prints a table.

    Args:
        names: of backbones; the first is what the others are compared with.
        repeats: turns of each that are timed, after one that compiles and one that warms up.
    """
    here = machine()
    peaks = [_peak(name) for name in names]  # first: a process's peak begins with that of the one that started it
    runs = [run for name in names for run in (_whole(name), _features(name))]
    for run in runs * 2:
        run()
    times = [np.asarray(seconds) for seconds in interleave(runs, repeats)]
    medians = [float(np.median(seconds)) for seconds in times]
    rows = []
    for i, name in enumerate(names):
        whole, features = times[2 * i], medians[2 * i + 1]
        rows.append(
            [
                f"`{name}`",
                f"{medians[2 * i]:.2f} ({whole.min():.2f}-{whole.max():.2f})",
                f"{features:.2f}",
                f"{medians[2 * i] / medians[0]:.2f}",
                f"{peaks[i]:.1f}",
            ]
        )
    headings = ("backbone", "one pair, s", "of it features, s", f"ratio to {names[0]}", "peak memory, GB")
    sys.stdout.write(f"{about(here)}\n\n{table(headings, rows)}")


def print_peak(name: BackboneName) -> None:
    """Matches one pair and prints this process's peak memory in GB; for a process of its own."""
    _whole(name)()
    sys.stdout.write(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIBIBYTES_PER_GB))


def _whole(name: BackboneName) -> Callable[[], Any]:
    """One pair, from images at the network's size to the flow."""
    params, (src, tgt) = _params(name), _images()
    run = jax.jit(lambda params, src, tgt: rtn_jax.apply(params, src, tgt).flow)
    return lambda: jax.block_until_ready(run(params, src, tgt))


def _features(name: BackboneName) -> Callable[[], Any]:
    """The features of both images alone."""
    params, images = _params(name), np.concatenate(_images())
    run = jax.jit(lambda params, images: rtn_jax.encode(params, images).taps)
    return lambda: jax.block_until_ready(run(params, images))


def _params(name: BackboneName) -> rtn_jax.Params:
    return rtn_jax.Params(random_weights(default(name)), default(name))


def _images() -> np.ndarray:
    return random_images(1, (256, 256), 0)


def _peak(name: BackboneName) -> float:
    command = [sys.executable, "-c", f"from benchmarks.backbones import print_peak; print_peak({name!r})"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    tyro.cli(main)
