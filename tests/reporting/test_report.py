"""`evaluate.py` in this process: what it writes, and what it says of mistakes."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import rtn_jax
from rtn_jax.commands import run
from rtn_jax.config import Search
from rtn_jax.evaluation import Journal, matchers
from rtn_jax.flow_files import read_flow
from rtn_jax.images import read_image
from rtn_jax.reporting import EvaluateConfig, report
from rtn_jax.reporting.report import _progress
from tests.networks import moving_params, photos


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    rtn_jax.save(folder, moving_params())
    return folder


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory) -> Path:
    """Nine pairs of six photos, of two classes, as JSON lines."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(1)
    for name, (height, width) in zip("abcdef", [(40, 48), (32, 64), (56, 36)] * 2, strict=True):
        Image.fromarray(photos(rng, 1, height, width)[0]).save(folder / f"{name}.png")
    rows = [
        {
            "src": f"{src}.png",
            "tgt": f"{tgt}.png",
            "category": "first" if src < "d" else "second",
            "src_points": rng.uniform(2, 30, (n % 3 + 3, 2)).tolist(),
            "tgt_points": rng.uniform(2, 30, (n % 3 + 3, 2)).tolist(),
            "tgt_box": [1, 1, 31, 25],
        }
        for n, (src, tgt) in enumerate(["ab", "bc", "ca", "ac", "ba", "de", "ef", "fd", "df"])
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pairs.jsonl"


def config(pairs_file, **changes) -> EvaluateConfig:
    return EvaluateConfig(dataset="json", data_dir=pairs_file, **changes)


def test_everything_that_is_written(checkpoint, pairs_file, tmp_path, capsys):
    out = tmp_path / "out"
    record = report(
        config(
            pairs_file, ckpt=str(checkpoint), out=out, save_predictions=True, thresholds=("bbox", "img"), report=True
        )
    )
    assert {path.name for path in out.iterdir()} == {
        "results.json",
        "pairs.csv",
        "matches.png",
        "predictions",
        "report.html",
    }
    written = json.loads((out / "results.json").read_text())
    assert written == json.loads(json.dumps(record))
    assert list(written["metrics"])[:3] == ["PCK@0.05 (bbox)", "PCK@0.10 (bbox)", "PCK@0.15 (bbox)"]
    assert "PCK@0.10 (img, per point)" in written["metrics"]
    assert written["metrics"].keys() == written["intervals"].keys() == written["classes"]["first"].keys()
    assert set(written["floors"]) == {"identity", "nearest"}
    assert len(written["weights"]) == len(written["data"]) == 64
    assert written["versions"]["rtn_jax"] == rtn_jax.__version__
    assert written["config"]["radius"] == 2
    assert (written["pairs"], written["left_out"]) == (9, [])
    shown = capsys.readouterr().out
    assert not shown.startswith("\n"), "nothing before the table"
    assert shown.endswith(f"{out}: results.json, pairs.csv, predictions, matches.png, report.html\n")
    for name, value in written["metrics"].items():
        assert re.search(rf"{re.escape(name)} .* {value:.1f} ", shown), name

    rows = list(csv.DictReader((out / "pairs.csv").read_text().splitlines()))
    assert [row["id"] for row in rows][:2] == ["first/a-b", "first/b-c"]
    for name in ("PCK@0.10 (bbox)", "PCK@0.10 (img)"):
        assert np.mean([float(row[name]) for row in rows]) == pytest.approx(written["metrics"][name], abs=1e-3)
        floor = np.mean([float(row[f"{name} [identity]"]) for row in rows])
        assert floor == pytest.approx(written["floors"]["identity"][name], abs=1e-3)
    assert min(read_image(out / "matches.png").shape[:2]) > 100
    assert "<html" in (out / "report.html").read_text()

    again = report(config(pairs_file, predictions=out / "predictions", thresholds=("bbox", "img")))
    assert again["metrics"] == written["metrics"], "our own answers, read back, score the same to the bit"
    assert again["weights"] is None
    assert again["data"] == written["data"]


def test_a_search_changes_the_answers(checkpoint, pairs_file, tmp_path):
    for name, search in (("without", False), ("with", True)):
        asked = {"out": tmp_path / name, "save_predictions": True, "search": search}
        record = report(config(pairs_file, ckpt=str(checkpoint), **asked))
        assert record["config"]["search"] == (dataclasses.asdict(Search()) if search else False)
    a, b = (
        [path.read_bytes() for path in sorted((tmp_path / name / "predictions").rglob("*.*"))]
        for name in ("without", "with")
    )
    assert len(a) == len(b) > 0
    assert a != b


def test_a_floor_alone(pairs_file):
    record = report(config(pairs_file, ckpt="identity"))
    assert (record["matcher"], set(record["floors"])) == ("identity", {"identity"})


def test_without_a_terminal_a_line_a_minute_tells_how_far_it_is(caplog, monkeypatch):
    seconds = iter([0, 30, 61, 62, 125, 200])
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(sys.modules["rtn_jax.reporting.report"], "time", clock)
    with caplog.at_level("INFO"), _progress("vgg", 9) as progress:
        for done in (2, 4, 6, 8, 9):
            progress(done)
    assert [record.getMessage() for record in caplog.records] == ["vgg: 4 of 9 pairs", "vgg: 8 of 9 pairs"]


def test_shards_and_a_kill_change_nothing(checkpoint, pairs_file, tmp_path, monkeypatch):
    whole = report(config(pairs_file, ckpt=str(checkpoint)))
    folder = tmp_path / "shards"
    for i in (1, 3, 0, 2):
        part = report(config(pairs_file, ckpt=str(checkpoint), out=folder, shard=f"{i}/4"))
        assert part["pairs"] == [4, 4, 1, 0][i]
    assert not (folder / "results.json").exists()
    monkeypatch.setattr("rtn_jax.evaluation.run.answer", lambda *_: pytest.fail("the shards answered every pair"))
    gathered = report(config(pairs_file, ckpt=str(checkpoint), out=folder))
    monkeypatch.undo()
    for name in ("metrics", "intervals", "classes", "floors", "data", "weights"):
        assert gathered[name] == whole[name], name
    assert not (folder / "journal").exists()

    matched = []
    match = matchers.match

    def dying(*arguments):
        if matched:
            raise KeyboardInterrupt
        matched.append(1)
        return match(*arguments)

    monkeypatch.setattr(matchers, "match", dying)
    with pytest.raises(KeyboardInterrupt):
        report(config(pairs_file, ckpt=str(checkpoint), out=tmp_path / "killed"))
    monkeypatch.setattr(matchers, "match", lambda *arguments: matched.append(1) or match(*arguments))
    resumed = report(config(pairs_file, ckpt=str(checkpoint), out=tmp_path / "killed"))
    assert len(matched) == 3 + 1, "three batches in all, none twice, and the picture's"
    assert resumed["metrics"] == whole["metrics"]


def test_results_of_another_evaluation_are_not_written_over(checkpoint, pairs_file, tmp_path):
    first = report(config(pairs_file, ckpt="identity", out=tmp_path, report=True))
    again = report(config(pairs_file, ckpt="identity", out=tmp_path, alphas=(0.3,)))
    assert again["data"] == first["data"], "the same evaluation may be done again"
    assert next(iter(again["metrics"])) == "PCK@0.30 (bbox)"
    assert not (tmp_path / "report.html").exists(), "it showed other alphas"
    with pytest.raises(ValueError, match=r"results of another evaluation \(weights, config\)"):
        report(config(pairs_file, ckpt=str(checkpoint), out=tmp_path))
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"results.json is not of evaluate.py"):
        report(config(pairs_file, ckpt="identity", out=tmp_path))
    (tmp_path / "results.json").unlink()
    (tmp_path / "predictions").mkdir()
    with pytest.raises(ValueError, match="predictions is of something else"):
        report(config(pairs_file, ckpt="identity", out=tmp_path))


