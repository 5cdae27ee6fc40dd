"""Photos that cannot be read and updates that were skipped: each is named, and too many are a problem."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

from rtn_jax.data.draws import Chosen, Draws
from rtn_jax.data.pipeline import Batches
from rtn_jax.training import watch as module
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.phases import Phase, phases_of
from rtn_jax.training.recipes import Recipe
from rtn_jax.training.watch import Watch
from tests.networks import write_two_classes

SHAPE = (16, 16)


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "rtn_jax")
    return caplog


def phase_of(folder, count=8, bad=(), **changes):
    """The second phase of a run on some photos, of which a few are damaged."""
    write_two_classes(folder, 18, 20, count=count)
    for i in bad:
        (folder / f"class{i % 2}" / f"{i}.png").write_bytes(b"not a photo")
    chosen = {"stage": "both", "data": str(folder), "batch_size": 4, "steps": 7} | changes
    return phases_of(TrainConfig(**chosen), SHAPE)[-1]


def follow(watch, phase, steps):
    """Lets it see the batches of so many steps, none of which was skipped."""
    for step in range(phase.first, phase.first + steps):
        watch.checked(step, phase.batches[step - phase.first])
        watch.heed(step + 1, {"skipped_in_a_row": 0.0, "loss": 1.0})


@dataclasses.dataclass(frozen=True)
class Scripted(Draws):
    """Draws of which it is known how many attempts each takes."""

    attempts: np.ndarray
    items: int

    def __len__(self):
        return self.items

    def choose(self, index, attempt):
        def load():
            if attempt < self.attempts[index]:
                raise ValueError(f"photo {index} is damaged")
            return {"photos": np.zeros(1)}

        return Chosen(f"draw {index}", load)


def scripted(attempts, items=1000):
    """A phase with these numbers of attempts, `[batches, b]`."""
    batches = Batches(Scripted(np.ravel(attempts), items), len(attempts[0]))
    return Phase(stage="synthetic", recipe=Recipe(), steps=len(attempts), first=0, batches=batches, about="")


class TestPhotos:
    def test_of_a_good_batch_nothing_is_said(self, tmp_path, said):
        phase = phase_of(tmp_path)
        watch = Watch(phase, max_bad=0.0, max_skipped=1)
        batch = phase.batches[2]
        checked = watch.checked(9, batch)
        assert set(checked) == set(batch) - {"attempts"}, "what is for us alone stays on the host"
        assert all(checked[name] is batch[name] for name in checked)
        follow(watch, phase, 7)
        assert (watch.problem, said.messages) == (None, [])

    def test_that_cannot_be_read_are_named_once(self, tmp_path, said):
        """Though either is in many pairs, and in many epochs."""
        phase = phase_of(tmp_path, bad=(3, 6))
        watch = Watch(phase, max_bad=1.0, max_skipped=1)
        follow(watch, phase, 12)
        assert watch.problem is None
        assert len(said.messages) == 2
        for i in (3, 6):
            (line,) = [line for line in said.messages if f"{i}.png: " in line]
            assert str(tmp_path) in line.split(" is taken instead")[0]
            assert " -> " in line.split("; ")[-1], "the pair that was taken"

    def test_a_whole_epoch_is_waited_for(self, tmp_path):
        """One photo in eight is more than 5 %, but it may come first, when nobody knows how many follow."""
        phase = phase_of(tmp_path, bad=(3,), stage="synthetic", batch_size=2)
        watch, problems = Watch(phase, max_bad=0.05, max_skipped=1), []
        for step in range(4):
            watch.checked(step, phase.batches[step])
            problems.append(watch.problem)
        assert problems[:3] == [None] * 3
        assert problems[3].startswith(
            "data: 1 of 8 draws could not be read, more than --max_bad=0.05 allows; the first: "
        )
        assert "3.png" in problems[3] and "\n" not in problems[3]

    def test_the_share_is_of_draws_and_not_of_attempts(self):
        phase = scripted([[0, 0, 9, 0]] * 100 + [[1, 0, 0, 1]])
        watch = Watch(phase, max_bad=0.25, max_skipped=1)
        follow(watch, phase, 100)
        assert watch.problem is None
        watch.checked(100, phase.batches[100])
        expected = (
            "data: 102 of 404 draws could not be read, more than --max_bad=0.25 allows; the first: photo 2 is damaged"
        )
        assert watch.problem == expected

    def test_of_a_long_epoch_a_part_is_enough(self):
        phase = scripted([[1] * 10] * 30)
        watch, step = Watch(phase, max_bad=0.05, max_skipped=1), 0
        while watch.problem is None:
            watch.checked(step, phase.batches[step])
            step += 1
        assert step * 10 == module.ENOUGH

    def test_none_may_be_bad(self, tmp_path):
        phase = phase_of(tmp_path, count=4, bad=(1,), stage="synthetic")
        watch = Watch(phase, max_bad=0.0, max_skipped=1)
        watch.checked(0, phase.batches[0])
        assert watch.problem.startswith("data: 1 of 4 draws could not be read, more than --max_bad=0 allows")


class TestUpdates:
    """Of the second phase, whose first step is the eighth of the run."""

    def heed(self, watch, phase, in_a_row, loss=1.0):
        answers = []
        for i, count in enumerate(in_a_row):
            watch.checked(7 + i, phase.batches[i])
            answers.append(watch.heed(8 + i, {"skipped_in_a_row": float(count), "loss": loss}))
        return answers

    @pytest.mark.parametrize(("loss", "what"), [(np.nan, "loss"), (np.inf, "loss"), (1.0, "gradient")])
    def test_that_are_skipped_are_named_with_their_batch(self, tmp_path, said, loss, what):
        phase = phase_of(tmp_path)
        watch = Watch(phase, max_bad=0.05, max_skipped=2)
        assert self.heed(watch, phase, (0, 1, 0), loss) == [False] * 3
        names = ", ".join(phase.batches.names(1))
        assert names.count(" -> ") == 4
        assert said.messages == [f"step 9: {what} not finite, update skipped; its batch: {names}"]
        assert watch.problem is None

    def test_what_was_taken_instead_is_what_is_named(self, tmp_path, said):
        phase = phase_of(tmp_path, bad=(0, 1, 2))
        watch = Watch(phase, max_bad=1.0, max_skipped=99)
        self.heed(watch, phase, range(1, 9))
        lines = [line for line in said.messages if line.startswith("step ")]
        assert len(lines) == 8
        assert not [line for line in lines for i in (0, 1, 2) if f"/{i}.png" in line]

    def test_too_many_in_a_row_are_a_problem(self, tmp_path):
        phase = phase_of(tmp_path)
        watch = Watch(phase, max_bad=0.05, max_skipped=2)
        assert self.heed(watch, phase, (1, 2, 0, 1, 2, 3)) == [False] * 5 + [True]
        assert watch.problem == (
            "loss: 3 updates in a row were skipped because loss or gradient was not finite, more than --max_skipped=2 "
            "allows; lower --learning_rate"
        )

    def test_are_heard_of_a_step_late(self, tmp_path, said):
        """The loop reads the next batch before it looks at the metrics of the last."""
        phase = phase_of(tmp_path)
        watch = Watch(phase, max_bad=0.05, max_skipped=2)
        for i in range(3):
            watch.checked(7 + i, phase.batches[i])
        watch.heed(8, {"skipped_in_a_row": 1.0, "loss": np.nan})
        watch.heed(9, {"skipped_in_a_row": 2.0, "loss": np.nan})
        assert [", ".join(phase.batches.names(i)) in line for i, line in enumerate(said.messages)] == [True, True]
