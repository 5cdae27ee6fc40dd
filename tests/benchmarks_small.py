"""Small benchmarks in memory, one per protocol, for tests of evaluation and reports."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rtn_jax.data.files import ArrayFiles
from rtn_jax.data.pairs import Benchmark, Pair
from tests.networks import photos

SHAPES = {"a": (40, 48), "b": (32, 64), "c": (56, 36)}
NAMES = (("a", "b"), ("b", "c"), ("c", "a"), ("a", "c"), ("b", "a"), ("c", "b"))


@dataclass(frozen=True)
class TruthFiles(ArrayFiles):
    """Images with masks and flows."""

    masks: dict = field(default_factory=dict)
    flows: dict = field(default_factory=dict)

    def mask(self, name):
        return self.masks[name]

    def flow(self, pair_id):
        return self.flows[pair_id]


def small_images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: photos(rng, 1, *shape)[0] for name, shape in SHAPES.items()}


def keypoint_benchmark(count: int = 6, **changes) -> Benchmark:
    """Pairs with 3, 4, 5 ... keypoints; the first two leaked, of two classes."""
    rng = np.random.default_rng(4)
    pairs = tuple(
        Pair(
            id=f"{'xy'[n % 2]}/{src}-{tgt}",
            src=src,
            tgt=tgt,
            src_points=rng.uniform(0, 30, (n + 3, 2)),
            tgt_points=rng.uniform(0, 30, (n + 3, 2)),
            tgt_box=np.array([2.0, 3.0, 20.0 + n, 30.0]),
            category="xy"[n % 2],
            leaked=n < 2,
        )
        for n, (src, tgt) in enumerate(NAMES[:count])
    )
    fields = {"thresholds": ("bbox-kp",), "alphas": (0.1, 0.5)}
    return Benchmark(name="small", pairs=pairs, files=ArrayFiles(small_images()), **(fields | changes))


def dense_benchmark(protocol: str) -> Benchmark:
    """Pairs with a true flow that is known on a mask, in three subsets; the last pair is mirrored."""
    rng = np.random.default_rng(5)
    masks = {}
    for name, (height, width) in SHAPES.items():
        masks[name] = np.zeros((height, width), bool)
        masks[name][height // 4 : -height // 5, width // 5 : -width // 4] = True
    subsets = ("one", "one", "two", "two", "two", "three")
    pairs, flows = [], {}
    for n, ((src, tgt), subset) in enumerate(zip(NAMES, subsets, strict=True)):
        name = f"{subset}/{src}_{tgt}/flow{n}"
        true = rng.normal(0, 3, (*SHAPES[src], 2)).astype(np.float32)
        flows[name] = np.where(masks[src][..., None], true, np.nan).astype(np.float32)
        pairs.append(
            Pair(
                id=name,
                src=src,
                tgt=tgt,
                category=src,
                subset=subset,
                mirrored=n == 4,
                has_flow=True,
                has_masks=True,
            )
        )
    files = TruthFiles(small_images(), masks, flows)
    return Benchmark(name=f"small {protocol}", pairs=tuple(pairs), files=files, protocol=protocol)