def test_names_are_no_markup(pairs_file, tmp_path, capsys):
    """A folder may be called as it likes; so may a class."""
    folder = tmp_path / "z[/b] [red]"
    answered = report(config(pairs_file, ckpt="identity", out=tmp_path / "first", save_predictions=True))
    shutil.copytree(tmp_path / "first" / "predictions", folder)
    assert report(config(pairs_file, predictions=folder))["metrics"] == answered["metrics"]
    assert "[red]" in "".join(capsys.readouterr().out.split("\n")).replace("│", "")


def test_an_unfinished_evaluation_of_something_else_is_not_mixed_in(checkpoint, pairs_file, tmp_path):
    Journal(tmp_path, {"dataset": "another"})
    with pytest.raises(ValueError, match="unfinished evaluation with another config, data, dataset"):
        report(config(pairs_file, ckpt=str(checkpoint), out=tmp_path))


def test_a_pair_without_a_figure_has_an_empty_cell(tmp_path):
    from rtn_jax.evaluation import Answer, result
    from rtn_jax.reporting.tables import write_pairs
    from tests.benchmarks_small import dense_benchmark

    benchmark = dense_benchmark("masks")
    answers = {
        pair.id: Answer(values={"LT-ACC": 0.5, "IoU": 0.25, "LOC-ERR": np.nan if i == 2 else 0.1})
        for i, pair in enumerate(benchmark.pairs)
    }
    write_pairs(tmp_path / "pairs.csv", benchmark, [result("m", benchmark, answers)])
    rows = list(csv.DictReader((tmp_path / "pairs.csv").read_text().splitlines()))
    assert [row["LOC-ERR"] for row in rows] == ["10.0000", "10.0000", "", "10.0000", "10.0000", "10.0000"]


