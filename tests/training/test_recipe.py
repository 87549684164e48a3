"""Recipes: strict YAML, errors that name key and remedy, overrides, a lossless round trip, and every shipped recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import embedkit
from embedkit import training
from embedkit.config.recipe import Recipe
from embedkit.config.recipe_io import check_recipe, dump_recipe, load_recipe, parse_yaml, read_yaml, stage_recipes
from embedkit.config.resources import recipe_names, recipe_path
from embedkit.errors import RecipeError
from tests.training import runs

BASE: dict[str, Any] = {
    "name": "base",
    "method": "pairs",
    "model": {"name": "some/model"},
    "data": {"train": [{"path": "rows.csv"}]},
    "train": {"epochs": 1},
}
PLAIN = [
    *(
        "no",
        "yes",
        "on",
        "off",
        "y",
        "N",
        "NO",
        "TRUE",
        "2024-01-31",
        "2024-01-31 10:00:00",
        "12:30:45",
        "0x1F",
        "0o17",
    ),
    *("007", "1.2.3", "1e", "e5", ".", "+", "-1x", "nan", ".nan", ".inf", "-.inf", "infinity", "_1"),
]


def refused(data: Any, *overrides: str, smoke: bool = False) -> str:
    """The line of the error that loading raises."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(data, overrides, smoke=smoke)
    line = caught.value.line()
    assert "\n" not in line
    return line


# -- YAML -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", PLAIN)
def test_words_that_other_readers_change_stay_text(text: str) -> None:
    assert parse_yaml(f"key: {text}", "t") == {"key": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1E5", 1e5), ("2.5e3", 2500.0), ("-1e+2", -100.0), (".5", 0.5), ("3.", 3.0), ("5e-05", 5e-5),
     ("10", 10), ("-0", 0), ("+7", 7), ("1_000", 1000), ("true", True), ("False", False), ("null", None), ("~", None)],
)  # fmt: skip
def test_numbers_and_the_two_truth_values_are_read(text: str, value: Any) -> None:
    found = parse_yaml(f"key: {text}", "t")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("a: 1\nb: 2\na: 3", "r.yaml:3:1", "key 'a' stands twice"),
        ("a: {b: 1, b: 2}", "r.yaml:1:", "key 'b' stands twice"),
        ("a: &x [1]\nb: *x", "r.yaml:2:4", "aliases are not allowed"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "r.yaml:3:", ""),
        ("a: !!python/object/apply:os.system [echo]", "r.yaml:1:4", "python/object/apply"),
        ("a: !own text", "r.yaml:1:4", "!own"),
        ("1: a", "r.yaml:1:1", "key 1 is not text"),
        ("? [a]\n: b", "r.yaml:1:", "is not text"),
        ("a: [1", "r.yaml:", "not a valid YAML text"),
        ("a: 1\n--- \nb: 2", "r.yaml:", "not a valid YAML text"),
        ("a: \x07", "r.yaml", "not a valid YAML text"),
        ("a: " + "[" * 5_000, "r.yaml", "nested too deeply"),
        ("a: " + "9" * 5_000, "r.yaml", "too many digits"),
    ],
)
def test_yaml_outside_the_strict_subset_is_refused_with_its_place(text: str, place: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "r.yaml")
    assert caught.value.line().startswith(place)
    assert what in caught.value.line()
    assert len(caught.value.line()) < 300


def test_files_that_are_no_recipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"#" * 1_000_001)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "empty.yaml").write_text("")
    for name, what in {
        "big": "larger than 1 MB", "latin": "byte 9 is not UTF-8", "list": "mapping of sections",
        "empty": "mapping of sections", "absent": "no such file",
    }.items():  # fmt: skip
        line = refused(tmp_path / f"{name}.yaml")
        assert line.startswith(str(tmp_path / f"{name}.yaml"))
        assert what in line


