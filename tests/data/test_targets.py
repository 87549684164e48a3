"""Targets of heads: bound by name, read from every format with class names kept, wrong cells refused by their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embedkit.config.recipe import DataConfig
from embedkit.data import open_training
from embedkit.data.schema.contract import Contract
from embedkit.data.schema.roles import bind
from embedkit.data.schema.targets import TargetFacts
from embedkit.data.sources.objects import hold, release
from embedkit.errors import DataError

ROLES = {"class:genre", "classes:tags", "soft:topics", "number:year"}
ROWS: list[dict[str, Any]] = [
    {"text": "one", "genre": "news", "tags": ["a", "b"], "topics": [0.25, 0.75], "year": 1900},
    {"text": "two", "genre": None, "tags": [], "topics": None, "year": 1.5},
    {"text": "three", "genre": "poem", "tags": None, "topics": [1.0, 0.0], "year": None},
]


def opened(train: Any, *roles: str, limits: Any = None) -> Any:
    contract = Contract(frozenset({"anchor"}), frozenset(roles or ROLES), limits or {})
    data = DataConfig.model_validate({"train": train, "drop_last": False, "sampler": "shuffled"})
    return open_training(data, contract, batch_size=8, seed=1)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pandas as pd

    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        table = pd.DataFrame(rows)
        lists = [name for name in table if any(isinstance(cell, list) for cell in table[name])]
        for name in lists:
            table[name] = [None if cell is None else json.dumps(cell) for cell in table[name]]
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        pd.DataFrame(rows).to_feather(path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "arrow"])
def test_every_format_gives_the_same_targets(tmp_path: Path, ending: str) -> None:
    rows = opened(str(written(tmp_path / f"rows.{ending}", ROWS)))
    found = {row["anchor"]: row for row in next(rows.batches(0)).rows}
    assert found["one"] == {"anchor": "one", "class:genre": "news", "classes:tags": ["a", "b"],
                            "soft:topics": [0.25, 0.75], "number:year": [1900.0]}  # fmt: skip
    assert found["two"] | {"anchor": ""} == {
        "anchor": "", "class:genre": None, "classes:tags": [], "soft:topics": None, "number:year": [1.5],
    }  # fmt: skip
    assert found["three"]["classes:tags"] is None and found["three"]["number:year"] is None
    assert rows.targets() == {
        "class:genre": TargetFacts(("news", "poem")), "classes:tags": TargetFacts(("a", "b")),
        "soft:topics": TargetFacts(width=2), "number:year": TargetFacts(width=1),
    }  # fmt: skip


def test_class_names_of_datasets_are_kept(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sad", "gay"])})
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
    table.to_parquet(tmp_path / "rows.parquet")
    rows = opened(str(tmp_path / "rows.parquet"), "class:label")
    assert sorted(row["class:label"] for row in next(rows.batches(0)).rows) == ["gay", "gay", "sad"]
    path = hold(table)
    try:
        rows = opened(path, "class:label")
        assert rows.targets() == {"class:label": TargetFacts(("gay", "sad"))}
    finally:
        release(path)


def test_numbers_of_classes_are_the_same_from_any_writer(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\none,10.0\ntwo,9\n")
    (tmp_path / "b.jsonl").write_text('{"text": "three", "label": 10}\n{"text": "four"}\n')
    rows = opened([str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")], "class:label")
    assert rows.targets() == {"class:label": TargetFacts(("9", "10"))}


def test_a_source_without_the_column_gives_rows_without_the_target(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,genre\none,news\ntwo,poem\n")
    (tmp_path / "b.txt").write_text("three\nfour\n")
    rows = opened([str(tmp_path / "a.csv"), str(tmp_path / "b.txt")], "class:genre")
    found = {row["anchor"]: row["class:genre"] for row in next(rows.batches(0)).rows}
    assert found == {"one": "news", "two": "poem", "three": None, "four": None}
    with pytest.raises(DataError, match="no source has a column for target 'genre'"):
        opened(str(tmp_path / "b.txt"), "class:genre")


def test_columns_are_mapped_by_the_name_of_the_target() -> None:
    reads = frozenset({"anchor", "label", "class:label", "class:domain"})
    names = ["text", "label", "source"]
    bound = bind(names, {"text": "anchor", "label": "label", "source": "domain"}, requires=frozenset({"anchor"}),
                 reads=reads, where="rows.csv")  # fmt: skip
    assert bound.columns == {"anchor": "text", "class:label": "label", "label": "label", "class:domain": "source"}
    guessed = bind(["text", "labels", "domain"], None, requires=frozenset(), reads=reads - {"label"}, where="rows.csv")
    assert guessed.columns == {"anchor": "text", "class:label": "labels", "class:domain": "domain"}
    assert guessed.notes == ()
    with pytest.raises(DataError, match="'domian' is not a role; did you mean 'domain'"):
        bind(names, {"source": "domian"}, requires=frozenset(), reads=reads, where="rows.csv")


@pytest.mark.parametrize(
    ("role", "cells", "what"),
    [
        ("class:a", ['"x"', "0.5"], "rows.jsonl:2 column 'a': expected the name or number of a class"),
        ("class:a", ['["x"]'], "rows.jsonl:1 column 'a'.*kind: classes"),
        ("classes:a", ['["x"]', '"x"'], "rows.jsonl:2 column 'a': expected a list of classes.*kind: class"),
        ("soft:a", ["[0.5, 0.5]", "[0.5, 0.6]"], "rows.jsonl:2 column 'a': the shares of a soft target sum to 1.1"),
        ("soft:a", ["[0.5, 0.5]", "[0.2, 0.2, 0.6]"], "rows.jsonl:2 column 'a': the target has 3 numbers, the rows"),
        ("degrees:a", ["[0.5, 1.5]"], "rows.jsonl:1 column 'a': a degrees target has numbers of 0 to 1"),
        ("number:a", ["1", '"high"'], "rows.jsonl:2 column 'a': expected a number, found str 'high'"),
        ("number:a", ["1", "[1, 2]"], "rows.jsonl:2 column 'a': the target has 2 numbers, the rows before it 1"),
    ],
)
def test_a_wrong_cell_is_refused_with_its_row(tmp_path: Path, role: str, cells: list[str], what: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "row {i}", "a": {cell}}}\n' for i, cell in enumerate(cells)))
    with pytest.raises(DataError, match=what):
        opened(str(path), role)


def test_classes_that_the_recipe_does_not_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,genre\none,news\ntwo,peom\n")
    with pytest.raises(DataError, match="a.csv:3 column 'genre': 'peom' is none of the classes.*did you mean 'poem'"):
        opened(str(tmp_path / "a.csv"), "class:genre", limits={"class:genre": frozenset({"news", "poem"})})


def test_vectors_of_two_sizes_in_two_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "x": [1, 2]}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "two", "x": [1, 2, 3]}\n')
    with pytest.raises(DataError, match=r"b.jsonl: target 'x' has 3 numbers, and 2 in"):
        opened([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], "number:x")
