"""What `evaluate.py` works on: checkpoint or predictions, and the benchmark, opened and looked through."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rtn_jax.reporting.config import NETWORK_OPTIONS, EvaluateConfig

if TYPE_CHECKING:
    from rtn_jax.data.pairs import Benchmark
    from rtn_jax.evaluation.predictions import Predictions
    from rtn_jax.params import Params


@dataclass(frozen=True)
class Opened:
    """What is evaluated on what, opened and checked."""

    config: EvaluateConfig
    benchmark: Benchmark
    data_hash: str
    params: Params | None
    predictions: Predictions | None

    @property
    def name(self) -> str:
        """Of the matcher that this is about, as the user called it."""
        return self.config.ckpt or f"predictions {self.config.predictions}"

    @cached_property
    def subject(self) -> dict[str, Any]:
        """Everything the answers depend on; a part of what `results.json` holds."""
        import jax

        from rtn_jax.version import __version__

        return {
            "dataset": self.benchmark.name,
            "data": self.data_hash,
            "weights": None if self.params is None else weights_hash(self.params),
            "config": None if self.params is None else json.loads(self.params.config.to_json()),
            "answers": None if self.predictions is None else self.predictions.sha256(),
            "mirror_aware": self.config.mirror_aware,
            "save_predictions": self.config.save_predictions,
            "versions": {"rtn_jax": __version__, "jax": jax.__version__},
        }


def open_all(config: EvaluateConfig) -> Opened:
    """Opens everything; cheap mistakes come first, the look through the data is the greatest work.

    Raises:
        ValueError: for a checkpoint, predictions or a data set that cannot be used.
    """
    from rtn_jax.evaluation import survey
    from rtn_jax.evaluation.predictions import open_predictions

    params = None if config.ckpt in (None, "identity") else _params(config)
    benchmark = read(config)
    predictions = None
    if config.predictions is not None:
        predictions = open_predictions(config.predictions, benchmark, skip_bad=config.skip_bad)
        answered = tuple(pair for pair in benchmark.pairs if pair.id not in predictions.missing)
        left_out = (*benchmark.left_out, *predictions.missing.values())
        notes = (*benchmark.notes, *(f"an answer is ignored: {line}" for line in predictions.ignored))
        benchmark = benchmark.replace(pairs=answered, left_out=left_out, notes=notes)
    benchmark, data_hash = survey(benchmark, skip_bad=config.skip_bad)
    return Opened(config, benchmark, data_hash, params, predictions)


def read(config: EvaluateConfig) -> Benchmark:
    """The benchmark that was asked for, with the thresholds that were asked for.

    Raises:
        ValueError: if it is not there or not as published.
    """
    benchmark = _published(config)
    if benchmark.protocol is None:
        raise ValueError(
            f"split: {benchmark.name} {config.split} has pairs to train on, without a truth to compare with"
        )
    asked = {"thresholds": config.thresholds, "alphas": config.alphas}
    given = {name: value for name, value in asked.items() if value is not None}
    if given and benchmark.protocol != "keypoints":
        raise ValueError(f"{next(iter(given))}: {benchmark.name} is not measured by PCK")
    return benchmark.replace(**given)


def _published(config: EvaluateConfig) -> Benchmark:
    if config.data_dir is None:
        from rtn_jax.data.held_out import held_out_benchmark
        from rtn_jax.data.photos import BUILTIN_HELD_OUT, builtin_photos

        photos = builtin_photos()
        return held_out_benchmark({name: photos[name] for name in BUILTIN_HELD_OUT})
    if config.dataset == "json":
        from rtn_jax.data.json_pairs import json_pairs

        return json_pairs(config.data_dir, skip_bad=config.skip_bad)
    from rtn_jax.data.datasets import read_benchmark

    return read_benchmark(config.dataset, config.data_dir, split=config.split, skip_bad=config.skip_bad)


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
        params = checkpoints.load(str(config.ckpt))
    return params.configure_given(**{name: getattr(config, name) for name in NETWORK_OPTIONS})


def weights_hash(params: Params) -> str:
    """sha256 of all weights, whatever file they came from."""
    import jax
    import numpy as np

    content = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params.weights):
        array = np.asarray(leaf)
        content.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()