# -- keys, types, rules between keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "help_"),
    [
        ("trian.lr=1", "'trian'", "did you mean 'train'?"),
        ("train.learning_rate=1", "'train.learning_rate'", "did you mean 'lr'?"),
        ("train.nothing=1", "'train.nothing'", "the nearest of "),
        ("batchsiz=1", "'batchsiz'", "did you mean 'train.batch_size'"),
        ("train.batchsize=1", "'train.batchsize'", "did you mean 'batch_size'?"),
        ("data.train.0.paht=x", "'data.train.0.paht'", "did you mean 'path'?"),
        ("model.lora.rnk=1", "'model.lora.rnk'", "did you mean 'rank'?"),
        ("evaluation.metrc=x", "'evaluation.metrc'", "did you mean 'metric'?"),
        ("train.groups=[{patern: x}]", "'train.groups.0.patern'", "did you mean 'pattern'?"),
    ],
)
def test_unknown_keys_are_named_with_the_nearest_known_one(override: str, key: str, help_: str) -> None:
    line = refused(BASE, override)
    assert f"unknown key {key}" in line
    assert help_ in line


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("train.lr=fast", "train.lr"),
        ("train.lr=0", "train.lr"),
        ("train.lr=1e999", "train.lr"),
        ("train.epochs=true", "train.epochs"),
        ("train.batch_size='64'", "train.batch_size"),
        ("train.batch_size=6.0", "train.batch_size"),
        ("train.batch_size=[1]", "train.batch_size"),
        ("train.betas=[0.9, 1.5]", "train.betas.1"),
        ("train.chunk_size=many", "train.chunk_size"),
        ("train.schedule=cosin", "train.schedule"),
        ("train.output=12", "train.output"),
        ("data.drop_last=no", "data.drop_last"),
        ("data.train=[3]", "data.train.0"),
        ("data.train=[]", "data.train"),
        ("model.head.kind=gelu", "model.head.0.kind"),
        ("model.head={kind: pooler, dim: 8}", "model.head.0"),
        ("model.head=[{train_only: true}, {kind: linear}]", "model"),
        ("model.prompts={q: 1}", "model.prompts.q"),
        ("method=3", "method"),
        ("name=a/b", "name"),
        ("seed=-1", "seed"),
        ("train=3", "train"),
    ],
)
def test_wrong_types_and_ranges_name_the_key(override: str, where: str) -> None:
    assert f"on the command line: {where}" in refused(BASE, override)


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["train.epochs=null"], "give train.epochs or train.max_steps"),
        (["train.chunk_size=2", "train.chunk_tokens=9"], "not both"),
        (["model.name=null"], "model.name"),
        (["model.config={model_type: bert}", "model.tokenizer=builtin"], "model.name"),
        (["model.name=null", "model.config={hidden_size: 8}", "model.tokenizer=builtin"], "model_type"),
        (["model.name=null", "model.config={model_type: bert}"], "model.tokenizer"),
        (["model.kind=static", "model.name=null", "model.dim=8"], "model.tokenizer and model.dim"),
        (["data.mixing=weighted"], "needs a weight"),
    ],
)
def test_rules_between_keys(overrides: list[str], what: str) -> None:
    assert what in refused(BASE, *overrides)


def test_missing_keys_are_named() -> None:
    assert "key 'name' is missing" in refused({k: v for k, v in BASE.items() if k != "name"})
    assert "key 'method.name' is missing" in refused({**BASE, "method": {"prompts": {}}})


# -- overrides and smoke --------------------------------------------------------------------------------------------


def test_overrides_reach_lists_components_and_missing_sections() -> None:
    changed = load_recipe(
        {**BASE, "objective": "infonce"},
        [
            *("train.lr=1e-5", "train.max_grad_norm=null"),
            *("data.train.0.path=other.csv", "data.train.0.columns={a: anchor}"),
            *("method.prompts={anchor: q}", "objective.temperature=0.1", "model.head.kind=linear"),
            *("evaluation.suite=sts", "name=2b"),
        ],
    )
    assert changed.train.lr == 1e-5
    assert (changed.data.train[0].path, changed.data.train[0].columns) == ("other.csv", {"a": "anchor"})
    assert (changed.method.name, changed.method.settings) == ("pairs", {"prompts": {"anchor": "q"}})
    assert changed.objective is not None
    assert (changed.objective.name, changed.objective.settings) == ("infonce", {"temperature": 0.1})
    assert [head.kind for head in changed.model.head] == ["linear"]
    assert changed.evaluation is not None
    assert changed.train.max_grad_norm is None
    assert changed.name == "2b"


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.lr", "write train.lr=VALUE"),
        ("lr", "write train.lr=VALUE"),
        ("nothing", "neither a setting, key=value, nor a file"),
        ("=3", "not key=value"),
        ("data.train.1.path=x", "'1' is not an entry of a list of 1; count from 0"),
        ("data.train.-1.path=x", "is not an entry"),
        ("data.train.first.path=x", "is not an entry"),
        ("data.train.\u00b2.path=x", "is not an entry"),
        ("data.train.0.path.x=1", "'data.train.0.path' has no keys below it"),
        ("name.x=1", "'name' has no keys below it"),
        ("train.lr=[1", "on the command line, train.lr:1:"),
    ],
)
def test_overrides_that_reach_nothing(override: str, what: str) -> None:
    assert what in refused(BASE, override)


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", ["simclr", "clip", "multi-prompt", "adacontrast"])
def test_a_model_by_name_takes_the_place_of_the_towers_of_a_recipe(name: str, smoke: bool) -> None:
    recipe = load_recipe(name, ["model.name=m", "model.towers.image.patch_dropout=0.5"], smoke=smoke)
    for one in stage_recipes(recipe):
        towers = one.model.towers
        assert towers is not None and towers.dim is None and not (towers.text.has_origin or towers.image.has_origin)
        assert one.model.name == "m" and towers.image.patch_dropout == 0.5 and towers.text.pooling is None
    [line] = [note for note in recipe.origin.notes if "brings its own towers" in note]
    assert "dim, text." in line and " of the recipe are left out" in line
    for change in ("model.towers.image.size=vit-tiny-64", "model.towers={dim: 8}"):
        with pytest.raises(RecipeError, match="model.name brings its own towers"):
            load_recipe(name, ["model.name=m", change], smoke=smoke)


