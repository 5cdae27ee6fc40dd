"""Times the input of training: pairs of JPEG photos decoded, resized and stacked per second.

    python -m benchmarks.input --workers 0 1 2

Makes photo-like JPEGs whose longer side is 500 pixels in a temporary folder, a class folder of them, and draws batches
of same-class pairs as the weak stage does; nothing is kept between batches. The clock starts after the first batches
of every worker, so starting processes (some seconds each) is not counted. Nothing else may run meanwhile.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from rtn_jax.data.photos import builtin_photos
from rtn_jax.data.pipeline import pair_batches
from rtn_jax.data.sources import pair_source
from rtn_jax.data.stream import AHEAD, Stream

SCENES = ("astronaut", "chelsea", "coffee", "grace_hopper", "ihc", "motorcycle", "rocket")


def main(
    workers: tuple[int, ...] = (0, 1, 2),
    batch: int = 16,
    image_size: int = 256,
    photos: int = 200,
    longer_side: int = 500,
    seconds: float = 10.0,
    seed: int = 0,
) -> None:
    """Measure and print a table.

    Args:
        workers: numbers of worker processes to try, one after the other; 0 is a thread of this process.
        batch: pairs at a time.
        image_size: what photos are resized to.
        photos: how many files are made.
        longer_side: of the files, pixels.
        seconds: how long each is measured, at least.
        seed: of photos and pairs.
    """
    table = Table(
        title=f"pairs of {longer_side}-pixel JPEGs to {image_size} x {image_size}, batches of {batch}, "
        f"{len(os.sched_getaffinity(0))} cores",
        title_justify="left",
    )
    for heading in ("workers", "pairs per second", "ms per pair and process"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        mean_bytes = make_photos(Path(folder), photos, longer_side, seed)
        for count in workers:
            rate = pairs_per_second(folder, count, batch, image_size, seconds, seed)
            table.add_row(str(count), f"{rate:.0f}", f"{1000 * max(1, count) / rate:.2f}")
    console = Console()
    console.print(table)
    console.print(f"files of {mean_bytes / 1000:.0f} kB on average")


def make_photos(folder: Path, count: int, longer_side: int, seed: int) -> float:
    """Writes parts of real photos, at their own sharpness or enlarged, as JPEGs of two classes; their mean size."""
    rng = np.random.default_rng(seed)
    scenes = [Image.fromarray(photo) for name, photo in builtin_photos().items() if name in SCENES]
    sizes = []
    for i in range(count):
        scene = scenes[i % len(scenes)]
        ratio = rng.choice([3 / 4, 2 / 3, 4 / 3, 3 / 2])  # height to width
        width = rng.uniform(0.6, 1) * min(scene.width, scene.height / ratio)
        left, top = rng.uniform(0, scene.width - width), rng.uniform(0, scene.height - width * ratio)
        shape = longer_side * min(1, 1 / ratio), longer_side * min(1, ratio)
        photo = scene.resize(
            (round(shape[0]), round(shape[1])),
            Image.Resampling.BICUBIC,
            box=(left, top, left + width, top + width * ratio),
        )
        path = folder / f"class{i % 2}" / f"{i:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        photo.save(path, quality=90)
        sizes.append(path.stat().st_size)
    return float(np.mean(sizes))


def pairs_per_second(folder: str, workers: int, batch: int, image_size: int, seconds: float, seed: int) -> float:
    """Draws batches for that long."""
    batches = pair_batches(pair_source(folder), (image_size, image_size), batch_size=batch, seed=seed, kept_bytes=0)
    with Stream(batches, workers=workers) as stream:
        for _ in range(2 * (AHEAD + 1) * max(1, workers)):  # what was made ahead of time while nobody waited
            next(stream)
        first, start = stream.position, time.perf_counter()
        while time.perf_counter() - start < seconds:
            next(stream)
        return (stream.position - first) * batch / (time.perf_counter() - start)


if __name__ == "__main__":
    tyro.cli(main)
