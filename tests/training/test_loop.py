"""The loop around the step: what a run leaves behind, what it survives, and that stopping it changes nothing."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from rtn_jax import Params, checkpoints
from rtn_jax.images import save_image
from rtn_jax.training import loop, phases, start
from tests.training.runs import CONFIG, HEADLINE, arrays, assert_same, rows, steps, write_photos

SAVE = checkpoints.save


@pytest.fixture(scope="module")
def whole(runner):
    """A run of both stages that nothing interrupts: six steps each, measured at 0, 3, 6, 9 and 12."""
    return runner.fit("whole")


@pytest.fixture
def said(caplog):
    """What the run says."""
    caplog.set_level(logging.INFO, "rtn_jax")
    return caplog


def headers(run):
    return {int(folder.name): checkpoints.read_header(folder) for folder in checkpoints.listed(run)}


class TestWhatARunLeaves:
    def test_a_line_per_validation_and_per_ten_steps_and_stage(self, whole):
        found = [(row["step"], row["stage"], "train" if "train" in row else "validation") for row in rows(whole)]
        assert found == [
            (0, "synthetic", "validation"),
            (3, "synthetic", "validation"),
            (6, "synthetic", "train"),
            (6, "synthetic", "validation"),
            (9, "weak", "validation"),
            (10, "weak", "train"),
            (12, "weak", "train"),
            (12, "weak", "validation"),
        ]

    def test_training_figures_are_means_over_the_steps_since_the_last(self, runner, whole, monkeypatch):
        monkeypatch.setattr(loop, "LOG_EVERY", 1)
        each = {row["step"]: row["train"] for row in rows(runner.fit("each")) if "train" in row}
        assert list(each) == list(range(1, 13))
        assert len({values["loss"] for values in each.values()}) == 12
        lines = {row["step"]: row["train"] for row in rows(whole) if "train" in row}
        for last, first in ((6, 1), (10, 7), (12, 11)):
            for name, value in lines[last].items():
                assert value == pytest.approx(np.mean([each[step][name] for step in range(first, last + 1)])), name

    def test_the_latest_checkpoints_and_the_best(self, whole):
        found = {row["step"]: row["validation"]["pairs"][HEADLINE] for row in rows(whole) if "validation" in row}
        best = max(found, key=found.get)
        assert best not in (9, 12), "the test shows nothing otherwise"
        assert steps(whole) == sorted({best, 9, 12})
        for step, header in headers(whole).items():
            assert header["metric"] == {"name": f"pairs {HEADLINE}", "value": found[step]}
            stage, before = ("weak", 6) if step > 6 else ("synthetic", 0)
            assert (header["stage"], header["data_position"], header["seed"]) == (stage, step - before, 1)

    def test_choices_pictures_and_curves(self, whole):
        names = {entry.name for entry in whole.iterdir()}
        pictures = {f"matches_{step:06d}.png" for step in (0, 3, 6, 9, 12)}
        assert names == {"train.json", "lock", "checkpoints", "metrics.jsonl", "tensorboard", "curves.png"} | pictures
        choices = json.loads((whole / "train.json").read_text())
        assert [phase["stage"] for phase in choices["phases"]] == ["synthetic", "weak"]
        assert choices["average"] == choices["phases"][1]["average"] == 0.9

    def test_the_second_stage_begins_with_what_was_measured_last(self, runner, whole):
        first = runner.fit("first", stage="synthetic")
        second = runner.fit("second", stage="weak", init=str(checkpoints.place(first, 6)))
        ours, theirs = arrays(second), arrays(whole)
        assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)

    def test_figures_of_the_last_validation_come_back(self, runner, whole):
        assert loop.fit(runner.config("whole")) == rows(whole)[-1]["validation"]


class TestStopped:
    def test_anywhere_and_continued_is_never_stopped(self, runner, whole, said):
        """Before the first step, within a line of figures, at validations, at the stages' ends: all in one run."""
        for asked, stopped in (
            (0, 0),
            (1, 2),
            (3, 3),
            (6, 6),
            (7, 8),
            (0, 8),
            (9, 9),
            (12, 12),
        ):  # one may have begun already
            run = runner.fit("cut", stop_after=asked)
            assert steps(run)[-1] == stopped
            assert said.messages[-1].startswith(f"stopped after step {stopped} of 12, saved; to continue: python ")
        run = runner.fit("cut")
        assert_same(run, whole)
        assert {s: h["metric"] for s, h in headers(run).items()} == {s: h["metric"] for s, h in headers(whole).items()}

    def test_while_it_validates(self, runner, whole, monkeypatch):
        validate, calls = loop.validate, []

        def asked(*arguments, **options):
            calls.append(0)
            runner.stop.by = "SIGTERM" if len(calls) == 2 else None
            return validate(*arguments, **options)

        monkeypatch.setattr(loop, "validate", asked)
        run = runner.fit("asked", stop_after=99)
        assert [row["step"] for row in rows(run)] == [0]
        assert headers(run)[3]["metric"] is None
        monkeypatch.setattr(loop, "validate", validate)
        assert_same(runner.fit("asked"), whole)

    def test_by_a_signal(self, runner, whole, monkeypatch, said, capfd):
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        kill = {2: signal.SIGTERM, 7: signal.SIGINT}
        monkeypatch.setattr(runner, "heard", lambda step: step in kill and os.kill(os.getpid(), kill[step]))
        for step, number in kill.items():
            run = runner.fit("signal")
            assert step <= steps(run)[-1] < 12, "soon"
            assert f"{number.name}: stopping after this step" in capfd.readouterr().err
            assert "saved; to continue: python" in said.messages[-1]
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
        monkeypatch.setattr(runner, "heard", lambda step: None)
        assert_same(runner.fit("signal"), whole)

    def test_a_finished_run_stays_as_it_is(self, runner, whole, said):
        def contents():
            return {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}

        before = contents()
        runner.fit("whole")
        assert "finished after 12 steps; nothing to do" in said.text
        assert contents() == before

    def test_what_the_checkpoint_has_is_not_made_again(self, runner, whole, monkeypatch):
        network = checkpoints.load(runner.network)
        monkeypatch.setattr(start, "_network", lambda train: (None, CONFIG))
        monkeypatch.setattr(start, "_new_params", lambda train, config: network)
        runner.fit("made", stop_after=2)
        monkeypatch.setattr(start, "_new_params", lambda train, config: pytest.fail("fetched, perhaps"))
        assert_same(runner.fit("made"), whole)


