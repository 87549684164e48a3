"""What people type is understood or answered: files, short names, names of other trainers, mistakes."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from embedkit.cli import app as cli
from embedkit.cli import peer_options
from embedkit.cli.usage import option_names
from embedkit.config.overrides import full_key
from embedkit.config.peer_names import ANSWERS, FLAGS, PARTS, SETTINGS, plain
from embedkit.config.recipe import Recipe
from embedkit.config.recipe_io import load_recipe
from embedkit.config.recipe_keys import recipe_keys, short_keys
from embedkit.config.resources import recipe_names, suite_names
from embedkit.errors import NEAREST, RecipeError, UserError, nearest
from embedkit.methods import methods
from embedkit.objectives.registry import presets

BASE: dict[str, Any] = {
    "name": "base", "method": "pairs", "model": {"name": "m"}, "train": {"epochs": 1},
    "data": {"train": [{"path": "rows.csv"}], "sampler": "no-duplicates"},
}  # fmt: skip

FOREIGN = (
    "Usage:", "Possible options", "No such option", "Invalid value", "Got unexpected", "Missing argument",
    "Missing option", "Input should", "Extra inputs", "Traceback", "pydantic", "does not take a value",
    "requires an argument", "internal error", "Field required", "valid integer",
)  # fmt: skip
"""Words of typer, click and pydantic."""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and standard error of a command line."""
    capsys.readouterr()
    return cli.main(list(words)), capsys.readouterr().err


# -- data and settings as words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        (["faq.csv"], ["faq.csv"]),
        (["a.csv", "b.jsonl.gz"], ["a.csv", "b.jsonl.gz"]),
        (["data.train=faq.csv"], ["faq.csv"]),
        (["data=faq.csv"], ["faq.csv"]),
        (["data=a.csv", "b.csv"], ["a.csv", "b.csv"]),
        (["train_file=faq.csv"], ["faq.csv"]),
        (["data=[a.csv, {path: b.csv}]"], ["a.csv", "b.csv"]),
        (["data.train={path: b.csv}"], ["b.csv"]),
        (["parts/*.csv"], ["parts/*.csv"]),
        (["shards/{000..009}.tar"], ["shards/{000..009}.tar"]),
        (["sentence-transformers/all-nli"], ["sentence-transformers/all-nli"]),
        (["hf://datasets/a/b.parquet"], ["hf://datasets/a/b.parquet"]),
        (["builtin:pairs-train"], ["builtin:pairs-train"]),
    ],
)
def test_a_file_pattern_or_hub_id_is_a_source(words: list[str], paths: list[str]) -> None:
    recipe = load_recipe(BASE, words)
    assert [source.path for source in recipe.data.train] == paths
    assert recipe.data.sampler == "no-duplicates", "the rest of the section stays"


def test_a_folder_is_a_source_and_the_folder_of_a_model_is_not(tmp_path: Path) -> None:
    assert load_recipe(BASE, [str(tmp_path)]).data.train[0].path == str(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match=f"write model.name={tmp_path}"):
        load_recipe(BASE, [str(tmp_path)])


def test_settings_of_a_source_may_follow_its_file() -> None:
    recipe = load_recipe(BASE, ["columns={q: anchor, a: positive}", "limit=7", "faq.csv"])
    (source,) = recipe.data.train
    assert (source.path, source.columns, source.limit) == ("faq.csv", {"q": "anchor", "a": "positive"}, 7)


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("lr=1e-5", "train.lr", 1e-5),
        ("learning_rate=1e-5", "train.lr", 1e-5),
        ("learning-rate=1e-5", "train.lr", 1e-5),
        ("batch_size=8", "train.batch_size", 8),
        ("per_device_train_batch_size=8", "train.batch_size", 8),
        ("num_train_epochs=3", "train.epochs", 3.0),
        ("output_dir=out", "train.output", "out"),
        ("warmup_ratio=0.1", "train.warmup", 0.1),
        ("fp16=true", "train.precision", "fp16"),
        ("bf16=True", "train.precision", "bf16"),
        ("max_seq_length=64", "model.max_length", 64),
        ("model=all-MiniLM-L6-v2", "model.name", "all-MiniLM-L6-v2"),
        ("model_name_or_path=m2", "model.name", "m2"),
        ("lora_r=4", "model.lora.rank", 4),
        ("loss=MultipleNegativesRankingLoss", "objective.name", "infonce"),
        ("temperature=0.1", "objective.temperature", 0.1),
        ("clip=2", "train.max_grad_norm", 2.0),
    ],
)
def test_names_of_other_trainers_are_read_and_said(word: str, key: str, value: Any) -> None:
    for recipe in (load_recipe(BASE, [word]), load_recipe(BASE, dict([_as_keyword(word)]))):
        at: Any = recipe
        for part in key.split("."):
            at = getattr(at, part)
        assert at == value
        assert word.startswith("model=") or recipe.origin.notes, "a reading that is not the name itself is said"