@pytest.mark.parametrize(
    ("name", "smoke"),
    [
        ("pairs", True),
        ("simcse-unsup", True),
        ("quickstart", False),
        ("quickstart", True),
        ("mlm-small", False),
        ("mlm-simcse", True),
    ],
)
def test_a_model_by_name_takes_the_place_of_a_random_text_encoder(name: str, smoke: bool) -> None:
    recipe = load_recipe(name, ["model.name=m", "model.max_length=17"], smoke=smoke)
    for number, one in enumerate(stage_recipes(recipe)):
        assert one.model.config is None and one.model.tokenizer is None and one.model.name == "m"
        assert number or one.model.max_length in (17, 128)
    [line] = [note for note in recipe.origin.notes if "brings its own weights" in note]
    assert "model.config and model.tokenizer of the recipe are left out" in line
    with pytest.raises(RecipeError, match=r"give either model.name .*model.name=null"):
        load_recipe(name, ["model.name=m", "model.config={model_type: bert}", "model.tokenizer=builtin"], smoke=smoke)


def test_overrides_of_a_mapping_are_taken_as_they_are(tmp_path: Path) -> None:
    odd = "\U0001f600 no: 1e-5 \x85 # {"
    where = Path("a folder") / "t.tsv"
    given = {"description": odd, "data.train.0.path": where, "train.lr": 0.5, "data.train.0.columns": {"a": "anchor"}}
    recipe = load_recipe(BASE, given)
    assert (recipe.description, recipe.train.lr) == (odd, 0.5)
    assert (recipe.data.train[0].path, recipe.data.train[0].columns) == (str(where), {"a": "anchor"})
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml") == recipe
    assert given["data.train.0.path"] == where
    with pytest.raises(RecipeError, match=r"in the arguments, name\.x: 'name' has no keys"):
        load_recipe(BASE, {"name.x": 1})


def test_keywords_of_train_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train", lambda recipe, **_: recipe, raising=False)
    found: Any = embedkit.train(BASE, description="\U0001f600", data__train__0__path=Path("t.tsv"))
    assert (found.description, found.data.train[0].path) == ("\U0001f600", "t.tsv")


def test_pairs_of_escapes_are_one_character_and_half_a_pair_is_refused() -> None:
    assert load_recipe(BASE, [r'description="\ud83d\ude00"']).description == "\U0001f600"  # JSON is YAML too
    for overrides in ([r'description="\ud83d"'], {"description": "\ud83d"}):
        with pytest.raises(RecipeError, match="description holds half a surrogate pair"):
            load_recipe(BASE, overrides)


def test_the_given_mapping_is_left_as_it_was() -> None:
    before = yaml.safe_dump(BASE)
    load_recipe({**BASE, "smoke": {"data.train": [{"path": "small.csv"}]}}, ["data.train.0.limit=3"], smoke=True)
    assert yaml.safe_dump(BASE) == before


def test_smoke_is_applied_before_overrides_and_kept_as_written() -> None:
    small = {"data.train": [{"path": "small.csv"}], "train.epochs": None, "train.max_steps": 3}
    found = load_recipe({**BASE, "smoke": small}, ["data.train.0.limit=3", "train.max_steps=2"], smoke=True)
    assert (found.train.max_steps, found.train.epochs) == (2, None)
    assert (found.data.train[0].path, found.data.train[0].limit) == ("small.csv", 3)
    assert found.smoke == small
    assert load_recipe({**BASE, "smoke": small}).train.max_steps is None
    assert "smoke" in refused({**BASE, "smoke": ["train.max_steps"]}, smoke=True)
    assert "smoke: 'data.train.5.path'" in refused({**BASE, "smoke": {"data.train.5.path": "x"}}, smoke=True)


# -- round trip -----------------------------------------------------------------------------------------------------

