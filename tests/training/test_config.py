"""What `train.py` can be asked for: flags and recipes, data of the stages, the network, and mistakes."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from rtn_jax.config import Config, released
from rtn_jax.training.config import STAGES, TrainConfig
from rtn_jax.training.recipes import RECIPES, Recipe

FLAGS = {field.name: field for field in dataclasses.fields(TrainConfig)}
OTHER = {  # a value of every choice of a recipe that no recipe has
    field.name: {
        "optimizer": "sgd",
        "schedule": "constant",
        "reduction": "sum",
        "train_backbone": "conv5_1",
        "zoom": 1.23,
        "mirror_aware": True,
    }.get(field.name, 7 if isinstance(field.default, int) else 0.123)
    for field in dataclasses.fields(Recipe)
}


def both(**changes):
    return TrainConfig(stage="both", data="photos", **changes)


class TestRecipe:
    def test_every_choice_of_a_recipe_is_a_flag(self):
        """With no value of its own; the others have one, so that what is not said is said by exactly one of the two."""
        assert set(OTHER) <= set(FLAGS)
        assert all(FLAGS[name].default is None for name in OTHER)
        assert all("None" in str(FLAGS[name].type) for name in OTHER)

    @pytest.mark.parametrize("recipe", list(RECIPES))
    def test_is_taken_as_it_is(self, recipe):
        for stage in ("synthetic", "weak"):
            assert both(recipe=recipe).chosen(stage) == RECIPES[recipe][stage]

    @pytest.mark.parametrize("recipe", list(RECIPES))
    @pytest.mark.parametrize("name", list(OTHER))
    def test_gives_way_to_a_flag_in_both_stages(self, recipe, name):
        train = both(recipe=recipe, **{name: OTHER[name]})
        for stage in ("synthetic", "weak"):
            changes = {name: OTHER[name]} | ({"epochs": 0} if name == "steps" else {})
            assert train.chosen(stage) == dataclasses.replace(RECIPES[recipe][stage], **changes)

    def test_gives_way_to_a_zero(self):
        assert both(clip=0.0).chosen("weak").clip == 0
        assert both(tie_weight=0.0).chosen("weak").tie_weight == 0

    def test_steps_stand_instead_of_epochs(self):
        chosen = [both(recipe="released", steps=30).chosen(stage) for stage in ("synthetic", "weak")]
        assert [(recipe.steps, recipe.epochs) for recipe in chosen] == [(30, 0), (30, 0)]
        chosen = [both(epochs=3).chosen(stage) for stage in ("synthetic", "weak")]
        assert [recipe.epochs for recipe in chosen] == [3, 3]

    def test_the_weak_stage_may_have_its_own_steps(self):
        train = both(steps=30, weak_steps=5)
        assert [train.chosen(stage).steps for stage in ("synthetic", "weak")] == [30, 5]
        train = both(recipe="released", weak_steps=5)
        assert (train.chosen("synthetic").epochs, train.chosen("weak").epochs, train.chosen("weak").steps) == (10, 0, 5)


class TestData:
    def test_of_the_stages(self):
        assert TrainConfig().data_of("synthetic") == "builtin"
        assert [both().data_of(stage) for stage in ("synthetic", "weak")] == ["photos", "photos"]
        train = both(weak_data="pairs.jsonl")
        assert [train.data_of(stage) for stage in ("synthetic", "weak")] == ["photos", "pairs.jsonl"]

    def test_builtin_photos_may_come_before_pairs(self):
        assert TrainConfig(stage="both", weak_data="pairs.jsonl").data_of("synthetic") == "builtin"

    @pytest.mark.parametrize("stage", ["weak", "both", "features"])
    def test_a_weak_stage_needs_some(self, stage):
        last = STAGES[stage][-1]
        with pytest.raises(ValueError, match=rf"^data: the {last} stage needs --data: a folder with one folder of p"):
            TrainConfig(stage=stage)


class TestNetwork:
    @pytest.mark.parametrize("given", [{"recipe": "released"}, {"preset": "released"}])
    def test_of_the_release(self, given):
        assert TrainConfig(**given).network() == released()

    def test_a_preset_goes_before_the_recipe(self):
        assert TrainConfig(recipe="released", preset="default").network() == Config()
        assert TrainConfig(preset="paper").network().levels[0].layer == "conv4_4"

    def test_flags_change_it(self):
        flags = {
            "image_size": 64,
            "geometry_width": 8,
            "iterations": (1, 4),
            "compute_dtype": "bfloat16",
            "remat": True,
        }
        assert TrainConfig(**flags).network() == Config().replace(**flags)

    def test_mistakes_are_those_of_the_network(self):
        with pytest.raises(ValueError, match=r"^iterations: expected 1 numbers, one per level, got"):
            TrainConfig(preset="paper", iterations=(1, 4)).network()

    def test_where_it_begins(self):
        assert TrainConfig(starts=("consensus",)).network() == Config(starts=("consensus",))
        with pytest.raises(ValueError, match=r"^starts: expected one or more of identity, consensus"):
            TrainConfig(starts=()).network()

    def test_the_stride_of_a_resnet(self):
        assert TrainConfig(backbone="resnet", resnet_stride=8).network() == Config(backbone="resnet", resnet_stride=8)
        assert TrainConfig(backbone="resnet").network().resnet_stride == 16

    @pytest.mark.parametrize("backbone", ["resnet", "cat-fcss"])
    def test_of_the_release_is_vgg(self, backbone):
        with pytest.raises(ValueError, match=rf"^backbone: the released network has vgg, got '{backbone}'"):
            TrainConfig(backbone=backbone, recipe="released").network()

    @pytest.mark.parametrize("name", ["preset", "geometry_width", "resnet_stride"])
    def test_of_a_checkpoint_is_not_to_be_changed(self, name):
        flag = {"preset": "paper", "geometry_width": 4, "resnet_stride": 8}[name]
        with pytest.raises(ValueError, match=f"^{name}: the network is that of the checkpoint; expected one of {name}"):
            TrainConfig(init="runs/vgg", **{name: flag})


class TestRun:
    def test_folder(self):
        assert TrainConfig().folder == Path("runs/vgg")
        assert TrainConfig(run_dir=Path("here")).folder == Path("here")

    def test_can_be_written_down(self):
        written = both(run_dir=Path("here"), iterations=(1, 2), val=("builtin", "pf_willow:there")).to_dict()
        assert set(written) == set(FLAGS)
        assert json.loads(json.dumps(written)) == written | {
            "iterations": [1, 2],
            "starts": ["identity"],
            "val": ["builtin", "pf_willow:there"],
        }
        assert written["run_dir"] == "here"

    def test_the_stages(self):
        assert STAGES == {
            "synthetic": ("synthetic",),
            "weak": ("weak",),
            "both": ("synthetic", "weak"),
            "features": ("features",),
        }

    def test_the_release_has_no_stage_of_features(self):
        with pytest.raises(ValueError, match=r"^recipe: released has the stages synthetic, weak, not features$"):
            TrainConfig(recipe="released", stage="features", data="photos")


LEAST = {"eval_every": 1, "accumulate": 1, "keep": 1, "max_skipped": 1, "save_every": 1, "weak_steps": 1, "epochs": 1}
LEAST |= {"seed": 0, "workers": 0, "val_pairs": 0, "max_bad": 0}


class TestMistakes:
    @pytest.mark.parametrize("name", list(LEAST))
    def test_numbers_have_a_least(self, name):
        assert getattr(both(**{name: LEAST[name]}), name) == LEAST[name]
        with pytest.raises(ValueError, match=f"^{name}: expected at least {LEAST[name]}, got {LEAST[name] - 1}$"):
            both(**{name: LEAST[name] - 1})

    def test_a_share_that_is_no_number(self):
        with pytest.raises(ValueError, match=r"^max_bad: expected at least 0, got nan$"):
            TrainConfig(max_bad=math.nan)

    def test_a_seed_that_jax_cannot_hold(self):
        assert TrainConfig(seed=2**32 - 1).seed
        with pytest.raises(ValueError, match=r"^seed: expected less than 4294967296, got 4294967296$"):
            TrainConfig(seed=2**32)

    @pytest.mark.parametrize("change", [{"steps": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"decay": -0.1}])
    def test_recipes_are_checked_at_once(self, change):
        ((name, value),) = change.items()
        with pytest.raises(ValueError, match=f"^{name}: expected .*, got {value}$"):
            TrainConfig(**change)

    @pytest.mark.parametrize(
        ("choice", "message"),
        [
            ({"stage": "strong"}, "stage: expected one of synthetic, weak, both, features, got 'strong'"),
            ({"recipe": "paper"}, "recipe: expected one of default, released, got 'paper'"),
            ({"preset": "vgg"}, "preset: expected one of default, paper, released, wide, joint, got 'vgg'"),
            ({"optimizer": "lion"}, "optimizer: expected one of adamw, sgd, got 'lion'"),
        ],
    )
    def test_words_are_of_a_list(self, unchecked, choice, message):
        with pytest.raises(ValueError, match=f"^{message}$"):
            TrainConfig(**choice)

    @pytest.mark.parametrize("given", [{"steps": 3}, {"weak_steps": 3}])
    def test_steps_and_epochs(self, given):
        with pytest.raises(ValueError, match=r"^steps, epochs: expected one of them, got both$"):
            both(epochs=1, **given)

    @pytest.mark.parametrize("stage", ["synthetic", "weak"])
    @pytest.mark.parametrize("given", [{"weak_data": "pairs.jsonl"}, {"weak_steps": 3}])
    def test_choices_of_a_second_stage_need_one(self, stage, given):
        message = f"^{next(iter(given))}: belongs to --stage=both, got --stage={stage}$"
        with pytest.raises(ValueError, match=message):
            TrainConfig(stage=stage, data="photos", **given)

    def test_nothing_to_measure(self):
        with pytest.raises(ValueError, match=r"^val: expected something to measure, got nothing$"):
            TrainConfig(val=())