def _as_keyword(word: str) -> tuple[str, Any]:
    from embedkit.config.recipe_io import parse_yaml

    name, _, text = word.partition("=")
    return name, parse_yaml(text, "test")


@pytest.mark.parametrize("word", ["gradient_accumulation_steps=4", "scale=20", "freeze=true", "early_stopping=true"])
def test_what_means_something_else_here_is_answered(word: str) -> None:
    with pytest.raises(RecipeError, match="no setting") as caught:
        load_recipe(BASE, [word])
    assert "=" in caught.value.line().partition(";")[2] or "train.chunk_size" in caught.value.line()


def test_options_are_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--lr", "1e-4", "--num-train-epochs=2", "--bf16", "--batch-size", "16", "--allow-pickle", "--smoke"]
    target = tmp_path / "r.json"
    assert run(capsys, "validate", "quickstart", *words, "--json", str(target))[0] == 0
    import json

    facts = json.loads(target.read_text())
    assert (facts["train"]["lr"], facts["train"]["batch_size"], facts["train"]["precision"]) == (1e-4, 16, "bf16")
    assert facts["model"]["allow_pickle"] is True


def test_the_table_names_what_there_is() -> None:
    """Every setting, loss, method, recipe and value on our side exists, and none of theirs hides one of ours."""
    parts = {*presets, *methods, *recipe_names(), *cli._COMMANDS, *_values(Recipe)}
    for keys in SETTINGS.values():
        for key in keys:
            general = ".".join("N" if part.isdecimal() else part for part in key.split("."))
            assert general in recipe_keys() or general.startswith("objective."), key
    for key, _ in FLAGS.values():
        assert key in recipe_keys()
    assert set().union(*PARTS.values()) <= parts
    ours = {plain(name) for name in short_keys()}
    assert not ours & {name for name in SETTINGS if len(short_keys().get(name, ())) == 1 and SETTINGS[name] != ()}
    assert not {plain(name) for name in presets} & {name for name, to in PARTS.items() if name not in map(plain, to)}
    assert all(name == plain(name) for name in (*ANSWERS, *(plain(flag) for flag in FLAGS)))


def _values(section: Any) -> set[str]:
    """The words that literal settings take."""
    from typing import get_args

    def inner(annotation: Any) -> set[str]:
        arguments = get_args(annotation)
        return {one for one in arguments if isinstance(one, str)}.union(*(inner(one) for one in arguments))

    return set().union(*(inner(annotation) for annotation in recipe_keys().values()))


