"""The JSON schema of recipes lets in what embedkit reads, and nothing with a wrong key, name or value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from embedkit.cli.app import main
from embedkit.cli.schema import recipe_schema
from embedkit.config.recipe import Recipe
from embedkit.config.recipe_io import read_yaml
from embedkit.config.resources import recipe_names, recipe_path
from embedkit.methods import methods
from embedkit.objectives.registry import presets
from embedkit.views.base import views

OWN: dict[str, Any] = {
    "name": "own", "method": "pairs", "model": {"name": "m"}, "data": {"train": "rows.csv"}, "train": {"epochs": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    contents = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(contents)
    return jsonschema.Draft202012Validator(contents)


def test_every_shipped_recipe_fits(validator: jsonschema.Draft202012Validator) -> None:
    wrong = {
        name: [error.message for error in validator.iter_errors(read_yaml(recipe_path(name)))]
        for name in recipe_names()
    }
    assert {name: errors for name, errors in wrong.items() if errors} == {}


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"train": ["a.csv", {"path": "b.csv", "limit": 3}]}},
        {"objective": {"temperature": 0.1}},
        {"objective": "infonce"},
        {"objective": {"name": "my.py:MyLoss", "anything": 1}},
        {"auxiliary": ["mlm", {"name": "mlm", "weight": 0.1}]},
        {"method": {"name": "views", "positive": [{"name": "word-deletion", "rate": 0.1}]}},
        {"evaluation": None, "model": {"name": "m", "head": {"kind": "tanh"}}},
        {"stages": [{"name": "first", "train": {"lr": 1e-4}}, {"name": "second", "method": "simcse-unsup"}]},
    ],
)
def test_what_a_file_may_say_fits(validator: jsonschema.Draft202012Validator, change: dict[str, Any]) -> None:
    assert list(validator.iter_errors(OWN | change)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"trian": {}},
        {"train": {"epochs": 1, "learning_rate": 1}},
        {"train": {"epochs": 0}},
        {"method": "simcse-unsupp"},
        {"method": {"name": "mcse", "alfa": 1}},
        {"method": {"name": "views", "positive": [{"name": "word-deletion", "rate": 2}]}},
        {"method": {"name": "views", "positive": "word-deletoin"}},
        {"objective": {"name": "infonce", "temprature": 1}},
        {"auxiliary": [{"name": "mlm", "wait": 1}]},
        {"data": {"train": [{"file": "a.csv"}]}},
        {"stages": [{"train": {}}]},
        {"stages": [{"name": "first", "method": "nothing"}]},
        {"model": {"kind": "texts", "name": "m"}},
    ],
)
def test_a_wrong_key_name_or_value_does_not(
    validator: jsonschema.Draft202012Validator, change: dict[str, Any]
) -> None:  # fmt: skip
    assert list(validator.iter_errors(OWN)) == []
    assert list(validator.iter_errors(OWN | change)) != []


def test_only_a_recipe_that_extends_another_may_leave_sections_out(
    validator: jsonschema.Draft202012Validator,
) -> None:
    short = {"name": "own", "train": {"lr": 1e-4}}
    assert list(validator.iter_errors({**short, "extends": "pairs"})) == []
    assert {error.validator for error in validator.iter_errors(short)} == {"required"}


def test_every_part_and_key_is_in_it() -> None:
    contents = recipe_schema()
    for name, registry in (("Method", methods), ("Objective", presets), ("View", views), ("Auxiliary", methods)):
        assert contents["$defs"][name]["anyOf"][0]["enum"] == list(registry)
    assert set(Recipe.model_fields) | {"extends", "group"} == set(contents["properties"])
    assert "ViT-B-32" in contents["$defs"]["ImageTowerConfig"]["properties"]["size"]["anyOf"][0]["enum"]


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "recipe.schema.json"
    assert main(["schema", str(file)]) == 0 and str(file) in capsys.readouterr().out
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(file.read_text()) == recipe_schema()
