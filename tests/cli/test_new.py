"""`embedkit new` writes a recipe that reads the data, by what its columns are."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
from PIL import Image

from embedkit.cli import new
from embedkit.cli.app import main
from embedkit.config.recipe_io import load_recipe
from embedkit.config.resources import schema_path

CONTENTS = {
    "faq.csv": "question,answer\nHow do I pay?,By card.\nWhere are you?,Here.\n",
    "scores.tsv": "sentence1\tsentence2\tscore\na cat\ta dog\t2.5\na car\tthe car\t4.8\n",
    "kinds.csv": "text,label\na cat,animal\na car,thing\n",
    "lines.txt": "a cat sleeps\na dog runs\n",
    "photos.csv": "filepath,title\na.png,a red square\nb.png,a blue square\n",
}
RECIPES = {
    "faq.csv": "pairs", "scores.tsv": "scored-pairs", "kinds.csv": "classify", "lines.txt": "simcse-unsup",
    "photos.csv": "clip-finetune",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in CONTENTS.items():
        Path(name).write_text(text)
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(name)
    return tmp_path


@pytest.mark.parametrize("name", CONTENTS)
def test_the_recipe_that_reads_most_of_the_data_is_taken(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", name, "--yes"]) == 0
    file = Path(name).with_suffix(".yaml")
    assert f"{file}: {RECIPES[name]} on {name}" in capsys.readouterr().out
    recipe, base = load_recipe(file), load_recipe(RECIPES[name])
    assert (recipe.name, recipe.data.train[0].path) == (file.stem, name)
    assert (recipe.method, recipe.model, recipe.train) == (base.method, base.model, base.train)


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"query": (6, 4), "document": (6, 4)}, "feature-pairs"), ({"anchor": (6, 4)}, "feature-simclr"),
        ({"anchor": (6, 4), "label": ()}, "feature-supcon"), ({"anchor": (6, 20, 3)}, "time-series"),
    ],
)  # fmt: skip
def test_vectors_and_sequences_get_a_recipe_that_reads_them(
    columns: dict[str, tuple[int, ...]], name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    cells = {
        key: rng.normal(size=size).astype("float32") if size else np.arange(6) % 2 for key, size in columns.items()
    }
    np.savez("rows.npz", **cells)
    assert main(["new", "rows.npz", "--yes"]) == 0
    assert f"rows.yaml: {name} on rows.npz" in capsys.readouterr().out
    recipe = load_recipe("rows.yaml")
    assert recipe.model == load_recipe(name).model and recipe.model.kind in ("feature", "sequence")


def test_what_is_given_is_written_and_only_that(folder: Path) -> None:
    assert main(["new", "faq.csv", "own.yaml", "--recipe", "simcse-unsup", "--model", "m", "--epochs", "7"]) == 0
    lines = [line for line in Path("own.yaml").read_text().splitlines() if not line.startswith("#")]
    assert lines == [
        "extends: simcse-unsup", "name: own", "data:", "  train:", "  - path: faq.csv", "model:", "  name: m", "train:",
        "  epochs: 7.0",
    ]  # fmt: skip


def test_an_editor_finds_the_schema_at_once(folder: Path) -> None:
    assert main(["new", "faq.csv", "--yes"]) == 0
    line = Path("faq.yaml").read_text().splitlines()[0]
    address = line.removeprefix("# yaml-language-server: $schema=")
    assert address != line and " " not in address
    assert Path(url2pathname(urlsplit(address).path)).samefile(schema_path())
    assert main(["schema", "recipe.schema.json"]) == 0
    assert main(["new", "faq.csv", "beside.yaml", "--yes"]) == 0
    assert Path("beside.yaml").read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n")


def test_on_a_terminal_the_rest_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["simcse-unsup", "my-model", 3.0])
    monkeypatch.setattr(new.sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(new.typer, "prompt", lambda *words, **settings: next(answers))
    assert main(["new", "faq.csv"]) == 0
    recipe = load_recipe("faq.yaml")
    assert (recipe.method.name, recipe.model.name, recipe.train.epochs) == ("simcse-unsup", "my-model", 3.0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["faq.csv", "lines.txt"], "lines.txt: it exists already; name another file after the data"),
        (["nowhere.csv"], "nowhere.csv"),
        (["faq.csv", "--recipe", "scored-pairs"], "score"),
        (["faq.csv", "--recipe", "paris"], "did you mean 'pairs'?"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_written(
    words: list[str], line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", *words, "--yes"]) == 2
    assert line in capsys.readouterr().err
    assert not list(folder.glob("*.yaml"))