def test_tss_on_the_real_sample(data_dir, checkpoint, tmp_path, capsys):
    if not (data_dir / "TSS-sample").is_dir():
        pytest.skip(f"TSS-sample is not in {data_dir}")
    shared = {"dataset": "tss", "data_dir": data_dir / "TSS-sample"}
    record = report(EvaluateConfig(**shared, ckpt=str(checkpoint), out=tmp_path, save_predictions=True))
    assert list(record["metrics"])[:4] == ["FG3DCar", "JODS", "PASCAL", "mean"]
    assert record["notes"] == ["12 pairs are here, the published TSS test split has 800"]
    assert "note: 12 pairs are here" in capsys.readouterr().out
    flow = read_flow(tmp_path / "predictions" / "JODS" / "car_01_02" / "flow2.flo")
    assert (flow.shape, flow.dtype) == ((240, 340, 2), np.float32)
    again = report(EvaluateConfig(**shared, predictions=tmp_path / "predictions"))
    assert again["metrics"] == record["metrics"]
    with_truth = report(EvaluateConfig(**shared, predictions=_only_flows(data_dir / "TSS-sample", tmp_path / "truth")))
    assert set(with_truth["metrics"].values()) == {100.0}
    aware = report(EvaluateConfig(**shared, ckpt=str(checkpoint), mirror_aware=True))
    assert aware["metrics"].keys() == record["metrics"].keys()
    assert aware["metrics"] != record["metrics"]


def _only_flows(folder: Path, out: Path) -> Path:
    shutil.copytree(folder / "TSS_CVPR2016", out, ignore=shutil.ignore_patterns("*.png", "*.txt"))
    return out


