"""`evaluate.py`: a checkpoint or a floor on a benchmark, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rtn_jax.config import BackboneName

if TYPE_CHECKING:
    from rtn_jax.data.pairs import Benchmark
    from rtn_jax.evaluation import Result
    from rtn_jax.params import Params

FLOORS = ("identity", "nearest")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measures a matcher on a benchmark, beside the floors.

    Without a data set: fixed warps of built-in photos that no training run sees.
    """

    ckpt: str
    """Checkpoint or run folder, a net-epoch.mat of the release, or a floor: identity (nothing moves), nearest (nearest
    neighbour of backbone features)."""
    dataset: Literal["held_out", "pf_willow"] = "held_out"
    """Benchmark."""
    data_dir: Path | None = None
    """Folder of the benchmark as published."""
    out: Path | None = None
    """Folder that receives results.json and a picture of matches."""
    image_size: int | None = None
    """Both images are resized to this square; the checkpoint's unless given."""
    iterations: tuple[int, ...] | None = None
    """Recurrent steps per level, coarse to fine; the checkpoint's unless given."""
    compute_dtype: Literal["float32", "bfloat16"] | None = None
    """Of features and convolutions; the checkpoint's unless given."""
    backbone: BackboneName = "vgg"
    """Whose features --ckpt=nearest compares."""
    weights: str = "pretrained"
    """Of that backbone: pretrained (fetched on first use), random, or the path of a weight file."""

    def __post_init__(self) -> None:
        if self.dataset != "held_out" and self.data_dir is None:
            raise ValueError(f"data_dir: --dataset={self.dataset} needs --data_dir=FOLDER")


def report(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluates, prints the table and writes what was asked for.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: for a checkpoint, data set or output folder that cannot be used.
    """
    from rtn_jax import evaluation
    from rtn_jax.images import write_atomically

    out = _make_folder(config.out)
    benchmark = _benchmark(config)
    params = None if config.ckpt == "identity" else _params(config)
    started = time.perf_counter()
    sizes = evaluation.image_sizes(benchmark)
    matchers = {"identity": evaluation.identity(sizes)}
    if params is not None:
        features = evaluation.ImageFeatures(params, benchmark)
        matchers["nearest"] = evaluation.nearest(features)
        if config.ckpt not in FLOORS:
            matchers[config.ckpt] = evaluation.network(features)
    results = [_evaluate(name, predict, benchmark, sizes) for name, predict in matchers.items()]
    seconds = time.perf_counter() - started
    record = _record(config, params, benchmark, results, seconds)
    _print_table(benchmark, results, seconds)
    if out is not None:
        text = (json.dumps(record, indent=1) + "\n").encode()
        write_atomically(out / "results.json", lambda file: file.write(text))
        if params is not None and config.ckpt not in FLOORS:
            from rtn_jax.images import save_image
            from rtn_jax.pictures import matches_picture

            save_image(out / "matches.png", matches_picture(params, benchmark))
    return record


def _make_folder(folder: Path | None) -> Path | None:
    """Before the long work: a folder that cannot be written should not cost ten minutes."""
    if folder is None:
        return None
    from rtn_jax.images import check_writable

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out: {folder} cannot be made: {error.strerror}") from error
    check_writable(folder / "matches.png")
    return folder


def _benchmark(config: EvaluateConfig) -> Benchmark:
    if config.dataset == "pf_willow" and config.data_dir is not None:
        from rtn_jax.data.pf_willow import pf_willow

        return pf_willow(config.data_dir)
    from rtn_jax.data.held_out import held_out_benchmark
    from rtn_jax.data.photos import BUILTIN_HELD_OUT, builtin_photos

    photos = builtin_photos()
    return held_out_benchmark({name: photos[name] for name in BUILTIN_HELD_OUT})


def _params(config: EvaluateConfig) -> Params:
    import jax

    from rtn_jax import checkpoints
    from rtn_jax.config import default
    from rtn_jax.params import init
    from rtn_jax.weights import pretrained

    if config.ckpt == "nearest":
        backbone_weights = None if config.weights == "random" else pretrained(config.backbone, config.weights)
        params = init(jax.random.key(0), default(config.backbone), backbone_weights=backbone_weights)
    else:
        params = checkpoints.load(config.ckpt)
    asked = {name: getattr(config, name) for name in ("image_size", "iterations", "compute_dtype")}
    return params.configure(**{name: value for name, value in asked.items() if value is not None})


def _evaluate(name: str, predict: Any, benchmark: Benchmark, sizes: Any) -> Result:
    from rich.progress import Progress

    from rtn_jax.evaluation import evaluate

    with Progress(transient=True) as bar:
        task = bar.add_task(name, total=len(benchmark.pairs))
        return evaluate(name, predict, benchmark, sizes, lambda done: bar.update(task, completed=done))


def _print_table(benchmark: Benchmark, results: list[Result], seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{benchmark.name}, {len(benchmark.pairs)} pairs, per cent [95 % interval]")
    table.add_column("matcher", overflow="fold")
    for name in results[0].names:
        table.add_column(name, justify="right")
    for result in results:
        cells = [
            f"{value:.1f}\n[{low:.1f}, {high:.1f}]"
            for value, (low, high) in zip(result.metrics.values(), result.intervals.values(), strict=True)
        ]
        table.add_row(result.matcher, *cells)
    console = Console()
    console.print(table, markup=False)
    console.print(f"{seconds:.1f} s", highlight=False)


def _record(
    config: EvaluateConfig, params: Params | None, benchmark: Benchmark, results: list[Result], seconds: float
) -> dict[str, Any]:
    import jax

    result = results[-1]
    return {
        "matcher": result.matcher,
        "dataset": benchmark.name,
        "pairs": len(benchmark.pairs),
        "metrics": result.metrics,
        "intervals": result.intervals,
        "floors": {other.matcher: other.metrics for other in results if other.matcher in FLOORS},
        "config": None if params is None else json.loads(params.config.to_json()),
        "seconds": round(seconds, 3),
        "versions": {"jax": jax.__version__},
        "ckpt": config.ckpt,
    }
