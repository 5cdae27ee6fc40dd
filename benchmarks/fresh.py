"""Measurements in processes of their own, so that memory, compiled programs and threads are those of one thing only.

`measured` starts `benchmarks.measure` and hands back what it found. Nothing here imports JAX.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "grain")

BUSY = 0.3
"""Processes that want to run, on average over a minute, from which on times mean little."""


def measured(
    job: str, flags: dict[str, Any], *, devices: int = 1, processes: int = 1, repeats: int = 3
) -> dict[str, Any]:
    """What a job of `benchmarks.measure` found, or `{"error": why}` if its process failed.

    Args:
        job: one of `measure.JOBS`.
        flags: of `train.py`, by name.
        devices: of each process; on the CPU they are made, and share the cores.
        processes: that do it together, connected over this machine's loopback; the first one's answer counts.
        repeats: how often what is timed is repeated, after one that compiles.
    """
    if processes > 1:
        flags = flags | {"coordinator": f"127.0.0.1:{_free_port()}", "processes": processes}
    own = [flags | {"process": i} if processes > 1 else flags for i in range(processes)]
    running = [_start(job, flags, devices, repeats) for flags in own]
    try:
        with ThreadPoolExecutor(processes) as pool:
            said = list(pool.map(subprocess.Popen.communicate, running))
    finally:
        for process in running:  # Ctrl-C leaves nobody behind
            process.kill()
    for process, (_, complaints) in zip(running, said, strict=True):
        if process.returncode:
            last = (complaints.strip().splitlines() or ["nothing was said"])[-1]
            return {"error": f"exit code {process.returncode}: {last}"}
    found: dict[str, Any] = json.loads(said[0][0].splitlines()[-1])
    return found


def machine() -> dict[str, Any]:
    """What times depend on besides the code: processor, memory, versions, and how busy the machine is."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "load_before": round(os.getloadavg()[0], 2),
    }


def about(machine: dict[str, Any]) -> str:
    """The machine in a line, with a warning if it was busy."""
    line = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, Python {machine['python']}, "
        f"jax {machine['jax']}"
    )
    if machine["xla_flags"]:
        line += f", XLA_FLAGS={machine['xla_flags'].strip()}"
    busy = machine["load_before"] > BUSY
    return f"{line}; BUSY before it began (load {machine['load_before']}): do not publish" if busy else line


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows)) + "\n"


def _start(job: str, flags: dict[str, Any], devices: int, repeats: int) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # compile time is one of the figures
    if devices > 1:
        made = f"--xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {made}"
    request = json.dumps({"job": job, "flags": flags, "devices": devices, "repeats": repeats})
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.measure", request],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