@pytest.mark.parametrize("key", sorted(short_keys()))
def test_a_short_name_is_the_one_setting_that_has_it_or_both_are_named(key: str) -> None:
    keys = short_keys()[key]
    if key in recipe_keys():
        return
    if len(keys) == 1 or plain(key) in FLAGS or plain(key) in ANSWERS:
        assert full_key(key, "here", "1")[0] == keys[0]
    else:
        with pytest.raises(RecipeError, match="one of several"):
            full_key(key, "here", "1")


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["train", "pairs", "train.lrr=1"], ["on the command line: unknown key 'train.lrr'; did you mean 'lr'?"]),
        (["train", "pairs", "lrr=1"], ["on the command line: unknown key 'lrr'; did you mean 'train.lr'?"]),
        (["train", "pairs", "--lrr", "1"], ["unknown option '--lrr'; did you mean 'train.lr'?"]),
        (["train", "pairs", "--lr"], ["--lr needs a value"]),
        (["train", "pairs", "lr"], ["write train.lr=VALUE"]),
        (["train", "faq.csv"], ["'faq.csv' is data", "embedkit train pairs faq.csv"]),
        (["pairs"], ["'pairs' is a recipe", "embedkit train pairs"]),
        (["fit", "pairs"], ["unknown command 'fit'; did you mean 'train'?"]),
        (["validate", "quickstart", "method=simcse"], ["did you mean 'simcse-unsup' or 'simcse-sup'?"]),
        (["validate", "pairs", "data.train=[{path: nope.csv}]"], ["nope.csv: no such file or folder"]),
        (["validate", "pairs", "nope.csv"], ["nope.csv: no such file or folder"]),
        (["train", "RN50", "a.csv"], ["no recipe named 'RN50'; for your own data there are pairs, scored-pairs"]),
        (["train", "training_stsbenchmark.py"], ["for your own data there are pairs", "`embedkit recipes`"]),
        (["train", "TripletLoss", "a.csv"], ["a loss is a setting", "`embedkit train pairs FILE loss=TripletLoss`"]),
        (["train", "triplet", "a.csv"], ["a loss is a setting", "`embedkit train pairs FILE loss=triplet`"]),
        (["train", "clip-small", "a.csv", "--csv-img-key", "filepath"], ["columns={filepath: image, title: text_1}"]),
        (["train", "pairs"], ["pairs: its data train.csv is not here", "`embedkit train pairs FILE`"]),
        (["plan", "pairs"], ["pairs: its data train.csv is not here", "`embedkit plan pairs FILE`"]),
        (
            ["train", "pairs", "columns={query:anchor}"],
            [
                "'query:anchor' in data.train.0.columns has no value",
                "write 'query: anchor', with a blank behind the colon",
            ],
        ),
        (["encode"], ["MODEL is missing", "embedkit encode MODEL"]),
        (["encode", "faq.csv"], ["MODEL is missing", "embedkit encode MODEL faq.csv"]),
        (["encode", "m"], ["INPUT is missing"]),
        (["encode", "m", "a.txt", "b.npy", "c"], ["too many"]),
        (["encode", "m", "a.txt", "--truncate-dim", "x"], ["--truncate-dim is 'x'; it must be a whole number"]),
        (["recipes", "a", "b"], ["one word too many: 'b'"]),
        (["export", "m"], ["OUTPUT is missing"]),
        (["export", "m", "o", "--format", "onx"], ["did you mean 'onnx'?"]),
        (["export", "m", "o", "--samples", "0"], ["--samples is '0'; it must be a whole number, 1 at least"]),
        (["train", "quickstart", "--smoke=3"], ["--smoke takes no value"]),
        (["train", "quickstart", "--output"], ["--output needs a value"]),
        (["train", "quickstart", "--resum"], ["did you mean '--resume'?"]),
        (["--versoin"], ["did you mean '--version'?"]),
    ],
)
def test_mistakes_are_answered(capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]) -> None:
    code, err = run(capsys, *words)
    assert code == 2 and err.startswith("embedkit: ") and err.count("\n") == 1, err
    assert "recipes/" not in err, "the shipped file is not to blame"
    for part in parts[:-1] if "too many" in parts[-1] else parts:
        assert part in err, err


@pytest.mark.parametrize(
    ("command", "words", "read"),
    [
        ("mine", "--range_min 1 --relative_margin 0.1", "--range-min 1 --relative-margin 0.1"),
        ("mine", "--model_name_or_path m --negative_number 3", "--model m --num-negatives 3"),
        ("mine", "--sampling_strategy=top", "--sampling=top"),
        ("search", "--top_k 3", "--top-k 3"),
        ("search", "--k 3", "--top-k 3"),
        ("export", "--backend onnx", "--format onnx"),
        ("train", "--batch_size 8", "batch_size=8"),
    ],
)
def test_options_of_other_libraries_are_read(command: str, words: str, read: str) -> None:
    parser: Any = get_command(cli.app).commands[command]  # type: ignore[attr-defined]
    assert parser.rewritten(words.split()) == read.split()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("encode --model_name_or_path m a.txt", ["is the word MODEL here", "`embedkit encode MODEL INPUT OUTPUT`"]),
        ("search idx --query cats", ["--query is the word QUERY here"]),
        ("mine --input_file a.csv", ["is the word PAIRS here"]),
        ("encode m a.txt --batch_size 32", ["--batch_size is no option of `embedkit encode`", "no size is needed"]),
        ("mine a.csv b.jsonl --use_faiss", ["the search is exact", "--block-size"]),
        ("mine a.csv b.jsonl --range_for_sampling 2-200", ["--range-min 2 --range-max 200"]),
        ("mine a.csv b.jsonl --output_format triplet", ["--one-per-row"]),
        ("export m o --opset 14", ["--format onnx"]),
        ("eval m --pooler cls", ["SimCSE's cls is --pooling pooler"]),
        ("eval m --benchmark x", ["--suite mteb:"]),
    ],
)
def test_what_is_no_option_here_is_answered(capsys: pytest.CaptureFixture[str], words: str, parts: list[str]) -> None:
    code, err = run(capsys, *words.split())
    assert code == 2 and err.count("\n") == 1, err
    assert all(part in err for part in parts), err