ODD = [
    "1e-5",
    "1_000",
    "true",
    "null",
    "~",
    "",
    " a",
    "a ",
    "#a",
    "a: b",
    "- a",
    "[a",
    "{a",
    "*a",
    "&a",
    "!a",
    "%a",
    "@a",
]
ODD += ["`a", "<<", "=", "'", '"', "a\nb", "\n", "\t", "\x85", "\u2028", "\ufeff", "\U0001f600"]
LOOKALIKES = st.one_of(
    st.sampled_from([*PLAIN, *ODD]),
    st.text(alphabet="0123456789eE+-._: xonyNfalsetru", max_size=8),
    st.text(max_size=20),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
)
VALUES = st.one_of(
    LOOKALIKES,
    st.integers(-(10**18), 10**18),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)


@settings(max_examples=300, deadline=None)
@given(text=LOOKALIKES, value=VALUES, key=LOOKALIKES.filter(bool), lr=st.floats(1e-12, 1e3))
def test_what_is_written_is_read_back(text: str, value: Any, key: str, lr: float) -> None:
    recipe = check_recipe(
        {
            **BASE,
            "description": text,
            "objective": {"name": "infonce", "setting": value, "nested": {key: [value, text]}},
            "data": {"train": [{"path": text, "columns": {key: text}, "where": {key: value}}]},
            "train": {"epochs": 1, "lr": lr, "max_grad_norm": None, "chunk_size": {"text": 4}},
            "smoke": {"train.epochs": None, key: value},
        }
    )
    again = check_recipe(parse_yaml(dump_recipe(recipe), "written"))
    assert again == recipe
    assert again.objective is not None
    assert type(again.objective.settings["setting"]) is type(value)
    assert again.data.train[0].where == {key: value}


def test_written_files_are_plain_yaml(tmp_path: Path) -> None:
    recipe = load_recipe(BASE, ["name='1.5'", "description='no'"])
    path = tmp_path / "r.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert yaml.safe_load(path.read_text())["description"] == "no"  # other readers see the same text
    assert yaml.safe_load(path.read_text())["name"] == "1.5"
    assert load_recipe(path) == recipe == Recipe.model_validate(read_yaml(path))


# -- shipped recipes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_is_valid_and_says_what_it_is(name: str) -> None:
    whole, small = load_recipe(name), load_recipe(name, smoke=True)
    assert whole.name == name
    assert 20 < len(whole.description) < 120
    _, head, *_ = recipe_path(name).read_text().splitlines()  # below the line for editors
    assert head.startswith("# ")
    for recipe in (whole, small):
        assert check_recipe(parse_yaml(dump_recipe(recipe), name)) == recipe
    assert small.train.max_steps is not None
    assert small.train.max_steps <= 10


LARGE = {
    "contrastive-tension": 16 * 8,  # the loss is a sum over the pairs of a batch: its rows, with 1 + 7 others
    "unsee-corinfomax": 2000.0,  # published weight of the distance of two views
}


RANGE = {
    "pixpro": (-2, 2),  # minus the cosines of both directions
    "adacontrast": (-3, 100),  # minus the entropy of the mean prediction
}


@pytest.mark.parametrize("name", recipe_names())
def test_smoke_run_of_shipped_recipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # nothing beside the package is needed
    progress = runs.Recorder()
    result = runs.run(tmp_path / "run", name, smoke=True, progress=progress)  # type: ignore[arg-type]
    assert result.steps == load_recipe(name, smoke=True).train.max_steps
    unit = LARGE.get(name, 1)
    low, high = RANGE.get(name, (0, 100))
    assert all(low < figures["loss"] / unit < high for figures in progress.figures.values())
    from embedkit.formats import load

    model = load(result.output)
    for name, tower in towers_of(model) or [(None, model)]:
        named = {} if name is None else {"tower": name}
        vectors = model.encode(two_inputs(tower), **named)
        assert vectors.shape[0] == 2
        assert abs(vectors).sum() > 0


def towers_of(model: Any) -> list[tuple[str, Any]]:
    """The towers of a model of several modalities by name; none of another."""
    return list(zip(model.names, model.models, strict=True)) if model.kind == "multi" else []


def two_inputs(model: Any) -> Any:
    """Two inputs of the kind that a model reads: texts, vectors, or sequences of vectors."""
    if model.input_width is None:
        return ["a bird sings", "the old house"]
    vectors = np.eye(2, model.input_width, dtype=np.float32)
    return [vectors, vectors[:1]] if model.kind == "sequence" else vectors


def test_recipe_on_real_files_runs_beside_them(
    shared: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # the recipe's paths begin with ../shared
    small = ["train.epochs=null", "train.max_steps=2", "train.batch_size=32", "model.dim=8", "evaluation=null"]
    limits = [f"data.train.{i}.limit=200" for i in range(len(load_recipe("nli-static").data.train))]
    result = runs.run(tmp_path / "run", "nli-static", *small, *limits)  # type: ignore[arg-type]
    assert result.steps == 2
