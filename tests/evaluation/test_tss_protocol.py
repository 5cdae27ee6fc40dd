"""TSS's protocol on its real sample, against a reading of it that shares no code with the library."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtn_jax import evaluation
from rtn_jax.data.tss import tss
from rtn_jax.evaluation.predictions import open_predictions
from rtn_jax.flow_files import read_flow, write_flow

SUBSETS = ("FG3DCar", "JODS", "PASCAL")


@pytest.fixture(scope="module")
def folder(data_dir) -> Path:
    if not (data_dir / "TSS-sample").is_dir():
        pytest.skip(f"TSS-sample is not in {data_dir}")
    return data_dir / "TSS-sample" / "TSS_CVPR2016"


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def read_by_hand(path: Path) -> np.ndarray:
    content = path.read_bytes()
    magic, width, height = struct.unpack("<fii", content[:12])
    assert magic == pytest.approx(202021.25)
    assert len(content) == 12 + 8 * width * height
    return np.frombuffer(content, "<f4", offset=12).astype(np.float64).reshape(height, width, 2)


def accuracy_by_hand(predicted: np.ndarray, folder: Path, number: int) -> float:
    """The flow on the object, in units of the longer side of the image that it points into."""
    true = read_by_hand(folder / f"flow{number}.flo")
    mask = opened(folder / f"mask{number}.png")
    longer = max(opened(folder / f"image{3 - number}.png").shape[:2])
    counted = (mask.reshape(*true.shape[:2], -1)[..., 0] > 0) & (np.abs(true) < 1e9).all(-1)
    difference = predicted[counted].astype(np.float64) - true[counted]
    return float(np.mean(np.sqrt((difference**2).sum(-1)) * 100 / longer <= 5))


def fields_by_hand(folder: Path, predict) -> dict[tuple[Path, int], float]:
    """The accuracy of every field of every pair."""
    pairs = [pair for subset in SUBSETS for pair in sorted((folder / subset).iterdir())]
    return {(pair, n): accuracy_by_hand(predict(pair, n), pair, n) for pair in pairs for n in (1, 2)}


def by_hand(accuracies: dict[tuple[Path, int], float], kept=lambda pair: True) -> dict[str, float]:
    found = {}
    for subset in SUBSETS:
        fields = [accuracy for (pair, _), accuracy in accuracies.items() if pair.parent.name == subset and kept(pair)]
        found[subset] = 100 * sum(fields) / len(fields)
    return found | {"mean": sum(found.values()) / 3}


def not_mirrored(pair: Path) -> bool:
    return (pair / "flip_gt.txt").read_text().strip() == "0"


def score(folder: Path, predictions: Path) -> dict[str, float]:
    benchmark = tss(folder)
    return evaluation.evaluate("p", open_predictions(predictions, benchmark).matcher(benchmark), benchmark).metrics


def write_all(folder: Path, out: Path, make) -> Path:
    for pair in (pair for subset in SUBSETS for pair in (folder / subset).iterdir()):
        for number in (1, 2):
            path = out / pair.relative_to(folder) / f"flow{number}.flo"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_flow(path, make(pair, number))
    return out


def test_the_truth_scores_100(folder, tmp_path):
    predictions = write_all(folder, tmp_path, lambda pair, number: read_flow(pair / f"flow{number}.flo"))
    original, copy = folder / "JODS/car_01_02/flow1.flo", tmp_path / "JODS/car_01_02/flow1.flo"
    assert copy.read_bytes() == original.read_bytes(), "read and written back bit-equal"
    metrics = score(folder, predictions)
    assert set(metrics.values()) == {100.0}
    assert len(metrics) == 8


def test_no_flow_scores_as_the_protocol_says(folder, tmp_path):
    def zero(pair, number):
        return np.zeros_like(read_by_hand(pair / f"flow{number}.flo"), np.float32)

    metrics = score(folder, write_all(folder, tmp_path, zero))
    accuracies = fields_by_hand(folder, zero)
    assert {name: metrics[name] for name in (*SUBSETS, "mean")} == pytest.approx(by_hand(accuracies))
    rest = {name: metrics[f"{name} (without mirrored pairs)"] for name in (*SUBSETS, "mean")}
    assert rest == pytest.approx(by_hand(accuracies, not_mirrored))
    assert 10 < metrics["mean"] < 40


def test_noisy_truth_scores_as_the_protocol_says(folder, tmp_path):
    """Around the threshold, where the scale and the rule that it is inclusive decide."""
    flows = {}

    def noisy(pair, number):
        true = read_by_hand(pair / f"flow{number}.flo")
        rng = np.random.default_rng(len(flows))
        moved = np.where(np.abs(true) < 1e9, true + rng.normal(0, 15, true.shape), 0)
        return flows.setdefault((pair, number), moved.astype(np.float32))

    metrics = score(folder, write_all(folder, tmp_path, noisy))
    expected = by_hand(fields_by_hand(folder, lambda pair, number: flows[pair, number].astype(np.float64)))
    assert {name: metrics[name] for name in (*SUBSETS, "mean")} == pytest.approx(expected)
    assert 20 < metrics["mean"] < 95


def test_half_the_size_scores_nearly_100(folder, tmp_path):
    """Every second pixel, vectors halved: what a method that works at half the resolution writes."""

    def half(pair, number):
        true = read_by_hand(pair / f"flow{number}.flo")
        return np.where(np.abs(true) < 1e9, true / 2, 1e10)[: len(true) // 2 * 2 : 2, ::2].astype(np.float32)

    metrics = score(folder, write_all(folder, tmp_path, half))
    assert metrics["FG3DCar"] > 97, "only pixels beside unknown ones are lost"
    assert all(value > 95 for value in metrics.values())
    assert all(value < 100 for value in metrics.values())


def test_a_mirrored_pair_is_scored_in_unmirrored_coordinates(folder, tmp_path):
    """Matching the mirror image and forgetting to turn the answer back scores nothing; turned back, everything."""
    pair = folder / "PASCAL" / "bike_01_03"
    true = read_by_hand(pair / "flow1.flo")
    width = opened(pair / "image2.png").shape[1]
    x = np.arange(true.shape[1])
    forgotten = true.copy()
    forgotten[..., 0] = (width - 1 - (x + true[..., 0])) - x
    assert accuracy_by_hand(true, pair, 1) == 1
    assert accuracy_by_hand(forgotten, pair, 1) < 0.2
    benchmark = tss(folder)
    (field,) = [p for p in benchmark.pairs if p.id == "PASCAL/bike_01_03/flow1"]
    assert field.mirrored
    only = benchmark.replace(pairs=(field,))
    for flow, expected in ((true, 1.0), (forgotten, accuracy_by_hand(forgotten, pair, 1))):
        path = tmp_path / "PASCAL" / "bike_01_03" / "flow1.flo"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_flow(path, flow.astype(np.float32))
        result = evaluation.evaluate("p", open_predictions(tmp_path, only).matcher(only), only)
        assert result.metrics["PASCAL"] == pytest.approx(100 * expected)
