"""The stages of a run: their lengths, their places in it, and what they draw from."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rtn_jax.data import photos as packaged
from rtn_jax.images import save_image
from rtn_jax.training.config import TrainConfig
from rtn_jax.training.phases import phase_at, phases_of, stage_batches
from rtn_jax.training.recipes import RECIPES
from tests.networks import write_two_classes

SHAPE = (16, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven photos: four of one class, three of another."""
    path = tmp_path_factory.mktemp("photos")
    write_two_classes(path, 20, 30)
    lines = [{"src": f"class0/{i}.png", "tgt": f"class0/{i + 2}.png"} for i in (0, 2, 4)]
    (path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def both(folder, **changes):
    return TrainConfig(stage="both", data=str(folder), **{"batch_size": 4, **changes})


class TestLength:
    def test_one_after_another(self, folder):
        synthetic, weak = phases_of(both(folder, steps=5, weak_steps=3), SHAPE)
        assert [(phase.stage, phase.first, phase.steps, phase.end) for phase in (synthetic, weak)] == [
            ("synthetic", 0, 5, 5),
            ("weak", 5, 3, 8),
        ]
        assert synthetic.recipe.steps == 5

    @pytest.mark.parametrize(
        ("epochs", "batch_size", "steps"), [(1, 4, 2), (1, 7, 1), (2, 7, 2), (3, 4, 6), (1, 8, 1), (10, 3, 24)]
    )
    def test_by_epochs_no_photo_is_left_out(self, folder, epochs, batch_size, steps):
        """Seven photos: the last batch runs into the next epoch."""
        train = TrainConfig(data=str(folder), epochs=epochs, batch_size=batch_size)
        (phase,) = phases_of(train, SHAPE)
        assert phase.steps == steps
        names = [name for i in range(steps) for name in phase.batches.names(i)]
        assert min(names.count(name) for name in set(names)) >= epochs
        assert len(set(names)) == 7
        assert len(names) - 7 * epochs < batch_size

    def test_by_epochs_of_what_each_stage_draws_from(self, folder):
        """Seven photos; three pairs."""
        train = both(folder, weak_data=str(folder / "pairs.jsonl"), recipe="released", batch_size=1)
        synthetic, weak = phases_of(train, SHAPE)
        assert (synthetic.steps, weak.first, weak.steps) == (10 * 7, 70, 20 * 3)

    def test_where_a_step_is(self, folder):
        phases = phases_of(both(folder, steps=5, weak_steps=3), SHAPE)
        found = [phase_at(phases, step).stage for step in (0, 4, 5, 7, 8, 100)]
        assert found == ["synthetic", "synthetic", "weak", "weak", "weak", "weak"]


class TestBatches:
    def test_are_what_the_stages_take(self, folder):
        synthetic, weak = (phase.batches[3] for phase in phases_of(both(folder), SHAPE))
        assert {name: array.shape for name, array in synthetic.items()} == {
            "photos": (4, *SHAPE, 3),
            "seeds": (4,),
            "attempts": (4,),
        }
        assert {name: array.shape for name, array in weak.items()} == {
            "src": (4, *SHAPE, 3),
            "tgt": (4, *SHAPE, 3),
            "src_box": (4, 4),
            "tgt_box": (4, 4),
            "seeds": (4,),
            "attempts": (4,),
        }

    def test_are_of_the_seed(self, folder):
        first, same, other = (phases_of(both(folder, seed=seed), SHAPE) for seed in (0, 0, 1))
        for i in (0, 1):
            seeds = [phases[i].batches[2]["seeds"] for phases in (first, same, other)]
            np.testing.assert_array_equal(seeds[0], seeds[1])
            assert (seeds[0] != seeds[2]).all()

    def test_are_shared_among_processes(self, folder):
        whole = phases_of(both(folder), SHAPE)
        for shard in ((0, 2), (1, 2)):
            for phase, part in zip(whole, phases_of(both(folder), SHAPE, shard), strict=True):
                assert part.steps == phase.steps
                for name, array in part.batches[1].items():
                    np.testing.assert_array_equal(array, phase.batches[1][name][shard[0] :: 2])

    def test_that_cannot_be_shared_are_refused(self, folder):
        with pytest.raises(ValueError, match=r"^batch_size: 4 pairs cannot be split evenly over 3 hosts$"):
            phases_of(both(folder), SHAPE, (0, 3))

    def test_keep_as_many_photos_as_there_is_memory_for_all_workers(self, folder):
        kept = [
            stage_batches(both(folder, workers=workers), "synthetic", SHAPE)[0].draws.read.kept_bytes
            for workers in (0, 1, 4)
        ]
        assert kept[0] == kept[1] == 4 * kept[2] > 0

    def test_are_described(self, folder):
        about = [phase.about for phase in phases_of(both(folder), SHAPE)]
        assert about[0] == f"random warps of 7 photos of {folder}"
        assert "2 classes" in about[1] and str(folder) in about[1]

    def test_of_nothing_are_of_the_packages_photos(self):
        (phase,) = phases_of(TrainConfig(), SHAPE)
        assert phase.batches.items == len(packaged.BUILTIN_TRAIN)


def test_what_was_chosen_can_be_written_down(folder):
    """With the steps that follow from the epochs: a folder with a photo more is another run."""
    written = [phase.to_dict() for phase in phases_of(both(folder, recipe="released", tie_weight=0.5), SHAPE)]
    assert json.loads(json.dumps(written)) == written
    for stage, chosen in zip(("synthetic", "weak"), written, strict=True):
        recipe = RECIPES["released"][stage]
        assert (chosen["stage"], chosen["tie_weight"], chosen["epochs"]) == (stage, 0.5, recipe.epochs)
    assert written[0]["steps"] == 18


class TestMistakes:
    def test_photos_without_classes(self, tmp_path):
        save_image(tmp_path / "lonely.png", np.zeros((9, 9, 3), np.uint8))
        with pytest.raises(ValueError, match="folder per class"):
            phases_of(TrainConfig(stage="weak", data=str(tmp_path)), SHAPE)

    def test_the_second_stage_is_looked_at_before_the_first_begins(self, folder, tmp_path):
        with pytest.raises(ValueError, match=r"missing\.jsonl"):
            phases_of(both(folder, weak_data=str(tmp_path / "missing.jsonl")), SHAPE)
