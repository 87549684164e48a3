"""The JSON schema of recipes lets in what embedkit reads, and nothing with a wrong key, name or value."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from embedkit.cli.app import main
from embedkit.cli.schema import recipe_schema, schema_text
from embedkit.config.recipe import Recipe
from embedkit.config.recipe_io import read_yaml
from embedkit.config.resources import SCHEMA, SCHEMA_LINE, recipe_names, recipe_path, schema_path
from embedkit.methods import methods
from embedkit.objectives.registry import presets
from embedkit.views.base import views
from tools.website.settings_page import SECTIONS

OWN: dict[str, Any] = {
    "name": "own", "method": "pairs", "model": {"name": "m"}, "data": {"train": "rows.csv"}, "train": {"epochs": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    contents = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(contents)
    return jsonschema.Draft202012Validator(contents)


@pytest.fixture(scope="module")
def shipped() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(schema_path().read_text(encoding="utf-8")))


FILES = [recipe_path(name) for name in recipe_names()] + sorted((schema_path().parent / "base").glob("*.yaml"))


def test_every_shipped_recipe_and_base_fits(shipped: jsonschema.Draft202012Validator) -> None:
    wrong = {path.as_posix(): [error.message for error in shipped.iter_errors(read_yaml(path))] for path in FILES}
    assert len(wrong) == len(FILES) > 200 and {name: errors for name, errors in wrong.items() if errors} == {}


def test_every_shipped_recipe_and_base_begins_with_the_line_for_editors() -> None:
    for path in FILES:
        first, second = path.read_text(encoding="utf-8").splitlines()[:2]
        address = first.removeprefix("# yaml-language-server: $schema=")
        assert address != first and (path.parent / address).samefile(schema_path()), f"{path}: begin with {SCHEMA_LINE}"
        assert second.startswith("# "), f"{path}: say below that line what it is"


def test_the_shipped_schema_is_the_one_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    written = schema_path().read_text(encoding="utf-8")
    assert written == schema_text(installed=False), f"run: python tools/regenerate.py recipes/{SCHEMA}"
    assert main(["schema"]) == 0
    ours, command = json.loads(written), json.loads(capsys.readouterr().out)
    few, all_sizes = (
        each["$defs"]["ImageTowerConfig"]["properties"]["size"]["anyOf"][0]["enum"] for each in (ours, command)
    )
    assert set(few) < set(all_sizes), "architectures of the open_clip that is installed"
    all_sizes[:] = few
    assert command == ours


PLUGIN = """
from embedkit.data.sources.registry import Format
from embedkit.methods import methods

READ = Format((".own",), lambda location: iter(()))

@methods.add("own-method")
class Own(methods["pairs"]):
    '''A method of another package.'''
"""


def test_plugins_are_in_the_schema_of_the_command_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange_parts.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    parts = {"embedkit.methods": ("own-method", "Own"), "embedkit.readers": ("own-format", "READ")}

    def points(group: str) -> list[importlib.metadata.EntryPoint]:
        name, part = parts.get(group, ("", ""))
        return [importlib.metadata.EntryPoint(name, f"strange_parts:{part}", group)] if name else []

    monkeypatch.setattr(methods, "_entries", dict(methods._entries))
    monkeypatch.setattr("importlib.metadata.entry_points", points)
    with_them = schema_text()
    assert '"own-method"' in with_them and '"own-format"' in with_them and "A method of another package" in with_them
    assert schema_text(installed=False) == schema_path().read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"train": ["a.csv", {"path": "b.csv", "limit": 3}]}},
        {"objective": {"temperature": 0.1}},
        {"objective": "infonce"},
        {"objective": {"name": "my.py:MyLoss", "anything": 1}},
        {"objective": {"name": "infonce", "direction": "both", "scale": {"name": "learnable"}, "max_scale": 50.0}},
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
        {"objective": {"name": "infonce", "direction": "botth"}},
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


def settings_of(contents: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and definition of every key of the sections; the settings of methods and objectives are not among them."""
    for name, section in {"": contents, **contents["$defs"]}.items():
        yield from ((f"{name}.{key}", node) for key, node in section.get("properties", {}).items())


def test_every_setting_says_what_it_means() -> None:
    settings = dict(settings_of(recipe_schema()))
    assert len(settings) > 190 and {"TrainConfig.lr", ".smoke", "LoraConfig.rank"} <= set(settings)
    assert [place for place, node in settings.items() if not node.get("description", "").strip()] == []
    assert [place for place, node in settings.items() if node["description"].strip().endswith(".")] == []


def settings_of_parts(contents: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and definition of every setting of methods, objectives and views; a reference is what it refers to."""
    sections = contents["$defs"]
    for kind in ("Method", "Objective", "View", "Auxiliary"):
        for case in sections[kind]["anyOf"][-1]["allOf"]:
            name = case["if"]["properties"]["name"]["const"]
            for key, node in case["then"]["properties"].items():
                place = node.get("$ref", "").removeprefix("#/$defs/")
                yield f"{kind} {name}.{key}", sections[place] | node if place else node


def test_every_setting_of_a_part_says_what_it_means() -> None:
    settings = dict(settings_of_parts(recipe_schema()))
    assert len(settings) > 3_000 and {"Objective infonce.temperature", "View word-deletion.rate"} <= set(settings)
    assert [place for place, node in settings.items() if not node.get("description", "").strip()] == []
    assert [place for place, node in settings.items() if node["description"].startswith("See `")] == []


def test_a_file_without_a_name_is_one_that_others_extend(validator: jsonschema.Draft202012Validator) -> None:
    assert list(validator.iter_errors({"model": {"name": "m"}})) == []
    assert list(validator.iter_errors({"name": "own", "model": {"name": "m"}})) != []


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


def test_the_page_of_settings_has_every_section_at_its_place() -> None:
    contents = recipe_schema()
    sections = contents["$defs"]
    named = {name for name in sections if name.endswith("Config")} - {"ObjectiveConfig"}
    assert {name for _, name in SECTIONS} == named
    for path, name in SECTIONS:
        node: dict[str, Any] = contents
        for key in path.replace("[]", "").split("."):
            node = sections_at(node["properties"][key], sections)
        assert node == sections[name], path


def sections_at(node: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """The section that a key holds, alone, in a list or as one of several things."""
    (name,) = set(re.findall(r"#/\$defs/(\w+)", json.dumps(node)))
    section: dict[str, Any] = sections[name]
    return section


def test_a_file_that_is_no_schema_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "pairs.csv"
    data.write_text("anchor,positive\n")
    for path in (data, tmp_path):
        assert main(["schema", str(path)]) == 2
        told = capsys.readouterr().err
        assert told == f"embedkit: {path}: it exists already, and is no schema of recipes; name another file\n"
    assert data.read_text() == "anchor,positive\n"
