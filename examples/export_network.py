"""Writes a network as one file that runs without rtn_jax; `serve_exported.py` serves it.

    python examples/export_network.py --ckpt=runs/vgg --size=256 --out=rtn.stablehlo

`--size` is that of the images that will be given; the network's own unless given.
"""

from __future__ import annotations

import time
from pathlib import Path

from jax.export import default_export_platform
from stand_ins import network, run

import rtn_jax


def main(ckpt: Path | None = None, size: int | None = None, out: Path = Path("rtn.stablehlo")) -> None:
    """Exports a network for pairs of images of size x size pixels."""
    params, begun = network(ckpt), time.perf_counter()
    rtn_jax.export(params, size or params.config.image_size, out, platforms=(default_export_platform(),))
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB in {time.perf_counter() - begun:.1f} s, checked against apply")


if __name__ == "__main__":
    run(main)
