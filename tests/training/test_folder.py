"""A run's folder: whose it is, what it was asked for, and figures that survive kills and full disks."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rtn_jax.images import read_image
from rtn_jax.training import folder as module
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.folder import RunFolder, differences

ROOT = Path(__file__).resolve().parents[2]
CHOICES = {"seed": 0, "val": ("builtin",), "workers": 0, "phases": [{"stage": "weak", "learning_rate": 0.1}]}
PICTURE = np.zeros((2, 3, 3), np.uint8)


@pytest.fixture
def run(tmp_path):
    """A new run's folder, open."""
    folder = RunFolder(tmp_path / "runs" / "new", CHOICES)
    folder.open()
    return folder


def lines(run):
    return [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def add(run, *steps):
    for step in steps:
        run.add({"step": step})


class TestWhose:
    def test_a_new_one_is_made_and_is_a_run_from_then_on(self, tmp_path):
        folder = RunFolder(tmp_path / "a" / "b", CHOICES)
        assert folder.check() is False
        assert not (tmp_path / "a").exists(), "a check writes nothing"
        folder.open()
        assert folder.check() is True
        assert json.loads((folder.path / "train.json").read_text()) == json.loads(json.dumps(CHOICES))

    @pytest.mark.parametrize("left", [[], ["lock"], ["lock", ".train.json.partial"]])
    def test_what_a_killed_process_left_before_there_was_a_run_is_taken_over(self, tmp_path, left):
        for name in left:
            (tmp_path / name).write_text("")
        RunFolder(tmp_path, CHOICES).open()
        assert RunFolder(tmp_path, CHOICES).check() is True

    def test_something_else_is_left_as_it_is(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("")
        for path in (tmp_path, tmp_path / "thesis.tex"):
            with pytest.raises(
                ValueError, match=rf"^run_dir: {path} exists and is not a run of train.py; choose another"
            ):
                RunFolder(path, CHOICES).open()
        assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("content", ["", "{", "[]", '"words"', '{"phases": 3}'])
    def test_a_damaged_one_is_named(self, run, content):
        (run.path / "train.json").write_text(content)
        with pytest.raises(ValueError, match=r"train.json is damaged; choose another folder$"):
            run.check()

    def test_of_another_config_is_refused_with_the_difference(self, run):
        other = RunFolder(run.path, CHOICES | {"seed": 3, "phases": [{"stage": "weak", "learning_rate": 0.2}]})
        expected = (
            r"holds a run with other choices \(seed 0 -> 3, weak.learning_rate 0.1 -> 0.2\); choose another folder$"
        )
        for action in (other.check, other.open):
            with pytest.raises(ValueError, match=expected):
                action()
        assert run.check()

    def test_of_another_process_is_refused(self, run):
        code = (
            f"from pathlib import Path; from rtn_jax.training.folder import RunFolder\n"
            f"try: RunFolder(Path({str(run.path)!r}), {CHOICES!r}).open()\n"
            f"except ValueError as error: print(error)\n"
            f"else: print('taken')"
        )
        said = [
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        ]
        assert said == [f"run_dir: another process is training in {run.path}; choose another folder\n"]
        run.open()  # for this process it stays open

    def test_that_cannot_be_written_is_named(self, tmp_path, monkeypatch):
        def read_only(*_):
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(module.locks, "hold", read_only)
        with pytest.raises(ValueError, match=rf"^run_dir: {tmp_path}/run cannot be written: Read-only file system$"):
            RunFolder(tmp_path / "run", CHOICES).open()
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match=r"^run_dir: .* cannot be written: Not a directory$"):
            RunFolder(tmp_path / "file" / "run", CHOICES).open()


class TestDifferences:
    def test_how_it_is_computed_and_where_may_change(self):
        names = TrainConfig.__dataclass_fields__
        assert set(module.FREE) <= set(names)
        before = TrainConfig(run_dir=Path("runs/a"), workers=1, accumulate=1, eval_every=5).to_dict()
        now = TrainConfig(run_dir=Path("/b"), workers=2, accumulate=2, eval_every=9, remat=True, process=1).to_dict()
        assert differences(before, now) == []

    @pytest.mark.parametrize(
        "name", ["steps", "seed", "data", "val", "init", "learning_rate", "compute_dtype", "batch_size", "iterations"]
    )
    def test_what_is_computed_may_not(self, name):
        assert name not in module.FREE
        assert differences({name: 1}, {name: 2}) == [f"{name} 1 -> 2"]

    def test_a_flag_that_changes_its_stages_is_said_once(self):
        def choices(rate, stages):
            return {"learning_rate": rate, "phases": [{"stage": s, "learning_rate": rate or 0.5} for s in stages]}

        stages = ("synthetic", "weak")
        assert differences(choices(None, stages), choices(0.1, stages)) == ["learning_rate None -> 0.1"]
        assert differences(choices(None, stages[:1]), choices(None, stages)) == [
            "weak.stage None -> weak",
            "weak.learning_rate None -> 0.5",
        ]

    def test_lists_are_words_and_choices_of_other_versions_differ(self):
        assert differences({"val": ["a", "b"], "old": 1}, {"val": ["a"], "new": 2}) == [
            "val a b -> a",
            "new None -> 2",
            "old 1 -> None",
        ]


class TestFigures:
    def test_are_there_when_they_are_added(self, run):
        run.take_rows(-1)
        add(run, 0, 10)
        assert lines(run) == [0, 10] == [row["step"] for row in run.rows]

    @pytest.mark.parametrize(("after", "kept"), [(-1, []), (0, [0]), (10, [0, 10, 10]), (99, [0, 10, 10, 20])])
    def test_of_later_steps_are_dropped(self, run, after, kept):
        add(run, 0, 10, 10, 20)
        again = RunFolder(run.path, CHOICES)
        again.take_rows(after)
        assert lines(run) == kept == [row["step"] for row in again.rows]

    @pytest.mark.parametrize("torn", ["{", '{"step": 2', '{"step": 20, "train": {"lo', "\0\0\0", '{"step": 20}'])
    def test_a_line_that_was_being_written_is_dropped(self, run, torn):
        add(run, 0, 10)
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write(torn)
        again = RunFolder(run.path, CHOICES)
        again.take_rows(10)
        add(again, 20)
        assert lines(run) == [0, 10, 20]

    def test_bytes_that_are_no_text_are_dropped_alone(self, run):
        add(run, 0)
        with (run.path / "metrics.jsonl").open("ab") as file:
            file.write(b"\xff\xfe{\n")
        add(run, 5)
        RunFolder(run.path, CHOICES).take_rows(10)
        assert lines(run) == [0, 5]

    def test_that_are_not_finite_are_null(self, run):
        """JSON has no NaN; readers in other languages would stumble over the whole file."""
        row = {"step": 1, "train": {"loss": math.nan, "gradient_norm": math.inf, "learning_rate": 0.5}}
        run.add(row)
        assert run.rows == [row]
        kept = {"step": 1, "train": {"loss": None, "gradient_norm": None, "learning_rate": 0.5}}
        assert json.loads((run.path / "metrics.jsonl").read_text()) == kept
        run.take_rows(1)
        assert run.rows[1:] == [kept]

    def test_a_full_disk_is_said_once_and_costs_no_line(self, run, monkeypatch, caplog):
        def half(folder):
            with (folder.path / "metrics.jsonl").open("a") as file:
                file.write('{"st')
            raise OSError(errno.ENOSPC, "No space left on device")

        add(run, 0)
        with monkeypatch.context() as patch:
            for name in ("_append_row", "_write_rows"):
                patch.setattr(RunFolder, name, half)
            add(run, 10, 20)
        assert caplog.messages == [f"{run.path}: figures cannot be written: No space left on device; going on"]
        add(run, 30)
        assert lines(run) == [0, 10, 20, 30]

    def test_of_a_folder_that_was_removed_are_written_again(self, run):
        add(run, 0)
        for file in sorted(run.path.rglob("*"), reverse=True):
            file.unlink()
        run.path.rmdir()
        add(run, 10)
        assert lines(run) == [0, 10]
        assert RunFolder(run.path, CHOICES).check() is True


class TestPictures:
    def test_are_written(self, run):
        run.save_picture("a.png", lambda: PICTURE)
        np.testing.assert_array_equal(read_image(run.path / "a.png"), PICTURE)

    @pytest.mark.parametrize(
        "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("a photo has gone")]
    )
    def test_that_cannot_be_drawn_are_said_once_until_they_can(self, run, caplog, error):
        def fail():
            raise error

        run.save_picture("a.png", fail)
        run.save_picture("b.png", fail)
        add(run, 0)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        assert caplog.messages == [f"{run.path}: pictures cannot be written: {reason}; going on"]
        assert lines(run) == [0]
        run.save_picture("c.png", lambda: PICTURE)
        run.save_picture("d.png", fail)
        assert len(caplog.messages) == 2
        assert sorted(path.name for path in run.path.glob("*.png")) == ["c.png"]