def test_the_table_of_options_names_what_there_is() -> None:
    commands = get_command(cli.app).commands.values()  # type: ignore[attr-defined]
    options = {name for command in commands for name in option_names(command)}
    arguments = {one.name for command in commands for one in command.params if one.param_type_name == "argument"}
    assert {name for names in peer_options.OPTIONS.values() for name in names} <= options
    assert {name for names in peer_options.ARGUMENTS.values() for name in names} <= arguments
    for answer in peer_options.ANSWERS.values():
        assert set(re.findall(r"--[a-z][a-z-]*", answer)) <= options, answer


@pytest.mark.parametrize("words", ["encode m a.txt b.npy c", "recipes pairs x", "suites sts x", "methods pairs x"])
def test_one_word_too_many_is_told(capsys: pytest.CaptureFixture[str], words: str) -> None:
    code, err = run(capsys, *words.split())
    assert code == 2 and "too many" in err


def test_what_is_wrong_in_the_file_itself_is_blamed_on_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: pairs\ntrain: {lrr: 1}\n")
    with pytest.raises(RecipeError, match=r"mine\.yaml: unknown key 'train\.lrr'"):
        load_recipe(tmp_path / "mine.yaml", ["model.name=m"])


def test_keyword_arguments_are_blamed_on_themselves() -> None:
    with pytest.raises(RecipeError, match="in the arguments: unknown key 'lrr'; did you mean 'train.lr'"):
        load_recipe(BASE, {"lrr": 1})


@pytest.mark.parametrize("registry", [presets, methods, recipe_names(), suite_names(), sorted(recipe_keys())])
@pytest.mark.parametrize("name", ["xyzzy", "a", "nothing of this kind", "infonse"])
def test_at_most_five_names_are_offered(registry: Any, name: str) -> None:
    clause = nearest(name, registry)
    assert len(clause) < 250 and clause.count(",") < NEAREST + 1, clause


def test_no_words_of_other_libraries_come_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong command lines, put together at random from what commands have and people type: always our words."""
    draw = random.Random(7)
    pieces = [
        *cli._COMMANDS, "pairs", "quickstart", "faq.csv", "nope/", "--lr", "--output", "-o", "--smoke=1", "--x", "-x",
        "--json", "--dim", "a", "--seed", "1.5", "=", "a=b", "train.lr=[", "train.lr=fast", "train=3", "method=3",
        "data=", "--", "---", "-", "", "model.head={kind: x}", "seed=-1", "--help=3", "--samples", "betas=[1]",
        "train.betas=[0.1, 0.2, 0.3]", "name=a/b", "data.train=[]", "data.train.0.limit=0", "objective={}",
        "train.schedule=cosin", "train.chunk_size=many", "smoke=3", "model.prompts={q: 1}", "\u2028", "x" * 300,
        "--column", "--metrics", "--full", "--resolved", "--suite", "precision=8", "model=null",
    ]  # fmt: skip
    commands = ["validate", "validate", "train", "plan", "recipes", "export", "encode", "objectives", "nonsense", "-x"]
    for _ in range(300):
        words = [draw.choice(commands), *(draw.choice(pieces) for _ in range(draw.randrange(4)))]
        if words[0] in ("train", "plan", "encode", "export") and not _fails_early(words):
            continue
        code, err = run(capsys, *words)
        assert code in (0, 2), (words, err)
        assert not any(word in err for word in FOREIGN), (words, err)
        assert code == 0 or len([line for line in err.splitlines() if line.startswith("embedkit: ")]) in (1, 2), words


def _fails_early(words: list[str]) -> bool:
    """Whether nothing is trained or loaded for these words: recipes are read, and refused."""
    if words[0] in ("encode", "export"):
        return True
    try:
        load_recipe("pairs", [word for word in words[2:] if not word.startswith("-")])
    except UserError:
        return True
    return False
