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
from rtn_jax.training.config import TrainConfig
from tests.networks import photos

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--weights=random", "--preset=paper", "--iterations", "1", "--image_size=64", "--geometry-width=4"]
FEW = ["--steps=4", "--batch_size=2", "--eval-every=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A working folder, and a cache shared by the commands so that later ones compile nothing."""
    return tmp_path_factory.mktemp("home")


def command(home: Path, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess:
    environment = os.environ | {"RTN_JAX_CACHE": str(home / "cache"), "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    script = [str(ROOT / arguments[0])] if arguments[0].endswith(".py") else ["-m", arguments[0]]
    done = subprocess.run(
        [sys.executable, *script, *arguments[1:]],
        cwd=home,
        env=environment,
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
    assert "held-out PCK@0.10 (img)" in done.stdout
    return home / "runs" / "vgg"


def test_training_leaves_a_whole_run_folder(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "train.json",
        "checkpoint",
        "metrics.jsonl",
        "tensorboard",
        "matches_000000.png",
        "matches_000002.png",
        "matches_000004.png",
    }
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert all(0 <= row["held-out PCK@0.10 (img)"] <= 100 for row in rows)
    assert rows[-1]["loss"] > 0
    assert min(read_image(trained / "matches_000004.png").shape[:2]) > 200
    assert list((trained / "tensorboard").iterdir())
    assert json.loads((trained / "train.json").read_text())["image_size"] == 64


def test_a_finished_or_other_run_is_not_overwritten(home, trained):
    before = (trained / "metrics.jsonl").read_text()
    again = command(home, "train.py", *SMALL, *FEW, "--run_dir", "runs/vgg", expect=2)
    assert "finished run of 4 steps" in again.stderr
    other = command(home, "train.py", *SMALL, *FEW, "--run_dir", "runs/vgg", "--seed=3", expect=2)
    assert "seed 0 -> 3" in other.stderr
    assert (trained / "metrics.jsonl").read_text() == before


def test_an_interrupted_run_continues_where_it_stopped(home, trained):
    arguments = [
        str(ROOT / "train.py"),
        *SMALL,
        "--steps=400",
        "--batch_size=2",
        "--eval-every=2",
        "--run_dir=runs/cut",
    ]
    environment = os.environ | {"RTN_JAX_CACHE": str(home / "cache"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=home,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    written = home / "runs" / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (written.exists() and '"step": 4' in written.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().endswith("train.py: interrupted")
    assert "Traceback" not in errors
    assert not [p for p in written.parent.iterdir() if p.name.startswith(".")]
    last = json.loads((home / "runs" / "cut" / "checkpoint" / "config.json").read_text())["step"]
    # The same choices, but for the number of steps, which is what the folder remembers: finish it two steps on.
    choices = json.loads((written.parent / "train.json").read_text())
    (written.parent / "train.json").write_text(json.dumps(choices | {"steps": last + 2}))
    more = [*SMALL, f"--steps={last + 2}", "--batch_size=2", "--eval-every=2", "--run_dir=runs/cut"]
    done = command(home, "train.py", *more)
    assert f"continuing runs/cut at step {last}" in done.stderr
    assert json.loads(written.read_text().splitlines()[-1])["step"] == last + 2


def test_evaluation_without_data(home, trained):
    done = command(home, "evaluate.py", "--ckpt=runs/vgg", "--out=results")
    assert "identity" in done.stdout
    assert "nearest" in done.stdout
    record = json.loads((home / "results" / "results.json").read_text())
    assert list(record["metrics"])[:3] == ["PCK@0.05 (img)", "PCK@0.10 (img)", "PCK@0.15 (img)"]
    assert set(record["floors"]) == {"identity", "nearest"}
    assert record["pairs"] == 16
    assert min(read_image(home / "results" / "matches.png").shape[:2]) > 200
    # What training measured last is what evaluation measures now, at the checkpoint's image size.
    assert record["config"]["image_size"] == [64, 64]


def test_evaluation_on_two_devices_and_after_a_kill_is_the_same(home, trained):
    flags = ["--ckpt=runs/vgg", "--save_predictions"]
    command(home, "evaluate.py", *flags, "--out=whole")
    environment = os.environ | {"RTN_JAX_CACHE": str(home / "cache"), "PYTHONPATH": str(ROOT)}
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
    results = {name: json.loads((home / name / "results.json").read_text()) for name in ("whole", "devices", "killed")}
    answers = {name: (home / name / "predictions" / "predictions.jsonl").read_text() for name in results}
    assert answers["devices"] == answers["whole"] == answers["killed"]
    for key in ("metrics", "intervals", "floors", "classes", "data", "weights"):
        assert results["devices"][key] == results["whole"][key] == results["killed"][key], key
    assert not journal.exists()


def test_a_reader_that_leaves_is_no_failure_of_ours(home):
    environment = os.environ | {"RTN_JAX_CACHE": str(home / "cache"), "PYTHONPATH": str(ROOT)}
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
    done = command(home, "rtn_jax", "match", "src.webp", "tgt.png", "--out=match.png")
    assert done.stdout.strip() == "match.png"
    picture = read_image(home / "match.png")
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 20


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
        (["--bath_size=3"], "bath_size"),
        (["--steps=0"], "steps: expected at least 1, got 0"),
        (["--data=/no/such/folder", "--weights=random"], "/no/such/folder"),
        (["--val=/no/such/folder", "--weights=random"], "/no/such/folder"),
        (["--weights=/no/such/file.h5"], "/no/such/file.h5"),
        (["--init=/no/such/run"], "/no/such/run: no such checkpoint"),
        (["--image_size=7", "--weights=random"], "image_size.*at least 32.*7"),
        (["--iterations", "1", "2", "3", "--weights=random"], "iterations: expected 2 numbers"),
        (["--stage=weak"], "weak stage needs --data"),
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
    largest = max(
        (p for p in (broken / "checkpoint/weights").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[:1000])
    ckpt = f"--ckpt={trained}"
    for arguments, message in [
        ([], "Missing"),
        ([str(good)], "Missing"),
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
        line = refused(capsys, "rtn_jax match", main_module.MatchConfig, main_module.match, arguments)
        assert message in line, line


def test_an_unknown_command_is_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rtn_jax", "mach"])
    with pytest.raises(SystemExit) as end:
        main_module.main()
    assert end.value.code == 2
    assert "'mach'; expected one of: match" in capsys.readouterr().err
