"""A recipe that extends another: what is merged, what is replaced, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedkit.errors import RecipeError
from embedkit.recipe_io import load_recipe

BASE = """
name: base
method: {name: diffcse, generator: null, mask_rate: 0.2}
objective: {name: infonce, temperature: 0.1}
model:
  config: {model_type: bert, hidden_size: 32}
  tokenizer: builtin
  prompts: {one: "a: ", two: "b: "}
data: {train: [{path: "builtin:sentences"}, {path: "builtin:pairs-train"}]}
train: {max_steps: 4, lr: 0.5}
smoke: {train.max_steps: 2}
"""


def files(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_sections_are_merged_and_lists_and_other_parts_replaced(tmp_path: Path) -> None:
    files(
        tmp_path,
        base=BASE,
        middle='extends: base\nname: middle\ntrain: {lr: 0.1}\nmodel: {prompts: {two: "c: "}}',
        top='extends: middle\nname: top\nmethod: {name: mlm}\nobjective: {temperature: 0.2}\n'
        'data: {train: [{path: "builtin:sentences", limit: 5}]}',
    )  # fmt: skip
    found = load_recipe(tmp_path / "top.yaml")
    assert (found.name, found.train.lr, found.train.max_steps) == ("top", 0.1, 4)
    assert found.model.prompts == {"one": "a: ", "two": "c: "}
    assert (found.method.name, found.method.settings) == ("mlm", {})  # settings belong to the method they are for
    assert found.objective is not None
    assert (found.objective.name, found.objective.settings) == ("infonce", {"temperature": 0.2})
    assert [source.limit for source in found.data.train] == [5]
    assert load_recipe(tmp_path / "top.yaml", smoke=True).train.max_steps == 2
    assert load_recipe(tmp_path / "middle.yaml").method.settings == {"generator": None, "mask_rate": 0.2}
    assert load_recipe(tmp_path / "top.yaml", ["train.lr=3"]).train.lr == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: one\nname: one", "a recipe extends itself"),
        ("extends: two\nname: one", "a recipe extends itself"),
        ("extends: ../other\nname: one", "is no name"),
        ("extends: [a]\nname: one", "is no name"),
        ("extends: nothing\nname: one", "no such file"),
        ("extends: base\nname: one\ntrain: {lrr: 1}", "unknown key 'train.lrr'"),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path: Path, text: str, said: str) -> None:
    files(tmp_path, base=BASE, one=text, two="extends: one\nname: two")
    with pytest.raises(RecipeError, match=said):
        load_recipe(tmp_path / "one.yaml")