class TestFolder:
    def test_nothing_is_written_before_all_is_known_to_be_good(self, runner, unchecked):
        for changes, message in (
            ({"train_backbone": "conv9"}, "train_backbone: expected none, all or one of conv1_1, .*, got 'conv9'"),
            ({"accumulate": 4}, "accumulate: 2 pairs of each device cannot be split evenly into 4 parts"),
            ({"data": "/no/such"}, "data: .*/no/such"),
            ({"val": ("/no/such",)}, "val: .*/no/such"),
            ({"init": "/no/such"}, "/no/such: no such checkpoint"),
        ):
            with pytest.raises(ValueError, match=f"^{message}"):
                runner.fit("nothing", **changes)
        assert not (runner.folder / "nothing").exists()

    def test_a_damaged_checkpoint_is_passed_over(self, runner, whole, said):
        run = runner.folder / "damaged"
        shutil.copytree(whole, run)
        largest = max((run / "checkpoints/00000012/weights").rglob("*"), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-1] + b"?")
        assert_same(runner.fit("damaged"), whole)
        assert "passed over: " in said.text
        assert f"continuing {run} after step 9" in said.text

    def test_without_any_checkpoint_it_begins_anew(self, runner, whole, said):
        run = runner.fit("anew", stop_after=8)
        shutil.rmtree(run / "checkpoints")
        assert steps(runner.fit("anew", stop_after=1)) == [0, 2], "measured and kept"
        assert_same(runner.fit("anew"), whole)
        assert f"{run}: there is no checkpoint to continue from; beginning anew" in said.messages

    def test_removed_meanwhile_it_is_made_again(self, runner, whole, monkeypatch):
        run = runner.folder / "removed"

        def remove(step):
            if step == 7:
                while steps(run)[-1] < 6 or list((run / "checkpoints").glob(".*")):  # orbax says a lot of it otherwise
                    time.sleep(0.01)
                run.rename(runner.folder / "gone")

        monkeypatch.setattr(runner, "heard", remove)
        assert_same(runner.fit("removed"), whole)
        assert json.loads((run / "train.json").read_text())["seed"] == 1

    def test_a_full_disk_ends_nothing_but_is_said(self, runner, whole, monkeypatch, said):
        full(monkeypatch, {3: 1, 6: 1, 12: 1})
        assert_same(runner.fit("full"), whole)
        for step, last in ((3, 0), (6, 0), (12, 9)):
            line = f"checkpoint of step {step} could not be written: No space left on device; the last whole one is of"
            assert f"{line} step {last}; going on" in said.messages
        assert headers(runner.folder / "full")[12]["metric"] == headers(whole)[12]["metric"]

    def test_a_disk_that_stays_full_is_an_error_at_the_end(self, runner, whole, monkeypatch):
        full(monkeypatch, {12: 9})
        with pytest.raises(
            ValueError, match=r"^run_dir: the checkpoint of step 12 .*: No space .*; the last is step 9$"
        ):
            runner.fit("stays")
        monkeypatch.setattr(checkpoints, "save", SAVE)
        assert_same(runner.fit("stays"), whole)


