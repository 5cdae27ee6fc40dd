"""The page of `python -m rtn_jax demo`: from a click to the drawn match, and many visitors at once.

    python -m benchmarks.demo                         # two minutes and a half; needs gradio and chromium
    python -m benchmarks.demo --ckpt runs/vgg         # a network of one's own instead of random weights

The first table is measured inside a real browser (without a window): from the click on the source to the frame in which
the target's picture, with the new dot, has been decoded. The second one has visitors without a browser that do what the
browser does, each clicking again as soon as it has its answer; memory is that of the server's process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tyro

import rtn_jax
from benchmarks.fresh import about, machine, table
from benchmarks.setup import random_weights
from rtn_jax.config import default
from tests import browser

# The next picture of the target that is not the one before, decoded, and in a frame.
_CLICK = """new Promise(done => {
  const target = () => document.querySelector('#target img'), before = target().src;
  const source = document.querySelector('#source img'), box = source.getBoundingClientRect();
  const began = performance.now();
  const look = () => {
    const image = target();
    if (image && image.src !== before && image.complete)
      image.decode().then(() => requestAnimationFrame(() => done(performance.now() - began)));
    else requestAnimationFrame(look);
  };
  const at = {bubbles: true, clientX: box.left + ACROSS * box.width, clientY: box.top + DOWN * box.height};
  for (const kind of ['mousedown', 'mouseup', 'click']) source.dispatchEvent(new MouseEvent(kind, at));
  look();
})"""


@dataclass
class Visits:
    """What visitors without a browser met."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """MB of the server, every second."""


def main(
    ckpt: Path | None = None,
    clicks: int = 100,
    clients: int = 10,
    seconds: float = 60.0,
    out: Path | None = None,
) -> None:
    """Starts the page, measures, and prints Markdown.

    Args:
        ckpt: of the network; VGG-19's default with random weights unless given (what a click costs is the same).
        clicks: one after the other in the browser.
        clients: visitors at once.
        seconds: for which they click.
        out: JSON file of everything measured.
    """
    here = machine()
    sys.stdout.write(f"{about(here)}\n\n")
    with tempfile.TemporaryDirectory() as folder:
        if ckpt is None:
            ckpt, config = Path(folder) / "random", default("vgg")
            rtn_jax.save(ckpt, rtn_jax.Params(random_weights(config), config))
        command = [sys.executable, "-m", "rtn_jax", "demo", "--port=0", f"--ckpt={ckpt}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                assert server.stdout is not None
                url = server.stdout.readline().split(" ")[0]
                if not url.startswith("http"):
                    raise SystemExit(f"the page did not start: {' '.join(command)}")
                drawn = in_a_browser(url, clicks)
                sys.stdout.write(_table("click to drawn match, one visitor, ms", drawn))
                visits = at_once(url, server.pid, clients, seconds)
            finally:
                server.terminate()
    sys.stdout.write(_table(f"answer to a click, {clients} visitors at once, ms", [1000 * s for s in visits.seconds]))
    memory = visits.memory
    sys.stdout.write(
        f"\n{len(visits.seconds)} clicks in {seconds:.0f} s, {len(visits.errors)} errors; memory {memory[0]:.0f} MB "
        f"before, {np.median(memory[len(memory) // 4 : len(memory) // 2]):.0f} MB in the second quarter, "
        f"{np.median(memory[-len(memory) // 4 :]):.0f} MB in the last\n"
    )
    for error in visits.errors[:3]:
        sys.stdout.write(f"{error}\n")
    if out is not None:
        out.write_text(json.dumps({"machine": here, "drawn_ms": drawn, **vars(visits)}, indent=1) + "\n")


def in_a_browser(url: str, clicks: int) -> list[float]:
    """Milliseconds from each click to its match on the screen, after five that are not counted."""
    rng = np.random.default_rng(0)
    with browser.running() as program:
        page = program.page()
        page.open(url)
        page.until("document.querySelectorAll('#table tbody tr').length > 4", seconds=120)
        times = []
        for _ in range(clicks + 5):
            across, down = rng.uniform(0.1, 0.9, 2)
            times.append(float(page.js(_CLICK.replace("ACROSS", str(across)).replace("DOWN", str(down)))))
            time.sleep(0.2)
    return times[5:]


def at_once(url: str, process: int, clients: int, seconds: float) -> Visits:
    """Visitors that each open the example and click as fast as they are answered."""
    config = httpx.get(f"{url}/config").json()
    names = {component["id"]: component["props"].get("elem_id") for component in config["components"]}

    def event(kind: str, element: str | None = None) -> dict[str, Any]:
        wanted = (
            dependency
            for dependency in config["dependencies"]
            for target, name in dependency["targets"]
            if name == kind and (element is None or names.get(target) == element)
        )
        found: dict[str, Any] = next(wanted)
        return found

    opening, click = event("load"), event("select", "source")
    visits, lock = Visits([], [], [_memory(process)]), threading.Lock()
    ready = threading.Barrier(clients + 1)

    def visit(number: int) -> None:
        rng, session = np.random.default_rng(number), f"visitor{number}"
        with httpx.Client(base_url=url, timeout=120) as client:
            error = _ask(client, session, opening["id"], [None, 1, 0])
            ready.wait()
            end = time.monotonic() + seconds
            while error is None and time.monotonic() < end:
                started = time.monotonic()
                error = _ask(client, session, click["id"], [None], rng.integers(0, 300, 2).tolist())
                with lock:
                    visits.seconds.append(time.monotonic() - started)
            if error is not None:
                visits.errors.append(error)

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        visits.memory.append(_memory(process))
    for thread in threads:
        thread.join()
    return visits


def _ask(client: httpx.Client, session: str, number: int, data: list[Any], at: list[int] | None = None) -> str | None:
    """Sends an event as the page does and waits for the answer; what went wrong, if anything did."""
    body: dict[str, Any] = {"data": data, "fn_index": number, "session_hash": session}
    if at is not None:
        body["event_data"] = {"index": at, "value": None}
    answer = None
    try:
        joined = client.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return f"{joined.status_code}: {joined.text}"
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                if '"process_completed"' in line:
                    answer = json.loads(line.removeprefix("data: "))
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    if answer is None:
        return "no answer"
    return None if answer["success"] else str(answer["output"])


def _memory(process: int) -> float:
    """MB that a process has in memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _table(title: str, values: list[float]) -> str:
    shown = [f"{value:.0f}" for value in (*np.percentile(values, [50, 95, 99]), max(values))]
    return f"\n{title}, {len(values)} clicks\n\n{table(('median', '95 %', '99 %', 'most'), [shown])}"


if __name__ == "__main__":
    tyro.cli(main)
