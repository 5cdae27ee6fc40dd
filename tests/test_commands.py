"""The command lines as a user types them: end to end in a subprocess, mistakes in this process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rtn_jax.__main__ as main_module
from rtn_jax.commands import run
from rtn_jax.images import read_image
from rtn_jax.matching.command import MatchConfig, match
from rtn_jax.training.config import TrainConfig
from tests.networks import photos
from tests.training.runs import assert_same, steps

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--weights=random", "--preset=paper", "--iterations", "1", "--image_size=64", "--geometry-width=4"]
FEW = ["--steps=4", "--batch_size=2", "--eval-every=4", "--save_every=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A working folder, and a cache shared by the commands so that later ones compile nothing."""
    return tmp_path_factory.mktemp("home")


def surroundings(home: Path) -> dict[str, str]:
    """Of a command: compiled programs are kept, the small ones too."""
    kept = {"JAX_COMPILATION_CACHE_DIR": str(home / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    own = {"RTN_JAX_CACHE": str(home / "cache"), "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return os.environ | kept | own


def command(home: Path, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess:
    script = [str(ROOT / arguments[0])] if arguments[0].endswith(".py") else ["-m", arguments[0]]
    done = subprocess.run(
        [sys.executable, *script, *arguments[1:]],
        cwd=home,
        env=surroundings(home),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def trained(home):
    """A run folder made by train.py."""
    done = command(home, "train.py", *SMALL, *FEW, "--run_dir", "runs/vgg")
    assert "held_out PCK@0.10 (img)" in done.stdout
    return home / "runs" / "vgg"


def test_training_leaves_a_whole_run_folder(trained):
    names = {path.name for path in trained.iterdir()}
    pictures = {f"matches_{step:06d}.png" for step in (0, 4)}
    assert names == {"train.json", "lock", "checkpoints", "metrics.jsonl", "curves.png", "tensorboard"} | pictures
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["validation"]["held_out"] for row in rows if "validation" in row}
    assert list(measured) == [0, 4]
    assert all(0 <= figures["PCK@0.10 (img)"] <= 100 for figures in measured.values())
    losses = {row["step"]: row["train"]["loss"] for row in rows if "train" in row}
    assert list(losses) == [4]
    assert all(loss > 0 for loss in losses.values())
    for picture in ("matches_000004.png", "curves.png"):
        assert min(read_image(trained / picture).shape[:2]) > 200
    assert list((trained / "tensorboard").iterdir())
    assert json.loads((trained / "train.json").read_text())["image_size"] == 64
    assert {int(path.name) for path in (trained / "checkpoints").iterdir()} >= {2, 4}


def test_a_finished_or_other_run_is_not_overwritten(home, trained):
    before = (trained / "metrics.jsonl").read_text()
    again = command(home, "train.py", *SMALL, *FEW, "--run_dir", "runs/vgg")
    assert again.stderr == "runs/vgg: finished after 4 steps; nothing to do (choose another folder to train anew)\n"
    other = command(home, "train.py", *SMALL, *FEW, "--run_dir", "runs/vgg", "--seed=3", "--learning_rate=1", expect=2)
    changes = "seed 0 -> 3, learning_rate None -> 1.0"
    line = f"run_dir: runs/vgg holds a run with other choices ({changes}); choose another folder"
    assert other.stderr == f"train.py: error: {line}\n"
    assert (trained / "metrics.jsonl").read_text() == before


def test_an_interrupted_run_continues_where_it_stopped(home, trained):
    """With Ctrl-C, and the same command again: the same weights to the bit."""
    arguments = [*SMALL, *FEW, "--run_dir=runs/cut"]
    environment = surroundings(home)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=home,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = home / "runs" / "cut"
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "00000002").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    last = steps(run)[-1]
    assert 2 <= last <= 4
    again = f"stopped after step {last} of 4, saved; to continue: python {ROOT}/train.py {' '.join(arguments)}"
    assert again in errors.splitlines()
    assert "Traceback" not in errors
    assert not [p for p in (run / "checkpoints").iterdir() if p.name.startswith(".")]
    done = command(home, "train.py", *arguments)
    assert f"continuing runs/cut after step {last}" in done.stderr
    assert_same(run, trained)


@pytest.fixture(scope="module")
def evaluated(home, trained):
    """What an evaluation printed; its results are in `results`."""
    return command(home, "evaluate.py", "--ckpt=runs/vgg", "--save_predictions", "--out=results")


def test_evaluation_without_data(home, evaluated):
    done = evaluated
    assert "identity" in done.stdout
    assert "nearest" in done.stdout
    record = json.loads((home / "results" / "results.json").read_text())
    assert list(record["metrics"])[:3] == ["PCK@0.05 (img)", "PCK@0.10 (img)", "PCK@0.15 (img)"]
    assert set(record["floors"]) == {"identity", "nearest"}
    assert record["pairs"] == 16
    assert min(read_image(home / "results" / "matches.png").shape[:2]) > 200
    # What training measured last is what evaluation measures now, at the checkpoint's image size.
    assert record["config"]["image_size"] == [64, 64]


def test_evaluation_on_two_devices_and_after_a_kill_is_the_same(home, evaluated):
    flags = ["--ckpt=runs/vgg", "--save_predictions"]
    environment = surroundings(home)
    two = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
    arguments = [sys.executable, str(ROOT / "evaluate.py"), *flags]
    subprocess.run(
        [*arguments, "--out=devices"], cwd=home, env=environment | {"XLA_FLAGS": two}, check=True, timeout=300
    )
    process = subprocess.Popen([*arguments, "--out=killed"], cwd=home, env=environment, stdout=subprocess.DEVNULL)
    journal = home / "killed" / "journal" / "0-of-1.jsonl"
    deadline = time.monotonic() + 200
    while not (journal.exists() and journal.read_text().count("\n") > 16):  # the first floor and what comes after it
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (home / "killed" / "results.json").exists()
    command(home, "evaluate.py", *flags, "--out=killed")
    results = {
        name: json.loads((home / name / "results.json").read_text()) for name in ("results", "devices", "killed")
    }
    answers = {name: (home / name / "predictions" / "predictions.jsonl").read_text() for name in results}
    assert answers["devices"] == answers["results"] == answers["killed"]
    for key in ("metrics", "intervals", "floors", "classes", "data", "weights"):
        assert results["devices"][key] == results["results"][key] == results["killed"][key], key
    assert not journal.exists()


def test_a_reader_that_leaves_is_no_failure_of_ours(home):
    environment = surroundings(home)
    for script, out in (("evaluate.py --ckpt=identity --out=piped", "piped"), ("train.py --help", None)):
        line = f"{sys.executable} {ROOT}/{script} | true"
        done = subprocess.run(line, shell=True, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
        assert done.stderr == ""
        assert out is None or (home / out / "results.json").exists(), "what was computed is there"


def test_match_draws_one_picture_from_any_formats(home, trained):
    rng = np.random.default_rng(0)
    src, tgt = photos(rng, 1, 90, 120)[0], photos(rng, 1, 150, 100)[0]
    Image.fromarray(src).save(home / "src.webp")
    Image.fromarray(np.dstack([tgt, np.full(tgt.shape[:2], 200, np.uint8)])).save(home / "tgt.png")
    done = command(home, "rtn_jax", "match", "src.webp", "tgt.png", "--ckpt=runs/vgg", "--out=match.png")
    assert done.stdout.strip() == "match.png"
    picture = read_image(home / "match.png")
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 20


def test_a_second_start_of_match_compiles_nothing_and_traces_no_network(home, trained):
    files = [str(home / name) for name in ("src.webp", "tgt.png")]
    for turn in range(2):
        report = home / f"start{turn}.json"
        command(home, "benchmarks.start", str(report), "-m", "rtn_jax", "match", *files, "--ckpt=runs/vgg")
    started = json.loads(report.read_text())
    assert started["compiled"] == []
    whole = {name.removeprefix("rtn_jax.model.") for name, _ in started["read"]}
    assert {"_encode", "_refined", "_output"} <= whole, "neither traced nor lowered"


def test_help_is_quick_and_complete(home):
    for name, flags in {
        "train.py": ["--backbone", "--stage", "--data", "--val", "--steps", "--batch-size", "--seed", "--weights"],
        "evaluate.py": ["--ckpt", "--dataset", "--data-dir", "--out"],
    }.items():
        started = time.monotonic()
        done = command(home, name, "--help")
        assert time.monotonic() - started < 6, "3 s on an idle machine"
        assert all(flag in done.stdout for flag in flags)
    assert "match" in command(home, "rtn_jax", "--help").stdout


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_mistakes_are_one_line_on_any_terminal(home, encoding):
    environment = surroundings(home) | {"PYTHONIOENCODING": encoding}
    arguments = [sys.executable, ROOT / "train.py", "--bath_size=3"]
    done = subprocess.run(arguments, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stderr == "train.py: error: Unrecognized options: --bath_size=3; did you mean --batch_size?\n"


def refused(capsys, prog, config, action, arguments):
    """The one line a mistake is answered with."""
    with pytest.raises(SystemExit) as end:
        run(prog, config, action, arguments)
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{prog}: error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone=alexnet"], "alexnet.*vgg"),
        (["--batch_size=many"], "batch-size.*many"),
        (["--bath_size=3"], "--bath_size=3; did you mean --batch_size\\?"),
        (["--quite=3", "--learn-rate", "1"], "--quite=3, --learn-rate, 1; did you mean --learning_rate\\?"),
        (["--zzz"], "--zzz$"),
        (["--steps=0"], "steps: expected at least 1, got 0"),
        (["--data=/no/such/folder", "--weights=random"], "/no/such/folder"),
        (["--val=/no/such/folder", "--weights=random"], "/no/such/folder"),
        (["--weights=/no/such/file.h5"], "/no/such/file.h5"),
        (["--init=/no/such/run"], "/no/such/run: no such checkpoint"),
        (["--image_size=7", "--weights=random"], "image_size.*at least 32.*7"),
        (["--iterations", "1", "2", "3", "--weights=random"], "iterations: expected 2 numbers"),
        (["--stage=weak"], "weak stage needs --data"),
        (["--train_backbone=conv9", *SMALL], "train_backbone: expected none, all or one of conv1_1.*'conv9'"),
        (["--batch_size=6", "--accumulate=4", *SMALL], "accumulate: 6 pairs of each device.*into 4 parts"),
        (["--processes=2"], "expected all three, or --distributed alone"),
        (["--coordinator=here", "--processes=2", "--process=0"], "expected host:port, got 'here'"),
        (["--coordinator=here:1", "--processes=2", "--process=2"], "process: expected 0 to 1, got 2|no host"),
    ],
)
def test_mistakes_in_training_are_one_line(unchecked, capsys, tmp_path, monkeypatch, arguments, message):
    from rtn_jax.training.loop import fit

    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "train.py", TrainConfig, fit, arguments)
    assert re.search(message, line), line
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_mistakes_in_match_are_one_line(unchecked, capsys, tmp_path, home, trained):
    good = tmp_path / "good.png"
    Image.fromarray(photos(np.random.default_rng(0))[0]).save(good)
    (tmp_path / "words.jpg").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    for folder in (broken / "checkpoints").iterdir():
        largest = max((p for p in (folder / "weights").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:1000])
    ckpt = f"--ckpt={trained}"
    for arguments, message in [
        ([], "Missing"),
        ([str(good)], "tgt: missing"),
        ([str(good), str(good), "--point=1,1"], "--point=1,1; did you mean --points?"),
        ([str(good), "none.jpg", ckpt], "none.jpg"),
        ([str(good), str(tmp_path / "words.jpg"), ckpt], "words.jpg"),
        ([str(tmp_path / "empty.png"), str(good), ckpt], "empty.png"),
        ([str(good), str(tmp_path), ckpt], str(tmp_path)),
        ([str(good), str(good), "--ckpt=/none"], "/none: no such checkpoint"),
        ([str(good), str(good), f"--ckpt={broken}"], "damaged"),
        ([str(good), str(good), ckpt, "--out=/no/folder/match.png"], "/no/folder"),
        ([str(good), str(good), ckpt, f"--out={tmp_path / 'match.txt'}"], "match.txt"),
        ([str(good), str(good), ckpt, "--points=0"], "points: expected at least 1"),
    ]:
        line = refused(capsys, "rtn_jax match", MatchConfig, match, arguments)
        assert message in line, line
    line = refused(capsys, "rtn_jax match", MatchConfig, match, [str(good), str(good), "--sr=1"])
    assert line.strip().endswith("--sr=1"), "src, which is no option, is not proposed"


def test_an_unknown_command_is_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rtn_jax", "mach"])
    with pytest.raises(SystemExit) as end:
        main_module.main()
    assert end.value.code == 2
    assert "'mach'; expected one of: train, evaluate, match" in capsys.readouterr().err
