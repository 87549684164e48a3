"""Advice can be followed: every setting, option, argument and name in a remedy exists, and its value is taken.

Remedies are collected from the source; what exists is read off commands, recipe sections, registries and functions.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import embedkit
from embedkit.cli.app import app
from embedkit.cli.usage import option_names
from embedkit.config.recipe import SourceConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.config.recipe_keys import recipe_keys, short_keys
from embedkit.errors import RecipeError, UserError
from embedkit.evaluation.core.task import TASKS
from embedkit.methods import methods
from embedkit.models import Model
from embedkit.models.modules.text import TextEncoder
from embedkit.objectives import build
from embedkit.objectives.registry import presets

PACKAGE = Path(embedkit.__file__).parent
SECTIONS = {key for key in recipe_keys() if "." not in key}
BASE: dict[str, Any] = {
    "name": "base", "method": "pairs", "model": {"name": "m"}, "train": {"epochs": 1},
    "data": {"train": [{"path": "rows.csv"}]},
}  # fmt: skip


@cache
def remedies() -> list[tuple[str, str]]:
    """Place and text of every remedy of an error or finding of the doctor; ``{}`` stands for what is filled in."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for value in _advice(node):
                for text in _texts(value):
                    found.append((f"{file.relative_to(PACKAGE)}:{value.lineno}", text))
    return found


def _advice(node: ast.AST) -> Iterator[ast.expr]:
    names = [node.arg] if isinstance(node, ast.keyword) else []
    names += [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
    if any(str(name).lower().endswith("remedy") for name in names):
        yield node.value  # type: ignore[attr-defined]
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding" and len(node.args) == 3:
        yield node.args[2]


def _texts(value: ast.expr) -> Iterator[str]:
    """The texts of an expression; of a choice each of them."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.JoinedStr):
        yield "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in value.values)
    elif isinstance(value, ast.IfExp):
        yield from (*_texts(value.body), *_texts(value.orelse))
    elif isinstance(value, ast.BoolOp):
        yield from (text for one in value.values for text in _texts(one))


@cache
def options() -> frozenset[str]:
    """Every option of every command, and of `embedkit` itself."""
    command: Any = get_command(app)
    return frozenset({"--version", "--debug"}.union(*(option_names(one) for one in command.commands.values())))


@cache
def arguments() -> frozenset[str]:
    """Names of the parameters of what `import embedkit` offers, of models, objectives and methods, and of tasks."""
    callables: list[Any] = [getattr(embedkit, name) for name in embedkit.__all__ if callable(getattr(embedkit, name))]
    callables += [build, Model.encode, Model.save, *(cls for _, cls in methods.items())]
    callables += [importlib.import_module("embedkit.models").encode_file]
    names = {name for one in callables for name in inspect.signature(one).parameters}
    names |= {name for _, preset in presets.items() for name in preset.settings}
    for _, task in TASKS.items():
        names |= set(task.settings_type.model_fields)
    return frozenset(names | set(SourceConfig.model_fields) | set(short_keys()))


def _is_setting(dotted: str) -> bool:
    key = ".".join("N" if part.isdecimal() else part for part in dotted.split("."))
    section, _, rest = key.partition(".")
    if key in recipe_keys() or (key.replace(".preprocess.", ".towers.image.preprocess.") in recipe_keys()):
        return True
    if section in ("method", "objective"):
        return rest in arguments()
    return any(known.startswith(f"{key}.") for known in recipe_keys())


def test_there_are_remedies_to_look_at() -> None:
    texts = [text for _, text in remedies()]
    assert len(texts) > 300
    assert sum("train." in text or "data." in text for text in texts) > 40
    assert sum("--" in text for text in texts) > 20


def test_every_option_in_a_remedy_exists() -> None:
    for place, text in remedies():
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text):
            assert option in options() or option in ("--format",), f"{place}: {option} in {text!r}"


def test_every_setting_in_a_remedy_exists() -> None:
    count = 0
    for place, text in remedies():
        for dotted in re.findall(r"(?<![\w./-])[a-z_]+(?:\.[a-zA-Z0-9_]+)+(?:\(|(?![\w/]))", text):
            section = dotted.partition(".")[0]
            dotted, is_call = dotted.rstrip("("), dotted.endswith("(")
            if section == "model" and is_call:
                name = dotted.partition(".")[2]
                assert hasattr(Model, name) or hasattr(TextEncoder, name), f"{place}: {dotted} in {text!r}"
            elif section in SECTIONS:
                count += 1
                assert _is_setting(dotted), f"{place}: {dotted} in {text!r}"
            elif section == "embedkit":
                try:
                    pkgutil.resolve_name(dotted)  # a module, or a class or function of one, or its method
                except (ImportError, AttributeError):
                    pytest.fail(f"{place}: {dotted} in {text!r}")
    assert count > 60


def test_every_argument_in_a_remedy_exists() -> None:
    for place, text in remedies():
        for name in re.findall(r"(?<![\w.-])([a-z_]+)=(?!=)", text):
            assert name in arguments() or name in recipe_keys(), f"{place}: {name}= in {text!r}"


def test_every_value_in_a_remedy_is_taken() -> None:
    """``set data.drop_last: false`` and ``train.precision=bf16``: the recipe takes them."""
    count = 0
    for place, text in remedies():
        for key, value in re.findall(r"(?<![\w.])([a-z_]+(?:\.[a-z_]+)+)(?:=|: )([a-z0-9.-]+[a-z0-9])", text):
            if key.partition(".")[0] not in SECTIONS or key.startswith(("method.", "model.towers", "model.pooling")):
                continue
            count += 1
            try:
                load_recipe(BASE, ["data.train.0.weight=1", f"{key}={value}"])
            except RecipeError as error:
                pytest.fail(f"{place}: {key}={value} in {text!r}: {error}")
    assert count > 10


def test_every_command_in_a_remedy_exists() -> None:
    command: Any = get_command(app)
    for place, text in remedies():
        for name in re.findall(r"`embedkit ([a-z]+)", text):
            assert name in command.commands, f"{place}: embedkit {name}"


def test_every_extra_that_is_asked_for_exists() -> None:
    extras = set(re.findall(r"^([a-z]+) = \[", (PACKAGE.parent / "pyproject.toml").read_text(), re.MULTILINE))
    for file in PACKAGE.rglob("*.py"):
        for extra in re.findall(r"MissingExtraError\([^)]*?, \"([a-z]+)\",", file.read_text(encoding="utf-8")):
            assert extra in extras, f"{file.name}: {extra}"


def test_pickles_are_read_where_the_remedy_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The advice of a refused pickle is followed, by `encode` and in a recipe."""
    import torch

    from embedkit.cli.app import main
    from embedkit.config.model import ModelConfig
    from embedkit.factory import build as build_model

    model = build_model(load_recipe("quickstart").model, 0)
    model.save(tmp_path / "m")
    export = embedkit.export(model, tmp_path / "old", format="transformers")
    (weights,) = export.glob("*.safetensors")
    from safetensors.torch import load_file

    torch.save(load_file(weights), export / "pytorch_model.bin")
    weights.unlink()
    (tmp_path / "t.txt").write_text("a dog\n")
    words = ["encode", str(export), str(tmp_path / "t.txt"), str(tmp_path / "v.npy")]
    assert main(words) == 2
    assert "--allow-pickle" in capsys.readouterr().err
    assert main([*words, "--allow-pickle"]) == 0
    with pytest.raises(UserError, match="allow_pickle"):
        build_model(ModelConfig(name=str(export)), 0)
    assert build_model(ModelConfig(name=str(export), allow_pickle=True), 0).dim == model.dim
