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


def test_a_component_by_its_name_alone_and_one_without_a_name_can_be_extended(tmp_path: Path) -> None:
    rest = BASE.replace("method: {name: diffcse, generator: null, mask_rate: 0.2}\n", "")
    files(
        tmp_path,
        name=f"method: simcse-unsup\n{rest}",
        none=f"method: {{mask_rate: 0.2}}\n{rest}",
        more="extends: name\nmethod: {augment: {delete: 0.1}}",
        other="extends: name\nmethod: {name: mlm}",
        named="extends: none\nmethod: {name: diffcse}",
        never="extends: none\nmethod: {generator: null}",
    )
    more = load_recipe(tmp_path / "more.yaml").method
    assert (more.name, more.settings) == ("simcse-unsup", {"augment": {"delete": 0.1}})
    assert load_recipe(tmp_path / "other.yaml").method.settings == {}
    named = load_recipe(tmp_path / "named.yaml").method
    assert (named.name, named.settings) == ("diffcse", {"mask_rate": 0.2})
    with pytest.raises(RecipeError, match=r"'method\.name' is missing"):
        load_recipe(tmp_path / "never.yaml")


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