class TestSkipBad:
    """A bad row or file stops the run, or is left out and counted: never silently fewer pairs."""

    @pytest.fixture
    def spoilt(self, pairs_file, tmp_path) -> Path:
        folder = tmp_path / "spoilt"
        shutil.copytree(pairs_file.parent, folder)
        (folder / "e.png").write_bytes((folder / "e.png").read_bytes()[:200])  # cut off: two pairs
        lines = (folder / "pairs.jsonl").read_text().splitlines()
        row = json.loads(lines[2])
        row["tgt_points"][0] = [5000, 5]
        lines[2] = json.dumps(row)
        (folder / "pairs.jsonl").write_text("\n".join(lines))
        return folder / "pairs.jsonl"

    def test_stops_at_the_first(self, spoilt):
        with pytest.raises(ValueError, match=r"pairs.jsonl line 3: .*5000"):
            report(config(spoilt, ckpt="identity"))

    def test_goes_on_and_says_how_many(self, spoilt, capsys):
        record = report(config(spoilt, ckpt="identity", skip_bad=True))
        assert record["pairs"] == 6
        assert len(record["left_out"]) == 3
        assert sum("e.png" in line for line in record["left_out"]) == 2
        shown = capsys.readouterr().out
        assert "left out: 3" in shown
        assert "6 pairs" in shown
        assert "pairs.jsonl line 3" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either --ckpt or --predictions"),
        (["--ckpt=identity", "--predictions=x"], "expected either --ckpt or --predictions"),
        (["--ckpt=/no/such/run"], "no such checkpoint"),
        (["--ckpt=identity", "--dataset=imagenet"], "imagenet"),
        (["--ckpt=identity", "--dataset=pf_willow"], "needs --data_dir"),
        (["--ckpt=identity", "--dataset=pf_willow", "--data_dir=/no/such/folder"], "/no/such/folder"),
        (["--ckpt=identity", "--dataset=tss", "--data_dir=/no/such/folder"], "/no/such/folder"),
        (["--ckpt=identity", "--dataset=json", "--data_dir=/no/such/file.jsonl"], "/no/such/file.jsonl"),
        (["--ckpt=identity", "--out=/proc/none"], "/proc/none"),
        (["--ckpt=identity", "--report"], "--report needs --out"),
        (["--ckpt=identity", "--shard=0/2"], "--shard needs --out"),
        (["--ckpt=identity", "--out=o", "--shard=2/2"], "expected I/N with 0 <= I < N"),
        (["--ckpt=identity", "--out=o", "--shard=half"], "expected I/N with 0 <= I < N"),
        (["--ckpt=identity", "--mirror_aware"], "needs a matcher with a confidence"),
        (["--ckpt=identity", "--thresholds", "box"], "box"),
        (["--ckpt=identity", "--thresholds", "bbox"], "needs tgt_box"),
        (["--ckpt=identity", "--alphas", "-1"], "alphas: expected fractions"),
        (["--predictions=/no/such/folder"], "/no/such/folder"),
        (["--predictions=p", "--out=p"], "expected a folder apart from --predictions"),
        (["--predictions=p", "--out=p/q"], "expected a folder apart from --predictions"),
        (["--ckpt=identity", "--out="], "--out=: expected a value, got nothing"),
        (["--ckpt=identity", "--alphas", "10"], "at most 1"),
        (["--ckpt=identity", "--alphas", "0.1", "0.1"], "each once"),
        (["--ckpt=identity", "--split=val"], "has no splits"),
        (["--ckpt=identity", "--data_dir=x"], "say which benchmark"),
        (["--ckpt=identity", "--image_size=64"], "there is no network"),
    ],
)
def test_mistakes_are_one_line(unchecked, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run("evaluate.py", EvaluateConfig, report, arguments)
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert message in lines[0]


def test_a_wrong_split_and_pck_options_where_they_mean_nothing(data_dir):
    if not (data_dir / "TSS-sample").is_dir():
        pytest.skip(f"TSS-sample is not in {data_dir}")
    shared = {"ckpt": "identity", "dataset": "tss", "data_dir": data_dir / "TSS-sample"}
    with pytest.raises(ValueError, match="alphas: TSS is not measured by PCK"):
        report(EvaluateConfig(**shared, alphas=(0.1,)))
    with pytest.raises(ValueError, match="split"):
        report(EvaluateConfig(**shared, split="training"))
