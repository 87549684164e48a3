"""A recipe that extends another: what is merged, what is replaced, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedkit.config import recipe_io
from embedkit.config.recipe_io import load_recipe
from embedkit.config.resources import recipe_names, recipe_path
from embedkit.config.stages import merged
from embedkit.errors import RecipeError

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
        ("extends: [base, ../other]\nname: one", "is no name"),
        ("extends: [base/../../other]\nname: one", "is no name"),
        ("extends: /etc/passwd\nname: one", "is no name"),
        ("extends: ''\nname: one", "is no name"),
        ("extends: [[base]]\nname: one", "is no name"),
        ("extends: 1\nname: one", "is no name"),
        ("extends: [base, two]\nname: one", "a recipe extends itself"),
        ("extends: nothing\nname: one", "no such file"),
        ("extends: [base, simcse-unsupp]\nname: one", "no such file .* did you mean 'simcse-unsup'"),
        ("extends: base/smoke-txt\nname: one", "did you mean 'base/smoke-text'"),
        ("extends: base\nname: one\ngroup: variant", "no group is named 'variant'; did you mean 'variants'"),
        ("extends: base\nname: one\ntrain: {lrr: 1}", "unknown key 'train.lrr'"),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path: Path, text: str, said: str) -> None:
    files(tmp_path, base=BASE, one=text, two="extends: one\nname: two")
    (tmp_path.parent / "other.yaml").write_text(BASE)  # it is there, and not for a recipe in another folder
    with pytest.raises(RecipeError, match=said):
        load_recipe(tmp_path / "one.yaml")


def test_a_list_is_applied_in_its_order_and_each_file_once(tmp_path: Path) -> None:
    files(
        tmp_path,
        base=BASE,
        slow="extends: base\ntrain: {lr: 0.1, epochs: 3}",
        large="extends: base\nmodel: {config: {hidden_size: 64}}\ntrain: {epochs: 7}",
        top="extends: [slow, large]\nname: top\ntrain: {batch_size: 8}",
        back="extends: [large, slow]\nname: back",
        single="extends: [slow]\nname: single",
        empty="extends: []\n" + BASE.replace("name: base", "name: empty"),
    )
    top, back = load_recipe(tmp_path / "top.yaml"), load_recipe(tmp_path / "back.yaml")
    assert (top.train.epochs, back.train.epochs) == (7, 3)
    # the base that both extend comes once, before both: it takes back nothing that the first of them says
    assert top.train.lr == back.train.lr == 0.1
    assert top.train.batch_size == 8
    assert top.model.config == back.model.config == {"model_type": "bert", "hidden_size": 64}
    assert load_recipe(tmp_path / "single.yaml").train.epochs == 3
    assert load_recipe(tmp_path / "empty.yaml").train.lr == 0.5


def test_many_files_that_extend_each_other_twice_are_read_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path, n0=BASE, **{f"n{i}": f"extends: [n{i - 1}, n{i - 1}]\nname: n{i}" for i in range(1, 30)})
    read: list[Path] = []
    real = recipe_io.read_yaml
    monkeypatch.setattr(recipe_io, "read_yaml", lambda path: read.append(path) or real(path))
    assert load_recipe(tmp_path / "n29.yaml").name == "n29"
    assert len(read) == len(set(read)) == 30


def test_a_shipped_recipe_is_extended_from_any_folder_and_a_file_beside_comes_first(tmp_path: Path) -> None:
    files(
        tmp_path,
        mine="extends: [simcse-unsup, base/roberta-base]\nname: mine\ntrain: {lr: 0.5}",
        other="extends: pairs\nname: other",
        pairs=BASE,
    )
    mine = load_recipe(tmp_path / "mine.yaml")
    assert (mine.method.name, mine.model.name, mine.train.lr) == ("simcse-unsup", "roberta-base", 0.5)
    assert load_recipe(tmp_path / "mine.yaml", smoke=True).train.max_steps == 4
    assert load_recipe(tmp_path / "other.yaml").method.name == "diffcse"


@pytest.mark.parametrize("form", ["file", "run"])
def test_a_recipe_of_before_lists_and_groups_is_read_as_it_was(form: str) -> None:
    """`dclr` as it stood in one file, and as a run of it wrote it beside its checkpoints."""
    stored = Path(__file__).with_name(f"stored_recipe_{form}.yaml")
    assert "extends" not in stored.read_text() and "group:" not in stored.read_text()
    for smoke in (False, True):
        assert load_recipe(stored, smoke=smoke) == load_recipe("dclr", smoke=smoke)


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Dotted key -> value of every setting below `value`; a list is one setting."""
    if not isinstance(value, dict) or not value:
        return {place: value}
    return {key: leaf for name, item in value.items() for key, leaf in flat(item, f"{place}.{name}").items()}


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_states_only_what_differs(name: str) -> None:
    own = recipe_io.read_yaml(recipe_path(name))
    above: dict[str, Any] = {}
    for path, data in layers_of(recipe_path(name)):
        if path != recipe_path(name):
            above = merged(above, data)
    for part in ("method", "objective"):  # settings of a part belong to its name, and are not inherited by another
        stated, extended = own.get(part), above.get(part)
        parts = isinstance(stated, dict) and isinstance(extended, dict)
        if parts and stated.get("name", extended["name"]) != extended["name"]:
            del above[part]
    before = flat(above)
    assert [key for key, value in flat(own).items() if key in before and before[key] == value] == []


def layers_of(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    layers: dict[Path, dict[str, Any]] = {}
    recipe_io._read_layers(path, (), layers)
    return list(layers.items())


def test_every_base_is_extended_and_none_is_a_recipe() -> None:
    bases = set(recipe_path("pairs").parent.glob("base/*.yaml"))
    used = {path for name in recipe_names() for path, _ in layers_of(recipe_path(name))}
    assert bases and bases <= used
    assert not {f"base/{path.stem}" for path in bases} & set(recipe_names())
    for path in bases:
        with pytest.raises(RecipeError, match="is missing"):
            load_recipe(f"base/{path.stem}")