def full(monkeypatch, times):
    """The disk is full for the checkpoints of some steps, so many times."""
    left = dict(times)

    def save(path, *arguments, step, **notes):
        if left.get(step, 0):
            left[step] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        SAVE(path, *arguments, step=step, **notes)

    monkeypatch.setattr(checkpoints, "save", save)


class TestData:
    def test_that_goes_away_costs_no_step(self, runner, whole, monkeypatch):
        monkeypatch.setattr(phases, "KEPT_BYTES", 1)  # photos that were read are read again
        data, away = runner.folder / "zoo", runner.folder / "away"
        shutil.copytree(runner.photos, data)
        monkeypatch.setattr(runner, "heard", lambda step: step == 7 and data.rename(away))
        with pytest.raises(ValueError, match=r"zoo/class.*png.*10 times over; stopped after step \d+, saved in "):
            runner.fit("away_run", data=str(data))
        reached = steps(runner.folder / "away_run")[-1]
        assert 7 <= reached < 12
        with pytest.raises(ValueError, match=r"data: .*which is not there"):
            runner.fit("away_run", data=str(data))
        away.rename(data)
        monkeypatch.setattr(runner, "heard", lambda step: None)
        assert_same(runner.fit("away_run", data=str(data)), whole)

    def test_that_cannot_be_read_at_all_is_an_error_before_anything_is_compiled(self, runner, monkeypatch):
        data = write_photos(runner.folder / "words", classes=1)
        for file in data.rglob("*.png"):
            file.write_text("no picture")
        monkeypatch.setattr(loop, "parallel", lambda step: lambda *arguments: pytest.fail("compiled"))
        with pytest.raises(ValueError, match=r"words/class0/\d.png: not a picture .* 10 times over"):
            runner.fit("words_run", data=str(data))

    def test_of_a_validation_that_goes_away(self, runner, whole, monkeypatch):
        def gone(*arguments, **options):
            raise ValueError("pairs.jsonl: gone")

        validate = loop.validate
        monkeypatch.setattr(runner, "heard", lambda step: step == 8 and monkeypatch.setattr(loop, "validate", gone))
        with pytest.raises(ValueError, match=r"^pairs.jsonl: gone$"):
            runner.fit("gone")
        assert steps(runner.folder / "gone")[-1] == 9, "what was learned is kept"
        monkeypatch.setattr(loop, "validate", validate)
        assert_same(runner.fit("gone"), whole)

    def test_a_bad_photo_is_named_once_and_replaced(self, runner, said):
        data = write_photos(runner.folder / "bad", classes=1)
        (data / "class0" / "2.png").write_text("no picture")
        message = (
            r"^data: \d of \d+ draws could not be read, more than --max_bad=0.05 allows; the first: .*2\.png: not a "
        )
        with pytest.raises(ValueError, match=message + r".*; stopped after step \d, saved in "):
            runner.fit("bad_photo", data=str(data))
        stopped = steps(runner.folder / "bad_photo")[-1]
        assert 2 <= stopped <= 4, "an epoch is four draws"
        said.clear()
        assert steps(runner.fit("bad_photo", data=str(data), max_bad=1.0))[-1] == 12
        named = [line for line in said.messages if "2.png: not a picture" in line]
        assert len(named) == 2, "once per stage"
        assert all(line.endswith("taken instead") for line in named)


class TestLoss:
    def test_that_is_not_finite_skips_the_update_and_names_the_pairs(self, runner, said):
        data = write_photos(runner.folder / "white", classes=1)
        white(data / "class0" / "1.png")
        run = runner.fit("white_photo", data=str(data))
        skipped = [line for line in said.messages if "update skipped" in line]
        assert 0 < len(skipped) < 12
        assert all(
            "loss not finite, update skipped; its batch: " in line and "class0/1.png" in line for line in skipped
        )
        assert all(np.isfinite(array).all() for array in arrays(run).values())
        assert not np.array_equal(
            arrays(run)["['weights']['geometry']['conv10']['bias']"],
            checkpoints.load(runner.network).weights["geometry"]["conv10"]["bias"],
        )

    def test_that_stays_so_stops_the_run(self, runner):
        data = write_photos(runner.folder / "whites", classes=1)
        for number in range(4):
            white(data / "class0" / f"{number}.png")
        message = (
            r"^loss: \d updates in a row were skipped .*--max_skipped=2 allows; lower --learning_rate; stopped after"
        )
        with pytest.raises(ValueError, match=message):
            runner.fit("white_photos", data=str(data), max_skipped=2)
        run = runner.folder / "white_photos"
        assert 3 <= steps(run)[-1] <= 4
        kept = Params(jax.tree.map(np.asarray, checkpoints.load(checkpoints.listed(run)[-1]).weights), CONFIG)
        began = checkpoints.load(runner.network)
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, kept.weights, began.weights)))


def white(path):
    save_image(path, np.full((40, 36, 3), 255, np.uint8))
