"""The two recipes: what the release did, what is allowed, and that the documentation says what they are."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from rtn_jax.training.recipes import RECIPES, Recipe

DOCS = Path(__file__).resolve().parents[2] / "docs" / "training.md"
COLUMNS = {f"{name}, {stage}": recipe for name, stages in RECIPES.items() for stage, recipe in stages.items()}


def test_the_release():
    """Read in its code: both stages alike but for the layers' rates and the length; nothing ours is left on."""
    both = {
        "batch_size": 16,
        "optimizer": "sgd",
        "learning_rate": 1e-5,
        "schedule": "constant",
        "warmup": 0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "clip": 0,
        "average": 0,
        "reduction": "sum",
        "tie_weight": 0,
        "synthetic_weight": 0,
        "rotation": 15,
        "zoom": 1,
        "mirror": 0,
        "colour": 0,
    }
    synthetic = {"epochs": 10, "train_backbone": "none", "decay": 0, "matrix_weight": 0, "translation": 0.4}
    weak = {"epochs": 20, "train_backbone": "all", "backbone_rate": 0.1, "last_rate": 0.1, "temperature": 1}
    for stage, expected in (("synthetic", both | synthetic), ("weak", both | weak)):
        recipe = dataclasses.asdict(RECIPES["released"][stage])
        assert {name: recipe[name] for name in expected} == expected


def test_every_recipe_has_its_stages():
    assert {name: set(stages) for name, stages in RECIPES.items()} == {
        "default": {"synthetic", "weak", "features"},
        "released": {"synthetic", "weak"},
    }


def test_a_recipe_can_be_a_key():
    """It is static where a step is compiled."""
    assert hash(Recipe()) == hash(Recipe(steps=150))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().steps = 3


NUMBERS = [field.name for field in dataclasses.fields(Recipe) if type(field.default) in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_have_bounds(unchecked, name):
    """Each is named with what came; the least that is allowed is allowed."""
    above_zero, below_one = ("learning_rate", "temperature"), ("warmup", "average", "momentum", "colour")
    refused = {-1, math.nan, math.inf}
    refused |= {0} if name in ("steps", "batch_size", *above_zero) else set()
    refused |= {1} if name in below_one else set()
    for value in refused:
        with pytest.raises(ValueError, match=f"^{name}: expected .*, got {value}$"):
            Recipe(**{name: value})
    allowed = 1 if name in ("steps", "batch_size", "zoom") else 1e-30 if name in above_zero else 0
    assert getattr(Recipe(**{name: allowed}), name) == allowed


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"optimizer": "adam"}, "optimizer: expected one of adamw, sgd, got 'adam'"),
        ({"schedule": None}, "schedule: expected one of cosine, constant, got None"),
        ({"reduction": "max"}, "reduction: expected one of mean, sum, got 'max'"),
    ],
)
def test_words_are_of_a_list(unchecked, choice, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Recipe(**choice)


def table(text):
    """The cells of the first table with these columns, by row and column."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    start = rows.index(["", *COLUMNS])
    found = {}
    for name, *cells in rows[start + 2 :]:
        if not re.fullmatch("`\\w+`", name) or len(cells) != len(COLUMNS):
            break
        found[name.strip("`")] = dict(zip(COLUMNS, cells, strict=True))
    return found


def expected_cell(recipe, name):
    value = getattr(recipe, name)
    if name == "steps" and recipe.epochs:
        return "by epochs"
    if name == "epochs" and not value:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:g}"


def test_the_documentation_has_every_number():
    expected = {
        field.name: {column: expected_cell(recipe, field.name) for column, recipe in COLUMNS.items()}
        for field in dataclasses.fields(Recipe)
    }
    assert table(DOCS.read_text()) == expected
