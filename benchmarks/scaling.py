"""Predicts training steps on many devices, and checks the prediction where this machine can.

    python -m benchmarks.train_step --groups split --out split.json
    python -m benchmarks.scaling --measured split.json --out scaling.json

The model is `benchmarks.cost_model`. Measured, by `benchmarks.train_step`: computing, its operations, the gradient's
bytes, the copy of a checkpoint, decoding photos. Everything else is assumed, and a flag. No step was timed on a GPU:
its time is the operations divided by what a GPU is assumed to do per second in this network. That decides how much all
the rest matters, so there is a table for each of several such numbers.

The check makes 1, 2 and 4 devices of this machine's cores, and two processes that talk over its loopback. From the step
on one device and the all-reduce on two, the model has to give the step on two and both on four.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.cost_model import Cluster, Prediction, Work, on_one_machine, predict, ring
from benchmarks.fresh import about, table
from benchmarks.train_step import QUICK, Log, Row, median, split

CPU = Cluster(per_host=1, inside_gb=1, inside_us=0, between_gb=1, between_us=50, readers=1, messages=40)
"""Hosts without accelerators, all cores of which are one device; 10 Gb/s between them, at four fifths. Gloo sends
array by array."""

GPU = Cluster(per_host=8, inside_gb=300, inside_us=10, between_gb=40, between_us=20, readers=32)
"""Hosts of eight GPUs with NVLink (450 GB/s) at two thirds; 400 Gb/s between them, at four fifths."""


def main(
    measured: Path | None = None,
    devices: tuple[int, ...] = (1, 8, 64, 1024),
    pairs: int = 4,
    cpu: Cluster = CPU,
    gpu: Cluster = GPU,
    gpu_tflops: tuple[float, ...] = (50.0, 200.0),
    save_every: int = 1000,
    validation_seconds: float = 0.0,
    check: tuple[int, ...] = (1, 2, 4),
    check_pairs: int = 1,
    repeats: int = 5,
    out: Path | None = None,
    quick: bool = False,
) -> None:
    """Print what is predicted, and what the model gives for this machine beside what it does.

    Args:
        measured: JSON file of `benchmarks.train_step` with the group `split`; measured now unless given.
        devices: to predict.
        pairs: of each device, per step.
        cpu: hosts that compute as fast as this one did.
        gpu: hosts with GPUs.
        gpu_tflops: what a GPU does in this network, 10^12 operations per second.
        save_every: steps between checkpoints; the 50 of `train.py` suit steps of seconds.
        validation_seconds: of what is measured at each of them, by every process alike, while training waits.
        check: devices to make of this machine's cores, from 1 and 2 on; a single number: no check.
        check_pairs: of each device.
        repeats: steps that are timed.
        out: JSON file of assumptions, predictions, and what was measured here.
        quick: a tiny network, one repeat.
    """
    flags: dict[str, Any] = dict(QUICK) if quick else {}
    log, repeats = Log(None), 1 if quick else repeats
    if measured is None:
        for stage in ("synthetic", "weak"):
            split(log, flags | {"stage": stage, "batch_size": pairs}, devices=2, repeats=repeats)
        source, rows = log.about, log.rows
    else:
        read = json.loads(measured.read_text())
        source, rows = read["machine"], read["rows"]
    sys.stdout.write(f"Measured: {about(source)}\n")
    predictions = []
    for title, work, cluster in cases(rows, pairs, cpu, gpu, gpu_tflops):
        work = dataclasses.replace(work, pause_seconds=(work.pause_seconds + validation_seconds) / save_every)
        steps = [predict(n, work, cluster) for n in devices]
        sys.stdout.write(f"\n{title}\n\n{predictions_table(steps, pairs)}")
        predictions.append({"about": title, "work": work, "cluster": cluster, "steps": steps})
    if len(check) > 1:
        sys.stdout.write(f"\nChecked: {about(log.about)}\n\n")
        sys.stdout.write(check_table(log, flags | {"batch_size": check_pairs}, check, repeats))
    if out is not None:
        found = {"measured": source, "predictions": predictions, "machine": log.about, "rows": log.rows}
        out.write_text(json.dumps(found, indent=1, default=dataclasses.asdict))


def cases(
    rows: Sequence[Row], pairs: int, cpu: Cluster, gpu: Cluster, gpu_tflops: Sequence[float]
) -> list[tuple[str, Work, Cluster]]:
    """What is predicted: per stage that was measured, on CPU hosts and on GPUs of several speeds.

    The pause is that of one checkpoint, not yet spread over the steps between two.

    Raises:
        ValueError: if something was not measured.
    """
    of_split = [row for row in rows if row["group"] == "split" and "error" not in row]
    parts, reading = ([row for row in of_split if row["job"] == job] for job in ("parts", "reading"))
    if not parts or not reading:
        raise ValueError("measured: expected rows of the group split, as `benchmarks.train_step` writes them")
    cpu, gpu = (with_measured(cluster, reading[0]) for cluster in (cpu, gpu))
    found = []
    for row in parts:
        work = work_of(row, pairs)
        name = f"{row['flags'].get('stage', 'synthetic')} stage, {pairs} pairs per device"
        found.append((f"{name}, CPU hosts like this one", work, cpu))
        for tflops in gpu_tflops:
            faster = dataclasses.replace(work, compute_seconds=row["flops"] / row["pairs"] * pairs / (1e12 * tflops))
            found.append((f"{name}, {gpu.per_host} GPUs per host, {tflops:g} TFLOP/s each", faster, gpu))
    return found


def work_of(parts: Row, pairs: int) -> Work:
    """What a device does in a step, from `measure.parts`: linear in the pairs but for the update."""
    gradient = median(parts["forward_and_backward"]) / parts["pairs"] * pairs
    return Work(
        compute_seconds=gradient + median(parts["update"]),
        gradient_bytes=parts["gradient_bytes"],
        pairs=pairs,
        photos_per_pair=parts["photos_per_pair"],
        pause_seconds=median(parts["checkpoint_copy"]),
    )


def with_measured(cluster: Cluster, reading: Row) -> Cluster:
    """The cluster with photos as large and as quickly decoded as they were here, unless something else is assumed."""
    per_reader = max(rate / max(1, int(n)) for n, rate in reading["photos_per_second"].items() if int(n))
    return dataclasses.replace(
        cluster,
        photos_per_reader=cluster.photos_per_reader or per_reader,
        photo_kb=cluster.photo_kb or reading["file_bytes"] / 1000,
    )


def predictions_table(steps: Sequence[Prediction], pairs: int) -> str:
    """A row per number of devices; efficiency is relative to the same number of single devices."""
    alone = steps[0].pairs_per_second / steps[0].devices
    headings = (
        "devices", "ms per step", "all-reduce ms", "pairs per s", "efficiency", "waits for",
        "photos per s and host", "MB per s and host", "readers needed per host",
    )  # fmt: skip
    rows = [
        [
            f"{step.devices}",
            f"{1000 * step.seconds:.1f}",
            f"{1000 * step.reduce_seconds:.2f}",
            f"{step.pairs_per_second:,.0f}" if step.pairs_per_second >= 10 else f"{step.pairs_per_second:.2f}",
            f"{100 * step.pairs_per_second / step.devices / alone:.0f} %",
            step.waits_for,
            f"{step.photos_per_second:,.0f}" if step.photos_per_second >= 10 else f"{step.photos_per_second:.2f}",
            f"{step.megabytes_per_second:.2f}",
            f"{step.readers_needed:.2f}",
        ]
        for step in steps
    ]
    return table(headings, rows)


def check_table(log: Log, flags: dict[str, Any], counts: Sequence[int], repeats: int) -> str:
    """Steps and all-reduces on devices made of the same cores, measured and by the model; then over the loopback."""
    pairs = flags["batch_size"]

    def run(job: str, **options: int) -> Row:
        every = options["devices"] * options.get("processes", 1)
        row = log.measure("check", job, flags | {"batch_size": pairs * every}, repeats=repeats, **options)
        if "error" in row:
            raise ValueError(f"check: {job} on {every} devices: {row['error']}")
        return row

    alone = median(run("step", devices=1)["seconds"])
    two = run("all_reduce", devices=2)
    latency, bandwidth = fitted(median(two["seconds"]), median(two["latency_seconds"]), two["bytes"])
    rows = [["1", "-", "-", f"{alone:.3f}", "-", "-"]]
    for n in counts[1:]:
        reduced = median((two if n == 2 else run("all_reduce", devices=n))["seconds"])
        by_model = (
            ring(n, two["bytes"], bandwidth / n, latency),
            on_one_machine(n, alone, two["bytes"], bandwidth, latency),
        )
        rows.append(_check_row(str(n), reduced, median(run("step", devices=n)["seconds"]), *by_model))
    reduced = median(run("all_reduce", devices=1, processes=2)["seconds"])
    step = median(run("step", devices=1, processes=2)["seconds"])
    rows.append(_check_row("2 processes", reduced, step, reduced, 2 * alone + reduced))
    headings = ("devices", "all-reduce s", "model", "step s", "model", "step over model")
    return table(headings, rows)


def fitted(seconds: float, latency_seconds: float, size: float) -> tuple[float, float]:
    """Latency of a message, and the memory's bytes per second, from an all-reduce over two devices that share it.

    The inverse of `ring(2, size, bandwidth / 2, latency)`.
    """
    seconds = max(seconds, 1e-6)  # of a tiny network it is lost in the noise
    latency_seconds = min(max(latency_seconds, 0.0), seconds / 2)
    return latency_seconds / 2, 2 * size / (seconds - latency_seconds)


def _check_row(name: str, reduced: float, step: float, reduced_model: float, step_model: float) -> list[str]:
    off = f"{100 * (step / step_model - 1):+.0f} %"
    return [name, f"{reduced:.3f}", f"{reduced_model:.3f}", f"{step:.3f}", f"{step_model:.3f}", off]


if __name__ == "__main__":
    tyro.cli(main)
